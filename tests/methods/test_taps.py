"""TAPS and STAPS: values by hand, identities, the gradient link, what their attacks leave alone, what is refused."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods import IBP, BoundTraining, Context, Ramp, Streams, Weight
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.regions import Prepared, SmallBoxes
from certtrain.methods.sabr import SABR
from certtrain.methods.staps import STAPS
from certtrain.methods.taps import TAPS, LatentAttack, TapsLoss, linked, point_margins
from certtrain.testing.methods import MethodSuite, small_batch, small_network
from certtrain.threat import Linf

RAMP, NOISE, AFTER = Ramp(start=2, length=4), Streams(0), 9
BOTH = ("ibp", "taps")
ROBUST = {"kappa": Weight(0.0, 0.0)}


class TestTaps(MethodSuite):
    splits = False  # a product of two means over the batch

    def make(self):
        return TAPS(0.1, RAMP, latent_attack=LatentAttack(3), ibp_ramp=False, **ROBUST)


class TestStaps(MethodSuite):
    splits = False

    def make(self):
        return STAPS(0.1, RAMP, attack=InnerAttack(2), latent_attack=LatentAttack(2, restarts=2), regulariser=0.5)


@pytest.fixture
def by_hand():
    """h = relu(x), z = (relu(2 - h) + relu(h - 1/2), 0): around x = 1 the margin m(h) is 3/2 up to h = 2."""
    network = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network[0].weight.fill_(1)
        network[2].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        network[2].bias.copy_(torch.tensor([2.0, -0.5]))
        network[4].weight[0].fill_(1)
    return network


def one(value, count=3):
    return Batch(torch.full((count, 1), value).double(), torch.zeros(count, dtype=torch.int64), torch.arange(count))


def test_on_paper_the_attack_sees_what_ibp_does_not(by_hand):
    """Over x in [3/4, 1]: IBP adds the least of 2 - h, 1, and of h - 1/2, 1/4: 5/4. Each point has 3/2."""
    batch, method = one(0.875), TAPS(0.125, RAMP, split=1, **ROBUST)
    found = method(by_hand, NativeEngine(by_hand), batch, AFTER, NOISE)
    taps, ibp = (math.log1p(math.exp(-margin)) for margin in (1.5, 1.25))
    assert found.parts["loss_taps"].item() == pytest.approx(taps, rel=1e-12)
    assert found.parts["loss_ibp"].item() == pytest.approx(ibp, rel=1e-12)
    assert found.loss.item() == pytest.approx(taps * ibp, rel=1e-12)


def test_on_paper_the_worst_point_is_a_corner(by_hand):
    """Without the second neuron m(h) = 2 - h, least at h = 1: 1, which is IBP's bound too."""
    with torch.no_grad():
        by_hand[4].weight[0, 1] = 0
    found = TAPS(0.125, RAMP, split=1, **ROBUST)(by_hand, NativeEngine(by_hand), one(0.875), AFTER, NOISE)
    assert found.loss.item() == pytest.approx(math.log1p(math.exp(-1)) ** 2, rel=1e-12)


def test_on_paper_the_gradient_is_that_of_the_corner_expanded(by_hand):
    """With m = 2 - u, u = w x + e |w| of the first layer's weight w, x = 7/8 and e = 1/8: dm/dw = -1 in both factors,
    and the loss's is `w_grad L_ibp dL + L_taps dL` with dL = s(-1) per unit of -m."""
    with torch.no_grad():
        by_hand[4].weight[0, 1] = 0
    for weight in (1.0, 4.0):
        by_hand.zero_grad()
        method = TAPS(0.125, RAMP, split=1, weight=weight, **ROBUST)
        method(by_hand, NativeEngine(by_hand), one(0.875), AFTER, NOISE).loss.backward()
        loss, slope = math.log1p(math.exp(-1)), 1 / (1 + math.e)
        assert by_hand[0].weight.grad.item() == pytest.approx((weight + 1) * loss * slope, rel=1e-9)


@pytest.mark.parametrize("step", [2, 4, AFTER])
def test_the_value_does_not_depend_on_the_weight_of_the_gradient(step):
    network, batch = small_network(), small_batch()
    engine = NativeEngine(network)
    losses = [TAPS(0.1, RAMP, weight=w, ibp_ramp=False)(network, engine, batch, step, NOISE).loss for w in (1, 5, 0.3)]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


