"""The cascade: what each stage sees, which status results, and that it proves what its bounds prove alone."""

import functools
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from answers import Answers, Sign, batch, certify, status
from small_networks import network
from torch import nn

from certtrain.attacks import pgd_margins
from certtrain.bounds import Bounds, NativeEngine
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.certificates import STATUSES
from certtrain.certificates.summary import cascade_summary, status_counts
from certtrain.certifiers import BoundCertifier, CascadeCertifier, Certifier
from certtrain.certifiers import cascade as module
from certtrain.data import Batch
from certtrain.errors import UserError
from certtrain.threat import threat_of


def test_each_stage_goes_from_the_largest_radius_down_over_what_is_open_there():
    """Row 0 is proved at 0.3 at once, row 1 at 0.2 by ibp, at 0.3 by crown, row 2 nowhere; row 3 is misclassified."""
    table = {
        "ibp": {0.3: [1, -1, -1, 1], 0.2: [9, 2, -2, 9], 0.1: [9, 9, -3, 9]},
        "crown": {0.3: [9, 3, -4, 9], 0.2: [9, 9, -0.5, 9], 0.1: [9, 9, -0.25, 9]},
    }
    found, engine = certify(table, wrong=(3,))
    assert engine.asked == [
        *(("ibp", "64", 0.3, [0, 1, 2]), ("ibp", "64", 0.2, [1, 2]), ("ibp", "64", 0.1, [2])),
        *(("crown", "64", 0.3, [1, 2]), ("crown", "64", 0.2, [2]), ("crown", "64", 0.1, [2])),
    ]
    assert found.radius.tolist() == [0.3, 0.3, 0.0, 0.0]
    assert list(found.columns["decided_by"]) == ["ibp", "crown", "", ""]
    assert found.columns["margin"].tolist()[:3] == [1.0, 3.0, -0.25]
    assert np.isnan(found.columns["margin"][3])
    assert status(found, "0.1") == ["verified", "verified", "unknown", "misclassified"]
    seen = {name: (found.columns[f"seconds_{name}"] > 0).tolist() for name in table}
    assert seen == {"ibp": [True, True, True, False], "crown": [False, True, True, False]}


def test_a_dear_stage_does_not_look_below_what_is_proved_and_its_failure_above_keeps_the_proofs_margin():
    table = {"ibp": {0.2: [-1], 0.1: [2]}, "crown": {0.2: [-7], 0.1: [9]}}
    found, engine = certify(table, n=1, radii=("0.1", "0.2"))
    assert [(m, eps) for m, _, eps, _ in engine.asked] == [("ibp", 0.2), ("ibp", 0.1), ("crown", 0.2)]
    assert (found.radius.tolist(), found.columns["margin"].tolist()) == ([0.1], [2.0])


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_bounds_that_are_no_numbers_are_invalid_only_where_no_other_stage_decides(poison):
    table = {"ibp": {0.1: [poison, poison, -1]}, "crown": {0.1: [1, -1, poison]}}
    found, _ = certify(table, n=3, radii=("0.1",))
    assert status(found, "0.1") == ["verified", "invalid", "invalid"]
    assert found.radius.tolist() == [0.1, 0, 0]


def test_a_crash_is_an_error_with_its_reason_only_where_nothing_else_decides():
    table = {
        "ibp": {0.2: RuntimeError("broken\tpipe\nmore"), 0.1: [-1, 5]},
        "crown": {0.2: [1, -1], 0.1: [1, -1]},
    }
    found, _ = certify(table, n=2, radii=("0.1", "0.2"))
    assert status(found, "0.2") == ["verified", "error"]
    assert status(found, "0.1") == ["verified", "verified"]
    assert list(found.columns["reason"]) == ["", "ibp at 0.2: RuntimeError: broken pipe"]
    found, _ = certify({"ibp": {0.1: [1]}, "crown": {0.1: RuntimeError("never reached")}}, n=1, radii=("0.1",))
    assert "reason" not in found.columns


