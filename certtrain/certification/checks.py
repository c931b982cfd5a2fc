"""What the certify stage refuses before it certifies: settings and networks of which no certificate would mean much."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from certtrain.config.kinds import Kinds, fixed_norm
from certtrain.errors import UserError
from certtrain.radii import parse_radii, radius_text
from certtrain.threat import bounded_norms, norms

if TYPE_CHECKING:
    import torch
    from torch import nn

    from certtrain.certification.examples import Examples
    from certtrain.certifiers import Certifier

FEW, HUNDREDS = 8, 300


def before_certifying(
    network: nn.Module,
    examples: Examples,
    certifiers: Mapping[str, Certifier],
    trained: Mapping[str, Any],
    now: Mapping[str, Any],
    device: torch.device,
    *,
    asked: bool = False,
) -> list[str]:
    """All checks that need the network and the certifiers.

    Args:
        network: on the device.
        examples: what is to be certified; the first few are tried.
        certifiers: by name.
        trained: the run's configuration.
        now: that of the certify stage.
        device: where the network is.
        asked: whether the radii were asked for, also where they are the run's.

    Returns:
        Warnings for the card.

    Raises:
        UserError: of the first check that refuses.
    """
    refuse_uncovered(network, examples, certifiers, device)
    warnings = refuse_out_of_reach(certifiers, len(examples.indices), asked or _other_radii(trained, now))
    return warnings + [doubt for certifier in certifiers.values() for doubt in certifier.doubts()]


def _other_radii(trained: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return parse_radii(trained["radii"]) != parse_radii(now["radii"])


def refuse_norm(given: Mapping[str, str], kinds: Kinds, certifier: object) -> None:
    """Refuse a norm that was asked for and that the certifier does not cover; a run's own norm is not looked at.

    Raises:
        UserError: not a norm; not l2 with smoothing.
    """
    norm = given.get("norm")
    if norm is None:
        return
    only = fixed_norm(kinds)
    if norm not in (norms() if only else bounded_norms()):
        fix = f"one of {', '.join(bounded_norms())}"
        raise UserError(f"norm={norm} is not a choice", where="configuration key norm", fix=fix)
    if only not in (None, norm):
        implied = "; an l2 radius r implies the l-inf radius r/sqrt(d) for d inputs, and nothing larger"
        raise UserError(
            f"norm={norm} with certifier={certifier}, which certifies radii in {only} alone",
            where="configuration key norm",
            fix=f"leave norm= out{implied if only == 'l2' else ''}",
        )


def radii_out_of_reach(certifier: Certifier, examples: int) -> tuple[Fraction, ...]:
    """The radii of the grid that its settings cannot certify, whatever the network.

    Args:
        certifier: any.
        examples: how many share a data-set budget.
    """
    reach = certifier.reach(examples)
    return () if reach is None else tuple(radius for radius in certifier.radii if float(radius) > reach.radius)


def refuse_out_of_reach(certifiers: Mapping[str, Certifier], examples: int, asked: bool) -> list[str]:
    """Refuse radii that too few draws, say, cannot certify, where they were asked for or none is in reach.

    Args:
        certifiers: by name.
        examples: how many share a data-set budget.
        asked: for these radii. A run's own, such as those of a published curve, may reach further than its draws: the
            curve is 0 there.

    Returns:
        Warnings, where nothing is refused.

    Raises:
        UserError: names the largest radius in reach, and what would reach the largest one of the grid.
    """
    from certtrain.reporting.entries import floored

    warnings = []
    for name, certifier in certifiers.items():
        reach, beyond = certifier.reach(examples), radii_out_of_reach(certifier, examples)
        if reach is None or not beyond:
            continue
        within = [radius_text(radius) for radius in certifier.radii if radius not in beyond]
        limit = f"radii up to {floored(reach.radius, 4)}, not" if reach.radius >= 0 else "nothing, so not"
        what = f"{reach.words} certify {limit} {', '.join(radius_text(radius) for radius in beyond)}"
        if asked or not any(radius > 0 for radius in certifier.radii if radius not in beyond):
            less = f"radii=[{','.join(within)}]" if within else "smaller radii"
            fix = f"{less}, or {reach.needed(beyond[-1])}"
            raise UserError(what, where=f"configuration key radii, certifier {name}", fix=fix)
        warnings.append(what)
    return warnings


def refuse_uncovered(
    network: nn.Module, examples: Examples, certifiers: Mapping[str, Certifier], device: torch.device
) -> None:
    """Refuse a network that a certifier does not cover: now, and not after the stages before have worked.

    Raises:
        UserError: of the certifier.
    """
    from certtrain.data.batch import Batch

    first = examples.indices[:FEW]
    batch = Batch(examples.x[first].to(device), examples.y[first].to(device), first.to(device))
    for certifier in certifiers.values():
        certifier.check_network(network, batch)


def chance_level(network: nn.Module, examples: Examples, num_classes: int, device: torch.device) -> list[str]:
    """A warning when the clean accuracy on the first few hundred of the examples is at most 1.5 / K."""
    import torch

    from certtrain.models.evaluation import frozen

    index = examples.indices[:HUNDREDS]
    with frozen(network), torch.no_grad():
        parts = [network(examples.x[part].to(device)).argmax(1).cpu() for part in index.split(64)]
    accuracy = (torch.cat(parts) == examples.y[index]).double().mean().item()
    if accuracy > 1.5 / num_classes:
        return []
    return [
        f"clean accuracy {accuracy:.1%} on the first {len(index)} examples is near chance for {num_classes} classes: "
        "is the normalisation (data.mean, data.std) the one it was trained with?"
    ]
