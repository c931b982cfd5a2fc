"""What the certify stage refuses: one clear message, nothing written, nothing lost."""

import json
import math
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
import yaml
from run_files import forget_hashes
from torch import nn

from certtrain.certification.checks import chance_level, radii_out_of_reach, refuse_out_of_reach
from certtrain.certification.examples import Examples
from certtrain.certifiers import AnytimeCertifier, SmoothingCertifier
from certtrain.certifiers.uniform import UniformCertifier
from certtrain.cli import main as cli
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.models.invariance import check_function
from certtrain.smoothing.confidence import radius_one_sided, radius_two_sided

LAYERS = """
import torch
from torch import nn
from certtrain.models import mlp


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.01 * torch.randn_like(x)


def noisy(input_shape, num_classes, mean, std, hidden=(16,)):
    network = mlp(input_shape, num_classes, mean, std, hidden=hidden)
    return nn.Sequential(*list(network)[:2], Noise(), *list(network)[2:])
"""


def certify(*arguments: str) -> int:
    return cli.main(["certify", *arguments])


@pytest.fixture
def refused(runs, snapshot, capsys):
    """Run a command that must be refused with these words, and leave everything as it was."""

    def check(*arguments: str, words: tuple[str, ...]) -> None:
        before = snapshot(runs)
        assert certify(*arguments) == 2
        shown = capsys.readouterr().err
        assert [word for word in words if word not in shown] == []
        assert shown.count("certtrain: ") == 1
        assert "Traceback" not in shown
        after = snapshot(runs)
        assert {name: after.get(name) for name in before} == before
        assert {name for name in after if name not in before} <= {"noise/.lock", "bounds/.lock"}

    return check


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["alpha=0"], ["alpha", "not in (0, 1)"]),
        (["alpha=1"], ["alpha", "not in (0, 1)"]),
        (["alpha=-0.1"], ["alpha"]),
        (["n0=0"], ["n0"]),
        (["n=0"], ["n = 0"]),
        (["n=-5"], ["n = -5"]),
        (["n=1.5"], ["n = 1.5"]),
        (["radii=[0.3]"], ["n = 100", "up to 0.1500", "n=5114 or more", "smaller radii"]),
        (["radii=[0.1,0.2,0.3]"], ["not 0.2, 0.3", "radii=[0.1]"]),
        (["n=10"], ["n=19 or more"]),
        (["sigma=0.01"], ["up to 0.0150"]),
        (["radii=[0.9]"], ["up to 0.1500, not 0.9", "smaller radii, or a larger sigma"]),
        (["alpha=1e-30"], ["n=", "up to 0.0"]),
        (["norm=linf"], ["l2", "r/sqrt(d)"]),
        (["norm=linf", "certifier=smoothing"], ["l2", "r/sqrt(d)"]),
        (["norm=l1", "certifier=ibp"], ["norm=l1", "l2, linf"]),
        (["data=mnist"], ["inputs of shape [1, 8, 8], but data=mnist has [1, 28, 28]"]),
        (["model=mlp"], ["model=mlp beside run=noise"]),
        (["checkpoint=weights.pt"], ["last or best; a file"]),
    ],
)
def test_mistakes(refused, arguments, words):
    refused("run=noise", *arguments, words=tuple(words))


def test_a_norm_that_the_run_has_anyway_is_no_mistake(runs):
    """The run's own norm is l-inf, which its bounds are in; smoothing certifies in l2 all the same."""
    assert certify("run=bounds", "certifier=smoothing", "sigma=0.1", "indices=first_5", "n=100", "radii=[0.1]") == 0
    card = json.loads((runs / "bounds" / "certificates" / "smoothing_n100_first_5.json").read_text())
    assert card["claim"]["threat"] == "l2"
    assert certify("run=noise", "norm=l2", "indices=first_5") == 0


