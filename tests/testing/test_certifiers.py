"""Every certifier that the configuration offers, under the conformance suite; and the suite itself can fail."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from composing import composed

from certtrain.bounds import METHODS
from certtrain.certificates import Certificates
from certtrain.certificates.falsification import Falsification, silent
from certtrain.certifiers import Certifier
from certtrain.certifiers.checks import check_classes
from certtrain.certifiers.falsify import falsify_bounds
from certtrain.claim import Claim
from certtrain.config import build
from certtrain.config.overrides import options
from certtrain.errors import UserError
from certtrain.models.evaluation import frozen
from certtrain.models.invariance import check_function
from certtrain.radii import parse_radii, radius_text
from certtrain.smoothing.distribution import Gaussian
from certtrain.smoothing.uniform import Uniform
from certtrain.testing.certifiers import CertifierSuite
from certtrain.threat import L2, Linf

COMMON = ("radii=[0.05,0.1]", "sigma=0.25", "n0=20", "n=300", "bounds=native")
FEW = (
    "certifier.cascade.stages=[ibp,crown]",
    "certifier.cascade.attack_steps=2",
    "certifier.cascade.attack_restarts=1",
)
# `bounds` is three others together.
VARIANTS = [(f"certifier={name}",) for name in options("certifier") if name not in ("bounds", "cascade")]
VARIANTS += [
    ("certifier=smoothing", "certifier.smoothing.two_sided=true"),
    ("certifier=smoothing", "budget=dataset"),
    ("certifier=uniform", "certifier.uniform.two_sided=true"),
    ("certifier=anytime", "budget=dataset"),
    ("certifier=crown", "norm=l2"),
    ("certifier=cascade", *FEW),
    ("certifier=cascade", *FEW, "certifier.cascade.bisect=0.01", "certifier.cascade.screen=true"),
]


@functools.cache
def config_of(*overrides):
    name = overrides[0].removeprefix("certifier=")
    attack = [f"certifier.{name}.attack_steps=2"] if name in METHODS else []
    return composed(*overrides, *COMMON, *attack)


@pytest.fixture
def tested_noise(monkeypatch):
    """Noises have a suite of their own, in which they test themselves."""
    for kind in (Gaussian, Uniform):
        monkeypatch.setattr(kind, "test", lambda self, device, **options: {"device": str(device)})


@pytest.mark.usefixtures("tested_noise")
@pytest.mark.parametrize("overrides", VARIANTS, ids=" ".join)
class TestOffered(CertifierSuite):
    @pytest.fixture(autouse=True)
    def chosen(self, overrides):
        self.overrides = overrides

    def variant(self):
        return self.overrides

    def make(self):
        made = build.build_certifiers(config_of(*self.overrides))
        return list(made.values())[-1]


class Exact(Certifier):
    """The l-inf distance to the boundary of the suite's network, an eighth of the margin; with one fault."""

    name, fault, calls = "exact", "", 0

    def __init__(self):
        self.radii, self.threat = parse_radii(["0.05", "0.1"]), Linf()

    def claim(self):
        threat = L2() if self.fault == "another set" else self.threat
        return Claim.about(threat, "deterministic", radii="grid", subject="The network", proof="Proved by its slope.")

    def settings(self):
        Exact.calls += 1
        stated = {"exact fraction": self.radii[0], "forgetful": Exact.calls}
        return {self.fault: stated[self.fault]} if self.fault in stated else {"slope": 8}

    def rehearsal(self, options, seed):
        other = type(self)()
        other.radii = other.radii[:1] if self.fault == "other rehearsal" else other.radii
        return other

    def bind(self, network, *, split, examples, device):
        self.bound = True
        return {}

    def check_network(self, network, batch):
        if self.fault != "lets all in":
            check_function(network, batch.x)

    def certify(self, network, batch):
        if self.fault != "any range":
            self.threat.check_range(batch.x)
        self.check_network(network, batch)
        if self.fault == "leaves on errors":
            network.eval()
        if self.fault != "any labels":
            check_classes(batch.y, 2)
        if self.fault == "leaves a mode":
            network[2].train()
        if self.fault == "leaves statistics":
            network[2].running_mean += 1e-3
        if self.fault == "leaves gradients":
            network[1].bias.grad = torch.zeros(2)
        if self.fault == "leaves the generator":
            torch.rand(1)
        if self.fault == "leaves precision":
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        with torch.no_grad():
            if self.fault == "as it is found":
                logits = network(batch.x).double()
            else:
                with frozen(network):
                    logits = network(batch.x).double()
        y, n = batch.y % 2, len(batch.y)
        margin = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None]))[:, 0]
        predict = logits.argmax(1)
        strange = logits.isnan() if self.fault == "infinity is more" else ~logits.isfinite()
        right = (predict == y) & ~strange.any(1)
        if self.fault == "not a number is not less":
            predict, right = y, ~(margin < 0)
        if self.fault == "any class":
            predict, right, margin = y, torch.ones(n, dtype=torch.bool), margin.abs()
        exact = margin / 8 * (1 - 1e-6)
        if self.fault == "too long":
            exact = 1.2 * exact
        if self.fault == "the batch":
            exact = exact * (1 - 0.8 / n)
        if self.fault == "chance":
            exact = exact * torch.rand(n)
        if self.fault == "proves nothing":
            exact = 0 * exact
        held = np.stack([(right & ~(exact < float(radius))).numpy() for radius in self.radii], 1)
        status = np.where(held, "verified", np.where(right.numpy()[:, None], "unknown", "misclassified"))
        if self.fault == "not smaller":
            status[held[:, 1], 0] = "unknown"
        columns = {f"status@{radius_text(radius)}": status[:, i] for i, radius in enumerate(self.radii)}
        radius = np.where(held, [float(radius) for radius in self.radii], 0).max(1)
        if self.fault == "own radii":
            radius = np.where(right.numpy(), exact.numpy().clip(0), 0)
        index = batch.index.flip(0) if self.fault == "another order" else batch.index
        return Certificates(index.numpy(), batch.y.numpy(), predict.numpy(), radius, right.numpy(), 0 * radius, columns)

    def falsify(self, network, batch, certificates, *, steps, progress=silent):
        if self.fault == "no attack":
            return None
        if self.fault == "blind":
            held = int((certificates.correct & (certificates.radius > 0)).sum())
            progress(held)
            return Falsification(held, (), 0, {})
        options = {"steps": steps, "batch_size": 64, "progress": progress}
        found = falsify_bounds(network, batch, certificates, threat=self.threat, **options)
        if self.fault == "outside":
            return replace(found, hits=tuple(replace(hit, x=hit.x + 0.5) for hit in found.hits))
        return found

    @classmethod
    def verify_rows(cls, audit, rows, card):
        if cls.fault == "believes":
            audit.same("everything")
            return
        audit.compare("claim", card["claim"].get("closed"), True)
        grid = np.array([0.0, *map(float, parse_radii(card["radii"]))])
        held = 1 + sum((rows.columns[name] == "verified").astype(int) for name in rows.columns)
        audit.expect(bool((rows.radius == grid[held - 1]).all()), "radii", "a radius that its statuses do not say")


