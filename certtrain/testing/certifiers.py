"""What every certifier must do, on a network of two neurons whose boundary is known."""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from collections.abc import Hashable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor, nn

from certtrain.audit.card import audit_card
from certtrain.certificates import ABSTAIN, STATUSES, VERIFIED, CertificateLog, Certificates, read_card
from certtrain.certificates.findings import Audit
from certtrain.certificates.summary import STAGE_SECONDS, certified, status_counts
from certtrain.certification.examples import Examples, certify_examples
from certtrain.certifiers.base import Certifier
from certtrain.claim import Claim
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.radii import radius_text
from certtrain.system.files import check_name
from certtrain.testing.states import check_unchanged, refused, state_of
from certtrain.threat import Threat

CPU = torch.device("cpu")
GAPS = (0.002, -0.01, 0.03, -0.06, 0.095, -0.18, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8)
BEYOND = 1 + 1e-5  # of a boundary, by more than float32 rounds it
REHEARSAL = {"methods": ["ibp"], "n0": 10, "n": 100, "alpha": 0.001}
CHANCE = 1e-6


def two_neurons() -> nn.Sequential:
    """Class 0 where x_0 >= x_1, else class 1, by two ReLUs; in training mode it would answer otherwise."""
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Dropout(0.5), nn.Linear(2, 2)
    )
    weights = {
        "1.weight": [[1.0, -1.0], [-1.0, 1.0]],
        "1.bias": [0.25, -0.5],
        "2.running_mean": [0.25, -0.5],
        "2.running_var": [4.0, 4.0],
        "2.weight": [2.0, 2.0],
        "5.weight": [[4.0, 0.0], [0.0, 4.0]],
        "5.bias": [0.0, 0.0],
    }
    state = {name: torch.tensor(values) for name, values in weights.items()}
    network.load_state_dict({**network.state_dict(), **state})
    return network.eval()


