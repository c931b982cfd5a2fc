"""The examples with the largest and the smallest certified radius, and what an attack found against certificates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certtrain.certificates import ABSTAIN, FALSIFIED, Certificates
from certtrain.features import Feature
from certtrain.radii import parse_radius, radius_text
from certtrain.reporting.entries import floored
from certtrain.reporting.page.classes import class_name
from certtrain.reporting.page.evidence import Certified
from certtrain.reporting.page.figures import radii_of
from certtrain.reporting.page.hits import Hit
from certtrain.reporting.page.images import difference, is_image, picture
from certtrain.reporting.page.markup import Markup, Node, table, tag

HITS = 12  # counterexamples shown
FEATURES = 5  # changed most, of a counterexample that is no image
CHANCE = "Not more than chance allows: each certificate is wrong with probability alpha at most, so a few may fall."
AGAIN = "Beside each that the log calls broken at a larger radius: an input there that an attack finds."
TOLD = "the examples cannot be shown: {}"


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
    attack: Callable[[Certified, NDArray[np.int64], Sequence[Fraction]], dict[int, Hit]] | None = None
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
        if whole and certified and self.hash_of and self.hash_of(split, np.sort(rows.index)) != certified:
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


def gallery(certificate: Certified, source: Source | None, why: str, most: int) -> list[Node]:
    """Examples by radius, and counterexamples. Of what is not shown as certified the counterexamples only.

    Args:
        certificate: with its rows.
        source: of the inputs; None where there are none, for the reason `why`.
        most: examples of the largest, and of the smallest radius.
    """
    refusal = why if source is None else source.refusal(certificate)
    made: list[Node] = []
    if certificate.hits:
        made += _hits(certificate, None if refusal else source)
    if certificate.shown and certificate.rows is not None and most:
        made += _by_radius(certificate, None if refusal else source, most)
    if refusal and made:
        made.append(tag("p", TOLD.format(refusal), class_="faint"))
    return made


def _by_radius(certificate: Certified, source: Source | None, most: int) -> list[Node]:
    assert certificate.rows is not None
    made: list[Node] = []
    for title, at in zip(("Largest certified radius", "Smallest certified radius"), extremes(certificate.rows, most)):
        if not len(at):
            continue
        rows = certificate.rows.select(at)
        names = source.class_names if source else None
        x = source.inputs(certificate.split, rows.index) if source else None
        made.append(tag("h4", title))
        found = _again(certificate, rows, source)
        if x is not None and found:
            made += [tag("p", AGAIN, class_="faint"), _pairs(certificate, rows, x, found, source)]
        elif x is not None and is_image(x.shape[1:]):
            made.append(
                tag("ul", [_item(certificate, rows, i, x[i], names) for i in range(len(rows))], class_="gallery")
            )
        else:
            made.append(_list(certificate, rows, title, names))
    if not made:
        made.append(tag("p", "No example is certified at a radius above 0."))
    return made


def _again(certificate: Certified, rows: Certificates, source: Source | None) -> dict[int, Hit]:
    """Counterexamples, beyond the certified radius, to the rows that the certifier's attack broke."""
    broken = {int(i): _broken_at(certificate, rows, k) for k, i in enumerate(rows.index)}
    known = {index: parse_radius(text) for index, text in broken.items() if text}
    if source is None or source.attack is None or not known:
        return {}
    return source.attack(certificate, np.array(list(known)), list(known.values()))


def _pairs(
    certificate: Certified, rows: Certificates, x: NDArray[Any], found: dict[int, Hit], source: Source | None
) -> Markup:
    """Examples, each beside what breaks it just beyond its certificate."""
    names, items = source.class_names if source else None, []
    for i, index in enumerate(rows.index.tolist()):
        label, radius = class_name(int(rows.label[i]), names), _radius(certificate, float(rows.radius[i]))
        told: list[Node] = [tag("strong", f"radius {radius}"), f", class {label}, idx {index}"]
        hit = found.get(index)
        if hit is not None:
            told.append(f"; at distance {hit.distance:.6g} it answers class {class_name(hit.predict, names)}")
        elif broken := _broken_at(certificate, rows, i):
            told.append(f"; broken by the attack at {broken}, not again here")
        items.append(tag("li", _beside(x[i], hit, f"example {index}", source), tag("div", told)))
    return tag("ul", items, class_="gallery pairs")


