"""Auto-PGD (Croce and Hein 2020, arXiv 2003.01690): PGD with momentum that chooses its step lengths itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from certtrain.attacks.losses import check_loss
from certtrain.attacks.search import Attack, Search, attacking, check_budget, over_parts, per_example
from certtrain.system.work import tell
from certtrain.threat import Threat
from certtrain.threat.moves import Moves

MOMENTUM = 0.75  # alpha of the paper: weight of the new step against the last move
PROGRESS = 0.75  # rho: a step length is kept when so large a share of its steps came down


def apgd_margins(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 40,
    restarts: int = 2,
    generator_seed: int = 0,
    loss: str = "cross_entropy",
) -> Attack:
    """The smallest margin that Auto-PGD finds inside the ball around each input, the unperturbed input included.

    Our own implementation of the paper's algorithm 1. With P the projection, d the steepest direction and a = 3/4:

        z = P(x_k + eta d(x_k)),   x_{k+1} = P(x_k + a (z - x_k) + (1 - a) (x_k - x_{k-1})).

    eta starts at 2 eps. At checkpoints (`checkpoints`) an example whose loss improved in fewer than 3/4 of the steps
    since the last one, or whose eta and best loss are both as they were there, halves its eta and goes back to its best
    point. Each example has its own eta. As in `pgd_margins` every point counts, and points stay in the ball exactly;
    unlike there, the steps depend on how many there are.

    Args:
        network, x, y, threat: as in `pgd_margins`.
        steps: gradient steps of each start.
        restarts: starts: the first from x, the others from random points of the ball.
        generator_seed: of the random starts.
        loss: `cross_entropy` (APGD-CE), `dlr` (APGD-DLR) or `margin`.

    Raises:
        UserError: steps or restarts below 0, or an unknown loss.
    """
    check_loss(loss)
    check_budget(steps, restarts)
    options = {"steps": steps, "restarts": restarts, "generator_seed": generator_seed, "loss": loss}
    several = over_parts(lambda part, one: apgd_margins(network, part, y, one, **options), x, threat)
    if several is not None:
        return several
    with attacking(network, x, y) as (x, y):
        ball = threat.moves(x)
        search = Search(network, x, y, loss, ball.admissible)
        if not (steps and restarts):
            search.look(x)
        for restart in range(restarts if steps else 0):
            tell(restart / restarts)
            _descend(ball, search, ball.start(restart, generator_seed), steps)
    return search.best


def checkpoints(steps: int) -> list[int]:
    """The steps after which step lengths are judged: ceil(p_j steps), each period shorter than the last.

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06); here in whole hundredths, which are exact.
    """
    at, period, found = 0, 22, []
    while (at := at + period) <= 100:
        found.append(-(-at * steps // 100))
        period = max(period - 3, 6)
    return sorted(set(found))


def _descend(ball: Moves, search: Search, point: Tensor, steps: int) -> None:
    n, judged = len(point), set(checkpoints(steps))
    eta = 2 * ball.eps
    eta = eta.expand(n, *(eta.shape[1:] if eta.dim() else [1] * (point.dim() - 1))).clone()
    loss, gradient = search.descend(point)
    best, best_loss, best_gradient, before = point, loss, gradient, point
    improved, since = torch.zeros(n, device=point.device), 0
    halved, loss_then = torch.ones(n, dtype=torch.bool, device=point.device), torch.full_like(loss, math.inf)
    for step in range(1, steps + 1):
        target = ball.project(point - eta * ball.direction(gradient))
        share = 1.0 if step == 1 else MOMENTUM
        moved = ball.project(point + share * (target - point) + (1 - share) * (point - before))
        before, point, earlier = point, moved, loss
        if step == steps:
            search.look(point)
            return
        loss, gradient = search.descend(point)
        improved, since = improved + (loss < earlier), since + 1
        lower = loss < best_loss
        rows = per_example(lower, point)
        best, best_gradient = torch.where(rows, point, best), torch.where(rows, gradient, best_gradient)
        best_loss = torch.where(lower, loss, best_loss)
        if step in judged:
            stuck = ~halved & (loss_then == best_loss)
            halved = (improved < PROGRESS * since) | stuck
            rows = per_example(halved, point)
            eta = torch.where(rows, eta / 2, eta)
            point, before = torch.where(rows, best, point), torch.where(rows, best, before)
            gradient, loss = torch.where(rows, best_gradient, gradient), torch.where(halved, best_loss, loss)
            improved, since, loss_then = torch.zeros_like(improved), 0, best_loss
