"""Published numbers as data: `experiments/<paper>/published.yaml`, one row per preset of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from certtrain.errors import UserError, nearest
from certtrain.radii import parse_radius, radius_text

Family = Literal["bounds", "smoothing"]
# Where a figure was read. `recalled` ones may stand in a file, marked; no verdict is given against them.
PROVENANCE = ("repository", "artefact", "leaderboard", "log", "paper", "recalled")
FILE = "published.yaml"


@dataclass(frozen=True)
class Published:
    """What a paper, or its code or logs, reports for one row. Fractions of n images; None where nothing is known."""

    source: str
    provenance: str
    n: int | None = None
    clean: float | None = None
    certified: Mapping[str, float] = field(default_factory=dict)
    """By radius, in canonical text."""
    acr: float | None = None
    draws: int | None = None
    alpha: float | None = None
    verifier: str = ""
    seeds: int | None = None
    sd: Mapping[str, Any] | None = None
    """Deviation over seeds where it is known: `clean`, `certified` by radius, `acr`."""


@dataclass(frozen=True)
class Tolerance:
    """How far below the published value counts as reproduced, and why; in the units of the quantity."""

    reason: str
    clean: float | None = None
    certified: float | None = None
    acr: float | None = None


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
    eps: str | None = None
    sigma: float | None = None
    note: str | None = None
    published: Published | None = None
    tolerance: Tolerance | None = None
    experiment: str = ""
    """What `experiment=` takes: `<paper>/<row>` unless the file says otherwise."""


@dataclass(frozen=True)
class Paper:
    """A paper's rows, in the order of its file."""

    folder: Path
    title: str
    rows: Mapping[str, Row]

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
    family = content.get("family", "bounds")
    rows = {}
    for key, node in content["rows"].items():
        try:
            rows[str(key)] = _row(name, str(key), family, dict(node))
        except (KeyError, TypeError, ValueError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(f"row {key} of {path}: {what}", where=str(path), fix="mend the row") from error
    return Paper(Path(folder), str(content.get("paper", name)), rows)


def _row(paper: str, name: str, family: str, node: dict[str, Any]) -> Row:
    family = node.pop("family", family)
    if family not in get_args(Family):
        raise ValueError(f"family {family!r} is none of {', '.join(get_args(Family))}")
    verifiers = node.pop("verifier")
    published, tolerance = node.pop("published", None), node.pop("tolerance", None)
    eps = node.pop("eps", None)
    return Row(
        paper=paper,
        name=name,
        family=family,
        verifiers=(verifiers,) if isinstance(verifiers, str) else tuple(verifiers),
        eps=None if eps is None else radius_text(parse_radius(eps)),
        published=_published(dict(published)) if published else None,
        tolerance=Tolerance(**tolerance) if tolerance else None,
        experiment=node.pop("experiment", f"{paper}/{name}"),
        **node,
    )


def _published(node: dict[str, Any]) -> Published:
    certified = {radius_text(parse_radius(r)): _share(v, f"certified at {r}") for r, v in _pairs(node, "certified")}
    if node["provenance"] not in PROVENANCE:
        raise ValueError(f"provenance {node['provenance']!r} is none of {', '.join(PROVENANCE)}")
    if node.get("clean") is not None:
        _share(node["clean"], "clean")
    return Published(**{**node, "certified": certified})


def _pairs(node: dict[str, Any], key: str) -> list[tuple[Any, Any]]:
    return [(radius, value) for radius, value in (node.get(key) or {}).items() if value is not None]


def _share(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{what} = {value!r} is not a fraction between 0 and 1")
    return float(value)
