import pytest
import torch

from certtrain.data import Digits
from certtrain.errors import UserError
from certtrain.models import InputContract, wong_small
from certtrain.threat.features import Feature

CONTRACT = InputContract((3, 4, 4), 10, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def test_goes_through_plain_containers(tmp_path):
    torch.save(CONTRACT.to_dict(), tmp_path / "contract.pt")
    assert InputContract.from_dict(torch.load(tmp_path / "contract.pt", weights_only=True)) == CONTRACT
    with pytest.raises(UserError, match="fields"):
        InputContract.from_dict({**CONTRACT.to_dict(), "sigma": 1})


def test_of_a_data_module():
    contract = InputContract.of(Digits())
    assert contract == InputContract((1, 8, 8), 10, (0.0,), (1.0,))
    contract.check_same(InputContract((1, 8, 8), 10, [0], [1]))


@pytest.mark.parametrize(
    ("change", "sides"),
    [
        ({"shape": (1, 4, 4), "mean": (0.5,), "std": (0.2,)}, r"\[3, 4, 4\].*\[1, 4, 4\]"),
        ({"num_classes": 9}, "10.*9"),
        ({"mean": (0.0,)}, r"mean \[0.5, 0.4, 0.3\].*\[0.0, 0.0, 0.0\]"),
        ({"std": (0.2, 0.2, 0.25)}, r"std .*0.25"),
        ({"upper": 255.0}, r"\[0.0, 1.0\].*255"),
    ],
)
def test_other_data_are_refused_naming_both_sides(change, sides):
    other = InputContract(**{**CONTRACT.to_dict(), **change})
    with pytest.raises(UserError, match=f"last.ckpt.*{sides}") as caught:
        CONTRACT.check_same(other, this="last.ckpt", that="digits")
    assert "digits" in str(caught.value)


@pytest.mark.parametrize(
    ("x", "y", "word"),
    [
        (torch.zeros(2, 1, 4, 4), None, "shape"),
        (torch.full((2, 3, 4, 4), 1.01), None, "values"),
        (torch.full((2, 3, 4, 4), float("nan")), None, "values"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0, 10]), "classes"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([-1, 0]), "classes"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(x, y, word):
    with pytest.raises(UserError, match=word):
        CONTRACT.check(x, y)


def test_a_batch_that_fits_passes():
    CONTRACT.check(torch.rand(2, 3, 4, 4), torch.tensor([0, 9]))
    CONTRACT.check(torch.rand(0, 3, 4, 4), torch.tensor([], dtype=torch.int64))


def test_the_network_must_normalise_as_stated():
    contract = InputContract((1, 8, 8), 10, (0.1307,), (0.3081,))
    contract.check_network(wong_small((1, 8, 8), 10, [0.1307], [0.3081]))
    with pytest.raises(UserError, match="mean"):
        contract.check_network(wong_small((1, 8, 8), 10, [0.0], [0.3081]))
    with pytest.raises(UserError, match="Normalize"):
        contract.check_network(torch.nn.Linear(2, 2))


def test_a_table_states_how_its_columns_were_scaled(tmp_path):
    features = (Feature("age", 18.0, 90.0, 12.0, whole=True), Feature("ratio", 0.0, 2.0, 0.5))
    contract = InputContract((2,), 2, (0.0,), (1.0,), features=features, class_names=("ill", "well"))
    torch.save(contract.to_dict(), tmp_path / "contract.pt")
    assert InputContract.from_dict(torch.load(tmp_path / "contract.pt", weights_only=True)) == contract
    before = InputContract((2,), 2, (0.0,), (1.0,))  # of a checkpoint that does not say
    assert "features" not in before.to_dict()
    before.check_same(contract)
    contract.check_same(before)
    other = InputContract((2,), 2, (0.0,), (1.0,), features=(Feature("age", 18.0, 91.0, 12.0), features[1]))
    with pytest.raises(UserError, match=r"a feature scaled from name, minimum, maximum = \['age', 18.0, 90.0\], but"):
        contract.check_same(other)
