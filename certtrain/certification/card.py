"""What a certificate's card says in words, and where and by what it was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from certtrain._version import __version__
from certtrain.certifiers.base import Certifier
from certtrain.radii import parse_radius, radius_text
from certtrain.runs import environment
from certtrain.threat.scales import Scales

FULL = "32-true"  # trainer.precision where nothing is reduced
SHOWN = 3  # features that a warning names


def where_and_how() -> dict[str, Any]:
    """The part of the card that the machine and the code decide."""
    described = environment.describe()
    names = {"command": "command", "git": "git", "python": "python", "packages": "versions", "hardware": "hardware"}
    return {new: described[old] for old, new in names.items()}


def engine(certifier: Certifier) -> dict[str, Any]:
    """What computed the bounds, or the votes, and its version; None of a package that is not ours to know."""
    versions, source = environment.package_versions(), certifier.source()
    ours = {"certtrain": __version__, "auto_LiRPA": None}
    version = versions.get(source["package"]) or ours[source["package"]] if source["package"] in ours else None
    return {**source, "version": version}


def training_recipe(config: dict[str, Any]) -> dict[str, Any]:
    """What the card says about the training."""
    if "source" in config:
        return {"trained": "elsewhere", **config["source"]}
    keys = ("choices", "seed", "epochs", "norm", "eps", "train_eps", "sigma", "schedule", "method", "optimizer")
    scales = {} if config["scales"] is None else {"scales": config["scales"]}
    precision = config["trainer"]["precision"]
    reduced = {} if precision == FULL else {"precision": precision}
    return {key: config[key] for key in keys if key in config} | scales | reduced


def scales_warning(trained: Scales | None, now: Scales | None) -> str | None:
    """What differs between the sizes trained for and those certified for, of the same features; None where nothing
    does. Of the features that differ the first SHOWN are told, sizes in shares of their ranges."""
    if trained == now:
        return None
    names = ["a ball without scales" if one is None else f"scales {one.label}" for one in (trained, now)]
    said = f"trained for {names[0]}, certified for {names[1]}"
    if trained is None or now is None:
        return said
    columns = dict(trained.groups + now.groups)
    before, after = _sizes(trained, columns, exact=True), _sizes(now, columns, exact=True)
    differ = [name for name in before if before[name] != after[name]]
    told = []
    for name in differ[:SHOWN]:
        short = [_sizes(scales, columns, exact=False)[name] for scales in (trained, now)]
        one, other = short if short[0] != short[1] else (before[name], after[name])
        told.append(f"{name} {one}, now {other}")
    told += [f"and {len(differ) - SHOWN} more"] if len(differ) > SHOWN else []
    return f"{said}: {'; '.join(told) or 'the same sizes'}"


def _sizes(scales: Scales, columns: Mapping[str, tuple[int, ...]], *, exact: bool) -> dict[str, str]:
    """By feature how far it may change; of `columns`, whose values stand at places of their own, which category."""
    free, elsewhere = dict(scales.groups), {place for places in columns.values() for place in places}
    found = {column: "any category" if column in free else "as it is" for column in columns}
    for place, (name, size, count) in enumerate(zip(scales.names, scales.values, scales.whole)):
        if place not in elsewhere:
            text = radius_text(size) if exact else f"{float(size):.3g}"
            found[name] = f"{text} by whole numbers" if count and size else text
    return found


def trained_with_warnings(
    trained: dict[str, Any],
    now: dict[str, Any],
    scales: tuple[Scales | None, Scales | None],
    certifiers: Iterable[Certifier],
) -> list[str]:
    """A radius, scales or noise other than the training's are allowed, and stand in the card.

    Args:
        trained: the configuration of the training.
        now: of the certify command.
        scales: of the two.
        certifiers: that are about to certify.
    """
    if "source" in trained:
        assumed = trained["source"]["normalisation"]
        return [f"trained elsewhere: normalisation {assumed}"] if assumed.startswith("assumed") else []
    warnings, smoothed = [], any(certifier.claim().probabilistic for certifier in certifiers)
    method = _settings(trained["method"])
    if smoothed and "sigma" in method:
        before, after = trained["sigma"], now["sigma"]
        if float(before) != float(after):
            warnings.append(f"trained with sigma {before}, certified with sigma {after}")
    if smoothed and "sigma" not in method:
        warnings.append("trained without noise, certified by smoothing")
    largest = max(parse_radius(r) for r in now["radii"])
    if "train_eps" in method or "kappa" in method:
        eps = parse_radius(trained["eps"])
        if eps not in {parse_radius(r) for r in now["radii"]} and not smoothed:
            warnings.append(f"trained for eps {radius_text(eps)}, certified up to {radius_text(largest)}")
        if (other := scales_warning(*scales)) is not None and not smoothed:
            warnings.append(other)
        if trained["norm"] != now["norm"] and not smoothed:
            warnings.append(f"trained for norm {trained['norm']}, certified in norm {now['norm']}")
    return warnings


def _settings(method: Mapping[str, Any]) -> set[str]:
    """The names of a method's settings, and of those of a method that it is around."""
    inner = [_settings(value) for value in method.values() if isinstance(value, Mapping)]
    return {*method, *(name for names in inner for name in names)}