class CertifierSuite:
    """Inherit, and define `make`.

    Attributes:
        attacks: whether it has an attack on its certificates.
        steps: of that attack.
        proves: how many of the twelve examples it certifies at some radius > 0, at least.
    """

    attacks: ClassVar[bool] = True
    steps: ClassVar[int] = 5
    proves: ClassVar[int] = 4
    _rows: ClassVar[dict[Hashable, Certificates]] = {}

    def make(self) -> Certifier:
        """A new certifier, with radii between 0 and 1."""
        raise NotImplementedError

    def network(self) -> nn.Module:
        """(B, 2) inputs to logits; another one where the certifier needs it."""
        return two_neurons()

    def batch(self) -> Batch:
        """Twelve examples, alternately of two classes, at growing distances from the boundary between them."""
        gap = torch.tensor(GAPS)
        x = torch.stack([0.5 + gap / 2, 0.5 - gap / 2], 1) + 0.1 * torch.linspace(-1, 1, len(GAPS))[:, None]
        return Batch(x.clamp(0, 1), (gap < 0).long(), torch.arange(len(GAPS)) * 5 + 2)

    def refuted(self, threat: Threat, x: Tensor) -> NDArray[np.float64] | None:
        """(B,) a distance at which there is an input of another class; None where that is not known.

        Of `two_neurons`: the two inputs meet, each by its share of the way; every such change is one.
        """
        gap = (x[:, 0] - x[:, 1]).double() * BEYOND
        ways = [torch.stack([-share * gap, (1 - share) * gap], 1) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
        return torch.stack([threat.distance(way) for way in ways]).amin(0).numpy()

    def variant(self) -> Hashable:
        """What tells apart the certifiers of a suite that is run for several."""
        return None

    def ready(self) -> Certifier:
        """One that has been told what it will certify."""
        certifier, batch = self.make(), self.batch()
        certifier.bind(self.network(), split="test", examples=len(batch.y), device=CPU)
        return certifier

    def rows(self) -> Certificates:
        """The certificates of the batch: made once, for they are always the same (which is tested)."""
        key = (type(self), self.variant())
        if key not in self._rows:
            self._rows[key] = self.ready().certify(self.network(), self.batch())
        return copy.deepcopy(self._rows[key])

    def allowed(self, certifier: Certifier, rows: int) -> int:
        """How many false claims chance explains."""
        alpha = certifier.claim().alpha
        return 0 if alpha is None else int(binom.isf(CHANCE, rows, alpha))

    # What it says.

    def test_it_says_what_it_is(self) -> None:
        """A name for files and tables, ascending radii, plain settings, and what is asked of its class before."""
        certifier = self.ready()
        assert certifier.name
        check_name("_".join(filter(None, (certifier.name, certifier.suffix))))
        assert certifier.radii
        assert all(0 <= one < other for one, other in pairwise(certifier.radii))
        for stated in (certifier.settings(), certifier.source()):
            assert json.loads(json.dumps(stated, allow_nan=False)) == stated, "not plain JSON"
        assert set(certifier.source()) >= {"name", "package"}
        assert certifier.fixed_norm in (None, certifier.threat.norm)
        assert certifier.radii_are == certifier.claim().radii
        assert certifier.rows_per_write >= 1

    def test_its_claim_is_of_its_threat_model(self) -> None:
        """It comes back from JSON, and its sentence names the set and whose class is claimed."""
        certifier = self.ready()
        claim = certifier.claim()
        assert Claim.from_dict(json.loads(json.dumps(claim.to_dict()))) == claim
        threat = certifier.threat
        assert (claim.threat, claim.symbol, claim.unit) == (threat.name, threat.symbol, threat.unit)
        assert claim.region == threat.described(closed=claim.closed)
        for part in (claim.region, claim.subject, claim.proof):
            assert part
            assert part in claim.sentence()
        assert all(claim.plain())
        assert "alpha" not in certifier.settings() or certifier.settings()["alpha"] == claim.alpha

    def test_what_it_tells_before_it_works(self) -> None:
        """Its reach, its doubts, and what its cost is estimated by."""
        certifier, batch, rows = self.ready(), self.batch(), self.rows()
        reach = certifier.reach(len(batch.y))
        assert reach is None or float(rows.radius.max()) <= reach.radius * (1 + 1e-9)
        assert all(isinstance(doubt, str) for doubt in certifier.doubts())
        trial = certifier.trial()
        assert trial.rows >= 1
        assert trial.times >= 1 - 1e-9
        few = Batch(*(column[: trial.rows] for column in batch))
        trial.certifier.bind(self.network(), split="test", examples=len(few.y), device=CPU)
        assert len(trial.certifier.certify(self.network(), few)) == len(few.y)

    def test_its_rehearsal_claims_the_same(self) -> None:
        """While a network trains: of the same set, and of the same kind."""
        certifier, batch = self.make(), self.batch()
        rehearsal = certifier.rehearsal(REHEARSAL, seed=1)
        assert rehearsal.radii == certifier.radii
        assert (rehearsal.threat.name, rehearsal.claim().kind) == (certifier.threat.name, certifier.claim().kind)
        expected = certifier.rehearsed_radii_are or certifier.radii_are
        assert rehearsal.claim().radii == expected
        assert len(rehearsal.certify(self.network(), batch)) == len(batch.y)

    # What it leaves alone.

    def test_everything_is_left_as_it_was(self) -> None:
        """Modes, weights, statistics, gradients, generators, precision: also where the work is refused half-way."""
        certifier, network, batch = self.ready(), self.network(), self.batch()
        for number, module in enumerate(network.modules()):
            module.training = number % 2 == 0
        for number, parameter in enumerate(network.parameters()):
            parameter.grad = torch.full_like(parameter, 0.5)
            parameter.requires_grad_(number % 2 == 0)
        inputs = [column.clone() for column in batch]
        before = state_of(network)
        rows = certifier.certify(network, batch)
        check_unchanged(before, state_of(network), "certify")
        certifier.falsify(network, batch, rows, steps=2)
        check_unchanged(before, state_of(network), "falsify")
        certifier.check_network(network, batch)
        check_unchanged(before, state_of(network), "check_network")
        refused(lambda: certifier.certify(network, batch._replace(y=batch.y + 99)))
        check_unchanged(before, state_of(network), "a batch that is refused")
        assert all(torch.equal(one, other) for one, other in zip(inputs, batch, strict=True)), "the batch was changed"

    def test_nothing_around_it_makes_a_difference(self) -> None:
        """Not the network's mode, autocast, less precise products, gradients or the global generators."""
        expected, network = self.rows(), self.network().train()
        torch.manual_seed(99)
        matmul = torch.backends.mkldnn.matmul
        kept = matmul.fp32_precision
        try:
            matmul.fp32_precision = "bf16"
            with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
                found = self.ready().certify(network, self.batch())
        finally:
            matmul.fp32_precision = kept
        _same(expected, found)

    # Its rows.

    def test_rows_are_those_of_the_batch(self) -> None:
        """In its order; right where the prediction is the label; without a radius where there is no class."""
        batch, rows, radii = self.batch(), self.rows(), [0.0, *map(float, self.make().radii)]
        assert rows.index.tolist() == batch.index.tolist()
        assert rows.label.tolist() == batch.y.tolist()
        assert not (rows.correct & (rows.predict != rows.label)).any()
        assert not rows.radius[rows.predict == ABSTAIN].any()
        if self.make().claim().radii != "continuous":
            assert np.isin(rows.radius, radii).all(), "a radius that was not asked for"
        assert int((rows.correct & (rows.radius > 0)).sum()) >= self.proves, "it proves next to nothing"

    def test_what_holds_at_a_radius_holds_at_every_smaller_one(self) -> None:
        """Among the statuses of a row, with its radius, and in what they add up to."""
        rows, radii = self.rows(), self.make().radii
        held = np.stack([certified(rows, radius) for radius in radii], 1)
        assert bool((held[:, 1:] <= held[:, :-1]).all())
        for at, radius in enumerate(radii):
            counts = status_counts(rows, radius)
            assert set(counts) == set(STATUSES)
            assert sum(counts.values()) == len(rows)
            column = rows.columns.get(f"status@{radius_text(radius)}")
            if column is not None:
                assert bool(((column == VERIFIED) == held[:, at]).all()), f"status and radius disagree at {radius}"

    def test_rows_do_not_depend_on_batch_order_or_chance(self) -> None:
        """Backwards, in parts, alone, by another object, under another global random state."""
        batch, expected = self.batch(), self.rows()
        order = torch.arange(len(batch.y)).flip(0)
        for parts in ([order], [order[::2], order[1:2], order[3::2]]):
            certifier, network = self.ready(), self.network()
            torch.manual_seed(len(parts))
            found = [certifier.certify(network, Batch(*(column[rows] for column in batch))) for rows in parts]
            _same(expected, Certificates.concat(found))

    def test_a_misclassified_example_has_no_certificate(self) -> None:
        """Its wrong class may be certified; that is no certified accuracy at any radius."""
        batch = self.batch()
        rows = self.ready().certify(self.network(), batch._replace(y=1 - batch.y))
        assert not rows.correct.any()
        for radius in (0, *self.make().radii):
            assert not certified(rows, radius).any()

    def test_logits_that_are_not_finite_have_no_certificate(self) -> None:
        """NaN compares as neither more nor less, infinity as more than everything."""
        for value in (float("nan"), float("inf"), -float("inf")):
            network = nn.Sequential(self.network(), _Added(torch.tensor([value, 0.0])))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    rows = self.ready().certify(network, self.batch())
                except UserError:
                    continue
            assert not (rows.correct & (rows.radius > 0)).any(), f"certified with a logit that is {value}"
            assert not any(certified(rows, radius).any() for radius in self.make().radii if radius > 0)

    # Whether they are true.

    def test_no_radius_reaches_a_known_input_of_another_class(self) -> None:
        """Soundness where the truth is known: no more such claims than chance explains."""
        certifier, batch, rows = self.ready(), self.batch(), self.rows()
        truth = self.refuted(certifier.threat, batch.x)
        if truth is not None:
            reached = np.maximum(rows.radius, rows.columns.get("largest_eps", 0.0)) > truth
            wrong = rows.index[rows.correct & reached].tolist()
            assert len(wrong) <= self.allowed(certifier, len(rows)), f"certified beyond the boundary: {wrong}"

    def test_its_attack_finds_nothing_in_its_certificates(self) -> None:
        """It attacks all that it certified, and says how."""
        certifier, batch, rows = self.ready(), self.batch(), self.rows()
        told: list[int] = []
        found = certifier.falsify(self.network(), batch, rows, steps=self.steps, progress=told.append)
        assert (found is not None) == self.attacks
        if found is None:
            return
        assert found.attacked >= int((rows.correct & (rows.radius > 0)).sum()) > 0
        assert told[-1] == found.attacked
        assert not found.failed, f"an attack broke {[hit.index for hit in found.hits]}"
        assert found.allowed <= self.allowed(certifier, found.attacked)
        assert json.loads(json.dumps(found.summary())) == found.summary()

    def test_its_attack_finds_what_is_wrong(self) -> None:
        """Radii that reach well beyond the boundary are refuted, by inputs inside them."""
        certifier, batch, rows = self.ready(), self.batch(), self.rows()
        truth = self.refuted(certifier.threat, batch.x)
        if not self.attacks or truth is None:
            return
        wrong = replace(rows, radius=np.where(rows.radius > 0, 2 * truth, 0.0), columns={})
        found = certifier.falsify(self.network(), batch, wrong, steps=self.steps)
        assert found is not None
        assert found.failed, "twice the way to the boundary, and nothing found"
        assert len(found.hits) > found.attacked / 2
        for hit in found.hits:
            row = rows.index.tolist().index(hit.index)
            offset = torch.as_tensor(hit.x).double() - batch.x[row].double()
            exact = float(certifier.threat.distance(offset[None])[0])
            assert hit.margin <= 0
            assert exact <= hit.radius == wrong.radius[row]

    # What is kept of them.

    def test_a_log_and_its_card_are_read_back_as_written(self) -> None:
        """And completed without a change, by a certifier made anew."""
        expected = self.rows().sorted()
        with tempfile.TemporaryDirectory() as folder:
            log = self.written(Path(folder))
            _same(expected, CertificateLog(log).read())
            card, content = read_card(log.with_suffix(".json")), log.read_bytes()
            certifier = self.ready()
            assert Claim.from_dict(card["claim"]) == certifier.claim()
            assert card["settings"] == certifier.settings()
            assert card["status"] == "complete"
            self.written(Path(folder))
            assert log.read_bytes() == content
            assert read_card(log.with_suffix(".json")) == card

    def test_its_log_passes_its_audit_and_a_changed_one_does_not(self) -> None:
        """A row that was changed, and one whose hash was made to fit."""
        with tempfile.TemporaryDirectory() as folder:
            log = self.written(Path(folder))
            audit = audit_card(log.with_suffix(".json"))
            assert not audit.failed, audit.of("DIFFERENT")
            rows, card = CertificateLog(log).read(), read_card(log.with_suffix(".json"))
            lines = log.read_text().splitlines(keepends=True)
            log.write_text("".join([*lines[:-1], lines[-1].replace("\t0", "\t1", 1)]))
            assert audit_card(log.with_suffix(".json")).failed, "a changed log passes"
        kind, audit = type(self.make()), Audit("its rows")
        kind.verify_rows(audit, rows, card)
        assert not audit.failed, audit.of("DIFFERENT")
        if audit.of("not checked"):  # it says that it does not
            return
        certifier, held = self.make(), rows.radius > 0
        longer = np.where(rows.radius >= float(certifier.radii[-1]), 0.0, float(certifier.radii[-1]))
        if certifier.claim().radii == "continuous":
            longer = 1.5 * rows.radius
        changed = {
            "a longer radius": (replace(rows, radius=np.where(held, longer, rows.radius)), card),
            "another claim": (rows, {**card, "claim": {**card["claim"], "closed": not card["claim"]["closed"]}}),
        }
        for what, (some, stated) in changed.items():
            if "says" in stated["claim"] and what == "another claim":
                stated["claim"].pop("says")
            audit = Audit(what)
            try:
                kind.verify_rows(audit, some, stated)
            except (KeyError, TypeError, ValueError, UserError):  # which an audit takes for a difference
                continue
            assert audit.failed, f"{what} passes its audit"

    def written(self, folder: Path) -> Path:
        """A log of the batch, in pieces of five rows, with its card."""
        batch, log = self.batch(), folder / "certificates.tsv"
        x, y = torch.zeros(int(batch.index.max()) + 1, 2), torch.zeros(int(batch.index.max()) + 1, dtype=torch.int64)
        x[batch.index], y[batch.index] = batch.x, batch.y
        examples = Examples(x, y, batch.index, "test", "made")
        card = {"checkpoint_sha256": "a" * 64, "split": "test"}
        certify_examples(self.network(), self.ready(), examples, log, card, batch_size=5, device=CPU)
        return log

    # What it refuses.

    def test_inputs_outside_the_range_are_refused(self) -> None:
        """Radii are in its units."""
        batch, certifier, network = self.batch(), self.ready(), self.network()
        for wrong in (batch.x + 0.7, batch.x - 0.7, 255 * batch.x):
            assert refused(lambda wrong=wrong: certifier.certify(network, batch._replace(x=wrong)))

    def test_labels_without_logits_are_refused(self) -> None:
        """Of a network of other classes."""
        batch, certifier, network = self.batch(), self.ready(), self.network()
        for wrong in (batch.y + 5, batch.y - 1):
            assert refused(lambda wrong=wrong: certifier.certify(network, batch._replace(y=wrong)))

    def test_networks_that_are_not_functions_of_each_input_are_refused(self) -> None:
        """Before any work, and when they are certified."""
        batch, certifier = self.batch(), self.ready()
        for strange in (_Mixing(), _Random()):
            network = nn.Sequential(strange, self.network())
            assert refused(lambda network=network: certifier.check_network(network, batch)), f"{strange} is let in"
            assert refused(lambda network=network: certifier.certify(network, batch)), f"{strange} is certified"


class _Added(nn.Module):
    """Numbers added to the logits."""

    def __init__(self, numbers: Tensor) -> None:
        super().__init__()
        self.register_buffer("numbers", numbers)

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.numbers


class _Mixing(nn.Module):
    """Each input depends on the others of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - 0.1 * x.mean(0, keepdim=True)


class _Random(nn.Module):
    """The same input is another one each time."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.rand_like(x)


def _same(expected: Certificates, found: Certificates) -> None:
    """All but times; floats to their rounding."""
    expected, found = expected.sorted(), found.sorted()
    assert expected.columns.keys() == found.columns.keys()
    for name in ("index", "label", "predict", "correct"):
        assert getattr(expected, name).tolist() == getattr(found, name).tolist(), name
    np.testing.assert_allclose(found.radius, expected.radius, rtol=1e-9, err_msg="radius")
    for name, values in expected.columns.items():
        if name.startswith(STAGE_SECONDS):
            continue
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found.columns[name], values, rtol=1e-6, atol=1e-9, err_msg=name)
        else:
            assert found.columns[name].tolist() == values.tolist(), name
