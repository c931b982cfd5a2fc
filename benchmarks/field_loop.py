"""The peer: certification of one image at a time, as the protocol of Cohen et al. 2019 describes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from certtrain.certificates import ABSTAIN
from certtrain.smoothing.confidence import radius_one_sided


@torch.no_grad()
def certify_one(
    network: nn.Module, x: Tensor, sigma: float, num_classes: int, *, n0: int, n: int, alpha: float, batch: int
) -> tuple[int, float]:
    """The class and l2 radius of one image: n0 draws select, n fresh ones estimate, `batch` of them at a time.

    Noise comes from torch's generator on the image's device; every batch's votes are brought to the CPU.

    Returns:
        The class and its radius; ABSTAIN and 0.0 where the lower bound is below 1/2.
    """
    top = int(_votes(network, x, sigma, num_classes, n0, batch).argmax())
    count = int(_votes(network, x, sigma, num_classes, n, batch)[top])
    found = radius_one_sided([count], n, alpha, sigma)
    return (ABSTAIN, 0.0) if found.abstain[0] else (top, float(found.radius[0]))


def _votes(network: nn.Module, x: Tensor, sigma: float, num_classes: int, draws: int, batch: int) -> Tensor:
    counts = torch.zeros(num_classes, dtype=torch.int64)
    while draws > 0:
        rows = x.expand(min(batch, draws), *x.shape)
        answers = network(rows + sigma * torch.randn(rows.shape, device=x.device)).argmax(1)
        counts += torch.bincount(answers, minlength=num_classes).cpu()
        draws -= len(rows)
    return counts
