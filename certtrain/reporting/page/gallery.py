"""The examples with the largest and the smallest certified radius, and what an attack found against certificates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certtrain.certificates import ABSTAIN, FALSIFIED, Certificates
from certtrain.radii import parse_radius, radius_text
from certtrain.reporting.entries import floored
from certtrain.reporting.page.classes import class_name
from certtrain.reporting.page.counterexamples import Counterexample
from certtrain.reporting.page.evidence import Certified
from certtrain.reporting.page.figures import radii_of
from certtrain.reporting.page.images import Picture, difference, is_image, picture
from certtrain.reporting.page.table import Table
from certtrain.threat.features import Feature

SHOWN = 12  # counterexamples shown
FEATURES = 5  # changed most, of a counterexample that is not an image
CHANCE = "Not more than chance allows: each certificate is wrong with probability alpha at most, so a few may fall."
AGAIN = "Beside each that the log calls broken at a larger radius: an input there that an attack finds."
TOLD = "the examples cannot be shown: {}"


@dataclass(frozen=True)
class Item:
    """An example: what stands out of its text, the rest in lines, its pictures, and what changed where it has none."""

    strong: str
    lines: Sequence[str]
    pictures: Sequence[Picture] = ()
    changes: str = ""


@dataclass(frozen=True)
class Group:
    """Examples under a title: as pictures, as pairs with their counterexamples, or as a table."""

    title: str
    notes: Sequence[str] = ()
    items: Sequence[Item] = ()
    pairs: bool = False
    table: Table | None = None


@dataclass(frozen=True)
class Gallery:
    """The groups, and what must be said of them all."""

    groups: Sequence[Group] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Source:
    """Where the inputs of a data set come from.

    Attributes:
        name: of the data set, as cards name it.
        inputs: from a split's name and (m,) positions in it the inputs (m, ...) in [0, 1].
        labels: likewise the classes (m,).
        sizes: examples by split.
        class_names, feature_names: where the data set has them.
        hash_of: likewise the hash of inputs and classes, as cards hold it.
        features: of a table, whose values are then told in their own units.
        attack: of a certificate, indices and a radius for each, finds inputs within it that change the class.
    """

    name: str
    inputs: Callable[[str, NDArray[np.int64]], NDArray[Any]]
    labels: Callable[[str, NDArray[np.int64]], NDArray[np.int64]]
    sizes: dict[str, int]
    class_names: Sequence[str] | None = None
    feature_names: Sequence[str] | None = None
    hash_of: Callable[[str, NDArray[np.int64]], str] | None = None
    attack: Callable[[Certified, NDArray[np.int64], Sequence[Fraction]], dict[int, Counterexample]] | None = None
    features: Sequence[Feature] | None = None

    def refusal(self, certificate: Certified) -> str | None:
        """Why its inputs are not those that were certified; None when nothing speaks against it."""
        rows, split = certificate.rows, certificate.split
        named = certificate.card.get("dataset", self.name)
        if named != self.name:
            return f"the card is about {named}, the data are {self.name}"
        if rows is None or not len(rows):
            return "there is no log"
        if rows.index.min() < 0 or rows.index.max() >= self.sizes.get(split, 0):
            return f"the log has positions that the split {split} has not"
        if not np.array_equal(self.labels(split, rows.index), rows.label):
            return "the data have other labels than the log"
        certified = certificate.card.get("inputs_sha256")
        whole = certificate.card.get("status") == "complete"  # of a part of the examples nobody knows the hash
        if whole and self.hash_of and self.hash_of(split, np.sort(rows.index)) != certified:
            return "the data are not those that were certified: their hash is not inputs_sha256 of the card"
        return None


def extremes(rows: Certificates, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of up to `most` certified rows (right, radius > 0) each: those of the largest radius, of the smallest.

    Among equal radii the proved margin decides where the rows have one, then the index. No row is in both.
    """
    held = np.maximum(rows.radius, rows.columns.get("largest_eps", rows.radius))  # found by bisection
    certified = np.flatnonzero(rows.correct & (rows.predict != ABSTAIN) & (rows.radius > 0))
    margin = rows.columns.get("margin")
    margin = np.zeros(len(rows)) if margin is None or margin.dtype == object else np.nan_to_num(margin.astype(float))
    at = certified[np.lexsort((rows.index[certified], -margin[certified], -held[certified]))]
    most = min(most, (len(at) + 1) // 2) if len(at) < 2 * most else most
    return at[:most], at[most:][-most:][::-1] if most else at[:0]


def gallery(certificate: Certified, source: Source | None, refusal: str | None, most: int) -> Gallery:
    """Examples by radius, and counterexamples. Of what is not shown as certified the counterexamples only.

    Args:
        certificate: with its rows.
        source: of the inputs; None where there are none of these examples.
        refusal: why there are none.
        most: examples of the largest, and of the smallest radius.
    """
    groups = [_counterexamples(certificate, source)] if certificate.counterexamples else []
    notes: list[str] = []
    if certificate.shown and certificate.rows is not None and most:
        by_radius = _by_radius(certificate, source, most)
        groups += by_radius
        notes += ["No example is certified at a radius above 0."] * (not by_radius)
    if refusal and (groups or notes):
        notes.append(TOLD.format(refusal))
    return Gallery(groups, notes)


def _by_radius(certificate: Certified, source: Source | None, most: int) -> list[Group]:
    assert certificate.rows is not None
    made: list[Group] = []
    for title, at in zip(("Largest certified radius", "Smallest certified radius"), extremes(certificate.rows, most)):
        if not len(at):
            continue
        rows = certificate.rows.select(at)
        names = source.class_names if source else None
        x = source.inputs(certificate.split, rows.index) if source else None
        found = _again(certificate, rows, source)
        if x is not None and found:
            made.append(Group(title, (AGAIN,), _pairs(certificate, rows, x, found, source), pairs=True))
        elif x is not None and is_image(x.shape[1:]):
            made.append(Group(title, items=[_item(certificate, rows, i, x[i], names) for i in range(len(rows))]))
        else:
            made.append(Group(title, table=_list(certificate, rows, title, names)))
    return made


def _again(certificate: Certified, rows: Certificates, source: Source | None) -> dict[int, Counterexample]:
    """Counterexamples, beyond the certified radius, to the rows that the certifier's attack broke."""
    broken = {int(i): _broken_at(certificate, rows, k) for k, i in enumerate(rows.index)}
    known = {index: parse_radius(text) for index, text in broken.items() if text}
    if source is None or source.attack is None or not known:
        return {}
    return source.attack(certificate, np.array(list(known)), list(known.values()))


def _pairs(
    certificate: Certified,
    rows: Certificates,
    x: NDArray[Any],
    found: dict[int, Counterexample],
    source: Source | None,
) -> list[Item]:
    """Examples, each beside what breaks it just beyond its certificate."""
    names, items = source.class_names if source else None, []
    for i, index in enumerate(rows.index.tolist()):
        label, radius = class_name(int(rows.label[i]), names), _radius(certificate, float(rows.radius[i]))
        told = f", class {label}, idx {index}"
        other = found.get(index)
        if other is not None:
            told += f"; at distance {other.distance:.6g} it answers class {class_name(other.predict, names)}"
        elif broken := _broken_at(certificate, rows, i):
            told += f"; broken by the attack at {broken}, not again here"
        items.append(Item(f"radius {radius}", [told], *_beside(x[i], other, f"example {index}", source)))
    return items


def _item(certificate: Certified, rows: Certificates, i: int, x: NDArray[Any], names: Sequence[str] | None) -> Item:
    label, index = class_name(int(rows.label[i]), names), int(rows.index[i])
    radius = _radius(certificate, float(rows.radius[i]))
    lines = [f"class {label}, idx {index}"]
    if broken := _broken_at(certificate, rows, i):
        lines.append(f"broken by the attack at {broken}")
    return Item(f"radius {radius}", lines, [picture(x, f"example {index}, class {label}, certified radius {radius}")])


def _list(certificate: Certified, rows: Certificates, title: str, names: Sequence[str] | None) -> Table:
    lines = [
        [
            int(rows.index[i]),
            class_name(int(rows.label[i]), names),
            _radius(certificate, float(rows.radius[i])),
            _broken_at(certificate, rows, i) or "–",
        ]
        for i in range(len(rows))
    ]
    header = ["idx", "class", "certified radius", "broken by the attack at"]
    return Table(f"{certificate.name}: {title.lower()}", header, lines, words=(1,))


def _broken_at(certificate: Certified, rows: Certificates, i: int) -> str | None:
    """The smallest radius of the grid at which the certifier's own attack changed the class."""
    for radius in radii_of(certificate):
        column = rows.columns.get(f"status@{radius_text(radius)}")
        if column is not None and column[i] == FALSIFIED:
            return radius_text(radius)
    return None


def _radius(certificate: Certified, value: float) -> str:
    """A radius of the grid as it was written; any other one rounded down."""
    exact = next((radius for radius in radii_of(certificate) if float(radius) == value), None)
    return radius_text(exact) if exact is not None else floored(value, 4)


def _counterexamples(certificate: Certified, source: Source | None) -> Group:
    shown = certificate.counterexamples[:SHOWN]
    many = f", {SHOWN} of them shown" if len(certificate.counterexamples) > SHOWN else ""
    x = None
    if source and all(0 <= one.index < source.sizes.get(certificate.split, 0) for one in shown):
        x = source.inputs(certificate.split, np.array([one.index for one in shown]))
    items = [_pair(certificate, one, None if x is None else x[i], source) for i, one in enumerate(shown)]
    title = f"Counterexamples: {len(certificate.counterexamples):,}{many}"
    return Group(title, () if certificate.falsified else (CHANCE,), items, pairs=True)


def _pair(certificate: Certified, one: Counterexample, x: NDArray[Any] | None, source: Source | None) -> Item:
    names = source.class_names if source else None
    found = "abstains" if one.predict == ABSTAIN else f"answers class {class_name(one.predict, names)}"
    label, radius = class_name(one.label, names), _radius(certificate, one.radius)
    told = f"idx {one.index}: claimed class {label} within {radius}; at distance {one.distance:.6g} it {found}"
    return Item("", [told], *_beside(x, one, f"example {one.index}", source))


def _beside(
    x: NDArray[Any] | None, found: Counterexample | None, name: str, source: Source | None
) -> tuple[list[Picture], str]:
    """An example, its counterexample and the change between them: as pictures, or the features that changed most."""
    pictures: list[Picture] = []
    other = found.x if found is not None else None
    if x is not None and is_image(x.shape):
        pictures.append(picture(x, name, "example"))
    if other is not None and is_image(other.shape):
        pictures.append(picture(other, f"counterexample to {name}", "counterexample"))
        if x is not None and x.shape == other.shape:
            pictures.append(picture(difference(x, other), f"change of {name}, scaled", "change, scaled"))
    elif other is not None and x is not None and x.shape == other.shape:
        return pictures, _changes(x, other, source)
    return pictures, ""


def _changes(x: NDArray[Any], other: NDArray[Any], source: Source | None) -> str:
    before, after = (np.asarray(values, dtype=np.float64).ravel() for values in (x, other))
    names = source.feature_names if source and source.feature_names else [f"input {i}" for i in range(len(before))]
    largest = np.argsort(-np.abs(after - before), kind="stable")[:FEATURES]
    if source and source.features and len(source.features) == len(before):
        own = [(f.name, f.own(before[i]), f.own(after[i])) for i in largest.tolist() for f in [source.features[i]]]
        return "changed most: " + "; ".join(f"{name} {old:.6g} to {new:.6g}" for name, old, new in own)
    return "changed most: " + "; ".join(f"{names[i]} {before[i]:.4f} to {after[i]:.4f}" for i in largest.tolist())
