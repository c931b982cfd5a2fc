"""The checks that need the whole composed configuration, and what follows from it."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

from certtrain.config.instantiate import plain
from certtrain.config.kinds import fixed_norm, of_nodes
from certtrain.errors import UserError
from certtrain.radii import exact_number, parse_radii, parse_radius, radius_key, radius_text
from certtrain.threat import bounded_norms, norm_text, norms, threat_of
from certtrain.threat.scale_request import read_request
from certtrain.threat.scales import Scales

WIDEST_SIGMA = 4  # input ranges; the field's widest noise is 1, and under 4 nothing of a picture is left to see


def check(config: Any) -> dict[str, Any]:
    """The composed configuration as plain containers, after the checks that span keys.

    Radii and eps stay in their canonical text; `resolve_radii` gives them as fractions.

    Raises:
        UserError: eps, sigma, radii, epochs, seed or the schedule make no sense together.
    """
    resolved = plain(_with_train_eps(config))
    for key in ("eps", "train_eps"):
        parse_radius(resolved[key], where=f"configuration key {key}")
    resolve_radii(resolved)
    check_units(resolved)
    at_least = {"epochs": 1, "seed": 0, "validation.every_n_epochs": 1, "validation.examples": 1}
    for key, least in at_least.items():
        value = _at(resolved, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(
                f"{key} = {value!r} is not a whole number >= {least}", where=f"configuration key {key}", fix=f"{key}=3"
            )
    for key, allowed in (("norm", bounded_norms()), ("checkpoint.use", ("last", "best"))):
        value = _at(resolved, key)
        if value not in allowed:
            raise UserError(
                f"{key} = {value!r} is not a choice",
                where=f"configuration key {key}",
                fix=f"one of {', '.join(allowed)}",
            )
    check_scales(resolved)
    return resolved


def _with_train_eps(config: Any) -> Any:
    """The configuration with a `train_eps` such as `1.2eps` as the radius that it is, wherever it is referred to."""
    key, text = "train_eps", str(config["train_eps"]).replace(" ", "")
    if not text.endswith("eps"):
        return config
    where = f"configuration key {key}"
    try:
        factor = exact_number(text.removesuffix("eps").removesuffix("*"))
    except ValueError:
        fix = f"{key}=1.2eps, or a radius"
        raise UserError(f"{config[key]!r} is not a multiple of eps", where=where, fix=fix) from None
    config = copy.copy(config)  # the caller's own stays as it was written
    config[key] = radius_text(
        parse_radius(factor * parse_radius(config["eps"], where="configuration key eps"), where=where)
    )
    return config


def check_units(resolved: dict[str, Any], dimensions: int | None = None) -> None:
    """Refuse radii wider than the input range and a sigma far beyond it: most often a number of grey levels.

    Args:
        resolved: of any command.
        dimensions: numbers of one input, as soon as they are known: an l2 ball is held against their diagonal.

    Raises:
        UserError: with the value in input units.
    """
    sigma = resolved.get("sigma", 0)
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not sigma >= 0:
        try:
            as_number = exact_number(sigma)
        except ValueError:
            as_number = Fraction(-1)
        fix = f"sigma={float(as_number):.6g}" if as_number > 0 else "sigma=0.25"
        raise UserError(f"sigma = {sigma!r} is not a number >= 0", where="configuration key sigma", fix=fix)
    if sigma > WIDEST_SIGMA:
        raise UserError(
            f"sigma = {sigma:g} is noise of {sigma:g} times the input range [0, 1]",
            where="configuration key sigma",
            fix=f"sigma={sigma / 255:.3g} for {sigma:g} of 255 grey levels",
        )
    if resolved.get("scales") is not None:  # radii are multiples of sizes
        return
    norm, kinds = resolved["norm"], of_nodes(resolved.get("certifier"))
    radii = max(parse_radii(resolved["radii"]))
    sizes = [(key, parse_radius(resolved[key]), norm) for key in ("eps", "train_eps") if key in resolved]
    sizes += [("radii", radii, fixed_norm(kinds) or norm)]
    for key, size, ball in sizes:
        widest = norms()[ball]().widest(dimensions) if ball in norms() else None
        if widest is None or size <= widest[0]:
            continue
        what = f"{key} = {radius_text(size)} {widest[1]}"
        such_as = "[8/255]" if key == "radii" else "8/255"
        raise UserError(what, where=f"configuration key {key}", fix=f"{key}={such_as} for 8 of 255 grey levels")


def check_scales(resolved: dict[str, Any]) -> None:
    """Refuse scales whose form is wrong, or that the norm or a certifier has no use for. What they name is the data's.

    Raises:
        UserError: with what to change.
    """
    asked = read_request(resolved.get("scales"))
    if asked is None:
        return
    if resolved["norm"] != "linf":
        threat_of(resolved["norm"], scales=Scales(("x",), (Fraction(1),), (0,)))  # which says why not
    for name, node in (resolved.get("certifier") or {}).items():
        if (norm := fixed_norm(of_nodes({name: node}))) not in (None, "linf"):
            raise UserError(
                f"scales with certifier={name}: it certifies {norm_text(str(norm))} balls, which are the "
                "same in all directions",
                where="configuration key scales",
                fix="scales=null; sizes per feature are certified by bounds: certifier=crown norm=linf",
            )


def _at(config: dict[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def resolve_radii(resolved: dict[str, Any]) -> tuple[Fraction, ...]:
    """The exact evaluation radii of a checked configuration, ascending."""
    return parse_radii(resolved["radii"], where="configuration key radii")


def watched_radius(config: dict[str, Any]) -> Fraction:
    """What is shown while training: eps, or the largest radius when eps is not among them; where radii are continuous,
    as those of smoothing, the smallest that is positive."""
    radii, eps = resolve_radii(config), parse_radius(config["eps"])
    if rehearsed(config) == "continuous":
        return next((radius for radius in radii if radius > 0), radii[0])
    return eps if eps in radii else radii[-1]


def rehearsed(config: dict[str, Any]) -> str:
    """What the radii of the certificates are that validate a training."""
    return next((kind.rehearsed_radii_are or kind.radii_are for kind in of_nodes(config.get("certifier"))), "grid")


def default_monitor(config: dict[str, Any]) -> str:
    """The ACR where there is one; else certified accuracy at eps, or at the largest radius if eps is not among them."""
    if rehearsed(config) == "continuous":
        return "val/acr"
    return f"val/certified@{radius_key(watched_radius(config))}"
