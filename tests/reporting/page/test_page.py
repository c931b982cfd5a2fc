"""The whole page: valid, complete, escaped, closed to the network, and with the figures of the run's files."""

import json

import pytest
from html_reader import Reader
from makers import bound_rows, card_of, vote_rows, write_run

from certtrain.errors import UserError
from certtrain.reporting.entries import percent
from certtrain.reporting.page.evidence import read_evidence
from certtrain.reporting.page.page import check_output, page, write_page
from certtrain.runs.directory import RunDirectory

METRICS = "step,epoch,train/loss,train/clean,val/certified@0.1,schedule/eps,odd<b>\n" + "".join(
    f"{i},0,{2 / i},0.5,0.25,{i / 100},1\n" for i in range(1, 9)
)
EVIL = '<script>alert("x")</script>'


def made(run, **options):
    return Reader(page(read_evidence(RunDirectory(run)), **options))


def both(tmp_path, **options):
    bounds, votes = bound_rows(n=61), vote_rows(n=50)
    cards = {"ibp": (bounds, card_of(bounds, "ibp")), "votes": (votes, card_of(votes, "smoothing"))}
    return write_run(tmp_path, cards, metrics=METRICS, **options)


def test_figures_are_those_of_the_result(tmp_path):
    run = both(tmp_path)
    read = made(run)
    test = json.loads((run / "result.json").read_text())["test"]
    glance = {row["certificate"]: row for row in read.table("certificate", "status")}
    tables = {"ibp": read.table("radius", "certified (%)", "95 % interval", "misclassified")}
    tables["votes"] = read.table("radius", "certified (%)", "95 % interval", "coverage (%)")
    for name, entry in test.items():
        assert glance[name]["status"] == "complete"
        assert glance[name]["accuracy (%)"] == percent(entry["clean"])
        assert glance[name]["certified (%)"] == percent(entry["certified"]["0.1"])
        by_radius = {row["radius"]: row for row in tables[name]}
        assert by_radius["0"]["certified (%)"] == percent(entry["clean"])
        for radius, value in entry["certified"].items():
            assert by_radius[radius]["certified (%)"] == percent(value)
            assert by_radius[radius]["n"] == str(entry["n"])
            low, high = map(float, by_radius[radius]["95 % interval"].split(" to "))
            assert low <= 100 * value <= high
    for row in tables["ibp"][1:]:  # the six statuses add up to n
        names = ("misclassified", "verified", "falsified", "unknown", "invalid", "error")
        assert sum(int(row[name]) for name in names) == 61
    assert [a["aria-label"].split(".")[0] for _, a in read.elements if a.get("role") == "img"][:2] == [
        "certified accuracy (%) against l-inf radius (inputs in [0, 1])",
        "certified accuracy (%) against l2 radius (inputs in [0, 1])",
    ]
    assert "classifies every input of the closed l-inf ball" in read.text
    assert "ACR" in read.text


def test_the_certified_figure_stands_on_top(tmp_path):
    run = both(tmp_path)
    test = json.loads((run / "result.json").read_text())["test"]
    text = made(run).text
    top = text[: text.index("all certificates of the run")]
    for name, at in (("ibp", "l-inf radius 0.1, deterministic"), ("votes", "l2 radius 0.1, alpha 0.001")):
        entry = test[name]
        assert f"{percent(entry['certified']['0.1'])} % certified at {at}" in top
        assert f"n = {entry['n']}; accuracy {percent(entry['clean'])} %; by {name}" in top


def test_of_several_proofs_the_largest_figure_leads_and_smoothed_classifiers_each_have_one(tmp_path):
    cards = {}
    for name, make, seed in (("a", bound_rows, 1), ("b", bound_rows, 2), ("c", vote_rows, 1), ("d", vote_rows, 2)):
        rows = make(n=60, seed=seed)
        cards[name] = (rows, card_of(rows, "x"))
    run = write_run(tmp_path, cards)
    proofs = {name: cards[name][1]["summary"]["certified"]["0.1"] for name in "ab"}
    text = made(run).text
    best = max(proofs, key=proofs.get)
    assert len(set(proofs.values())) == 2
    top = text[: text.index("all certificates of the run")]
    assert [part.split()[0] for part in top.split("; by ")[1:]] == [best, "c", "d"]
    assert f"{percent(proofs[best])} % certified at l-inf radius 0.1" in text


def test_structure_and_closed_to_the_network(tmp_path):
    text = page(read_evidence(RunDirectory(both(tmp_path))))
    read = Reader(text)
    identifiers = [a["id"] for _, a in read.elements if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    assert all(resource.startswith(("#", "data:image/png;base64,")) for resource in read.resources())
    assert {r[1:] for r in read.resources() if r.startswith("#")} <= set(identifiers)
    assert {name for name, _ in read.elements} & {"script", "link", "iframe", "object", "form"} == set()
    assert "url(" not in text
    assert "@import" not in text
    assert read.of("html") == [{"lang": "en"}]
    assert len(read.of("h1")) == len(read.of("main")) == len(read.of("title")) == 1
    assert all("alt" in a for a in read.of("img"))
    assert all("scope" in a for a in read.of("th"))
    assert any("default-src 'none'" in a.get("content", "") for a in read.of("meta"))
    assert len(text) < 200_000


def test_nothing_that_a_user_wrote_becomes_markup(tmp_path):
    rows = bound_rows()
    card = card_of(rows, "ibp", claim=EVIL, warnings=[EVIL], run=EVIL, dataset=EVIL)
    config = {"eps": EVIL, "method": {EVIL: EVIL}}
    run = write_run(tmp_path, {EVIL.replace("/", ""): (rows, card)}, config=config, metrics=METRICS, name="a<script>b")
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "method": EVIL, "model": EVIL}))
    (run / "overrides.yaml").write_text(json.dumps([EVIL]))
    (run / "environment.json").write_text(json.dumps({EVIL: EVIL, "packages": {EVIL: EVIL}, "git": EVIL}))
    audits = {EVIL.replace("/", ""): [("same", EVIL)]}
    text = page(read_evidence(RunDirectory(run)), why=EVIL, audits=audits)
    assert "<script" not in text.lower()
    assert Reader(text).text.count(EVIL) >= 10


