"""What is typed means the same to us as to Hydra: quotes, names, sweeps."""

import pytest
from omegaconf import OmegaConf

from certtrain.cli import certify, predict, reproduce, train
from certtrain.cli.compose import given_values, unquoted
from certtrain.cli.main import main
from certtrain.cli.seeds import swept_keys
from certtrain.config.overrides import quoted
from certtrain.errors import UserError
from certtrain.runs.directory import RunDirectory

ODD = [
    "a b",
    "it's",
    'say "so"',
    "a,b",
    "x=y",
    r"back\slash",
    "end\\",
    r"c:\'q'",
    r"\\'",
    "[1]",
    "${seed}",
    r"\${x}",
    "",
]


@pytest.mark.parametrize("text", ODD)
def test_what_is_quoted_for_hydra_is_read_back(text):
    key, value = quoted("run", text).split("=", 1)
    assert key == "run"
    assert OmegaConf.create({"run": unquoted(value)}).run == text


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ('"runs/a b"', "runs/a b"),
        ("'2/255'", "2/255"),
        ("runs/a", "runs/a"),
        ("'", "'"),
        ("'a'b", "'a'b"),
        ("'a','b'", "'a','b'"),
        ("", ""),
    ],
)
def test_values_as_hydra_reads_them(value, read):
    assert unquoted(value) == read
    assert given_values([f"run={value}", "--cfg=x", "-m", "other"]) == {"run": read}


@pytest.fixture
def empty_run(in_tmp):
    """A run that no command can do much with, whose name wants quotes."""
    config = {"choices": {"certifier": "ibp"}, "epochs": 3, "norm": "linf", "radii": ["0.1"]}
    run, _ = RunDirectory.open(in_tmp / "my runs" / "a b", config, ["eps=0.1"])
    run.close()
    return run


@pytest.mark.parametrize("quotes", ["'{}'", '"{}"', "{}"])
def test_commands_take_the_values_that_hydra_takes(empty_run, quotes):
    run, folder = f"run={quotes.format('a b')}", f"runs_dir={quotes.format('my runs')}"
    assert "run='my runs/a b'" in certify.prepare([run, folder])
    prepared = predict.prepare([run, folder, f"input={quotes.format('an image.png')}"])
    assert [word for word in prepared if word.startswith("input=")] == ["input='an image.png'"]
    resumed = train.prepare([f"resume={quotes.format('a b')}", folder])
    assert {"eps=0.1", "resume='a b'", "name='a b'", "runs_dir='my runs'"} <= set(resumed)
    with pytest.raises(UserError, match="norm=l3 is not a choice"):
        certify.prepare([run, folder, f"norm={quotes.format('l3')}"])


def test_a_file_of_weights_and_a_reproduced_run_may_have_odd_names(in_tmp):
    rest = ["model=mlp", "data=digits", "certifier=ibp", "radii=[0.1]"]
    for value in ("'my weights.pt'", '"my weights.pt"', "my weights.pt"):
        assert "checkpoint='my weights.pt'" in certify.prepare([f"checkpoint={value}", *rest])
    assert reproduce.split_overrides(["runs_dir='my runs'"]) == (["runs_dir='my runs'"], ["runs_dir='my runs'"])


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["eps=0.1,0.2", "name=a"], "'name=a-${eps}'"),
        (["eps=0.1,0.2", "seed=range(3)", "name='a'"], "'name=a-${eps}-${seed}'"),
        (["method=ibp,standard", "name=a"], "leave name= out"),
        (["eps=0.1,0.2", "name=a,b"], "'name=a,b-${eps}'"),
        (["hydra.sweeper.params={eps: 0.1}", "name=a"], "leave name= out"),
        (["seeds=2", "name=a"], "'name=a-${seed}'"),
    ],
)
def test_one_name_for_several_jobs_is_refused_before_the_first(in_tmp, capsys, arguments, fix):
    assert main(["train", "-m", *arguments]) == 2
    shown = capsys.readouterr().err
    assert "would be the name of every job" in shown
    assert fix in shown
    assert list(in_tmp.iterdir()) == []


@pytest.mark.parametrize("name", ["8e067854", "007", "1_000", "true", "0x1f"])
def test_a_name_is_what_was_typed_although_hydra_would_read_a_number(in_tmp, name):
    """`8e067854` is infinite: two runs of such names shared the folder inf."""
    assert main(["train", "data=digits", "model=mlp", "method=standard", "epochs=1", "val_size=0", f"name={name}"]) == 0
    assert [folder.name for folder in (in_tmp / "runs").iterdir() if not folder.name.startswith(".")] == [name]


def test_names_that_differ_from_job_to_job():
    for arguments in (
        *(["name=a", "seed=0"], ["name=a,b", "seed=0"], ["name=a-${eps}", "eps=0.1,0.2"], ["name=null", "eps=1,2"]),
        ["eps=0.1,0.2"],
    ):
        assert train.prepare(["-m", *arguments]) == ["-m", *arguments]


def test_swept_keys():
    words = ["certtrain", "train", "-m", "+eps=0.1,0.2", "seed=range(3)", "radii=[1,2]", "name=a b", "x='a','b'"]
    assert swept_keys(words) == ("eps", "seed", "x")
    assert swept_keys([word for word in words if word != "-m"]) == ()


@pytest.mark.parametrize("name", ["../../x", "a/b/c", "..", ".hidden"])
def test_a_name_never_leaves_its_folder(empty_run, in_tmp, capsys, snapshot, name):
    """Of a certificate, a run, a study, the run of a file of weights: one function says what a name is."""
    before = snapshot(in_tmp)
    for command in (
        ["certify", "run=my runs/a b", f"name={name}"],
        ["train", "data=digits", "model=mlp", "method=standard", f"name={name}"],
        ["train", "data=digits", "model=mlp", "method=standard", "sweep=optuna", "val_size=0.2", f"name={name}"],
        ["train", "-m", "data=digits", "model=mlp", "method=standard", f"name={name}", "seed=0"],
    ):
        assert main(command) == 2
        assert "is not a name" in capsys.readouterr().err
    assert snapshot(in_tmp) == before
    assert not (in_tmp.parent / "x").exists()