def test_a_margin_of_exactly_zero_is_not_verified():
    found, _ = certify({"ibp": {0.1: [0.0, 1e-300]}}, n=2, radii=("0.1",))
    assert status(found, "0.1") == ["unknown", "verified"]


def test_memory_that_runs_out_halves_the_batch_for_the_rest():
    class Small(Answers):
        def bounds(self, x, y, threat, methods):
            if len(x) > 2:
                raise torch.OutOfMemoryError("out of memory")
            return super().bounds(x, y, threat, methods)

    engine = Small({"ibp": {0.2: [1, -1, 1, -1, 1, -1, 1], 0.1: [1] * 7}})
    found = CascadeCertifier(["ibp"], ["0.1", "0.2"], engine, attacks=[]).certify(Sign(), batch(7))
    assert found.radius.tolist() == [0.2, 0.1, 0.2, 0.1, 0.2, 0.1, 0.2]
    assert max(len(rows) for *_, rows in engine.asked) <= 2


def test_one_example_that_never_fits_is_an_error_with_the_reason():
    class Greedy(Answers):
        def bounds(self, x, y, threat, methods):
            if (64 * x[:, 0]).long().tolist().count(1):
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
            return super().bounds(x, y, threat, methods)

    engine = Greedy({"ibp": {0.1: [1, 1, 1]}})
    found = CascadeCertifier(["ibp"], ["0.1"], engine, attacks=[]).certify(Sign(), batch(3))
    assert status(found, "0.1") == ["verified", "error", "verified"]
    assert "can't allocate memory" in found.columns["reason"][1]


def test_the_screen_confirms_in_float64_and_counts_what_changed():
    """Row 0: both prove. 1: float32 alone. 2: clearly not. 3: just not, but float64 proves. 4: no number in float32."""
    rough, exact = [1, 1, -1, -1e-4, float("nan")], [1, -1e-9, 9, 1e-9, 1]
    found, engine = certify(
        {"ibp": {0.1: {"32": rough, "64": exact}, 0.10000000149011612: rough}}, n=5, radii=("0.1",), screen=True
    )
    assert [(kind, rows) for _, kind, _, rows in engine.asked] == [("32", [0, 1, 2, 3, 4]), ("64", [0, 1, 3, 4])]
    assert status(found, "0.1") == ["verified", "unknown", "unknown", "verified", "verified"]
    assert found.columns["float32_changed"].tolist() == [0, 1, 0, 1, 1]
    summary = cascade_summary(found, (Fraction("0.1"),))
    assert summary["float32_changed"] == 3
    plain, _ = certify({"ibp": {0.1: exact}}, n=5, radii=("0.1",))
    assert cascade_summary(plain, (Fraction("0.1"),))["float32_changed"] is None


def test_a_users_mistake_in_an_engine_is_not_an_error_of_the_examples():
    with pytest.raises(UserError, match="no such layer"):
        certify({"ibp": {0.1: UserError("no such layer")}}, radii=("0.1",))


@pytest.mark.parametrize("refusing", ["ibp", "alpha_crown"])
def test_a_network_that_a_late_stage_cannot_bound_is_refused_before_any_work(refusing):
    """Nothing is attacked and nothing bounded first; a crash there is no refusal."""
    asked = []

    class Refuses(Answers):
        methods = (refusing, "crown")

        def bounds(self, x, y, threat, methods):
            asked.append((methods, len(x)))
            raise UserError("no rule for MaxPool2d")

    class Crashes(Refuses):
        def bounds(self, x, y, threat, methods):
            raise RuntimeError("not now")

    net = Sign()
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    early, late = Answers({"crown": {0.1: [1, 1]}}), Refuses({})
    cascade = CascadeCertifier(["crown", refusing], ["0.1"], early, engines={refusing: late})
    with pytest.raises(UserError, match="no rule for MaxPool2d"):
        cascade.certify(net, batch(2))
    assert (asked, calls) == ([((refusing,), 1)], [])
    assert [len(rows) for *_, rows in early.asked] == [1]
    crashing = CascadeCertifier(["crown", refusing], ["0.1"], early, engines={refusing: Crashes({})}, attacks=[])
    assert status(crashing.certify(Sign(), batch(2)), "0.1") == ["verified", "verified"]


