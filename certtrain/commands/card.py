"""What a certificate's card says in words, and where and by what it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from certtrain import __version__, environment
from certtrain.certifiers.base import Certifier
from certtrain.claims import bounds_claim, scaled_claim, smoothing_claim
from certtrain.config import SMOOTHING
from certtrain.scales import Scales
from certtrain.threat import parse_radius, radius_text

FULL = "32-true"  # trainer.precision where nothing is reduced
SHOWN = 3  # features that a warning names


def where_and_how() -> dict[str, Any]:
    """The part of the card that the machine and the code decide."""
    described = environment.describe()
    names = {"command": "command", "git": "git", "python": "python", "packages": "versions", "hardware": "hardware"}
    return {new: described[old] for old, new in names.items()}


def stages(certifier: Certifier) -> str:
    """How many looks at the evidence a certificate takes, and when: decides which alpha it holds at."""
    if certifier.name == "anytime":
        return (
            "several: looks and boundaries fixed before the first draw (settings.schedule); the probability that any "
            "claim about an example is false is at most alpha, computed exactly in crossing_probability"
        )
    if certifier.certificate == "probabilistic":
        return "one: n fixed beforehand, looked at once"
    return "one: no randomness"


def engine(certifier: Certifier) -> dict[str, Any]:
    """What computed the bounds, or the votes, and its version."""
    versions = environment.package_versions()
    if certifier.certificate == "probabilistic":
        return {"name": "certtrain.smoothing", "version": versions["certtrain"] or __version__}
    make = getattr(certifier, "make_engine", type(certifier))  # a user's own certifier may need no bound engine
    target = getattr(make, "func", make)
    name = f"{target.__module__}.{target.__qualname__}"
    if name.split(".")[0] != "certtrain":
        return {"name": name, "package": name.split(".")[0], "version": None}
    package = "auto_LiRPA" if "lirpa" in name else "certtrain"
    return {"name": name, "package": package, "version": versions[package] or __version__}


def claim(certifier: Certifier) -> str:
    """What the certificate says, in words, for the card."""
    if certifier.certificate == "probabilistic":
        return smoothing_claim(shared=certifier.budget == "dataset")
    settings = certifier.settings()
    return bounds_claim(settings.get("precision", "float64"), **scaled_claim(settings))


def training_recipe(config: dict[str, Any]) -> dict[str, Any]:
    """What the card says about the training."""
    if "source" in config:
        return {"trained": "elsewhere", **config["source"]}
    keys = ("choices", "seed", "epochs", "norm", "eps", "train_eps", "sigma", "schedule", "method", "optimizer")
    scales = {} if config.get("scales") is None else {"scales": config["scales"]}
    precision = config.get("trainer", {}).get("precision", FULL)
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
    trained: dict[str, Any], now: dict[str, Any], scales: tuple[Scales | None, Scales | None]
) -> list[str]:
    """A radius, scales or noise other than the training's are allowed, and stand in the card.

    Args:
        trained: the configuration of the training.
        now: of the certify command.
        scales: of the two.
    """
    if "source" in trained:
        assumed = trained["source"]["normalisation"]
        return [f"trained elsewhere: normalisation {assumed}"] if assumed.startswith("assumed") else []
    warnings, smoothed = [], any(name in now["certifier"] for name in SMOOTHING)
    if smoothed and "sigma" in trained["method"]:
        before, after = trained["sigma"], now["sigma"]
        if float(before) != float(after):
            warnings.append(f"trained with sigma {before}, certified with sigma {after}")
    if smoothed and "sigma" not in trained["method"]:
        warnings.append("trained without noise, certified by smoothing")
    largest = max(parse_radius(r) for r in now["radii"])
    if "train_eps" in trained["method"] or "kappa" in trained["method"]:
        eps = parse_radius(trained["eps"])
        if eps not in {parse_radius(r) for r in now["radii"]} and not smoothed:
            warnings.append(f"trained for eps {radius_text(eps)}, certified up to {radius_text(largest)}")
        if (other := scales_warning(*scales)) is not None and not smoothed:
            warnings.append(other)
        if trained["norm"] != now["norm"] and not smoothed:
            warnings.append(f"trained for norm {trained['norm']}, certified in norm {now['norm']}")
    return warnings
