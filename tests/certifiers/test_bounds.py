"""Deterministic certificates: which status an example gets, and what can never count as verified."""

import copy
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from answers import Sign, batch
from small_networks import network
from torch import nn

from certtrain.attacks import pgd_margins
from certtrain.bounds import Bounds, NativeEngine
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.certifiers import BoundCertifier
from certtrain.data import Batch
from certtrain.errors import UserError
from certtrain.threat import threat_of


class Answers:
    """An engine that answers what it was told: per radius the least margin of each example, or an exception."""

    name, version, methods = "answers", "0", ("ibp", "crown")

    def __init__(self, table):
        self.table = {float(Fraction(r)): v for r, v in table.items()}
        self.asked: list[tuple[float, int]] = []

    def __call__(self, network):
        self.network = network
        return self

    def bounds(self, x, y, threat, methods=("ibp",)):
        self.asked.append((float(threat.eps), len(x)))
        answer = self.table[float(threat.eps)]
        if isinstance(answer, Exception):
            raise answer
        rows = torch.tensor(answer, dtype=x.dtype)[(64 * x[:, 0]).long()]
        return Bounds(self.network(x), dict.fromkeys(methods, rows[:, None]), ())


def certify(table, n=4, wrong=(), radii=("0.1", "0.2", "0.3"), **options):
    engine = Answers(table)
    certifier = BoundCertifier(["ibp"], radii, engine, attack_steps=0, **{"batch_size": 256, **options})
    net, data = Sign(), batch(n, wrong)
    certifier.check_network(net, data)  # asks the engine about the first example
    engine.asked.clear()
    return certifier.certify(net, data), engine


def test_the_radius_is_the_largest_that_verified_though_bounds_are_not_monotone():
    """Row 0 verifies at 0.3 only in one bound's whim; row 1 at 0.2; row 2 nowhere; row 3 is misclassified."""
    found, engine = certify({"0.1": [-1, -1, -1, 1], "0.2": [-1, 1, -1, 1], "0.3": [1, -1, -1, 1]}, wrong=(3,))
    assert found.radius.tolist() == [0.3, 0.2, 0.0, 0.0]
    assert list(found.columns["status@0.1"]) == ["verified", "verified", "unknown", "misclassified"]
    assert list(found.columns["status@0.3"]) == ["verified", "unknown", "unknown", "misclassified"]
    assert found.correct.tolist() == [True, True, True, False]
    assert engine.asked == [(0.3, 3), (0.2, 2), (0.1, 1)]  # from the largest down, only what is still open
    assert found.index.tolist() == [100, 101, 102, 103]


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinite_bounds_are_invalid_and_never_verified(poison):
    found, _ = certify({"0.1": [poison, 1.0], "0.2": [poison, -1.0]}, n=2, radii=("0.1", "0.2"))
    assert list(found.columns["status@0.2"]) == ["invalid", "unknown"]
    assert list(found.columns["status@0.1"]) == ["invalid", "verified"]
    assert found.radius.tolist() == [0.0, 0.1]


def test_a_margin_of_exactly_zero_is_not_verified():
    found, _ = certify({"0.1": [0.0, 1e-300]}, n=2, radii=("0.1",))
    assert list(found.columns["status@0.1"]) == ["unknown", "verified"]


def test_an_invalid_bound_at_a_large_radius_does_not_hide_a_proof_at_a_smaller_one():
    found, _ = certify({"0.1": [1.0], "0.2": [float("nan")]}, n=1, radii=("0.1", "0.2"))
    assert list(found.columns["status@0.2"]) == ["invalid"]
    assert found.radius.tolist() == [0.1]


def test_a_crash_of_the_engine_is_an_error_with_its_reason_and_other_radii_go_on():
    table = {"0.1": [1.0, -1.0], "0.2": RuntimeError("out of\tmemory\nmore")}
    found, _ = certify(table, n=2, radii=("0.1", "0.2"))
    assert list(found.columns["status@0.2"]) == ["error", "error"]
    assert list(found.columns["status@0.1"]) == ["verified", "unknown"]
    assert list(found.columns["reason"]) == ["ibp at 0.2: RuntimeError: out of memory"] * 2


def test_a_users_mistake_in_the_engine_is_not_an_error_of_the_examples():
    with pytest.raises(UserError, match="no such layer"):
        certify({"0.1": UserError("no such layer")}, radii=("0.1",))


