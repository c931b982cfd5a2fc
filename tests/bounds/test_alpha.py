"""alpha-CROWN by hand, against the best slopes there are by trying all, and never below CROWN."""

import itertools

import pytest
import torch
from torch import nn

from certtrain.bounds import NativeEngine, alpha
from certtrain.bounds.activations import Elu, Gelu, LeakyRelu, Sigmoid, Silu, Softplus, Tanh, TanhGelu
from certtrain.bounds.parameters import Parameters
from certtrain.bounds.relaxation import Slopes
from certtrain.errors import UserError
from certtrain.kernels.sloped import SlopedRelu
from certtrain.threat import threat_of

FREE = threat_of("linf", 1.0, lower=None, upper=None)
DOUBLE = torch.float64


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def by_hand(first, last, offset):
    """Two inputs in [-1, 1], `relu(first) @ last + offset` as the margin of class 0."""
    weight, bias = first
    return nn.Sequential(linear(weight, bias), nn.ReLU(), linear([last, [0.0] * len(last)], [offset, 0.0])).eval()


# f = relu(x1 + x2 + .5) + relu(x1 - x2 + .5) >= 0, and relu(t) - relu(t - .5) + .5 with t = x1 + x2.
SUM = by_hand(([[1.0, 1.0], [1.0, -1.0]], [0.5, 0.5]), [1.0, 1.0], 0.0)
DIFFERENCE = by_hand(([[1.0, 1.0], [1.0, 1.0]], [0.0, -0.5]), [1.0, -1.0], 0.5)


def margins(net, x=None, y=None, threat=FREE, methods=("crown", "crown_zero", "alpha_crown"), **options):
    x = torch.zeros(1, 2, dtype=DOUBLE) if x is None else x
    y = torch.zeros(len(x), dtype=torch.int64) if y is None else y
    return NativeEngine(net, **options).bounds(x, y, threat, methods).margins


def test_worked_example_of_a_sum():
    """Slopes 1 give 2 x1 + 1 >= -1, slopes 0 give 0, which is the least value."""
    found = {method: value.item() for method, value in margins(SUM).items()}
    assert found["crown"] == pytest.approx(-1)
    assert found["crown_zero"] == pytest.approx(0)
    assert found["alpha_crown"] == pytest.approx(0, abs=1e-6)


def test_worked_example_of_a_difference():
    """The chord of z2 is .375 t + .75; a lower slope of .375 for z1 leaves -.25, and 0 as well as 1 leave -1."""
    found = {method: value.item() for method, value in margins(DIFFERENCE, iterations=200, rate=0.1).items()}
    assert found["crown"] == pytest.approx(-1)
    assert found["crown_zero"] == pytest.approx(-1)
    assert -0.251 < found["alpha_crown"] <= -0.25 + 1e-12


def small(seed, sizes=(2, 3, 2, 2), activation=nn.ReLU):
    torch.manual_seed(seed)
    layers = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1]).double().eval()


def chord(lower, upper):
    slope = upper / (upper - lower)
    return slope, -slope * lower


def best_of_grid(a, constant, layers, boxes, steps):
    """The largest lower bound of <a, output of the last of the layers> over a grid of all lower slopes."""
    slopes = [[]]
    unstable = [(k, i) for k, (low, up) in enumerate(boxes) for i in range(len(low)) if low[i] < 0 < up[i]]
    grid = torch.linspace(0, 1, steps, dtype=DOUBLE)
    slopes = torch.cartesian_prod(*[grid] * len(unstable)).view(-1, max(1, len(unstable)))
    count = len(slopes)
    a, constant = a.expand(count, -1), torch.full((count,), float(constant), dtype=DOUBLE)
    for k in reversed(range(len(layers))):
        layer, nonlinear = layers[k], k < len(boxes)
        if nonlinear:
            low, up = boxes[k]
            alpha_ = ((low > 0).to(DOUBLE)).expand(count, -1).clone()
            high, offset = (up > 0).to(DOUBLE), torch.zeros_like(up)
            for place, (at, i) in enumerate(unstable):
                if at == k:
                    alpha_[:, i] = slopes[:, place]
                    high[i], offset[i] = chord(low[i], up[i])
            constant = constant + a.clamp(max=0) @ offset
            a = a.clamp(min=0) * alpha_ + a.clamp(max=0) * high
        constant = constant + a @ layer.bias
        a = a @ layer.weight
    return (constant - a.abs().sum(1)).max()


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_it_reaches_the_best_of_all_slopes(seed):
    """Every side of every neuron, and then the margin, by trying a grid of slopes, written out anew here."""
    net = small(seed)
    first, second, last = net[0], net[2], net[4]
    with torch.no_grad():
        reach = first.weight.abs().sum(1)
        boxes = [(first.bias - reach, first.bias + reach)]
        inside = [], []
        for i, sign in itertools.product(range(2), (1, -1)):
            a, constant = sign * second.weight[i][None], sign * second.bias[i]
            inside[sign < 0].append(sign * best_of_grid(a, constant, [first], boxes, 41))
        boxes.append((torch.stack(inside[0]), torch.stack(inside[1])))
        a, constant = (last.weight[0] - last.weight[1])[None], last.bias[0] - last.bias[1]
        best = best_of_grid(a, constant, [first, second], boxes, 17)
        found = margins(net, iterations=150, rate=0.2, stop=False)
    assert found["alpha_crown"].item() > best.item() - 2e-3 * (1 + best.abs().item())
    assert found["alpha_crown"].item() < best.item() + 0.1 * (1 + best.abs().item())  # the grid is coarse
    assert found["alpha_crown"].item() >= found["crown_zero"].item() - 1e-9 >= found["crown"].item() - 2e-9