def test_the_runs_own_recipe_is_a_warning(runs, capsys):
    """Radii that its own n cannot reach stand at 0 in the published curves; nobody asked for them here."""
    path = runs / "noise" / "config.yaml"
    config = yaml.safe_load(path.read_text()) | {"radii": [0.05, 0.4]}
    path.write_text(yaml.safe_dump(config))
    assert certify("run=noise", "indices=first_5") == 0
    card = json.loads((runs / "noise" / "certificates" / "smoothing_n100_first_5.json").read_text())
    assert "certify radii up to 0.1500, not 0.4" in card["warnings"][-1]
    assert "not 0.4" in capsys.readouterr().out
    assert certify("run=noise", "indices=first_5", "n=90") == 0  # other draws of the same grid
    assert certify("run=noise", "indices=first_5", "radii=[0.05,0.3]", "name=asked") == 2
    assert certify("run=noise", "indices=first_5", "n=12", "name=nothing") == 2  # not one radius in reach


@pytest.mark.parametrize(
    ("ratio", "draws"), [(1, 40), (2, 301), (3, 5114), (4, 218_105)]
)  # fewest draws, all for one class, at alpha 0.001
def test_fewest_draws_are_the_designs(ratio, draws):
    with pytest.raises(UserError, match=f"n={draws} or more"):
        refuse_out_of_reach({"smoothing": SmoothingCertifier(0.5, [ratio / 2], n=10)}, 1, asked=True)
    assert radii_out_of_reach(SmoothingCertifier(0.5, [ratio / 2], n=draws), 1) == ()
    assert radii_out_of_reach(SmoothingCertifier(0.5, [ratio / 2], n=draws - 1), 1) == (Fraction(ratio, 2),)


@pytest.mark.parametrize("settings", [{"two_sided": True}, {"budget": "dataset"}, {"alpha": 1e-6}])
def test_the_draws_that_the_message_names_are_enough(settings):
    """Of a shared or halved alpha, too."""
    with pytest.raises(UserError) as caught:
        refuse_out_of_reach({"smoothing": SmoothingCertifier(0.5, [1.0], n=10, **settings)}, 50, asked=True)
    n = int(caught.value.fix.split("n=")[1].split(" ")[0])
    assert refuse_out_of_reach({"smoothing": SmoothingCertifier(0.5, [1.0], n=n, **settings)}, 50, asked=True) == []
    with pytest.raises(UserError, match="certify radii up to"):
        refuse_out_of_reach({"smoothing": SmoothingCertifier(0.5, [1.0], n=n - 1, **settings)}, 50, asked=True)


@pytest.mark.parametrize("n", [20, 1000, 100_000])
def test_the_largest_radius_is_that_of_unanimous_votes(n):
    one = SmoothingCertifier(0.5, [0.1], n=n)
    assert one.reach(1).radius == pytest.approx(float(radius_one_sided([n], n, 0.001, 0.5).radius[0]))
    two = SmoothingCertifier(0.5, [0.1], n=n, two_sided=True)
    votes = torch.tensor([[n, 0, 0]]).numpy()
    assert two.reach(1).radius == pytest.approx(float(radius_two_sided(votes, [0], 0.001, 0.5).radius[0]))
    shared = SmoothingCertifier(0.5, [0.1], n=n, budget="dataset")
    assert shared.reach(50).radius == pytest.approx(
        float(radius_one_sided([n], n, 0.001 / 50, 0.5).radius[0]), rel=1e-9
    )


def test_uniform_noise_has_a_reach_of_its_own():
    """At most its width, however many draws there are; nothing at all where all votes are not enough for one half."""
    noise = UniformCertifier(0.5, ["0.5", "0.8"], n=30)
    p = 0.001 ** (1 / 30)
    assert noise.reach(1).radius == pytest.approx(2 * math.sqrt(3) * 0.5 * (p - 0.5))
    assert radii_out_of_reach(noise, 1) == (Fraction(4, 5),)
    with pytest.raises(UserError, match=r"certify radii up to 0\.5097, not 0\.8") as caught:
        refuse_out_of_reach({"uniform": noise}, 1, asked=True)
    assert "a larger sigma" in caught.value.fix
    n = int(caught.value.fix.split("n=")[1].split(" ")[0])
    for draws, reached in ((n - 1, False), (n, True)):
        assert (UniformCertifier(0.5, ["0.8"], n=draws).reach(1).radius >= 0.8) == reached
    for wide in (UniformCertifier(0.5, ["0.1", "0.87"], n=10**6), UniformCertifier(0.5, ["0.1"], n=9)):
        with pytest.raises(UserError) as caught:
            refuse_out_of_reach({"uniform": wide}, 1, asked=True)
        assert caught.value.fix.endswith("larger sigma")
    assert "certify nothing, so not 0.1" in caught.value.what