def test_several_methods_prove_what_any_of_them_proves_and_name_it():
    class Two(Answers):
        def bounds(self, x, y, threat, methods=()):
            rows = (64 * x[:, 0]).long()
            ibp = torch.tensor([1.0, -1.0, float("nan"), -1.0], dtype=x.dtype)[rows, None]
            crown = torch.tensor([2.0, 2.0, 2.0, -0.5], dtype=x.dtype)[rows, None]
            return Bounds(self.network(x), {"ibp": ibp, "crown": crown}, ())

    found = BoundCertifier(["ibp", "crown"], ["0.1"], Two({}), attack_steps=0).certify(Sign(), batch(4))
    assert list(found.columns["decided_by"]) == ["ibp", "crown", "crown", ""]
    assert found.columns["margin"].tolist() == [1.0, 2.0, 2.0, -0.5]
    assert list(found.columns["status@0.1"]) == ["verified", "verified", "verified", "unknown"]


def test_non_finite_logits_are_misclassified():
    class Broken(nn.Module):
        def forward(self, x):
            return Sign()(x) + torch.where(x[:, :1] > 0, torch.nan, 0.0)

    found = BoundCertifier(["ibp"], ["0.1"], Answers({"0.1": [1.0, 1.0]}), attack_steps=0).certify(Broken(), batch(2))
    assert found.correct.tolist() == [True, False]
    assert list(found.columns["status@0.1"]) == ["verified", "misclassified"]


@pytest.mark.parametrize(
    ("methods", "radii", "options"),
    [
        (["ipb"], ["0.1"], {}),
        (["ibp"], [], {}),
        (["ibp"], ["-1"], {}),
        (["ibp"], ["0.1"], {"precision": "float16"}),
        (["ibp"], ["0.1"], {"norm": "l1"}),
    ],
)
def test_settings_that_make_no_sense_are_refused(methods, radii, options):
    with pytest.raises(UserError):
        BoundCertifier(methods, radii, NativeEngine, **options)


def test_a_method_that_the_engine_lacks_is_refused_and_the_other_engine_named():
    with pytest.raises(UserError, match="crown_zero") as error:
        BoundCertifier(["crown_zero"], ["0.1"], AutoLirpaEngine)
    assert "bounds=native has it" in str(error.value)


def examples(seed: int, n: int = 60) -> Batch:
    x = torch.rand(n, 4, generator=torch.Generator().manual_seed(seed))
    return Batch(x, network(seed)(x).argmax(1), torch.arange(n))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", range(3))
def test_no_attack_breaks_a_certificate_and_falsified_is_falsified(norm, seed):
    net, data = network(seed), examples(seed)
    radii = ["0.003", "0.03", "0.1", "0.5"]
    certifier = BoundCertifier(["ibp", "crown"], radii, NativeEngine, norm=norm, attack_steps=30, attack_restarts=2)
    found = certifier.certify(net, data)
    seen = set()
    for radius in certifier.radii:
        status = found.columns[f"status@{float(radius):g}"]
        seen |= set(status)
        proved = torch.from_numpy(status == "verified")
        assert (found.radius[status == "verified"] >= float(radius)).all()
        if proved.any():
            x, y = data.x.double()[proved], data.y[proved]
            attack = pgd_margins(net.double(), x, y, threat_of(norm, radius), steps=50, restarts=5)
            assert bool((attack.margin > 0).all())
            net.float()
    assert {"verified", "falsified"} <= seen


def test_falsified_at_a_radius_is_falsified_at_every_larger_one():
    net, data = network(0), examples(0)
    certifier = BoundCertifier(["ibp"], ["0.02", "0.1", "0.3"], NativeEngine, attack_steps=20)
    found = certifier.certify(net, data)
    order = ["0.02", "0.1", "0.3"]
    for smaller, larger in pairwise(order):
        fell = found.columns[f"status@{smaller}"] == "falsified"
        assert (found.columns[f"status@{larger}"][fell] == "falsified").all()


def test_the_proof_is_of_the_weights_as_they_are_now_and_leaves_the_network_alone():
    net, data = network(1).train(), examples(1, 10)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    certifier = BoundCertifier(["ibp"], ["0.02"], NativeEngine, attack_steps=5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    first = certifier.certify(net, data)
    assert net.training
    assert torch.equal(state, torch.get_rng_state())
    assert bool((net[0].weight.grad == 1).all())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net[0].weight.dtype == torch.float32
    with torch.no_grad():
        net[0].weight.mul_(3)
    second = certifier.certify(net, data)
    fresh = BoundCertifier(["ibp"], ["0.02"], NativeEngine, attack_steps=5).certify(net, data)
    assert not np.array_equal(first.columns["margin"], second.columns["margin"])
    assert np.array_equal(fresh.columns["margin"], second.columns["margin"], equal_nan=True)


def test_float64_proves_no_more_than_the_exact_minimum_of_a_linear_classifier():
    """z = +-(w.x + b): the margin over the box is 2(w.x + b) - 2 eps |w|_1, and the certificate ends exactly there."""
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.5, -0.25, 0.125], [-0.5, 0.25, -0.125]]))
        net.bias.zero_()
    x = torch.tensor([[0.75, 0.25, 0.5]])  # w.x = 0.375, |w|_1 = 0.875: the largest radius is 3/7
    data = Batch(x, torch.tensor([0]), torch.tensor([0]))
    below, above = Fraction(3, 7) - Fraction(1, 10**6), Fraction(3, 7) + Fraction(1, 10**6)
    certifier = BoundCertifier(["ibp"], [below, above], NativeEngine, attack_steps=10)
    certifier.threat = threat_of(lower=None, upper=None, outward=True)
    found = certifier.certify(net, data)
    assert found.radius.tolist() == [float(below)]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("value", [-0.01, 1.01, 2.0])
