"""`certtrain certify run=... data=...`: the run's network on other data, never mixed with its own test set."""

import json

import numpy as np
import pytest

from certtrain.certification.shares import load_stage
from certtrain.cli.main import main
from certtrain.reporting.collected import collect

BLUR = ["data=corrupted", "data.corruption=blur", "data.severity=2"]
IBP = ["certifier=ibp", "certifier.ibp.attack_steps=2", "falsify.examples=0", "indices=first_20"]
NAME, LOG = "digits_certtrain_blur_2", "digits_certtrain_blur_2_ibp_first_20"


def read(path):
    return json.loads(path.read_text())


@pytest.fixture
def blurred(runs):
    """The runs, of which `bounds` is certified on its first 20 test images, as they are and blurred."""
    assert main(["certify", "run=bounds", *IBP]) == 0
    assert main(["certify", "run=bounds", *BLUR, *IBP]) == 0
    return runs / "bounds"


def test_certificates_of_corrupted_images_stand_beside_those_of_the_test_set(blurred, snapshot, capsys):
    result, card = read(blurred / "result.json"), read(blurred / "certificates" / f"{LOG}.json")
    clean = read(blurred / "certificates" / "ibp_first_20.json")
    assert LOG not in result["test"]
    assert result["other_data"] == {NAME: {LOG: card["summary"]}}
    assert (card["dataset"], card["split"], card["n"]) == (NAME, "test", 20)
    assert card["data"]["_target_"] == "certtrain.data.Corrupted"
    assert (card["data"]["severity"], card["data"]["base"]["_target_"]) == (2, "certtrain.data.Digits")
    assert "data_dir" not in json.dumps(card["data"])
    assert f"trained on digits, certified on {NAME}" in card["warnings"]
    assert clean["indices_sha256"] == card["indices_sha256"]
    assert clean["inputs_sha256"] != card["inputs_sha256"]
    assert "data" not in clean
    assert (blurred / f"certified_accuracy_{NAME}_test_first_20.png").exists()
    # The same command finds everything done, an audit finds everything in order.
    before = snapshot(blurred / "certificates")
    assert main(["certify", "run=bounds", *BLUR, *IBP]) == 0
    assert snapshot(blurred / "certificates") == before
    capsys.readouterr()
    assert main(["audit", str(blurred / "certificates" / f"{LOG}.json")]) == 0
    said = "".join(capsys.readouterr().out.split())  # lines are folded
    assert f"other_data.{NAME}.{LOG}isthecard'ssummary" in said


def test_what_shows_results_does_not_mix_them(blurred, capsys):
    result = read(blurred / "result.json")
    (blurred / "result.json").write_text(json.dumps({**result, "experiment": "paper/row"}))
    [run] = collect([blurred]).runs["paper/row"]  # what `certtrain table` reads
    assert set(run.result["test"]) == {*result["test"]}
    assert "ibp_first_20" in run.result["test"]
    assert LOG not in run.result["test"]
    assert main(["report", str(blurred), "--no-attack"]) == 0
    page = (blurred / "report.html").read_text()
    assert f"deterministic, {NAME}" in page
    capsys.readouterr()
    logs = [str(blurred / "certificates" / f"{name}.json") for name in ("ibp_first_20", LOG)]
    assert main(["plot", "--compare", *logs]) == 2
    assert "are of other inputs" in capsys.readouterr().err


def test_helping_processes_certify_the_same_data(runs):
    from composing import composed

    config = composed("run=runs/bounds", *BLUR, *IBP, "data_dir=data", command="certify")
    stage = load_stage(config)
    assert stage.examples.dataset == NAME
    assert stage.of("ibp")[1].name == f"{LOG}.tsv"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data=mnist_c", "data.corruption=fog"], "inputs of shape [1, 8, 8], but data=mnist_c_fog has [1, 28, 28]"),
        (["data=breast_cancer"], "inputs of shape [1, 8, 8]"),
        (["data=digits"], "has data named digits, too"),
        ([*BLUR, "data.mean=[0.5]"], "normalisation by mean"),
        ([*BLUR, "split=val"], f"{NAME} held out no val examples"),
        (["data=corrupted"], "data.corruption must be given"),
        (["model=mlp"], "its model is that of the run"),
    ],
)
def test_data_that_do_not_fit_the_run_are_refused(runs, snapshot, capsys, arguments, expected):
    before = snapshot(runs)
    assert main(["certify", "run=bounds", *IBP, *arguments]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said
    assert snapshot(runs) == before


@pytest.fixture
def mnist_and_fog(in_tmp):
    """Files of noise in the layouts of MNIST (20 and 10 images) and of MNIST-C under fog."""
    draw = np.random.default_rng(0)
    raw, fog = in_tmp / "data" / "MNIST" / "raw", in_tmp / "data" / "mnist_c" / "fog"
    for folder in (raw, fog):
        folder.mkdir(parents=True)
    for part, n in (("train", 20), ("t10k", 10)):
        images, labels = draw.integers(0, 256, (n, 28, 28), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 10
        for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
            (raw / name).write_bytes(head + values.tobytes())
    np.save(fog / "test_images.npy", draw.integers(0, 256, (10, 28, 28, 1), dtype=np.uint8))
    np.save(fog / "test_labels.npy", np.arange(10))
    return in_tmp


def test_published_corruptions_are_normalised_as_the_run_is(mnist_and_fog, tiny):
    words = [word for word in tiny if word != "data=digits"]
    own = ["data=mnist", "data.mean=[0.1307]", "data.std=[0.3081]", "method=standard", "val_size=0", "name=run"]
    assert main(["train", *words, *own]) == 0
    certify = ["certify", "run=run", "data=mnist_c", "data.corruption=fog", "certifier=ibp", "radii=[0.01]"]
    assert main([*certify, "certifier.ibp.attack_steps=0", "falsify.examples=0"]) == 0
    card = read(mnist_and_fog / "runs" / "run" / "certificates" / "mnist_c_fog_ibp.json")
    assert (card["dataset"], card["n"], card["input_contract"]["mean"]) == ("mnist_c_fog", 10, [0.1307])
    assert (card["data"]["corruption"], card["data"]["mean"], card["data"]["std"]) == ("fog", [0.1307], [0.3081])
    assert list(read(mnist_and_fog / "runs" / "run" / "result.json")["other_data"]) == ["mnist_c_fog"]


def test_a_prediction_takes_no_data(runs, capsys):
    assert main(["predict", "run=bounds", "input=digit.npy", "data=digits"]) == 2
    assert "its data is that of the run" in capsys.readouterr().err


def test_nothing_is_trained_on_a_test_set(in_tmp, tiny, capsys):
    words = [word for word in tiny if word != "data=digits" and not word.startswith("data.")]
    own = "data.base._target_=certtrain.data.Digits"
    assert main(["train", *words, *BLUR, own, "method=standard", "name=none"]) == 2
    assert f"{NAME} is a test set" in capsys.readouterr().err