def test_an_engine_that_bounds_another_function_is_refused():
    class Other(Answers):
        def bounds(self, x, y, threat, methods):
            return Bounds(-self.network(x), {"ibp": torch.ones(len(x), 1, dtype=x.dtype)}, ())

    with pytest.raises(UserError, match="logits are not those"):
        CascadeCertifier(["ibp"], ["0.1"], Other({}), attacks=[]).certify(Sign(), batch(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ["ipb"]}, "unknown bound 'ipb'"),
        ({"stages": []}, "stages = "),
        ({"stages": ["ibp", "ibp"]}, "stages = "),
        ({"stages": "ibp"}, "stages = "),
        ({"engines": {"crwn": NativeEngine}}, "unknown bound 'crwn'"),
        ({"attacks": ["pdg_ce"]}, "unknown attack 'pdg_ce'"),
        ({"radii": []}, "empty"),
        ({"bisect": 0}, "tolerance of 0"),
        ({"bisect": "x"}, "not a radius"),
        ({"bisect_up_to": "0.1"}, "does not lie beyond the radii"),
        ({"norm": "l1"}, "l1 is not a set that bounds are about"),
        ({"batch_size": 0}, "batch_size = 0 is not a whole number >= 1"),
        ({"attack_restarts": -1}, "attack_restarts = -1 is not a whole number >= 0"),
        ({"attack_steps": 2.5}, "attack_steps = 2.5 is not a whole number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    options = {"stages": ["ibp"], "radii": ["0.1"], "engine": NativeEngine, **change}
    with pytest.raises(UserError, match=message):
        CascadeCertifier(**options)


def test_a_stage_that_its_engine_lacks_is_refused():
    with pytest.raises(UserError, match="'auto_lirpa' has no 'crown_zero'") as error:
        CascadeCertifier(["crown_zero"], ["0.1"], functools.partial(AutoLirpaEngine))
    assert "native has it" in str(error.value)
    hidden = CascadeCertifier(["crown_zero"], ["0.1"], lambda network: AutoLirpaEngine(network), attacks=[])
    with pytest.raises(UserError, match="'auto_lirpa' has no 'crown_zero'"):
        hidden.certify(network(0), examples(0))


def test_an_engine_that_cannot_be_made_is_refused_before_anything_is_computed():
    def missing(network):
        raise UserError("auto_LiRPA is not installed")

    cascade = CascadeCertifier(["ibp", "crown"], ["0.1"], NativeEngine, engines={"crown": missing})
    data = examples(0)
    with pytest.raises(UserError, match="not installed"):
        cascade.certify(network(0), data._replace(y=(data.y + 1) % 3))


def test_inputs_outside_the_range_are_refused():
    data = batch(2)
    data.x[0, 1] = 1.01
    with pytest.raises(UserError, match="inputs between"):
        CascadeCertifier(["ibp"], ["0.1"], NativeEngine).certify(Sign(), data)


def examples(seed: int, n: int = 50) -> Batch:
    x = torch.rand(n, 4, generator=torch.Generator().manual_seed(seed))
    y = network(seed)(x).argmax(1)
    y[:3] = (y[:3] + 1) % 3
    return Batch(x, y, torch.arange(n))


RADII = ["0.003", "0.03", "0.1", "0.5"]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", range(2))
def test_proves_the_union_of_its_bounds_and_no_attack_breaks_it(norm, seed):
    net, data = network(seed), examples(seed)
    cascade = CascadeCertifier(["ibp", "crown_ibp", "crown"], RADII, NativeEngine, norm=norm, attack_steps=20)
    assert cascade.name == "cascade"
    found = cascade.certify(net, data)
    alone = np.zeros(len(data.y))
    for method in cascade.stages:
        single = BoundCertifier([method], RADII, NativeEngine, norm=norm, attack_steps=0).certify(net, data)
        alone = np.maximum(alone, single.radius)
    assert np.array_equal(found.radius, alone)
    assert not cascade.falsify(net, data, found, steps=30).failed
    for radius in cascade.radii:
        assert sum(status_counts(found, radius).values()) == len(data.y)
    states = {s for radius in RADII for s in status(found, radius)}
    assert {"misclassified", "verified", "falsified"} <= states <= set(STATUSES)
    for smaller, larger in pairwise(RADII):
        fell = found.columns[f"status@{smaller}"] == "falsified"
        assert (found.columns[f"status@{larger}"][fell] == "falsified").all()
    for radius in cascade.radii:
        fell = torch.from_numpy(found.columns[f"status@{float(radius):g}"] == "falsified")
        again = pgd_margins(net.double(), data.x.double()[fell], data.y[fell], threat_of(norm, radius), restarts=8)
        net.float()
        assert int((again.margin <= 0).sum()) >= 0.9 * int(fell.sum())


def test_each_example_carries_its_share_of_the_time():
    net, data = network(0), examples(0)
    cascade = CascadeCertifier(["ibp", "crown"], ["0.1", "0.5"], NativeEngine, attack_steps=5)
    found = cascade.certify(net, data)
    parts = {name: values for name, values in found.columns.items() if name.startswith("seconds_")}
    assert list(parts) == ["seconds_attack", "seconds_ibp", "seconds_crown"]
    assert (found.seconds >= sum(parts.values())).all()
    assert (parts["seconds_attack"][:3] == 0).all()  # misclassified
    summary = cascade_summary(found, cascade.radii)
    assert summary["stages"]["attack"]["seen"] == 47
    assert summary["stages"]["ibp"]["seconds"] == pytest.approx(parts["seconds_ibp"].sum())
    proved = int((found.radius > 0).sum())
    assert summary["stages"]["ibp"]["decided"] + summary["stages"]["crown"]["decided"] == proved
    only = found.columns["decided_by"] == "attack"
    assert (found.radius[only] == 0).all()
    assert only.any()


def test_without_attacks_nothing_is_falsified_and_the_settings_say_so():
    net, data = network(0), examples(0)
    for options in ({"attacks": []}, {"attack_steps": 0}):
        cascade = CascadeCertifier(["ibp"], RADII, NativeEngine, **options)
        found = cascade.certify(net, data)
        assert not any("falsified" in status(found, radius) for radius in RADII)
        assert cascade.settings()["attack"]["steps"] == 0
        assert "seconds_attack" not in found.columns


def test_the_largest_radius_is_proved_and_close_to_where_a_linear_classifier_ends():
    """z = +-(w.x + b): the certificate ends exactly at w.x / |w|_1, here 3/7, less the outward rounding."""
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.5, -0.25, 0.125], [-0.5, 0.25, -0.125]]))
        net.bias.zero_()
    x = torch.tensor([[0.75, 0.25, 0.5], [0.75, 0.25, 0.5], [0.2, 0.8, 0.5]])
    data = Batch(x, torch.tensor([0, 1, 0]), torch.arange(3))
    options = {"attacks": [], "bisect": "1/10000", "norm": "l2"}
    cascade = CascadeCertifier(["ibp", "crown"], ["0.1", "0.2"], NativeEngine, bisect_up_to="2", **options)
    found = cascade.certify(net, data)
    edge = 0.375 / float(net.weight[0].detach().double().norm())
    assert found.radius.tolist() == [0.2, 0.0, 0.0]
    assert edge - 2e-4 < found.columns["largest_eps"][0] <= edge
    assert found.columns["largest_eps"][1:].tolist() == [0.0, 0.0]
    assert cascade_summary(found, cascade.radii)["largest_eps"] == pytest.approx(found.columns["largest_eps"][0] / 3)
    within = CascadeCertifier(["ibp", "crown"], ["0.1", "0.2"], NativeEngine, **options).certify(net, data)
    assert within.columns["largest_eps"].tolist() == [0.2, 0.0, 0.0]


