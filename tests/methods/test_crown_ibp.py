"""The CROWN-IBP objective against numbers worked out on paper, and on the native engine."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.data.batch import Batch
from certtrain.methods import IBP, CrownIBP, KeyedNoise, Ramp, Weight
from certtrain.threat import ThreatModel

RAMP = Ramp(start=10, length=10)
NOISE = KeyedNoise(0)
NATURAL = 0.313262  # log(1 + exp(-1))


def test_half_way_up_the_ramp_by_hand(paper_network, paper_engine, paper_batch):
    # eps = 0.25, kappa = 0.75, beta = 0.5: m = (1/2 + 1/4)/2 = 3/8, log(1 + exp(-3/8)) = 0.523123.
    objective = CrownIBP(0.5, RAMP)(paper_network, paper_engine, paper_batch, 15, NOISE)
    assert paper_engine.calls == [(0.25, ("ibp", "crown_ibp"))]
    assert objective.parts["loss_robust"].item() == pytest.approx(0.523123, abs=2e-6)
    assert objective.loss.item() == pytest.approx(0.75 * NATURAL + 0.25 * 0.523123, abs=2e-6)


def test_the_paper_engine_agrees_with_the_native_one(paper_network, paper_engine, paper_batch):
    threat = ThreatModel(eps=0.25)
    paper = paper_engine.bounds(paper_batch.x, paper_batch.y, threat)
    native = NativeEngine(paper_network).bounds(paper_batch.x, paper_batch.y, threat)
    for method in ("ibp", "crown_ibp"):
        assert torch.allclose(paper.margins[method], native.margins[method], atol=1e-6)
    assert torch.allclose(paper.pre_activations[0].lower, native.pre_activations[0].lower)


@pytest.mark.parametrize(
    ("beta", "methods", "margin"),
    [(1.0, ("crown_ibp",), 0.5), (0.0, ("ibp",), 0.25), (9e-6, ("ibp",), 0.25), (0.2, ("ibp", "crown_ibp"), 0.3)],
)
def test_only_the_bounds_that_beta_needs_are_computed(beta, methods, margin, paper_network, paper_engine, paper_batch):
    method = CrownIBP(0.5, RAMP, beta=Weight(beta, beta))
    objective = method(paper_network, paper_engine, paper_batch, 15, NOISE)
    assert paper_engine.calls == [(0.25, methods)]
    expected = torch.log1p(torch.tensor(-margin).exp()).item()
    assert objective.parts["loss_robust"].item() == pytest.approx(expected, abs=1e-5)


def test_after_the_ramp_it_is_ibp_unless_beta_stays(paper_network, paper_engine, paper_batch):
    crown = CrownIBP(0.3, RAMP)(paper_network, paper_engine, paper_batch, 20, NOISE)
    ibp = IBP(0.3, RAMP)(paper_network, paper_engine, paper_batch, 20, NOISE)
    assert crown.loss == ibp.loss
    assert [methods for _, methods in paper_engine.calls] == [("ibp",), ("ibp",)]


def test_kappa_and_beta_follow_eps_by_default():
    method = CrownIBP(0.4, Ramp(0, 1000, "smoothed"))
    share = 0.384615
    assert method.scheduled(500) == pytest.approx(
        {"eps": 0.4 * share, "kappa": 1 - 0.5 * share, "beta": 1 - share}, abs=1e-5
    )
    assert CrownIBP(0.4, RAMP, beta=Weight(1.0, 0.0, "step")).scheduled(12)["beta"] == pytest.approx(0.8)
    assert method.ramp_end == 1000


def test_a_larger_beta_gives_a_tighter_loss_and_gradients_reach_the_weights():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    batch = Batch(torch.rand(16, 6), torch.randint(3, (16,)), torch.arange(16))
    engine, losses = NativeEngine(network), []
    for beta in (0.0, 0.5, 1.0):
        method = CrownIBP(0.05, Ramp(0, 0), kappa=Weight(0.0, 0.0), beta=Weight(beta, beta))
        objective = method(network, engine, batch, 0, NOISE)
        bounds = engine.bounds(batch.x, batch.y, ThreatModel(eps=0.05))
        mixed = beta * bounds.margins["crown_ibp"] + (1 - beta) * bounds.margins["ibp"]
        assert torch.allclose(objective.loss, torch.logsumexp(F.pad(-mixed, (1, 0)), 1).mean(), rtol=1e-5)
        network.zero_grad()
        objective.loss.backward()
        assert all(network[i].weight.grad.abs().sum() > 0 for i in (0, 2, 4))
        losses.append(objective.loss.item())
    assert losses[0] > losses[1] > losses[2]