def _item(certificate: Certified, rows: Certificates, i: int, x: NDArray[Any], names: Sequence[str] | None) -> Markup:
    label, index = class_name(int(rows.label[i]), names), int(rows.index[i])
    radius = _radius(certificate, float(rows.radius[i]))
    alternative = f"example {index}, class {label}, certified radius {radius}"
    lines: list[Node] = [tag("strong", f"radius {radius}"), tag("br"), f"class {label}, idx {index}"]
    if broken := _broken_at(certificate, rows, i):
        lines += [tag("br"), f"broken by the attack at {broken}"]
    return tag("li", picture(x, alternative), lines)


def _list(certificate: Certified, rows: Certificates, title: str, names: Sequence[str] | None) -> Markup:
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
    return table(header, lines, caption=f"{certificate.name}: {title.lower()}", words=[1])


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


def _hits(certificate: Certified, source: Source | None) -> list[Node]:
    hits = certificate.hits[:HITS]
    many = f", {HITS} of them shown" if len(certificate.hits) > HITS else ""
    made: list[Node] = [tag("h4", f"Counterexamples: {len(certificate.hits):,}{many}")]
    made += [] if certificate.falsified else [tag("p", CHANCE)]
    x = None
    if source and all(0 <= hit.index < source.sizes.get(certificate.split, 0) for hit in hits):
        x = source.inputs(certificate.split, np.array([hit.index for hit in hits]))
    drawn = [_pair(certificate, hit, None if x is None else x[i], source) for i, hit in enumerate(hits)]
    return [*made, tag("ul", drawn, class_="gallery pairs")]


def _pair(certificate: Certified, hit: Hit, x: NDArray[Any] | None, source: Source | None) -> Markup:
    names = source.class_names if source else None
    found = "abstains" if hit.predict == ABSTAIN else f"class {class_name(hit.predict, names)}"
    label, radius = class_name(hit.label, names), _radius(certificate, hit.radius)
    said = f"idx {hit.index}: claimed class {label} within {radius}; at distance {hit.distance:.6g} it {_verb(found)}"
    return tag("li", _beside(x, hit, f"example {hit.index}", source), tag("div", said))


def _beside(x: NDArray[Any] | None, hit: Hit | None, name: str, source: Source | None) -> Markup | None:
    """An example, its counterexample and the change between them, as pictures or as the features that changed most."""
    row: list[Node] = []
    other = hit.x if hit is not None else None
    if x is not None and is_image(x.shape):
        row.append(_captioned(x, "example", name))
    if other is not None and is_image(other.shape):
        row.append(_captioned(other, "counterexample", f"counterexample to {name}"))
        if x is not None and x.shape == other.shape:
            row.append(_captioned(difference(x, other), "change, scaled", f"change of {name}, scaled"))
    elif other is not None and x is not None and x.shape == other.shape:
        row.append(tag("span", _changes(x, other, source)))
    return tag("div", row, class_="row") if row else None


def _verb(found: str) -> str:
    return found if found == "abstains" else f"answers {found}"


def _captioned(x: NDArray[Any], caption: str, alternative: str) -> Markup:
    return tag("figure", picture(x, alternative), tag("figcaption", caption))


def _changes(x: NDArray[Any], other: NDArray[Any], source: Source | None) -> str:
    before, after = (np.asarray(values, dtype=np.float64).ravel() for values in (x, other))
    names = source.feature_names if source and source.feature_names else [f"input {i}" for i in range(len(before))]
    largest = np.argsort(-np.abs(after - before), kind="stable")[:FEATURES]
    if source and source.features and len(source.features) == len(before):
        own = [(f.name, f.own(before[i]), f.own(after[i])) for i in largest.tolist() for f in [source.features[i]]]
        return "changed most: " + "; ".join(f"{name} {old:.6g} to {new:.6g}" for name, old, new in own)
    return "changed most: " + "; ".join(f"{names[i]} {before[i]:.4f} to {after[i]:.4f}" for i in largest.tolist())