def test_bisection_never_claims_less_than_the_grid_nor_what_an_attack_breaks():
    net, data = network(1), examples(1)
    cascade = CascadeCertifier(
        ["ibp", "crown"], RADII, NativeEngine, attack_steps=10, bisect="0.002", bisect_up_to="0.6"
    )
    found = cascade.certify(net, data)
    largest = found.columns["largest_eps"]
    assert (largest >= found.radius).all()
    assert (largest > found.radius).sum() > 10
    for radius in cascade.radii:
        fell = found.columns[f"status@{float(radius):g}"] == "falsified"
        assert (largest[fell] < float(radius)).all()
    assert not cascade.falsify(net, data, found, steps=40).failed


def test_it_is_a_certifier_that_leaves_the_network_alone():
    net, data = network(1).train(), examples(1, 10)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    cascade: Certifier = CascadeCertifier(["ibp"], ["0.02"], NativeEngine, attack_steps=3, screen=True)
    cascade.certify(net, data)
    assert net.training
    assert torch.equal(state, torch.get_rng_state())
    assert bool((net[0].weight.grad == 1).all())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_attacks_come_first_and_again_last_on_what_is_open(monkeypatch):
    """First one attack, from the largest radius down on what fell; last all of them on what no bound proved."""
    calls, whole = [], module.strongest

    def watched(names, network, x, y, threat, **options):
        calls.append((names, round(threat.eps, 6), len(x)))
        return whole(names, network, x, y, threat, **options)

    monkeypatch.setattr(module, "strongest", watched)
    net, data = network(0), examples(0)
    cascade = CascadeCertifier(["ibp"], ["0.03", "0.1", "0.5"], NativeEngine, attack_steps=5)
    found = cascade.certify(net, data)
    first, last = calls[:3], calls[3:]
    assert [(names, eps) for names, eps, _ in first] == [(("pgd_margin",), eps) for eps in (0.5, 0.1, 0.03)]
    assert first[0][2] == 47 > first[1][2] >= first[2][2]
    assert all(names == cascade.attacks for names, *_ in last)
    assert [eps for _, eps, _ in last] == sorted(eps for _, eps, _ in last)
    assert all(n <= 47 - int((found.radius >= 0.03).sum()) or eps > 0.03 for _, eps, n in last)


