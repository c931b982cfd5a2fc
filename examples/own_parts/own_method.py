"""A training method of one's own: what is added to a batch, and a function of network and batch; no state."""

import torch.nn.functional as F

from certtrain.data.batch import Batch
from certtrain.methods import Method, Objective


class SmoothedLabels(Method):
    """Cross-entropy with label smoothing under keyed Gaussian noise."""

    def __init__(self, sigma: float, smoothing: float = 0.1) -> None:
        self.sigma, self.smoothing = sigma, smoothing

    def inputs(self, batch, step, rng) -> Batch:
        noise = rng(batch.x, batch.index, step, self.sigma)  # the same bits in any batch, order or process
        return batch._replace(x=batch.x + noise)

    def objective(self, network, engine, batch, phase, values) -> Objective:
        loss = F.cross_entropy(network(batch.x), batch.y, label_smoothing=self.smoothing)
        return Objective(loss, {"loss_smoothed": loss.detach()})
