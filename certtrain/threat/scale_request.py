"""What a user writes under the key `scales`, and the sizes of a table's features that follow from it.

scales:
  name: measurement            # of the threat model, in cards and tables
  units: {age: 2}              # at radius 1 the age may change by 2 years
  spread: {height: 0.1}        # by a tenth of its standard deviation over the training part
  range: {weight: 0.05}        # by a twentieth of its range over the training part
  others: {spread: 0.1}        # features that nothing else names; 0: they do not change
  immutable: [sex]
  integers: [age]              # changes by whole numbers only
  categories: [colour]         # columns of words that may take any of their values, whatever the radius
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from certtrain.errors import UserError, nearest
from certtrain.radii import exact_number
from certtrain.threat.features import Feature
from certtrain.threat.scales import Scales

KINDS = ("units", "spread", "range")
LISTS = ("immutable", "integers", "categories")
KEYS = ("name", *KINDS, "others", *LISTS)
MOST = 64  # combinations of categories that are bounded one by one
PLACES = 10**12  # scales that follow from data are rounded up to so many parts of the range
NAME = re.compile(r"[\w.,:+%/-]([\w .,:+%/-]{0,58}[\w.,:+%/-])?")
DISTINCT = 2**23  # whole numbers over [0, 1], each of which float32 still holds to half a number
KEY = "configuration key scales"
EXAMPLE = "scales={units: {age: 2}, others: {spread: 0.1}, immutable: [sex]}"


def read_request(given: object) -> dict[str, Any] | None:
    """The request as plain values, its form checked; names are not, as they need the data.

    Args:
        given: a mapping, its text in YAML or JSON, or None.

    Raises:
        UserError: an unknown key, something else than a mapping or a list where one must be, an amount that is
            negative, not finite or no number.
    """
    if given is None:
        return None
    if isinstance(given, str):
        import yaml

        try:
            given = yaml.safe_load(given)
        except yaml.YAMLError as error:
            raise UserError(f"scales is no YAML: {' '.join(str(error).split())}", where=KEY, fix=EXAMPLE) from error
        if given is None:
            return None
    if not isinstance(given, Mapping):
        raise UserError(f"scales = {given!r} does not say what may change", where=KEY, fix=EXAMPLE)
    for key in given:
        if key not in KEYS:
            raise UserError(f"scales has no key {key!r}", where=KEY, fix=nearest(str(key), KEYS))
    asked = {key: value for key, value in given.items() if value is not None}
    for kind in KINDS:
        if not isinstance(asked.setdefault(kind, {}), Mapping):
            raise UserError(
                f"scales.{kind} = {asked[kind]!r} is no mapping", where=KEY, fix=f"{kind}: {{FEATURE: 0.1}}"
            )
        asked[kind] = {str(name): value for name, value in asked[kind].items()}  # YAML reads the name 2020 as a number
        for name, value in asked[kind].items():
            _amount(value, f"{kind}.{name}")
    for key in LISTS:
        if isinstance(asked.setdefault(key, []), str) or not isinstance(asked[key], Sequence):
            raise UserError(f"scales.{key} = {asked[key]!r} is no list", where=KEY, fix=f"{key}: [{asked[key]}]")
        asked[key] = [str(name) for name in asked[key]]
    if "others" in asked:
        _others(asked["others"])
    if "name" in asked and (not NAME.fullmatch(str(asked["name"])) or " scaled by " in f" {asked['name']} "):
        raise UserError(
            f"scales.name = {asked['name']!r} is no name: it stands in tables and in lines of files",
            where=KEY,
            fix="name: measurement (letters, digits, spaces and .,:+-_%/, at most 60)",
        )
    return asked


def resolve_scales(given: object, features: Sequence[Feature] | None, *, data: str = "the data") -> Scales | None:
    """The sizes of all features.

    `units` c gives `c / width`, `spread` s gives `s sd / width`, rounded up to 12 decimals; `range` is the size itself.

    Args:
        given: as for `read_request`.
        features: of the data; None where it has no named ones.
        data: names the data in messages.

    Raises:
        UserError: as `read_request`; data without named features; an unknown name, one named twice, features that
            nothing names, nothing that changes, one-hot columns that do, whole numbers of what has fractions,
            categories of what is no column of words, or too many of them.
    """
    asked = read_request(given)
    if asked is None:
        return None
    if features is None:
        raise UserError(
            f"scales are sizes of the named features of a table, and {data} has none",
            where=KEY,
            fix="scales=null; data=csv and data=breast_cancer have named features",
        )
    known = {feature.name: feature for feature in features}
    columns = {feature.one_hot for feature in features if feature.one_hot}
    groups = _groups(asked["categories"], features, columns)
    sizes = _named(asked, known, columns)
    _check_complete(asked, sizes, known)
    if "others" in asked:
        sizes |= {name: _size(*_others(asked["others"]), known[name]) for name in known if name not in sizes}
    _refuse_one_hot(sizes, known)
    if not any(sizes.values()):
        raise UserError(
            "every feature is immutable: the radius would mean nothing", where=KEY, fix="let at least one change"
        )
    whole = {name: _whole(name, known) for name in asked["integers"]}
    values = tuple(sizes[name] for name in known)
    counts = tuple(whole.get(name, 0) for name in known)
    return Scales(tuple(known), values, counts, str(asked.get("name", "scaled")), groups)


def request_text(given: object) -> str | None:
    """The request as one line of JSON, which `read_request` takes; None for none."""
    return None if given is None else json.dumps(given, ensure_ascii=False)


def _named(asked: dict[str, Any], known: Mapping[str, Feature], columns: set[str]) -> dict[str, Fraction]:
    sizes: dict[str, Fraction] = {}
    named = [(kind, name, value) for kind in KINDS for name, value in asked[kind].items()]
    still = [*asked["immutable"], *asked["categories"]]
    named += [("range", one, 0) for name in still for one in _of_column(name, known, columns)]
    for kind, name, value in named:
        if name not in known:
            raise UserError(f"there is no feature {name!r}", where=KEY, fix=nearest(str(name), {*known, *columns}))
        if name in sizes:
            raise UserError(f"scales names the feature {name!r} twice", where=KEY, fix="one size for each")
        sizes[name] = _size(kind, _amount(value, f"{kind}.{name}"), known[name])
    for name in asked["integers"]:
        if name not in known:
            raise UserError(f"there is no feature {name!r}", where=f"{KEY}.integers", fix=nearest(str(name), known))
    return sizes


def _groups(
    names: Sequence[str], features: Sequence[Feature], columns: set[str]
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Where the values of each column stand that may take any of them."""
    for name in names:
        if name not in columns:
            raise UserError(
                f"{name!r} is no column of words (data.one_hot)",
                where=f"{KEY}.categories",
                fix=nearest(str(name), columns) if columns else "units, spread or range: of a number",
            )
    groups = tuple((name, tuple(i for i, f in enumerate(features) if f.one_hot == name)) for name in names)
    if (count := math.prod(len(places) for _, places in groups)) > MOST:
        raise UserError(
            f"{' and '.join(names)} make {count:,} combinations of categories, each a box of its own",
            where=f"{KEY}.categories",
            fix=f"at most {MOST:,}: name fewer columns",
        )
    return groups


