"""A training method of one's own: a function of network, batch and step; no trainer, no state."""

import torch.nn.functional as F

from certtrain.methods import Method, Objective


class SmoothedLabels(Method):
    """Cross-entropy with label smoothing under keyed Gaussian noise."""

    def __init__(self, sigma: float, smoothing: float = 0.1) -> None:
        self.sigma, self.smoothing = sigma, smoothing

    def __call__(self, network, engine, batch, step, rng) -> Objective:
        noise = rng(batch.x, batch.index, step, self.sigma)  # the same bits in any batch, order or process
        loss = F.cross_entropy(network(batch.x + noise), batch.y, label_smoothing=self.smoothing)
        return Objective(loss, {"loss_smoothed": loss.detach()})
