"""Published numbers as data: `experiments/<paper>/published.yaml`, one row per preset of the paper."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml

from certtrain.certificates.card_check import indices_sha256, positions
from certtrain.errors import UserError, nearest
from certtrain.radii import parse_radius, radius_text

Family = Literal["bounds", "smoothing"]
Tuned = Literal["test", "validation"]
# Where a figure was read. `recalled` ones may stand in a file, marked; no verdict is given against them.
PROVENANCE = ("repository", "artefact", "leaderboard", "log", "paper", "recalled")
FILE = "published.yaml"
SHARED = ("source", "provenance", "draws", "alpha", "verifier", "seeds")  # by the figures of a row on other images
SAMPLING_ERROR = "sampling_error"
Made = TypeVar("Made")


@dataclass(frozen=True)
class Tolerance:
    """How far below the published value counts as reproduced, and why; in the units of the quantity."""

    reason: str
    clean: float | None = None
    certified: float | None = None
    acr: float | None = None


@dataclass(frozen=True)
class Published:
    """What a paper, or its code or logs, reports for one row on one set of images. Fractions of n images; None where
    nothing is known."""

    source: str
    provenance: str
    indices: str = "all"
    """The rule that names the images, as `indices=` takes it."""
    n: int | None = None
    clean: float | None = None
    certified: Mapping[str, float] = field(default_factory=dict)
    """By radius, in canonical text."""
    acr: float | None = None
    draws: int | None = None
    alpha: float | None = None
    verifier: str = ""
    time_limit: float | None = None
    """Of the verifier, seconds an image."""
    tuned: Tuned | None = None
    """Which images the recipe was chosen by; None where that is not known."""
    recalled: tuple[str, ...] = ()
    """`clean` or `certified`, where the other one was read and this one was not."""
    seeds: int | None = None
    sd: Mapping[str, Any] | None = None
    """Deviation over seeds where it is known: `clean`, `certified` by radius, `acr`."""
    tolerance: Tolerance | None = None
    """Of these images; the row's where there is none."""
    on: Mapping[str, Published] = field(default_factory=dict)
    """Figures of the same networks on other images, by rule."""

    @cached_property
    def images(self) -> str | None:
        """The hash of the positions of the images, as a card's `indices_sha256`; None where n is not known."""
        return None if self.n is None else indices_sha256(_positions(self.indices, self.n))

    def is_recalled(self, quantity: str) -> bool:
        """Whether a quantity (`clean`, `certified@0.1`, `ACR`) is from memory: shown, marked and never judged."""
        return self.provenance == "recalled" or quantity.partition("@")[0] in self.recalled

    @property
    def how(self) -> str:
        """The verifier and its time limit: `OVAL-BaB 1800 s`."""
        return self.verifier + (f" {self.time_limit:g} s" if self.time_limit else "")

    def of(self, images: str) -> Published | None:
        """The figures on exactly these images, and none otherwise: those of others do not compare.

        Args:
            images: the hash of their positions.
        """
        return next((figures for figures in (self, *self.on.values()) if figures.images == images), None)


@dataclass(frozen=True)
class Row:
    """One cell of a paper's tables that a preset of ours addresses by name."""

    paper: str
    """The folder's name, and the first part of the experiment's."""
    name: str
    family: Family
    data: str
    network: str
    norm: str
    """With sizes of features `linf scaled by NAME`: their results, and no others, stand in such a row."""
    verifiers: tuple[str, ...]
    """Our certificates that are shown; the first is the one compared with the published figure."""
    method: str = ""
    """As the field writes it: `MTL-IBP`."""
    eps: str | None = None
    sigma: float | None = None
    note: str | None = None
    published: Published | None = None
    tolerance: Tolerance | None = None
    experiment: str = ""
    """What `experiment=` takes: `<paper>/<row>` unless the file says otherwise."""


@dataclass(frozen=True)
class Point:
    """Figures of a method without a recipe here."""

    data: str
    norm: str
    eps: str
    method: str
    published: Published


@dataclass(frozen=True)
class Paper:
    """A paper's rows, in the order of its file."""

    folder: Path
    title: str
    rows: Mapping[str, Row]
    benchmark: str | None = None
    """The short name of a paper that measures other papers' methods: a column of its own beside theirs."""
    points: tuple[Point, ...] = ()

    @property
    def name(self) -> str:
        return self.folder.resolve().name


def read_paper(folder: str | Path) -> Paper:
    """Read `published.yaml` of a folder under `experiments/`.

    Raises:
        UserError: there is none, or it does not say what it must; named by row and key.
    """
    path = Path(folder) / FILE
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = sorted(str(p.parent) for p in Path(folder).parent.glob(f"*/{FILE}"))
        hint = nearest(str(folder), known) if known else "run it in a checkout of certtrain, or name the folder"
        raise UserError(f"there is no {path}", where=str(folder), fix=hint) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {error}", where=str(path), fix="mend the file") from error
    if not isinstance(content, dict) or not isinstance(content.get("rows"), dict):
        raise UserError(f"{path} holds no rows", where=str(path), fix="paper:, family: and rows: as in its neighbours")
    name = Path(folder).resolve().name
    default = {key: content[key] for key in ("family", "method") if key in content}
    rows = _each("row", content["rows"].items(), path, lambda key, node: _row(name, key, {**default, **node}))
    points = _each("point", enumerate(content.get("points") or (), 1), path, lambda _, node: _point(node))
    return Paper(Path(folder), str(content.get("paper", name)), rows, content.get("benchmark"), tuple(points.values()))


