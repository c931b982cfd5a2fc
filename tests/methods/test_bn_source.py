"""Whose statistics BatchNorm has in the pass that is bounded: those of the clean or of the adversarial batch."""

import copy

import pytest
import torch
import torch.nn.functional as F

from certtrain.bounds import NativeEngine
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.bounds.batchnorm import given_statistics, observed_statistics
from certtrain.errors import UserError
from certtrain.methods import IBP, BoundTraining, Context, Ramp, Streams, Weight
from certtrain.methods.cc_ibp import CCIBP
from certtrain.methods.exp_ibp import ExpIBP
from certtrain.methods.losses import robust_cross_entropy
from certtrain.methods.mtl_ibp import MTLIBP
from certtrain.methods.pgd import AdversarialLoss
from certtrain.methods.sabr import SABR
from certtrain.methods.staps import STAPS
from certtrain.methods.taps import TAPS
from certtrain.testing.methods import small_batch, small_network
from certtrain.threat import Linf

RAMP, STREAMS, AFTER = Ramp(2, 4), Streams(0), 9
ROBUST, HALF = Weight(0.0, 0.0), Weight(0.5, 0.5)


def networks(count):
    net = small_network(batch_norm=True)
    return [copy.deepcopy(net) for _ in range(count)]


@pytest.mark.parametrize("kind", [MTLIBP, CCIBP, ExpIBP])
@pytest.mark.parametrize("kappa", [ROBUST, HALF])
def test_with_clean_statistics_the_method_is_ibp_at_alpha_one(kind, kappa):
    one, other = networks(2)
    found = kind(0.1, RAMP, alpha=1, kappa=kappa, bn_source="clean")(
        one, NativeEngine(one), small_batch(), AFTER, STREAMS
    )
    ibp = IBP(0.1, RAMP, kappa=kappa)(other, NativeEngine(other), small_batch(), AFTER, STREAMS)
    assert torch.equal(found.loss, ibp.loss)
    assert torch.equal(one[2].running_mean, other[2].running_mean)


def test_clean_statistics_are_those_of_both_terms():
    """By hand: the adversarial logits under the clean batch's statistics, which alone enter the running ones."""
    one, other, clean = networks(3)
    method, batch = MTLIBP(0.1, RAMP, alpha=0.25, bn_source="clean"), small_batch(32)
    inputs = method.prepare(one, NativeEngine(one), batch, AFTER, STREAMS)
    found = method(one, NativeEngine(one), batch, AFTER, STREAMS)
    with observed_statistics(other) as uses:
        other(batch.x)
    with given_statistics(other, uses):
        attacked = F.cross_entropy(other(inputs.points[0]), batch.y)
    certified = robust_cross_entropy(NativeEngine(clean).bounds(batch.x, batch.y, Linf(0.1), ("ibp",)).margins["ibp"])
    assert found.loss.item() == pytest.approx((0.75 * attacked + 0.25 * certified).item(), rel=1e-5)
    assert one[2].num_batches_tracked == 1
    assert torch.allclose(one[2].running_mean, clean[2].running_mean, atol=1e-6)
    assert found.parts["clean"].item() == pytest.approx((clean(batch.x).argmax(1) == batch.y).float().mean().item())


def test_the_compiler_follows_statistics_of_another_batch():
    one, other = networks(2)
    method, batch = MTLIBP(0.1, RAMP, alpha=0.25, bn_source="clean"), small_batch()
    inputs = method.prepare(one, None, batch, AFTER, STREAMS)

    def loss(network):
        engine = NativeEngine(network)
        return lambda: method.objective(network, engine, inputs, method.phase(AFTER), method.values(AFTER)).loss

    torch._dynamo.reset()
    found = torch.compile(loss(one), fullgraph=True, backend="eager")()
    torch._dynamo.reset()
    torch.testing.assert_close(found, loss(other)())


@pytest.mark.parametrize("make", [SABR, lambda *a, **k: STAPS(*a, split="3", **k)])
def test_with_adversarial_statistics_the_small_boxes_have_those_of_their_attack(make):
    one, other, third = networks(3)
    method, batch = make(0.1, RAMP, kappa=ROBUST, bn_source="adversarial"), small_batch(32)
    inputs = method.prepare(one, NativeEngine(one), batch, AFTER, STREAMS)
    method(one, NativeEngine(one), batch, AFTER, STREAMS)
    other(inputs.points[0])
    assert torch.allclose(one[2].running_mean, other[2].running_mean, atol=1e-6)
    assert torch.equal(inputs.x, batch.x)
    clean = make(0.1, RAMP, kappa=HALF, bn_source="adversarial")(third, NativeEngine(third), batch, AFTER, STREAMS)
    assert clean.parts["clean"].item() == pytest.approx(
        (third(batch.x).argmax(1) == batch.y).float().mean().item()
    )  # the clean logits are those at x, under statistics of their own


def test_without_batchnorm_the_source_changes_nothing():
    for kind in (SABR, MTLIBP):
        losses = []
        for source in ("clean", "adversarial"):
            network = small_network()
            method = kind(0.1, RAMP, kappa=HALF, bn_source=source)
            losses.append(method(network, NativeEngine(network), small_batch(), AFTER, STREAMS).loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SABR(0.1, RAMP, bn_source="adverserial"), "did you mean adversarial"),
        (lambda: IBP(0.1, RAMP, bn_source="adversarial"), "looks for no adversarial input"),
        (lambda: TAPS(0.1, RAMP, bn_source="adversarial"), "looks for no adversarial input"),
        (lambda: SABR(0.1, RAMP, share=1.0, bn_source="adversarial"), "looks for no adversarial input"),
        (lambda: BoundTraining(0.1, RAMP, AdversarialLoss(), bn_source="clean"), "whose loss has no bounds"),
    ],
)
def test_a_source_that_is_not_there_is_refused(make, words):
    with pytest.raises(UserError, match=words) as caught:
        make()
    assert caught.value.where == "method.bn_source"


def begin(method, network, engine=NativeEngine):
    method.begin(Context(network, engine(network), torch.optim.SGD(network.parameters()), [], 0, 0, STREAMS))


def test_statistics_of_a_network_without_batchnorm_are_refused_before_the_first_step():
    for method in (SABR(0.1, RAMP, bn_source="clean"), MTLIBP(0.1, RAMP, bn_source="adversarial")):
        begin(method, small_network(batch_norm=True))
        with pytest.raises(UserError, match="with a network without BatchNorm"):
            begin(method, small_network())
    begin(MTLIBP(0.1, RAMP), small_network())


def test_an_engine_that_cannot_go_on_with_its_statistics_is_refused_before_the_first_step():
    network = small_network(batch_norm=True)
    begin(SABR(0.1, RAMP, bn_source="clean"), network, AutoLirpaEngine)
    with pytest.raises(UserError, match="auto_lirpa has no bounds inside the network"):
        begin(MTLIBP(0.1, RAMP, bn_source="clean"), network, AutoLirpaEngine)