def test_falsified_certificates_have_no_certified_figure(tmp_path):
    run = both(tmp_path)
    path = run / "certificates" / "ibp.json"
    card = json.loads(path.read_text())
    record = {"failed": True, "hits": 3, "attacked": 20, "allowed": 0}
    path.write_text(json.dumps(card | {"falsification": record}))
    for other in ("votes.json", "votes.tsv"):
        (run / "certificates" / other).unlink()
    result = json.loads((run / "result.json").read_text())
    del result["test"]["votes"]
    (run / "result.json").write_text(json.dumps(result))
    text = page(read_evidence(RunDirectory(run)))
    read = Reader(text)
    assert read.text.count("FALSIFIED") >= 4  # at the top, in the table, as a badge, as a notice
    assert "An attack broke 3 of 20 certificates that it tried (at most 0 may fall)" in read.text
    [row] = read.table("certificate", "status")
    assert row["status"] == "FALSIFIED"
    assert {value for key, value in row.items() if key not in ("certificate", "status", "what")} == {"–"}
    assert "headline" not in [a.get("class") for a in read.of("p")]
    assert len(read.tables) == 1
    assert "Refuted claim" in read.text
    for value in card["summary"]["certified"].values():
        assert percent(value) not in read.text
        assert repr(value) not in text
    assert repr(card["summary"]["acr_grid"]) not in text


def test_figures_that_do_not_add_up_are_withheld(tmp_path):
    run = both(tmp_path)
    result = json.loads((run / "result.json").read_text())
    result["test"]["ibp"]["certified"]["0.1"] = 0.98765
    (run / "result.json").write_text(json.dumps(result))
    read = made(run)
    assert "Its figures are withheld: certified at 0.1: 0.98765 stated" in read.text
    assert "98.77" not in read.text
    assert [row["status"] for row in read.table("certificate", "status")] == ["does not add up", "complete"]


def test_interrupted_runs_and_unfinished_certificates_say_so(tmp_path):
    rows = bound_rows(n=20)
    card = card_of(rows, "ibp", status="running", n=60)
    del card["summary"]
    run = write_run(tmp_path, {"ibp": (rows, card)}, status="interrupted", metrics=METRICS)
    read = made(run)
    assert "The run was interrupted" in read.text
    assert "20 of 60 examples were certified when it stopped" in read.text
    assert len(read.tables) == 1
    (run / "result.json").unlink()
    assert "no result: it is still at work" in " ".join(made(run).text.replace("has no", "no").split())


def test_runs_without_certificates_training_or_environment(tmp_path):
    run = write_run(tmp_path, {}, status="failed")
    (run / "environment.json").unlink()
    read = made(run)
    assert "Nothing is proved about this network" in read.text
    assert "no metrics.csv with values" in read.text
    assert "The run failed" in read.text
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "trained": False, "source": {"file": "a.pt"}}))
    read = made(run)
    assert "trained elsewhere" in read.text
    assert "a.pt" in read.text


def test_an_attack_bounds_the_certificates_of_its_own_examples_only(tmp_path):
    cards = {}
    for name, n, sha in (("all", 60, "a"), ("few", 20, "b"), ("too", 60, "a")):
        rows = bound_rows(n=n)
        card = card_of(rows, "ibp")
        card["summary"] |= {"indices_sha256": sha, "pgd": {"0.1": 0.9}}
        cards[name] = (rows, card)
    read = made(write_run(tmp_path, cards))
    drawn = [a["aria-label"] for _, a in read.elements if a.get("role") == "img"]
    assert [[name for name in cards if f"{name}:" in label] for label in drawn] == [["all", "too"], ["few"]]
    assert read.text.count("left standing by the attack") == 2


def test_training_curves(tmp_path):
    read = made(both(tmp_path))
    for title in ("Loss", "Accuracy", "Certified accuracy in validation", "Radius trained for"):
        assert title in read.text
    assert "1 further measurements" in read.text
    assert "odd<b>" in read.text


def test_a_thousand_classes_are_no_large_page(tmp_path):
    rows = vote_rows(n=3000, classes=1000)
    text = page(read_evidence(RunDirectory(write_run(tmp_path, {"v": (rows, card_of(rows, "smoothing"))}))))
    assert len(Reader(text).table("class", "n")) == 1000
    assert len(text) < 1_500_000


def test_only_a_page_of_ours_is_overwritten(tmp_path):
    path = tmp_path / "page.html"
    text = page(read_evidence(RunDirectory(both(tmp_path))))
    assert write_page(path, text) == path
    write_page(path, text)
    path.write_text("<p>mine, about certtrain report</p>")
    with pytest.raises(UserError, match="no page of `certtrain report`: it is not overwritten"):
        write_page(path, text)
    assert path.read_text().startswith("<p>mine")
    with pytest.raises(UserError, match="is not HTML"):
        check_output(tmp_path / "page.png")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match="cannot read"):
        check_output(tmp_path / "folder.html")
