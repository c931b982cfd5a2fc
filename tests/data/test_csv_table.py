"""A user's table: numbers scaled, words named, and every bad cell told by its row and column."""

import numpy as np
import pytest
import torch

from certtrain.cli.main import main
from certtrain.data import CSVTable
from certtrain.errors import UserError

HEADER = "age,colour,height,kind\n"
ROWS = ["1,red,10,b", "2,blue,20,a", "3,red,30,b", "5,green,40,a", "4,blue,50,a", "2,red,5,b"]


@pytest.fixture
def table(tmp_path):
    def make(rows=ROWS, name="people.csv", header=HEADER):
        (tmp_path / name).write_text(header + "\n".join(rows) + "\n")
        return tmp_path

    return make


def made(folder, **options):
    common = {"file": "people.csv", "label": "kind", "val_size": 0, "augment": None}
    data = CSVTable(folder, **{**common, **options})
    data.setup()
    return data


def test_numbers_words_and_classes(table):
    folder = table()
    table(["3,blue,30,a", "9,green,2,b"], "test.csv")
    data = made(folder, one_hot=["colour"], test_file="test.csv")
    assert data.feature_names == ["age", "colour=blue", "colour=green", "colour=red", "height"]
    assert data.class_names == ["a", "b"]
    assert data.train.y.tolist() == [1, 0, 1, 0, 0, 1]
    expected = [[0, 0, 0, 1, 5 / 45], [0.25, 1, 0, 0, 15 / 45]]
    assert torch.allclose(data.train.x[torch.arange(2)], torch.tensor(expected))
    assert torch.allclose(data.test.x[torch.arange(2)], torch.tensor([[0.5, 1, 0, 0, 25 / 45], [1, 0, 1, 0, 0]]))
    assert data.clipped_values == 2
    assert data.name == "people"


def test_the_same_test_rows_for_every_seed(table):
    folder = table([f"{i},red,{i * i},{'ab'[i % 2]}" for i in range(40)])
    found = [made(folder, drop=["colour"], seed=seed).test.x[torch.arange(8)] for seed in (0, 1)]
    assert torch.equal(*found)
    assert made(folder, drop=["colour"]).test.y.bincount().tolist() == [4, 4]


def test_classes_that_are_numbers_keep_their_order(table):
    data = made(table([f"{i},x,1,{i % 11}" for i in range(110)]), drop=["colour"])
    assert data.class_names == [str(i) for i in range(11)]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, {}, r"row 2, column 'colour': 'red' is no number"),
        (["1,2,nan,a", "1,2,3,b"], {}, r"row 2, column 'height': 'nan' is no number"),
        (["1,2,,a", "1,2,3,b"], {}, r"row 2: the cell of 'height' is empty"),
        (["1,2,3", "1,2,3,b"], {}, r"row 2: 3 cells for 4 columns"),
        (["1,2,3,a", "1,2,3,a"], {}, r"1 classes"),
        ([], {}, r"no rows below a header"),
        ([f"1,2,{i},{i / 7}" for i in range(120)], {}, r"'kind' holds 120 different numbers, .* a quantity"),
        ([f"1,2,{i},{i % 40}" for i in range(120)], {}, r"'kind' holds 40 different numbers, for 120 rows"),
        ([f"1,2,{i},{'nan' if i == 3 else i % 2}" for i in range(20)], {}, r"labels of 'kind' are missing"),
        (ROWS, {"label": "knd"}, r"has no column 'knd'"),
        (ROWS, {"one_hot": ["size"]}, r"has no column 'size'"),
        (ROWS, {"file": "persons.csv"}, r"cannot read"),
        (ROWS, {"drop": ["age", "colour", "height"]}, r"0 features"),
    ],
)
def test_bad_tables(table, rows, options, message):
    folder = table(rows)
    with pytest.raises(UserError, match=message):
        made(folder, **options)


@pytest.mark.parametrize(
    ("cell", "fix"),
    [
        ("nan", "fill it, or remove the row; or data.drop=[height]"),
        ("NA", "fill it, or remove the row; or data.drop=[height]"),
        ("inf", "fill it, or remove the row; or data.drop=[height]"),
        ("tall", "data.one_hot=[height] where its values are words; or data.drop=[height]"),
    ],
)
def test_what_is_advised_fits_what_is_wrong(table, cell, fix):
    with pytest.raises(UserError, match="is no number") as caught:
        made(table([f"1,2,{cell},a", "1,2,3,b"]))
    assert caught.value.fix == fix


def test_many_whole_numbers_are_classes_but_not_without_a_word(table, caplog):
    assert made(table([f"{i},1,2,{i % 4}" for i in range(100)])).num_classes == 4
    assert not caplog.text
    assert made(table([f"{i},1,2,{i % 20}" for i in range(100)])).num_classes == 20
    assert "'kind' holds 20 different whole numbers, and each becomes a class" in caplog.text


def test_two_features_of_one_name(tmp_path):
    """A column may be named as the value of another becomes."""
    (tmp_path / "people.csv").write_text("colour,colour=red,kind\nred,1,a\nblue,2,b\n")
    with pytest.raises(UserError, match="two features named 'colour=red'"):
        CSVTable(tmp_path, file="people.csv", label="kind", one_hot=["colour"])


def test_a_word_or_class_that_training_lacks(table):
    folder = table()
    table(["1,pink,2,a"], "words.csv")
    table(["1,red,2,c"], "classes.csv")
    for name, message in (("words.csv", "no training row has 'pink'"), ("classes.csv", "no training row has 'c'")):
        with pytest.raises(UserError, match=message):
            made(folder, one_hot=["colour"], test_file=name)


def test_from_the_command_line(in_tmp):
    draw = np.random.default_rng(0)
    x = draw.random((300, 3))
    rows = [f"{a:.4f},{b:.4f},{c:.4f},{'yes' if a + b > 1 else 'no'}" for a, b, c in x]
    (in_tmp / "data").mkdir()
    (in_tmp / "data" / "mine.csv").write_text("u,v,w,answer\n" + "\n".join(rows))
    arguments = ["data=csv", "data.file=mine.csv", "data.label=answer", "model=mlp", "model.hidden=[16]", "method=ibp"]
    arguments += ["eps=0.02", "radii=[0.01,0.02]", "epochs=8", "schedule.warmup=2", "schedule.ramp=3", "trainer=cpu"]
    arguments += ["data.batch_size=32", "optimizer.lr=0.01", "certify_test=true", "certifier=ibp", "name=mine"]
    assert main(["train", *arguments]) == 0
    assert main(["certify", "run=mine", "certifier=crown", "falsify.examples=5", "falsify.steps=2"]) == 0


def test_what_must_be_given(in_tmp, capsys):
    assert main(["train", "data=csv", "model=mlp"]) == 2
    assert "data.file" in capsys.readouterr().err
