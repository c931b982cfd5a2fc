"""`certtrain flips`: from a certificate over scales to the table, the figure and the counts; refused for any other."""

import json
import shutil

import pytest
from people_table import training

from certtrain.certificates import CertificateLog
from certtrain.cli import main as cli


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flips")
    assert cli.main([*training(folder), "method=ibp", "radii=[1,2]"]) == 0
    return folder


@pytest.fixture
def here(trained, in_tmp):
    shutil.copytree(trained, in_tmp, dirs_exist_ok=True)
    return in_tmp / "runs" / "people"


def test_the_table_the_figure_and_the_counts(here, capsys):
    assert cli.main(["flips", "people"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    found = json.loads((here / "flips_crown.json").read_text())
    rows = CertificateLog(here / "certificates" / "crown.tsv").read()
    assert set(found["classes"]) == {"new", "old"}
    for label, name in enumerate(("new", "old")):
        mine = found["classes"][name]
        here_rows = rows.label == label
        assert mine["n"] == int(here_rows.sum())
        assert mine["right"] == int(rows.correct[here_rows].sum())
        assert mine["cannot_be_flipped"]["1"] == int((rows.radius[here_rows & rows.correct] >= 1).sum())
    assert set(found["features_alone"]) == {"age", "income"}  # the others do not change
    for counts in found["features_alone"].values():
        assert sum(counts["2"].values()) == int(rows.correct.sum())
        # What one feature can do alone, all together can do.
        assert counts["2"]["cannot_flip"] >= int((rows.radius[rows.correct] >= 2).sum())
    assert (here / "flips_crown.png").stat().st_size > 10_000
    assert "no allowed change flips" in shown
    assert f"of the {int(rows.correct.sum())} right decisions, at change 2" in shown
    assert "the change stated in measured (" in shown


def test_a_column_that_may_take_any_category_is_one_feature(here, capsys):
    asked = "scales={name: free, units: {age: 3}, range: {income: 0}, categories: [colour], integers: [age]}"
    assert cli.main(["certify", "run=people", asked, "certifier=crown", "name=free", "falsify.examples=0"]) == 0
    assert cli.main(["flips", "people", "--certificate", "free_crown"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "of all features at once, and any category of colour;" in shown
    assert "colour, any category" in shown
    found, rows = (
        json.loads((here / "flips_free_crown.json").read_text()),
        CertificateLog(here / "certificates/free_crown.tsv").read(),
    )
    assert found["any_category"] == ["colour"]
    assert list(found["features_alone"]) == ["age", "colour"]
    counts = found["features_alone"]["colour"]
    assert counts["1"] == counts["2"]  # whatever the radius
    assert counts["2"]["open"] == 0
    # Two boxes of one line each: what neither feature does alone, both may do; not the other way round.
    assert counts["2"]["cannot_flip"] >= int((rows.radius[rows.correct] >= 2).sum())


def test_without_features_neither_data_nor_network_are_needed(here, capsys):
    shutil.rmtree(here / "checkpoints")
    assert cli.main(["flips", str(here), "--no-features", "--radius", "1"]) == 0
    assert json.loads((here / "flips_crown.json").read_text())["features_alone"] == {}
    assert cli.main(["flips", str(here)]) == 2
    assert "last.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, ["--certificate", "crwn"], "has no certificate 'crwn'"),
        (None, ["--radius", "1.5"], "1.5 is no radius of crown"),
        (lambda card: card.update(status="running"), [], "crown is not complete"),
        (lambda card: card.update(falsification={"failed": True}), [], "an attack broke certificates of crown"),
        (lambda card: card["settings"].pop("scales"), [], "has 0 certificates over scales"),
        (lambda card: card["settings"].pop("scales"), ["--certificate", "crown"], "crown is not over scales"),
        (lambda card: card.update(checkpoint_sha256="0"), [], "is not the network that was certified"),
        (lambda card: card.update(inputs_sha256="0"), [], "the data are not those that were certified"),
    ],
)
def test_what_is_refused(here, capsys, change, arguments, message):
    path = here / "certificates" / "crown.json"
    if change is not None:
        card = json.loads(path.read_text())
        change(card)
        path.write_text(json.dumps(card))
    assert cli.main(["flips", "people", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (here / "flips_crown.png").exists()


def test_several_certificates_need_a_name(here, capsys):
    shutil.copy(here / "certificates" / "crown.json", here / "certificates" / "other.json")
    assert cli.main(["flips", "people"]) == 2
    assert "has 2 certificates over scales: crown, other" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "unit"),
    [
        ({"others": {"spread": 1}}, "its standard deviation"),
        ({"others": {"range": 1}, "units": {}}, "its range"),
        ({"others": 1, "immutable": ["a"]}, "its range"),
        ({"others": {"spread": 2}}, "the change stated in scaled ("),
        ({"others": {"spread": 1}, "units": {"a": 1}}, "the change stated in scaled ("),
    ],
)
def test_the_unit_of_a_change(asked, unit):
    from certtrain.cli.flips import unit_of
    from certtrain.threat.scales import Scales

    assert unit_of(asked, Scales(("a",), (1,), (0,))).startswith(unit)
