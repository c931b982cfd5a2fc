"""A batch computed in parts takes the step of the whole batch: loss, gradients, statistics, whatever BatchNorm does."""

import copy

import pytest
import torch
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods import (
    IBP,
    CrownIBP,
    Gaussian,
    Method,
    Objective,
    Ramp,
    ShiRegulariser,
    Standard,
    Streams,
    Weight,
)
from certtrain.methods.ad_cert import ADCert
from certtrain.methods.arow import ARoW
from certtrain.methods.cc_dist import CCDist
from certtrain.methods.cc_ibp import CCIBP
from certtrain.methods.gls import GLS
from certtrain.methods.in_parts import InParts, rows
from certtrain.methods.mart import MART
from certtrain.methods.mtl_ibp import MTLIBP
from certtrain.methods.pgd import PGD
from certtrain.methods.sabr import SABR
from certtrain.methods.smoothmix import SmoothMix
from certtrain.methods.stability import Stability
from certtrain.methods.taps import TAPS
from certtrain.methods.trades import TRADES
from certtrain.testing.methods import CLASSES, SHAPE, small_network

RAMP, HALF, STREAMS = Ramp(2, 4), Weight(0.5, 0.5), Streams(0)
TEACHER = small_network(seed=9).double()
EXACT = {
    "standard": Standard(l1=1e-3),
    "gaussian": Gaussian(0.25),
    "stability": Stability(0.25),
    "smoothmix": SmoothMix(0.25, RAMP),
    "ibp": IBP(0.1, RAMP, kappa=HALF, l1=1e-3),
    "crown_ibp": CrownIBP(0.1, RAMP, kappa=HALF),
    "fused": CrownIBP(0.1, RAMP, kappa=HALF, loss_fusion=True),
    "pgd": PGD(0.1, RAMP, kappa=HALF),
    "trades": TRADES(0.1, RAMP),
    "sabr": SABR(0.1, RAMP, kappa=HALF),
    "sabr adversarial": SABR(0.1, RAMP, kappa=HALF, bn_source="adversarial"),
    "mtl_ibp": MTLIBP(0.1, RAMP),
    "mtl_ibp kappa": MTLIBP(0.1, RAMP, kappa=HALF),
    "arow": ARoW(0.1, RAMP),
    "mart": MART(0.1, RAMP, kappa=HALF),
    "cc_dist": CCDist(0.1, RAMP, TEACHER),
    "ad_cert": ADCert(0.1, RAMP, TEACHER, natural=0.25, kappa=HALF),
    "cc_ibp clean": CCIBP(0.1, RAMP, kappa=HALF, bn_source="clean"),
}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(
        *(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(32, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, CLASSES)),
    )
    return net.double()


def batch(size: int = 7) -> Batch:
    draw = torch.Generator().manual_seed(1)
    x = torch.rand(size, *SHAPE, generator=draw, dtype=torch.float64)
    return Batch(x, torch.randint(CLASSES, (size,), generator=draw), torch.arange(size))


def step_of(objective, net, at, engine=NativeEngine):
    """Loss, gradients, statistics and parts of one step."""
    found = objective(net, engine(net), batch(), at, STREAMS)
    found.loss.backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    return found.loss.detach(), gradients, list(net.buffers()), found.parts


@pytest.mark.parametrize("name", EXACT)
def test_parts_take_the_step_of_the_whole_batch(name):
    """Seven examples in three parts; before, in and after the ramp."""
    for at in (0, 4, 9):
        net = network()
        whole = step_of(EXACT[name], copy.deepcopy(net), at)
        parts = step_of(InParts(EXACT[name], 3), net, at)
        torch.testing.assert_close(parts[:3], whole[:3], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(parts[3], whole[3], rtol=1e-6, atol=1e-6)  # shares of examples are float32


def test_noise_on_the_weights_is_the_same_in_all_parts():
    """Also of weights that are as many as the examples; refused with statistics of the batch, which it would change."""
    method, net = GLS(CrownIBP(0.1, RAMP), std=0.1, samples=2), network().eval()
    net[7] = nn.Linear(5, 7).double()  # as many biases as examples
    whole, parts = step_of(method, copy.deepcopy(net), 9), step_of(InParts(method, 3), net, 9)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)
    with pytest.raises(UserError, match="in parts with BatchNorm under noise on the weights"):
        InParts(method, 3)(net.train(), NativeEngine(net), batch(), 9, STREAMS)
    base = GLS(CrownIBP(0.1, RAMP), std=0)
    net = network()
    whole, parts = step_of(base, copy.deepcopy(net), 9), step_of(InParts(base, 3), net, 9)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_every_part_may_be_one_example():
    net = network()
    whole, parts = step_of(EXACT["ibp"], copy.deepcopy(net), 9), step_of(InParts(EXACT["ibp"], 100), net, 9)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_the_attack_inside_the_network_sees_the_whole_batch():
    """TAPS' loss is a product of two means, so that only its points are those of the whole batch."""
    method, net = TAPS(0.1, RAMP, split="3"), network()
    inputs = method.prepare(net, NativeEngine(net), batch(), 9, STREAMS)
    part = rows(inputs, 2, 5, 7)
    assert torch.equal(part.points[0], inputs.points[0][2:5])
    assert part.lower is None
    loss = InParts(method, 3)(net, NativeEngine(net), batch(), 9, STREAMS).loss
    assert torch.isfinite(loss)


def test_the_regulariser_is_the_mean_of_the_parts_own():
    method, net = IBP(0.1, RAMP, regulariser=ShiRegulariser(0.5)), network().eval()
    found = InParts(method, 2)(net, NativeEngine(net), batch(), 3, STREAMS)
    halves = [Batch(*(column[half] for column in batch())) for half in (slice(0, 3), slice(3, 7))]
    one, other = (method(net, NativeEngine(net), half, 3, STREAMS).loss for half in halves)
    torch.testing.assert_close(found.loss, (3 * one + 4 * other) / 7)


class TwoPasses(Standard):
    def objective(self, network, engine, inputs, phase, values):
        return super().objective(network, engine, inputs, phase, values)._replace(loss=network(1 - inputs.x).sum())


def test_an_objective_that_runs_the_network_on_more_than_it_says_is_refused():
    net = network()
    with pytest.raises(UserError, match="1 is used more often than the method says"):
        InParts(TwoPasses(), 2)(net, None, batch(), 0, STREAMS)
    assert not any("forward" in vars(module) for module in net.modules())

    class Blind(Method):
        def objective(self, network, engine, inputs, phase, values):
            return Objective(next(network.parameters()).sum(), {})

    with pytest.raises(UserError, match="1 is used less often than the method says"):
        InParts(Blind(), 2)(net, None, batch(), 0, STREAMS)


def test_an_engine_with_statistics_of_its_own_is_refused():
    net = network()
    with pytest.raises(UserError, match=r"bounds=auto_lirpa.*takes each part's own"):
        InParts(IBP(0.1, RAMP), 2)(net, AutoLirpaEngine(net), batch(), 9, STREAMS)
