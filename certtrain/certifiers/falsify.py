"""Attacks certificates from bounds, in float64, inside the balls that they speak of."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from certtrain.attacks import ATTACKS, inner, inside, strongest
from certtrain.certificates import Certificates
from certtrain.certificates.falsification import Counterexample, Falsification, Progress, silent
from certtrain.certifiers.base import frozen
from certtrain.data.batch import Batch
from certtrain.system import work
from certtrain.threat import Threat

RESTARTS = 2  # per attack: from the input itself, and from a random point
SEED = 1  # not the certifier's own attack once more


def falsify_bounds(
    network: nn.Module,
    batch: Batch,
    certificates: Certificates,
    *,
    threat: Threat,
    steps: int,
    batch_size: int,
    progress: Progress = silent,
) -> Falsification:
    """Every attack of `certtrain.attacks.ATTACKS` against each certified example, at its own certified radius.

    The network is evaluated in float64; every point lies in the exact ball (not rounded outward, for l-inf and l2
    inside the input range). A hit is a point whose margin is not > 0, NaN included; none is allowed.

    Args:
        network: (B, ...) inputs to (B, K) logits; not changed.
        batch: the examples.
        certificates: their rows, in the batch's order; those without a certificate are passed over.
        threat: norm and scales of the radii.
        steps: of each start.
        batch_size: examples attacked at once.
        progress: told how many certified examples have been attacked.

    Raises:
        ValueError: rows that are not those of the batch.
    """
    if certificates.index.tolist() != batch.index.tolist():
        raise ValueError("the certificates are not those of the batch")
    claimed = certificates.columns.get("largest_eps", certificates.radius)
    rows = np.flatnonzero(certificates.correct & (np.maximum(claimed, certificates.radius) > 0))
    own = copy.deepcopy(network).double()
    hits: list[Counterexample] = []
    with frozen(own):
        for at in range(0, len(rows), batch_size):
            part = rows[at : at + batch_size]
            where = torch.as_tensor(part, device=batch.y.device)
            radii = np.maximum(claimed, certificates.radius)[part]
            x, y = batch.x[where].double(), batch.y[where]
            ball = inner(threat, torch.tensor([inside(radius) for radius in radii.tolist()], dtype=torch.float64))
            options = {"steps": steps, "restarts": RESTARTS, "generator_seed": SEED}
            with work.part(at / len(rows), min(1, (at + batch_size) / len(rows))):
                worst = strongest(tuple(ATTACKS), own, x, y, ball, **options)
            fallen = ~(worst.margin > 0)
            if bool(fallen.any()):
                with torch.no_grad():
                    predict = own(worst.x).argmax(1)
                distance = threat.distance(worst.x - x)
                for i in fallen.nonzero().flatten().tolist():
                    point = worst.x[i].cpu().numpy()
                    label, index = int(y[i]), int(certificates.index[part[i]])
                    found = (int(predict[i]), float(radii[i]), float(distance[i]), float(worst.margin[i]), point)
                    hits.append(Counterexample(index, label, *found))
            progress(min(at + batch_size, len(rows)))
    settings = {
        "attacks": list(ATTACKS),
        "precision": "float64",
        "steps": steps,
        "restarts": RESTARTS - 1,
        "ball": "exact, at the certified radius",
    }
    return Falsification(len(rows), tuple(hits), 0, settings)
