"""A custom training method: what it prepares of a batch, and a pure objective of that."""

import torch.nn.functional as F

from certtrain.data.batch import Batch
from certtrain.methods import Method, Objective


class SmoothedLabels(Method):
    """Cross-entropy with label smoothing under keyed Gaussian noise."""

    def __init__(self, sigma: float, smoothing: float = 0.1) -> None:
        self.sigma, self.smoothing = sigma, smoothing

    def prepare(self, network, engine, batch, step, streams) -> Batch:
        noise = streams.normal(batch.x, batch.index, step, self.sigma)  # the same bits in any batch, order or process
        return batch._replace(x=batch.x + noise)

    def objective(self, network, engine, inputs, phase, values) -> Objective:
        loss = F.cross_entropy(network(inputs.x), inputs.y, label_smoothing=self.smoothing)
        return Objective(loss, {"loss_smoothed": loss.detach()})