@pytest.mark.parametrize("step", [0, 3, 4, AFTER])
def test_staps_on_the_whole_box_is_taps(step):
    network, batch = small_network(), small_batch()
    engine, options = NativeEngine(network), {"regulariser": 0.5, "l1": 0.01, "ibp_ramp": False}
    whole = TAPS(0.1, RAMP, **options)(network, engine, batch, step, NOISE)
    small = STAPS(0.1, RAMP, share=1.0, **options)(network, engine, batch, step, NOISE)
    assert small.parts.keys() == whole.parts.keys()
    assert small.loss.item() == pytest.approx(whole.loss.item(), rel=1e-5)


@pytest.mark.parametrize("step", [0, 2, 3, 5])
def test_while_eps_rises_they_are_ibp_and_sabr(step):
    network, batch = small_network(), small_batch()
    engine = NativeEngine(network)
    for ours, theirs in ((TAPS, IBP), (STAPS, SABR)):
        found, expected = (method(0.1, RAMP)(network, engine, batch, step, NOISE) for method in (ours, theirs))
        assert torch.equal(found.loss, expected.loss)
        assert found.parts.keys() == expected.parts.keys()
    assert "loss_taps" in TAPS(0.1, RAMP)(network, engine, batch, RAMP.end, NOISE).parts


def attacked(network, batch, eps, **attack):
    """The loss, the bounds, and what was prepared of an attack in the box after the ReLU of `small_network`."""
    loss, engine, threat = TapsLoss("3", attack=LatentAttack(**attack)), NativeEngine(network), Linf(eps)
    inputs = loss.search(network, engine, Prepared(*batch), threat, BOTH, AFTER, NOISE)
    return loss, loss.bounds(engine, inputs, threat, BOTH), inputs


def found_margins(bounds, inputs):
    """The attack's points and the margins there."""
    node, (place,) = bounds.at["3"], inputs.points
    points = linked(place, (node.lower, node.upper), 0.5)
    return points, point_margins(node.logits, points, inputs.y)


@pytest.mark.parametrize("seed", range(5))
def test_margins_of_the_attack_lie_between_ibps_and_those_of_the_box(seed):
    """Never below IBP's, and, as the least of all points seen, near the least of many sampled ones of the box."""
    network, batch = small_network(seed).double().eval(), small_batch(16, seed)
    batch = batch._replace(x=batch.x.double())
    _, bounds, inputs = attacked(network, batch, 0.2, steps=10, restarts=3)
    points, margins = found_margins(bounds, inputs)
    node = bounds.at["3"]
    assert bool((points >= node.lower[:, None]).all())
    assert bool((points <= node.upper[:, None]).all())
    assert bool((margins >= bounds.margins["ibp"] - 1e-9).all())
    least = margins + torch.inf
    for _ in range(20):
        point = node.lower[:, None] + torch.rand_like(points) * (node.upper - node.lower)[:, None]
        least = torch.minimum(least, point_margins(node.logits, point, batch.y))
    assert float((margins <= least + 1e-9).double().mean()) > 0.9
    assert bool(margins.mean() < least.mean())
    clean = point_margins(lambda x: x, bounds.clean[:, None].expand(-1, 2, -1), batch.y)
    assert bool((margins <= clean + 1e-9).all())


def test_more_restarts_find_no_larger_margin():
    network, batch = small_network(1), small_batch(32)
    few, many = (
        found_margins(*attacked(network, batch, 0.2, steps=2, restarts=restarts)[1:])[1] for restarts in (1, 4)
    )
    assert bool((many <= few + 1e-6).all())
    assert bool((many < few - 1e-6).any())


def test_without_a_radius_all_terms_are_the_clean_loss():
    network, batch = small_network().double(), small_batch()
    batch = batch._replace(x=batch.x.double())
    loss, bounds, inputs = attacked(network, batch, 0.0)
    assert torch.allclose(found_margins(bounds, inputs)[1], bounds.margins["ibp"], atol=1e-12)
    found, parts = loss.loss(network, bounds, inputs, BOTH, {})
    clean = F.cross_entropy(network(batch.x), batch.y).item()
    assert [parts["loss_taps"].item(), parts["loss_ibp"].item()] == pytest.approx([clean, clean], rel=1e-12)
    assert found.item() == pytest.approx(clean**2, rel=1e-12)