def test_inputs_outside_the_range_are_refused(norm, value):
    """Clipped to the range, a box around 2 is the point 1: every prediction would be certified."""
    data = examples(0, 4)
    data.x[2, 1] = value
    with pytest.raises(UserError, match="inputs between"):
        BoundCertifier(["ibp"], ["0.1"], NativeEngine, norm=norm, attack_steps=0).certify(network(0), data)


class Flagged(nn.Module):
    """A forward that also depends on what no state_dict holds."""

    def __init__(self):
        super().__init__()
        self.body, self.sign = network(0), 1
        self.register_buffer("hidden", torch.ones(3), persistent=False)

    def forward(self, x):
        z = self.body(x) * self.sign * self.hidden
        return z * 100 if self.training else z


@pytest.mark.parametrize("change", ["attribute", "buffer", "module"])
def test_float64_sees_changes_that_the_state_dict_does_not_show(change):
    net, data = Flagged(), examples(0, 10)
    certifier = BoundCertifier(["ibp"], ["0.001"], NativeEngine, attack_steps=0)
    first = certifier.certify(net, data)
    if change == "attribute":
        net.sign = -1
    elif change == "buffer":
        net.hidden.mul_(-1)
    else:
        net.body[1] = nn.Identity()
    second = certifier.certify(net, data)
    assert first.columns["status@0.001"].tolist() != second.columns["status@0.001"].tolist()
    assert np.array_equal(second.predict, net.eval()(data.x).argmax(1).numpy())


def test_the_network_is_traced_in_eval_mode():
    net, data = Flagged().train(), examples(0, 10)
    margins = [
        BoundCertifier(["ibp"], ["0.001"], NativeEngine, attack_steps=0).certify(n, data).columns["margin"]
        for n in (net, copy.deepcopy(net).eval())
    ]
    assert np.array_equal(*margins, equal_nan=True)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_an_engine_that_bounds_another_function_is_refused(precision):
    def engine(net):
        found = NativeEngine(net)
        net[1].register_forward_hook(lambda module, args, out: -out)  # what tracing cannot see any more
        return found

    net = nn.Sequential(nn.Identity(), nn.Sequential(nn.Linear(4, 12), nn.ReLU()), nn.Linear(12, 3))
    data = examples(0, 10)._replace(y=torch.arange(10) % 3)
    certifier = BoundCertifier(["ibp"], ["0.1"], engine, precision=precision, attack_steps=0)
    with pytest.raises(UserError, match=r"logits are not those|depend on .* earlier calls"):
        certifier.certify(net, data)


@pytest.mark.parametrize("free", [None, 100_000, 0])
def test_certificates_do_not_depend_on_how_many_examples_are_bounded_at_once(monkeypatch, free):
    monkeypatch.setattr("certtrain.certifiers.pieces.budget", lambda device: free)
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        net[0].bias.copy_(-net[0].weight.sum(1) / 2)
        net[2].bias.zero_()
        net[4].bias.zero_()
    x = torch.rand(23, 4)
    data, radii = Batch(x, net(x).argmax(1), torch.arange(23)), ["0.003", "0.03", "0.1"]
    found = {
        size: BoundCertifier(["ibp", "crown"], radii, NativeEngine, batch_size=size).certify(net, data)
        for size in (23, 1, 5, None)
    }
    assert len(set(found[23].radius)) > 1
    for other in found.values():
        assert np.array_equal(other.radius, found[23].radius)
        assert np.array_equal(other.columns["decided_by"], found[23].columns["decided_by"])
        assert np.allclose(other.columns["margin"], found[23].columns["margin"], rtol=1e-9, equal_nan=True)


def test_a_piece_that_runs_out_of_memory_is_halved():
    class Greedy(Answers):
        def bounds(self, x, y, threat, methods):
            if len(x) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().bounds(x, y, threat, methods)

    engine = Greedy({"0.1": [1, 1, -1, 1, 1]})
    found = BoundCertifier(["ibp"], ["0.1"], engine, attack_steps=0, batch_size=5).certify(Sign(), batch(5))
    assert list(found.columns["status@0.1"]) == ["verified", "verified", "unknown", "verified", "verified"]
    assert [rows for _, rows in engine.asked] == [1, 2, 2, 1]  # the first one: whether the network is supported
