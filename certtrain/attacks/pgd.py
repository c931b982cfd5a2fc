"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083): upper bounds of robust accuracy."""

from __future__ import annotations

from torch import Tensor, nn

from certtrain.attacks.losses import check_loss
from certtrain.attacks.search import Attack, Search, attacking, check_budget, over_parts
from certtrain.system.work import tell
from certtrain.threat import Threat

HALVE_EVERY = 10


def pgd_margins(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 40,
    restarts: int = 2,
    step_size: float | None = None,
    generator_seed: int = 0,
    loss: str = "margin",
) -> Attack:
    """The smallest margin that PGD finds inside the ball around each input, the unperturbed input included.

    Every point on the way is looked at, so more steps or restarts never find less. Steps are `eps/4` at first, half as
    long after every 10; along the sign of the gradient (l-inf) or the gradient (l2). Points stay in the ball exactly as
    floating point numbers: l-inf inside `threat.box(x)`, l2 inside the ball and the input range. Of features that
    change by whole numbers only points on these count (`Scales.admissible`).

    Evaluates the network in eval mode and leaves its modes, `.grad` and the global random generators as they were.
    Works under `no_grad` and inference mode.

    Args:
        network: (B, ...) inputs to (B, K) logits, K >= 2.
        x: (B, ...) inputs.
        y: (B,) classes.
        threat: norm, eps (scalar or (B,)), scales and input range.
        steps: gradient steps of each start.
        restarts: starts: the first from x, the others from random points of the ball.
        step_size: constant length of a step in input units instead.
        generator_seed: of the random starts.
        loss: what is descended: `margin`, `dlr`, or `cross_entropy` (ascended).

    Raises:
        UserError: steps or restarts below 0, or an unknown loss.
    """
    check_loss(loss)
    check_budget(steps, restarts)
    options = {"steps": steps, "restarts": restarts, "step_size": step_size, "generator_seed": generator_seed}
    several = over_parts(lambda part, one: pgd_margins(network, part, y, one, loss=loss, **options), x, threat)
    if several is not None:
        return several
    with attacking(network, x, y) as (x, y):
        ball = threat.moves(x)
        search = Search(network, x, y, loss, ball.admissible)
        for restart in range(max(restarts, 1)):
            tell(restart / max(restarts, 1))
            point = ball.start(restart, generator_seed)
            for step in range(steps if restarts else 0):
                _, gradient = search.descend(point)
                length = ball.eps / 4 * 0.5 ** (step // HALVE_EVERY) if step_size is None else step_size
                point = ball.project(point - length * ball.direction(gradient))
            search.look(point)
    return search.best
