"""`certtrain report`: real runs, with and without their data, other places to write to, what is refused."""

import json
import shutil

import pytest
from html_reader import Reader

from certtrain.cli.main import main
from certtrain.reporting.entries import percent


def report(*arguments):
    assert main(["report", *map(str, arguments)]) == 0


def refused(arguments, capsys):
    assert main(["report", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_real_runs(runs, capsys, snapshot):
    before = snapshot(runs)
    report("bounds")
    report("runs/noise", "--output", "noise.html", "--radius", "0.02", "--images", "2")
    assert capsys.readouterr().out.split() == ["wrote", "runs/bounds/report.html", "wrote", "noise.html"]
    (runs / "bounds" / "report.html").rename("bounds.html")
    assert snapshot(runs) == before  # nothing else was touched
    for name, images in (("bounds", None), ("noise", 4)):
        read = Reader((runs.parent / f"{name}.html").read_text())
        test = json.loads((runs / name / "result.json").read_text())["test"]
        glance = read.table("certificate", "status")
        assert [row["certificate"] for row in glance] == list(test)
        assert [row["accuracy (%)"] for row in glance] == [percent(entry["clean"]) for entry in test.values()]
        assert read.text.count("Audit: passes") == len(test)
        assert images is None or len(read.of("img")) == images
        assert len(read.of("img")) > 0
        assert "train/loss" in read.text
        assert (runs.parent / f"{name}.html").stat().st_size < 1_000_000
    assert "Confusion at radius 0.02" in (runs.parent / "noise.html").read_text()
    assert "Confusion at radius 0.05" in (runs.parent / "bounds.html").read_text()  # eps


def test_without_data_or_examples(runs):
    report("bounds", "--images", "0")
    page = runs / "bounds" / "report.html"
    assert Reader(page.read_text()).of("img") == []
    config = (runs / "bounds" / "config.yaml").read_text()
    moved = config.replace("certtrain.data.Digits", "certtrain.data.MNIST").replace(
        "data_dir: data", "data_dir: nowhere"
    )
    (runs / "bounds" / "config.yaml").write_text(moved)
    report("bounds")
    assert "cannot be shown: " in Reader(page.read_text()).text
    (runs / "bounds" / "config.yaml").write_text("eps: 0.05\n")
    report("bounds")
    assert "the configuration names no data" in Reader(page.read_text()).text


def test_interrupted_and_without_checkpoint(runs):
    run = runs / "noise"
    shutil.rmtree(run / "checkpoints")
    [card] = (run / "certificates").glob("*.json")
    content = json.loads(card.read_text())
    del content["summary"]
    card.write_text(json.dumps({**content, "status": "running"}))
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "status": "interrupted", "test": {}}))
    report("noise")
    text = Reader((run / "report.html").read_text()).text
    assert "The run was interrupted" in text
    assert "Unfinished" in text
    assert "Audit" not in text


def test_a_card_that_an_audit_refuses(runs):
    card = runs / "bounds" / "certificates" / "ibp.json"
    content = json.loads(card.read_text())
    card.write_text(json.dumps({**content, "claim": "more than was proved"}))
    (runs / "bounds" / "certificates" / "crown.json").write_text('{"status": "complete"}')
    report("bounds", "--images", "0")
    text = Reader((runs / "bounds" / "report.html").read_text()).text
    assert "Audit: FAILS" in text
    assert "is not a card" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "there is no run 'none'"),
        (["bounds", "--images", "-1"], "--images -1"),
        (["bounds", "--radius", "x"], "'x' is not a radius"),
        (["bounds", "--output", "page.pdf"], "is not HTML"),
        (["bounds", "--output", "mine.html"], "it is not overwritten"),
        ([], "required: RUN"),
    ],
)
def test_mistakes(runs, capsys, arguments, message):
    (runs.parent / "mine.html").write_text("<p>mine</p>")
    assert message in refused(arguments, capsys)
    assert (runs.parent / "mine.html").read_text() == "<p>mine</p>"
