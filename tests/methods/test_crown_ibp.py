"""The CROWN-IBP objective against numbers worked out on paper, and on the native engine."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods import IBP, CrownIBP, Ramp, ShiRegulariser, Streams, Weight
from certtrain.threat import threat_of

RAMP = Ramp(start=10, length=10)
NOISE = Streams(0)
NATURAL = 0.313262  # log(1 + exp(-1))


def test_half_way_up_the_ramp_by_hand(paper_network, paper_engine, paper_batch):
    # eps = 0.25, kappa = 0.75, beta = 0.5: m = (1/2 + 1/4)/2 = 3/8, log(1 + exp(-3/8)) = 0.523123.
    objective = CrownIBP(0.5, RAMP)(paper_network, paper_engine, paper_batch, 15, NOISE)
    assert paper_engine.calls == [(0.25, ("ibp", "crown_ibp"))]
    assert objective.parts["loss_robust"].item() == pytest.approx(0.523123, abs=2e-6)
    assert objective.loss.item() == pytest.approx(0.75 * NATURAL + 0.25 * 0.523123, abs=2e-6)


def test_the_paper_engine_agrees_with_the_native_one(paper_network, paper_engine, paper_batch):
    threat = threat_of(eps=0.25)
    paper = paper_engine.bounds(paper_batch.x, paper_batch.y, threat)
    native = NativeEngine(paper_network).bounds(paper_batch.x, paper_batch.y, threat)
    for method in ("ibp", "crown_ibp"):
        assert torch.allclose(paper.margins[method], native.margins[method], atol=1e-6)
    fused = [
        engine.fused_loss(paper_batch.x, paper_batch.y, threat).loss
        for engine in (paper_engine, NativeEngine(paper_network))
    ]
    assert torch.allclose(*fused, atol=1e-6)
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
        bounds = engine.bounds(batch.x, batch.y, threat_of(eps=0.05))
        mixed = beta * bounds.margins["crown_ibp"] + (1 - beta) * bounds.margins["ibp"]
        assert torch.allclose(objective.loss, torch.logsumexp(F.pad(-mixed, (1, 0)), 1).mean(), rtol=1e-5)
        network.zero_grad()
        objective.loss.backward()
        assert all(network[i].weight.grad.abs().sum() > 0 for i in (0, 2, 4))
        losses.append(objective.loss.item())
    assert losses[0] > losses[1] > losses[2]


def fusing(**options):
    return CrownIBP(0.5, RAMP, loss_fusion=True, **options)


def test_fused_half_way_up_the_ramp_by_hand(paper_network, paper_engine, paper_batch):
    # eps = 0.25, kappa = 0.75, beta = 0.5. Fused: top exp(-1/4) = 0.778801, bottom exp(-3/2) = 0.223130, so
    # log(1 + 0.223130 + 0.8 * 0.555671) = 0.511425; IBP's log(1 + 0.778801) = 0.575939. Their mean is 0.543682.
    objective = fusing()(paper_network, paper_engine, paper_batch, 15, NOISE)
    assert paper_engine.calls == [(0.25, ("fused", "crown_ibp"))]
    assert objective.parts["loss_robust"].item() == pytest.approx(0.543682, abs=2e-6)
    assert objective.loss.item() == pytest.approx(0.75 * NATURAL + 0.25 * 0.543682, abs=2e-6)


@pytest.mark.parametrize(
    ("beta", "call", "robust"),
    [
        (1.0, ("fused", "crown_ibp"), 0.511425),
        (0.2, ("fused", "crown_ibp"), 0.2 * 0.511425 + 0.8 * 0.575939),
        (9e-6, ("ibp",), 0.575939),
        (0.0, ("ibp",), 0.575939),
    ],
)
def test_the_fused_loss_is_computed_only_where_beta_needs_it(
    beta, call, robust, paper_network, paper_engine, paper_batch
):
    objective = fusing(beta=Weight(beta, beta))(paper_network, paper_engine, paper_batch, 15, NOISE)
    assert paper_engine.calls == [(0.25, call)]
    assert objective.parts["loss_robust"].item() == pytest.approx(robust, abs=2e-6)


def test_nothing_else_is_logged_as_train_verified(paper_network, paper_engine, paper_batch):
    """Half way up, IBP's margin is 1/4; at the end of the ramp it is 1 - 3/2, and CROWN-IBP's 0."""
    for step, share in ((15, 1.0), (20, 0.0)):
        parts = fusing()(paper_network, paper_engine, paper_batch, step, NOISE).parts
        assert parts["train_verified_ibp"].item() == share
        assert "train_verified" not in parts
        plain = CrownIBP(0.5, RAMP)(paper_network, paper_engine, paper_batch, step, NOISE).parts
        assert "train_verified_ibp" not in plain


def test_loss_fusion_with_batch_norm_regulariser_and_l1():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU())
    network.append(nn.Linear(20, 3))
    batch = Batch(torch.rand(16, 6), torch.randint(3, (16,)), torch.arange(16))
    engine, options = NativeEngine(network), {"kappa": Weight(0.25, 0.25), "beta": Weight(0.5, 0.5)}
    method = CrownIBP(0.05, RAMP, regulariser=ShiRegulariser(0.5), l1=0.01, loss_fusion=True, **options)
    plain = CrownIBP(0.05, RAMP, regulariser=ShiRegulariser(0.5), l1=0.01, **options)
    objective = method(network, engine, batch, 15, NOISE)
    assert network[1].num_batches_tracked == 1
    unfused = plain(network, engine, batch, 15, NOISE)
    for name in ("loss_natural", "clean", "loss_tight", "loss_relu", "loss_l1"):
        assert torch.allclose(objective.parts[name], unfused.parts[name]), name
    fused = engine.fused_loss(batch.x, batch.y, threat_of(eps=0.025))
    ibp = torch.logsumexp(F.pad(-fused.margins["ibp"], (1, 0)), 1)
    robust = 0.5 * fused.loss.mean() + 0.5 * ibp.mean()
    shi = 0.25 * (objective.parts["loss_tight"] + objective.parts["loss_relu"]) + objective.parts["loss_l1"]
    expected = 0.25 * F.cross_entropy(fused.clean, batch.y) + 0.75 * robust + shi
    assert torch.allclose(objective.loss, expected, rtol=1e-5)
    objective.loss.backward()
    assert all(p.grad.abs().sum() > 0 for name, p in network.named_parameters() if name.endswith("weight"))


def test_training_with_loss_fusion_verifies_more():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    x = torch.rand(48, 6)
    batch = Batch(x, (x[:, :3].sum(1) > 1.5).long() + (x[:, 0] > 0.7).long(), torch.arange(48))
    engine = NativeEngine(network)
    method = CrownIBP(0.02, Ramp(0, 60), kappa=Weight(0.0, 0.0), beta=Weight(1.0, 0.5), loss_fusion=True)
    optimizer, losses = torch.optim.Adam(network.parameters(), 1e-2), []
    before = method(network, engine, batch, 60, NOISE)
    for step in range(150):
        objective = method(network, engine, batch, step, NOISE)
        losses.append(objective.loss.item())
        optimizer.zero_grad()
        objective.loss.backward()
        optimizer.step()
    crown = engine.bounds(batch.x, batch.y, threat_of(eps=0.02), ("crown_ibp",)).margins["crown_ibp"]
    assert losses[-1] < 0.6 * before.loss.item()
    assert (crown > 0).all(1).float().mean() >= 0.7


def test_of_many_margins_only_the_closest_are_bounded_and_what_ibp_alone_bounds_is_logged():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 40))
    batch = Batch(torch.rand(5, 4), torch.arange(5), torch.arange(5))
    engine, ramp = NativeEngine(network), Ramp(0, 2)
    every, some = (
        CrownIBP(0.2, ramp, beta=Weight(1.0, 1.0), closest=closest)(network, engine, batch, 1, NOISE)
        for closest in (None, 3)
    )
    assert some.parts["loss_robust"] > every.parts["loss_robust"]
    bounds = engine.bounds(batch.x, batch.y, threat_of(eps=0.1), ("crown_ibp",), closest=3)
    weights = F.softmax(-bounds.margins["crown_ibp"], 1)
    rest = 1 - weights.gather(1, bounds.bounded).sum(1).mean()
    assert some.parts["ibp_only"].item() == pytest.approx(rest.item(), abs=1e-6)
    assert 0 < rest < 1
    assert "ibp_only" not in every.parts
    default = CrownIBP(0.2, ramp)(network, engine, batch, 1, NOISE)
    assert "ibp_only" in default.parts


@pytest.mark.parametrize("closest", [0, -1, True, 2.5])
def test_a_number_of_margins_that_is_none_is_refused(closest):
    with pytest.raises(UserError, match=r"closest = .* is not a number of margins") as raised:
        CrownIBP(0.2, RAMP, closest=closest)
    assert "+method.closest=16" in raised.value.fix
