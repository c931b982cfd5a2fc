"""The examples at both ends, counterexamples, and data that are not those of the log."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from html_reader import Reader
from makers import bound_rows, certificate, html, vote_rows
from PIL import Image

from certtrain.radii import radius_text
from certtrain.reporting.page.counterexamples import Counterexample
from certtrain.reporting.page.evidence import Certified
from certtrain.reporting.page.gallery import Source, extremes, gallery
from certtrain.reporting.page.images import MOST, difference, png


def source(rows, shape=(1, 4, 4), **more):
    x = np.random.default_rng(0).random((len(rows), *shape)).astype(np.float32)
    return Source("toy", lambda s, i: x[i], lambda s, i: rows.label[i], {"test": len(rows)}, **more)


def shown(certificate, source, why, most):
    refusal = why if source is None else source.refusal(certificate)
    made = gallery(certificate, None if refusal else source, refusal, most)
    return Reader("".join([*(html("group", group) for group in made.groups), *map("<p>{}</p>".format, made.notes)]))


@pytest.mark.parametrize("make", [bound_rows, vote_rows])
@pytest.mark.parametrize("most", [0, 1, 4, 100])
def test_extremes_are_certified_ordered_and_apart(make, most):
    rows = make(n=40, seed=2)
    large, small = extremes(rows, most)
    held = set(np.flatnonzero(rows.correct & (rows.radius > 0)).tolist())
    assert set(large.tolist()) | set(small.tolist()) <= held
    assert not set(large.tolist()) & set(small.tolist())
    assert len(large) + len(small) == min(2 * most, len(held))
    assert (np.diff(rows.radius[large]) <= 0).all()
    assert (np.diff(rows.radius[small]) >= 0).all()
    if most == 1:
        assert rows.radius[large[0]] == max(rows.radius[list(held)])
        assert rows.radius[small[0]] == min(rows.radius[list(held)])


def test_images_with_their_radii():
    rows = bound_rows(n=40)
    read = shown(certificate(rows), source(rows, class_names=["cat", "dog", "eel"]), "", 3)
    assert len(read.of("img")) == 6
    assert all("certified radius" in a["alt"] and a["src"].startswith("data:image/png") for a in read.of("img"))
    assert "radius 2/255" in read.text
    assert "broken by the attack at" in read.text
    assert "(cat)" in read.text or "(dog)" in read.text or "(eel)" in read.text


def test_tables_where_there_are_no_images():
    rows = bound_rows(n=40)
    read = shown(certificate(rows), source(rows, shape=(5,)), "", 3)
    assert read.of("img") == []
    assert len(read.tables) == 2
    read = shown(certificate(rows), None, "no folder", 3)
    assert len(read.tables) == 2
    assert "cannot be shown: no folder" in read.text


def test_data_that_are_not_those_of_the_log_are_refused():
    rows = bound_rows(n=40)
    good, found = source(rows, hash_of=lambda s, i: "ours"), certificate(rows, inputs_sha256="ours")
    assert good.refusal(found) is None
    assert "not those that were certified" in good.refusal(certificate(rows))  # a card that has no hash
    others = {
        "the card is about toy": Source("mnist", good.inputs, good.labels, good.sizes),
        "positions that the split": Source("toy", good.inputs, good.labels, {"test": 39}),
        "other labels": Source("toy", good.inputs, lambda s, i: 1 - rows.label[i], good.sizes),
        "not those that were certified": replace(good, hash_of=lambda s, i: "other"),
    }
    for message, other in others.items():
        assert message in other.refusal(found)
        read = shown(found, other, "", 3)
        assert read.of("img") == []
        assert message in read.text


def test_counterexamples_beside_their_examples():
    rows = bound_rows(n=40)
    found = (
        Counterexample(3, 0, 1, 0.1, 0.0999, np.full((1, 4, 4), 0.5)),
        Counterexample(4, 1, -1, 2 / 255, 0.007, None),
    )
    card = certificate(rows).card | {"falsification": {"failed": True}}
    fallen = Certified("ibp", card, rows, card["summary"], found)
    read = shown(fallen, source(rows), "", 3)
    assert [a["alt"].split(",")[0] for a in read.of("img")] == [
        "example 3",
        "counterexample to example 3",
        "change of example 3",
        "example 4",
    ]
    assert "within 0.1; at distance 0.0999 it answers class 1" in read.text
    assert "it abstains" in read.text
    assert "certified radius" not in read.text.lower()  # a refuted certificate has none
    assert "chance" not in read.text
    assert (
        "Not more than chance allows" in shown(replace(fallen, card={**card, "falsification": None}), None, "", 0).text
    )
    read = shown(fallen, source(rows, shape=(16,)), "", 3)
    assert "Counterexamples: 2" in read.text
    tabular = Certified("ibp", card, rows, card["summary"], (Counterexample(3, 0, 1, 0.1, 0.1, np.ones(2)),))
    read = shown(tabular, source(rows, shape=(2,), feature_names=["age", "size"]), "", 3)
    assert "changed most: " in read.text
    assert "age 0." in read.text


def test_inputs_found_again_stand_beside_the_examples():
    rows = bound_rows(n=40)
    asked = []

    def attack(certificate, index, radii):
        asked.append((index.tolist(), radii))
        return {int(index[0]): Counterexample(int(index[0]), 0, 2, float(radii[0]), 0.05, np.full((1, 4, 4), 0.5))}

    read = shown(certificate(rows), source(rows, attack=attack), "", 4)
    assert len([a for a in read.of("img") if a["alt"].startswith("counterexample")]) == len(asked) > 0
    for index, radii in asked:
        for i, radius in zip(index, radii):
            assert rows.columns[f"status@{radius_text(radius)}"][i] == "falsified"
            assert float(radius) > rows.radius[i]
    assert "at distance 0.05 it answers class 2" in read.text
    votes = vote_rows(n=40)
    asked.clear()
    assert shown(certificate(votes), source(votes, attack=attack), "", 4).of("img")
    assert asked == []  # whose log knows of no attack


def test_pictures():
    x = np.linspace(-1, 2, 3 * 4 * 5).reshape(3, 4, 5)
    image = Image.open(io.BytesIO(base64.b64decode(png(x))))
    assert image.size == (5, 4)
    assert image.getpixel((0, 0))[0] == 0
    assert image.getpixel((4, 3))[2] == 255
    large = Image.open(io.BytesIO(base64.b64decode(png(np.zeros((1, 300, 150))))))
    assert large.size == (MOST // 2, MOST)
    assert difference(np.zeros((1, 1, 2)), np.array([[[0.1, -0.05]]])).tolist() == [[[1.0, 0.25]]]
    assert (difference(x, x) == 0.5).all()
