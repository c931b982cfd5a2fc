"""What a certificate's card says in words, and where and by what it was made."""

from __future__ import annotations

from typing import Any

from certtrain import __version__, environment
from certtrain.certifiers.base import Certifier
from certtrain.claims import bounds_claim, scaled_claim, smoothing_claim
from certtrain.config import SMOOTHING
from certtrain.scale_request import read_request, request_text
from certtrain.threat import parse_radius, radius_text

FULL = "32-true"  # trainer.precision where nothing is reduced


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


def _scales(config: dict[str, Any]) -> str:
    asked = read_request(config.get("scales"))
    return "a ball without scales" if asked is None else f"scales {request_text(asked)}"


def trained_with_warnings(trained: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A radius or noise other than the training's is allowed, and stands in the card."""
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
        if read_request(trained.get("scales")) != read_request(now.get("scales")) and not smoothed:
            warnings.append(f"trained for {_scales(trained)}, certified for {_scales(now)}")
        if trained["norm"] != now["norm"] and not smoothed:
            warnings.append(f"trained for norm {trained['norm']}, certified in norm {now['norm']}")
    return warnings