def _of_column(name: str, known: Mapping[str, Feature], columns: set[str]) -> list[str]:
    """All values of a column of words, or the feature itself."""
    return [n for n, feature in known.items() if feature.one_hot == name] if name in columns else [name]


def _check_complete(asked: dict[str, Any], sizes: Mapping[str, Fraction], known: Mapping[str, Feature]) -> None:
    unnamed = [name for name in known if name not in sizes]
    if unnamed and "others" not in asked:
        shown = ", ".join(unnamed[:4]) + (f" and {len(unnamed) - 4} more" if len(unnamed) > 4 else "")
        raise UserError(
            f"scales does not say how {shown} may change",
            where=KEY,
            fix="others: 0 (not at all) or others: {spread: 0.1}",
        )


def _refuse_one_hot(sizes: Mapping[str, Fraction], known: Mapping[str, Feature]) -> None:
    for name, size in sizes.items():
        if size and (column := known[name].one_hot):
            raise UserError(
                f"{name!r} is one value of the column {column!r}, 0 or 1: no box around it is a change of category",
                where=KEY,
                fix=f"immutable: [{column}], or categories: [{column}], which lets it take any of its values",
            )


def _whole(name: str, known: Mapping[str, Feature]) -> int:
    feature = known[name]
    if not feature.whole:
        raise UserError(
            f"{name!r} has fractions in the training part, such as {feature.minimum:g} to {feature.maximum:g}",
            where=f"{KEY}.integers",
            fix=f"leave {name} out: it changes by any amount within its size",
        )
    if feature.width >= DISTINCT:
        raise UserError(
            f"{name!r} has {feature.width:,.0f} whole numbers, more than inputs in float32 tell apart ({DISTINCT:,})",
            where=f"{KEY}.integers",
            fix=f"leave {name} out: it changes by any amount within its size, whole ones included",
        )
    return int(feature.width)


def _others(value: object) -> tuple[str, Fraction]:
    if isinstance(value, Mapping):
        if len(value) != 1 or (kind := next(iter(value))) not in ("range", "spread"):
            raise UserError(
                f"scales.others = {dict(value)!r} is not one size",
                where=KEY,
                fix="others: {spread: 0.1} or {range: 0.05}",
            )
        return str(kind), _amount(value[kind], f"others.{kind}")
    return "range", _amount(value, "others")


def _size(kind: str, amount: Fraction, feature: Feature) -> Fraction:
    if kind == "range":
        return amount
    exact = amount * (Fraction(feature.spread) if kind == "spread" else 1) / Fraction(feature.width)
    return Fraction(-(-exact * PLACES // 1), PLACES)


def _amount(value: object, key: str) -> Fraction:
    try:
        amount = exact_number(value)
    except ValueError:
        raise UserError(
            f"scales.{key} = {value!r} is not a finite number", where=KEY, fix="a size is a number >= 0, such as 0.1"
        ) from None
    if amount < 0:
        raise UserError(f"scales.{key} = {value} is negative", where=KEY, fix="a size is a number >= 0, such as 0.1")
    return amount