@pytest.mark.parametrize("budget", ["example", "dataset"])
def test_every_certifier_of_votes_is_timed_by_fewer_of_them(budget):
    """Of targets that a tenth of the draws could not decide, too."""
    network, batch = nn.Linear(4, 2), Batch(torch.rand(1, 4), torch.zeros(1, dtype=torch.int64), torch.arange(1))
    made = [kind(0.5, [1.5], n0=100, n=20_000, budget=budget) for kind in (SmoothingCertifier, AnytimeCertifier)]
    for certifier in (*made, UniformCertifier(0.5, [0.5], n0=100, n=20_000, budget=budget)):
        trial = certifier.trial()
        assert (trial.certifier.n, trial.rows, trial.words) == (2000, 1, "n = 20,000")
        assert trial.times == 20_100 / 2001
        assert trial.certifier.certify(network, batch).columns["n"].tolist() == [2000]


class Dropout(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.1, training=True)


class Counting(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize("layer", [Dropout(), Counting()])
def test_networks_that_answer_differently_are_refused(layer):
    network = nn.Sequential(nn.Linear(6, 6), layer).train()
    with pytest.raises(UserError, match="a layer is random"):
        check_function(network, torch.rand(4, 6))
    assert network.training


def test_networks_that_are_functions_pass():
    network = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.BatchNorm1d(6)).train()
    check_function(network, torch.rand(4, 6))
    network[0].weight.data.fill_(float("nan"))
    check_function(network, torch.rand(4, 6))  # not finite is another matter, with a status of its own


@pytest.fixture
def noisy(runs, monkeypatch):
    """The run `noise` with a layer that is random in eval mode, too; its weights as they were."""
    (runs.parent / "my_layers.py").write_text(LAYERS)
    monkeypatch.syspath_prepend(runs.parent)
    path = runs / "noise" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["_target_"] = "my_layers.noisy"
    path.write_text(yaml.safe_dump(config))
    last = runs / "noise" / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    kept = content["state_dict"]
    content["state_dict"] = {
        ".".join([first, str(int(place) + (int(place) >= 2)), *rest]): value
        for (first, place, *rest), value in ((name.split("."), value) for name, value in kept.items())
    }
    torch.save(content, last)
    forget_hashes(runs / "noise")
    yield
    sys.modules.pop("my_layers", None)


@pytest.mark.parametrize(
    "certifier", [["certifier=smoothing", "sigma=0.1"], ["certifier=ibp", "norm=linf", "radii=[0.02]"]]
)
def test_a_stochastic_layer_is_refused_by_the_command(refused, noisy, certifier):
    refused(
        "run=noise",
        "trust=my_layers",
        *certifier,
        "indices=first_5",
        "name=new",
        words=("a layer is random", "F.dropout"),
    )


@pytest.mark.parametrize("command", [["predict", "input=digit.npy"], ["export", "vnnlib=false"]])
def test_a_stochastic_layer_is_refused_by_other_commands(runs, noisy, snapshot, capsys, command):
    np.save("digit.npy", np.zeros((1, 8, 8), dtype=np.float32))
    before = snapshot(runs)
    assert cli.main([*command, "run=noise", "trust=my_layers"]) == 2
    assert "a layer is random" in capsys.readouterr().err
    assert snapshot(runs) == before


def test_chance_level():
    x = torch.eye(4).repeat(100, 1)
    examples = Examples(x, x.argmax(1), torch.arange(400), "test", "data")
    assert chance_level(nn.Identity(), examples, 4, torch.device("cpu")) == []
    wrong = Examples(x, (x.argmax(1) + 1) % 4, torch.arange(400), "test", "data")
    [warning] = chance_level(nn.Identity(), wrong, 4, torch.device("cpu"))
    assert "0.0% on the first 300 examples" in warning
    assert "data.mean" in warning


def test_settings_that_differ_are_named_one_by_one(runs, capsys):
    assert certify("run=noise", "seed=3") == 2
    shown = capsys.readouterr().err
    assert "settings.seed: 0 then, 3 now" in shown
    assert "settings.sigma" not in shown
    assert "Philox" not in shown
    assert len(shown) < 500