def test_the_link_by_its_formula():
    """Box [1, 3], c = 1/2: nothing in the middle, 1 at the bound, linear between."""
    lower, upper = (torch.tensor([[value]]).double().requires_grad_() for value in (1.0, 3.0))
    for place, to_lower, to_upper in [(0, 1, 0), (0.125, 0.75, 0), (0.75, 0, 0.5), (1, 0, 1), (0.4375, 0.125, 0)]:
        point = linked(torch.tensor([[[place]]]).double(), (lower, upper), 0.5)
        assert point.item() == 1 + 2 * place
        found = torch.autograd.grad(point.sum(), (lower, upper))
        assert [one.item() for one in found] == pytest.approx([to_lower, to_upper], abs=1e-5)


def test_the_full_link_is_the_derivative_of_the_point():
    """At c = 1, by finite differences of `l + t (u - l)`."""
    torch.manual_seed(0)
    lower = torch.rand(4, 5).double().requires_grad_()
    upper = (lower.detach() + 0.1 + torch.rand(4, 5)).requires_grad_()
    place, weights, h = torch.rand(4, 3, 5).double(), torch.randn(4, 3, 5).double(), 1e-6

    def value(low, high):
        return float((weights * (low[:, None] + place * (high - low)[:, None])).sum())

    found = torch.autograd.grad((weights * linked(place, (lower, upper), 1.0)).sum(), (lower, upper))
    for row in range(4):
        for column in range(5):
            step = torch.zeros(4, 5).double()
            step[row, column] = h
            low, high = lower.detach(), upper.detach()
            by_lower = value(low + step, high) - value(low - step, high)
            by_upper = value(low, high + step) - value(low, high - step)
            for gradient, change in zip(found, (by_lower, by_upper), strict=True):
                assert gradient[row, column].item() == pytest.approx(change / (2 * h), abs=1e-6)


def test_a_box_without_width_shares_the_gradient():
    bound = torch.tensor([[2.0]]).requires_grad_()
    other = bound.detach().clone().requires_grad_()
    linked(torch.tensor([[[0.3]]]), (bound, other), 0.5).sum().backward()
    assert (bound.grad.item(), other.grad.item()) == (0.5, 0.5)


def test_gradients_of_the_attacked_margins_reach_both_parts():
    network, batch = small_network(), small_batch()
    _, bounds, inputs = attacked(network, batch, 0.1)
    found_margins(bounds, inputs)[1].sum().backward()
    assert all(float(network[layer].weight.grad.abs().sum()) > 0 for layer in (1, 4, 6))


@pytest.mark.parametrize(
    ("steps", "ends"), [(4, {0: 0.5}), (9, {0: 2 / 9}), (10, {0: 0.2, 7: 0.04}), (60, {0: 0.2, 24: 0.04, 42: 0.008})]
)
def test_step_sizes_are_those_of_the_papers_code(steps, ends):
    sizes = LatentAttack(steps).sizes()
    assert len(sizes) == steps
    for first, size in ends.items():
        assert sizes[first] == pytest.approx(size)
        assert first == 0 or sizes[first - 1] > sizes[first] * 4.9


def test_steps_above_eighty_are_shortened_three_times():
    sizes = LatentAttack(100, step_size=1.0).sizes()
    assert [sizes[step] for step in (29, 30, 60, 80)] == pytest.approx([1, 0.2, 0.04, 0.008])


def test_the_attack_leaves_statistics_gradients_modes_and_generators_alone():
    network, batch = small_network(batch_norm=True).train(), small_batch()
    before, generator = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    TAPS(0.1, RAMP).prepare(network, NativeEngine(network), batch, AFTER, NOISE)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(module.training for module in network.modules())
    assert network[2].track_running_stats