def test_an_attack_that_crashes_is_an_error_where_no_bound_decides(monkeypatch):
    def broken(*args, **options):
        raise ValueError("no gradient")

    monkeypatch.setattr(module, "strongest", broken)
    found, _ = certify({"ibp": {0.1: [1, -1]}}, n=2, radii=("0.1",), attacks=["pgd_ce"])
    assert status(found, "0.1") == ["verified", "error"]
    assert found.columns["reason"][1] == "attack at 0.1: ValueError: no gradient"


@pytest.mark.parametrize("free", [None, 200_000, 0])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_certificates_do_not_depend_on_how_many_examples_are_bounded_at_once(monkeypatch, norm, free):
    monkeypatch.setattr("certtrain.certifiers.pieces.budget", lambda device: free)
    net, data = network(0), examples(0, 23)
    options = {"norm": norm, "attacks": [], "bisect": "0.01"}
    stages = ["ibp", "crown_ibp", "crown"]
    found = CascadeCertifier(stages, RADII, NativeEngine, batch_size=23, **options).certify(net, data)
    assert len(set(found.columns[f"status@{RADII[0]}"])) > 1
    for size in (1, 5, None):
        other = CascadeCertifier(stages, RADII, NativeEngine, batch_size=size, **options).certify(net, data)
        for name in ("radius", "correct", "predict"):
            assert np.array_equal(getattr(other, name), getattr(found, name))
        for name in ("decided_by", "largest_eps", *(f"status@{radius}" for radius in RADII)):
            assert np.array_equal(other.columns[name], found.columns[name])
        assert np.allclose(other.columns["margin"], found.columns["margin"], rtol=1e-9, equal_nan=True)