def _each(
    kind: str, nodes: Iterable[tuple[Any, Any]], path: Path, make: Callable[[str, dict[str, Any]], Made]
) -> dict[str, Made]:
    """Parts of a file by name; what one lacks as a message that names it."""
    found = {}
    for key, node in nodes:
        try:
            found[str(key)] = make(str(key), dict(node))
        except (KeyError, TypeError, ValueError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{kind} {key} of {path}: {what}", where=str(path), fix=f"mend the {kind}") from error
    return found


def _point(node: dict[str, Any]) -> Point:
    eps, published = radius_text(parse_radius(node.pop("eps"))), _published(dict(node.pop("published")))
    return Point(eps=eps, published=published, **node)


def _row(paper: str, name: str, node: dict[str, Any]) -> Row:
    family = node.pop("family", "bounds")
    if family not in get_args(Family):
        raise ValueError(f"family {family!r} is none of {', '.join(get_args(Family))}")
    verifiers = node.pop("verifier")
    found, tolerance = node.pop("published", None), node.pop("tolerance", None)
    published = _published(dict(found)) if found else None
    if tolerance == SAMPLING_ERROR:
        tolerance = sampling_error(published)
    elif tolerance:
        tolerance = Tolerance(**tolerance)
    eps = node.pop("eps", None)
    return Row(
        paper=paper,
        name=name,
        family=family,
        verifiers=(verifiers,) if isinstance(verifiers, str) else tuple(verifiers),
        eps=None if eps is None else radius_text(parse_radius(eps)),
        published=published,
        tolerance=tolerance or None,
        experiment=node.pop("experiment", f"{paper}/{name}"),
        **node,
    )


def _published(node: dict[str, Any]) -> Published:
    """Figures, and those `on` other images, which keep what they do not state anew but the figures themselves."""
    on = node.pop(True, None) or node.pop("on", None) or {}  # YAML 1.1 reads a bare `on` as true
    shared = {key: node[key] for key in SHARED if key in node}
    found = _figures(node)
    other = {rule: _figures({**shared, "indices": rule, **figures}) for rule, figures in on.items()}
    return replace(found, on=other)


def _figures(node: dict[str, Any]) -> Published:
    certified = {radius_text(parse_radius(r)): _share(v, f"certified at {r}") for r, v in _pairs(node, "certified")}
    if node["provenance"] not in PROVENANCE:
        raise ValueError(f"provenance {node['provenance']!r} is none of {', '.join(PROVENANCE)}")
    if node.get("clean") is not None:
        _share(node["clean"], "clean")
    if node.get("n") is not None:
        _positions(node.get("indices", "all"), node["n"])
    elif "indices" in node:
        raise ValueError(f"figures on {node['indices']} need n, the number of these images")
    if node.get("tuned") not in (None, *get_args(Tuned)):
        raise ValueError(f"tuned {node['tuned']!r} is none of {', '.join(get_args(Tuned))}")
    tolerance = node.get("tolerance")
    made = {"certified": certified, "tolerance": Tolerance(**tolerance) if tolerance else None}
    return Published(**{**node, **made, "recalled": tuple(node.get("recalled") or ())})


def sampling_error(published: Published | None) -> Tolerance:
    """Twice `sqrt(p (1 - p) / n)`, of certified accuracy the largest over the radii: `tolerance: sampling_error`.

    Raises:
        ValueError: nothing is published, or of how many images is not known.
    """
    if published is None or not published.n:
        raise ValueError(f"tolerance: {SAMPLING_ERROR} needs published figures with n")
    n = published.n

    def error(share: float) -> float:
        return 2 * math.sqrt(share * (1 - share) / n)

    return Tolerance(
        f"twice the sampling error sqrt(p (1 - p) / n) of {n:,} test images; the deviation over seeds is not known",
        clean=None if published.clean is None else error(published.clean),
        certified=max(map(error, published.certified.values()), default=None),
    )


def _positions(rule: str, n: int) -> range:
    """The n positions that a rule names in a split that is as large as it takes."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n = {n!r} is not a number of images")
    found = positions(str(rule), sys.maxsize)
    if found is None or len(found) < n or (str(rule).startswith("first") and len(found) != n):
        raise ValueError(f"indices {rule!r} do not name {n:,} images: all, first_{n} or every_20th")
    return found[:n]


def _pairs(node: dict[str, Any], key: str) -> list[tuple[Any, Any]]:
    return [(radius, value) for radius, value in (node.get(key) or {}).items() if value is not None]


def _share(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{what} = {value!r} is not a fraction between 0 and 1")
    return float(value)