SUITE = [name for name in dir(CertifierSuite) if name.startswith("test_")]


def suite_of(fault):
    class Suite(CertifierSuite):
        def make(self):
            return type("Chosen", (Exact,), {"fault": fault})()

    return Suite()


@pytest.mark.parametrize("test", SUITE)
def test_the_suite_passes_a_sound_certifier(test):
    getattr(suite_of(""), test)()


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("exact fraction", "test_it_says_what_it_is"),
        ("another set", "test_its_claim_is_of_its_threat_model"),
        ("other rehearsal", "test_its_rehearsal_claims_the_same"),
        ("leaves a mode", "test_everything_is_left_as_it_was"),
        ("leaves on errors", "test_everything_is_left_as_it_was"),
        ("leaves statistics", "test_everything_is_left_as_it_was"),
        ("leaves gradients", "test_everything_is_left_as_it_was"),
        ("leaves the generator", "test_everything_is_left_as_it_was"),
        ("leaves precision", "test_everything_is_left_as_it_was"),
        ("as it is found", "test_nothing_around_it_makes_a_difference"),
        ("another order", "test_rows_are_those_of_the_batch"),
        ("own radii", "test_rows_are_those_of_the_batch"),
        ("proves nothing", "test_rows_are_those_of_the_batch"),
        ("not smaller", "test_what_holds_at_a_radius_holds_at_every_smaller_one"),
        ("the batch", "test_rows_do_not_depend_on_batch_order_or_chance"),
        ("chance", "test_rows_do_not_depend_on_batch_order_or_chance"),
        ("any class", "test_a_misclassified_example_has_no_certificate"),
        ("not a number is not less", "test_logits_that_are_not_finite_have_no_certificate"),
        ("infinity is more", "test_logits_that_are_not_finite_have_no_certificate"),
        ("too long", "test_no_radius_reaches_a_known_input_of_another_class"),
        ("too long", "test_its_attack_finds_nothing_in_its_certificates"),
        ("no attack", "test_its_attack_finds_nothing_in_its_certificates"),
        ("blind", "test_its_attack_finds_what_is_wrong"),
        ("outside", "test_its_attack_finds_what_is_wrong"),
        ("forgetful", "test_a_log_and_its_card_are_read_back_as_written"),
        ("own radii", "test_its_log_passes_its_audit_and_a_changed_one_does_not"),
        ("believes", "test_its_log_passes_its_audit_and_a_changed_one_does_not"),
        ("any range", "test_inputs_outside_the_range_are_refused"),
        ("any labels", "test_labels_without_logits_are_refused"),
        ("lets all in", "test_networks_that_are_not_functions_of_each_input_are_refused"),
    ],
)
def test_the_suite_finds_a_fault(fault, test):
    kept = torch.backends.mkldnn.matmul.fp32_precision
    try:
        with pytest.raises((AssertionError, TypeError, UserError)):
            getattr(suite_of(fault), test)()
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = kept