def conv():
    """Of large weights: small ones would leave most neurons stable."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 2
    return net


def batch(seed, n=3):
    torch.manual_seed(seed)
    return torch.rand(n, 1, 8, 8, dtype=DOUBLE), torch.arange(n) % 3


@pytest.mark.parametrize("options", [{}, {"shared": True}, {"stop": True}, {"intermediates": False}])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_iterate_is_looser_than_crown_and_more_of_them_are_tighter(norm, options):
    x, y = batch(0)
    net, threat = conv(), threat_of(norm, {"linf": 0.1, "l2": 0.5}[norm])
    previous = None
    for iterations in (0, 1, 6, 20):
        found = margins(net, x, y, threat, iterations=iterations, **{"stop": False, **options})
        assert (found["alpha_crown"] >= found["crown"]).all()
        gain = (found["alpha_crown"] - found["crown"]).mean()
        if previous is not None and not options.get("stop"):
            assert gain > previous - 1e-3
        previous = gain
    assert previous > 1e-3


def test_inside_the_network_it_gains_and_of_its_own_lines_more_than_of_shared_ones():
    x, y = batch(1)
    net, threat = conv(), threat_of("linf", 0.15)
    kinds = ({"intermediates": False}, {"shared": True}, {})
    outside, shared, own = (margins(net, x, y, threat, stop=False, **kind)["alpha_crown"].mean() for kind in kinds)
    assert outside + 1e-3 < shared < own


def test_pieces_change_nothing(monkeypatch):
    x, y = batch(2)
    net, threat = conv(), threat_of("linf", 0.1)
    for shared in (False, True):
        whole = margins(net, x, y, threat, shared=shared, iterations=4)
        with monkeypatch.context() as patch:
            patch.setattr(alpha, "PIECE", 20000)
            parts = margins(net, x, y, threat, shared=shared, iterations=4)
        for method, found in whole.items():
            torch.testing.assert_close(parts[method], found, rtol=0, atol=1e-4)


def test_what_crown_proves_is_left_as_it_is_and_what_is_proved_on_the_way_is_left_then():
    x, y = batch(3)
    net = conv()
    y = net(x).argmax(1)
    threat = threat_of("linf", 0.01)
    early, all_ = (margins(net, x, y, threat, stop=stop) for stop in (True, False))
    proved = early["crown"] > 0
    assert proved.any()
    assert torch.equal(early["alpha_crown"][proved], early["crown"][proved])
    assert ((early["alpha_crown"] > 0) == (all_["alpha_crown"] > 0)).all()
    assert (all_["alpha_crown"] >= early["alpha_crown"] - 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_are_those_of_the_lines_found_in_the_precision_asked_for(dtype):
    x, y = batch(4)
    net, threat = conv(), threat_of("linf", 0.1)
    found = margins(net.to(dtype), x.to(dtype), y, threat)
    assert all(value.dtype == dtype for value in found.values())
    assert not found["alpha_crown"].requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_in_every_mode_of_autograd(mode):
    x, y = batch(5)
    net, threat = conv(), threat_of("linf", 0.1)
    with mode():
        found = margins(net, x.clone(), y, threat)["alpha_crown"]
    torch.testing.assert_close(found.clone(), margins(net, x, y, threat)["alpha_crown"])


def test_over_the_outward_rounded_set_of_certificates_which_there_is_in_float64_alone():
    x, y = batch(7)
    net = conv()
    found, plain = (margins(net, x, y, threat_of("linf", 0.1, outward=some))["alpha_crown"] for some in (True, False))
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-4)
    assert not torch.equal(found, plain)


def test_what_is_no_number_stays_so_and_harms_no_other_example():
    x, y = batch(6)
    net, threat = conv(), threat_of("linf", 0.1)
    alone = margins(net, x[1:], y[1:], threat)["alpha_crown"]
    x[0, 0, 0, 0] = torch.nan
    found = margins(net, x, y, threat)["alpha_crown"]
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1:], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{"iterations": -1}, {"iterations": 1.5}, {"rate": 0.0}, {"rate": float("nan")}])
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        NativeEngine(conv(), **options)


def test_gradient_of_the_slopes():
    torch.manual_seed(0)
    a, low = torch.randn(2, 3, 5, dtype=DOUBLE, requires_grad=True), torch.rand(2, 3, 5, dtype=DOUBLE)
    high, offset = torch.rand(2, 5, dtype=DOUBLE), torch.rand(2, 5, dtype=DOUBLE)
    assert torch.autograd.gradcheck(lambda *given: SlopedRelu.apply(*given, high, offset), (a, low.requires_grad_()))


CURVES = [Sigmoid(), Tanh(), Gelu(), TanhGelu(), Silu(), Elu(1.0, 1.0), Elu(0.4, 1.0), Softplus(1.0, 20.0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("op", [*CURVES, LeakyRelu(0.1)], ids=lambda op: type(op).__name__)
def test_lines_of_any_parameters_are_around_the_function(op, dtype):
    """One neuron a box: z and -z through random parameters and those at the ends, against f at points of the box."""
    torch.manual_seed(0)
    ends = (torch.randn(400, 2, dtype=dtype) * torch.tensor([8.0, 3.0, 0.5, 1e-3]).repeat(100)[:, None]).sort(1).values
    ends[:4] = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [-30.0, 40.0]], dtype=dtype)
    lower, upper = ends.unbind(1)
    free = op.freedom(lower[:, None], upper[:, None])
    z = torch.lerp(lower[:, None].double(), upper[:, None].double(), torch.linspace(0, 1, 201, dtype=DOUBLE))
    value = op.forward(z)
    a = torch.tensor([1.0, -1.0], dtype=dtype)[None, :, None].expand(400, 2, 1).contiguous()
    for share in (0.0, 0.3, 1.0, None):
        values = []
        for start, (least, most) in zip(free.start(), free.limits(), strict=True):
            where = torch.rand(400, 2, 1, dtype=dtype) if share is None else torch.full((400, 2, 1), share, dtype=dtype)
            least, most = (torch.as_tensor(end, dtype=dtype).expand_as(start) for end in (least, most))
            values.append(torch.lerp(least[:, None], most[:, None], where))
        slope, constant = (part.double() for part in free.backward(a, values))
        line = slope * z[:, None] + constant[:, :, None]
        gap = a.double() * value[:, None] - line
        rounding = torch.finfo(dtype if isinstance(op, LeakyRelu) else DOUBLE).eps  # curves round outward
        assert gap.min() >= -4 * rounding * (1 + value.abs().max()), (share, gap.min())


@pytest.mark.parametrize("op", [*CURVES, LeakyRelu(0.1)], ids=lambda op: type(op).__name__)
def test_parameters_start_at_the_lines_of_crown(op):
    torch.manual_seed(1)
    lower, upper = (3 * torch.randn(200, 2, dtype=DOUBLE)).sort(1).values[:, :, None].unbind(1)
    free = op.freedom(lower, upper)
    a = torch.tensor([1.0, -1.0], dtype=DOUBLE)[None, :, None].expand(200, 2, 1).contiguous()
    values = [start[:, None].expand(-1, 2, -1) for start in free.start()]
    for ours, theirs in zip(free.backward(a, values), op.lines(lower, upper).backward(a), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_parameters_are_put_within_the_limits_of_other_boxes():
    """A neuron that has become stable has its one line, whatever was found for it while it was not."""
    wide = {1: Slopes.of(torch.tensor([[-1.0, -1.0]]), torch.tensor([[1.0, 1.0]]))}
    lines = Parameters(wide)
    a = torch.ones(1, 1, 2)
    lines[1].at(torch.tensor([0])).backward(a)
    lines.values[1][0].fill_(0.3)
    narrow = {1: Slopes.of(torch.tensor([[0.1, -1.0]]), torch.tensor([[1.0, -0.1]]))}
    before, constant = Parameters(narrow, lines.values)[1].at(torch.tensor([0])).backward(a)
    assert before.flatten().tolist() == [1.0, 0.0]
    assert constant.item() == 0