def test_batch_norm_after_the_split_has_the_statistics_of_the_clean_batch_while_attacked():
    """With its running ones, of inputs far away, nothing moves the logits and the attack ends where it began."""
    torch.manual_seed(0)
    first, rest = [nn.Flatten(), nn.Linear(16, 8), nn.ReLU()], [nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU()]
    network, batch = nn.Sequential(*first, *rest, nn.Linear(8, 3)), small_batch(16)
    network[4].running_mean.fill_(100)
    method, engine = TAPS(0.1, RAMP, split="2", **ROBUST), NativeEngine(network)
    by_batch, by_running = (method.prepare(network.train(on), engine, batch, AFTER, NOISE) for on in (True, False))
    network.train()
    losses = [
        method.objective(network, engine, inputs, method.phase(AFTER), method.values(AFTER)).parts["loss_taps"]
        for inputs in (by_batch, by_running)
    ]
    assert losses[0] > 1.01 * losses[1]


def test_a_resumed_training_has_the_same_bits():
    """Nothing is remembered but the step and the weights."""

    def train(method, network, optimizer, steps):
        engine = NativeEngine(network)
        for step in steps:
            optimizer.zero_grad()
            method(network, engine, small_batch(seed=step), step, NOISE).loss.backward()
            optimizer.step()

    ends = []
    for stops in (False, True):
        network = small_network()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        train(STAPS(0.1, RAMP), network, optimizer, range(8))
        if stops:
            weights, state = copy.deepcopy(network.state_dict()), copy.deepcopy(optimizer.state_dict())
            network = small_network(seed=3)
            network.load_state_dict(weights)
            optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
            optimizer.load_state_dict(state)
            torch.manual_seed(7)
        train(STAPS(0.1, RAMP), network, optimizer, range(8, 12))
        ends.append(network.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def begun(method, network):
    engine = NativeEngine(network)
    method.begin(Context(network, engine, torch.optim.SGD(network.parameters()), [], 0, 0, NOISE))


@pytest.mark.parametrize(("split", "name"), [(0.5, "3"), (0.01, "3"), ("2", "2"), (3, "3")])
def test_a_share_is_the_last_place_that_is_nearest(split, name):
    assert TapsLoss(split=split).place(NativeEngine(small_network())) == name


@pytest.mark.parametrize("split", ["fc", "0", 1, 5, 6, "input"])
@pytest.mark.parametrize("method", [TAPS, STAPS])
def test_a_split_that_leaves_a_part_without_layer_or_activation_is_refused_before_the_first_step(method, split):
    with pytest.raises(UserError, match=r"leaves no layer and activation on both sides.*") as refused:
        begun(method(0.1, RAMP, split=split), small_network())
    assert "one of 2, 3, 4, or a share" in str(refused.value)


def test_a_network_with_one_activation_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(UserError, match="no place that leaves a layer"):
        begun(TAPS(0.1, RAMP), network)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": 0.0}, "split = 0.0 is not a share"),
        ({"split": 1.0}, "split = 1.0 is not a share"),
        ({"split": True}, "neither an operation's name"),
        ({"split": None}, "neither an operation's name"),
        ({"weight": 0}, "weight = 0 is not in"),
        ({"weight": "much"}, "weight = 'much'"),
        ({"link": 0}, r"link = 0 is not in \(0, 1\]"),
        ({"link": 1.5}, "link = 1.5"),
        ({"latent_attack": {"steps": 8}}, "is not an attack"),
    ],
)
@pytest.mark.parametrize("method", [TAPS, STAPS])
def test_arguments_out_of_their_range_are_refused(method, options, words):
    with pytest.raises(UserError, match=words):
        method(0.1, RAMP, **options)


@pytest.mark.parametrize(("key", "value"), [("steps", 0), ("steps", True), ("restarts", 0), ("step_size", 0)])
def test_an_attack_without_steps_or_starts_is_refused(key, value):
    with pytest.raises(UserError, match=f"latent_attack.{key} = {value}"):
        LatentAttack(**{key: value})


def test_small_boxes_without_an_attack_are_refused():
    with pytest.raises(UserError, match=r"attack\.steps = 0 finds no adversarial input"):
        STAPS(0.1, RAMP, attack=InnerAttack(steps=0))
    with pytest.raises(UserError, match="small boxes in l2"):
        STAPS(0.1, RAMP, norm="l2")


def test_regions_and_losses_combine():
    network, batch = small_network(), small_batch()
    engine = NativeEngine(network)
    built = BoundTraining(0.1, RAMP, TapsLoss(), SmallBoxes(0.4))(network, engine, batch, AFTER, NOISE)
    assert torch.equal(built.loss, STAPS(0.1, RAMP)(network, engine, batch, AFTER, NOISE).loss)
