"""Uniform smoothing through certificates, cards and audits."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from certtrain.audit.card import audit_card
from certtrain.certificates import CertificateLog
from certtrain.certification.examples import Examples, certify_examples
from certtrain.certifiers.uniform import UniformCertifier
from certtrain.cli.main import main
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.smoothing.anytime import StageSchedule
from certtrain.smoothing.classifier import SmoothedClassifier
from certtrain.smoothing.confidence import lower_bound
from certtrain.smoothing.uniform import Uniform


def certifier(**options):
    return UniformCertifier(0.25, ["0.1", "0.3"], **{"n0": 20, "n": 400, **options})


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def test_it_claims_open_l1_balls_around_each_example():
    claim = certifier().claim()
    assert (claim.kind, claim.threat, claim.radii, claim.closed) == ("probabilistic", "l1", "continuous", False)
    assert "constant in the open l1 ball" in claim.sentence()
    assert "votes under uniform noise" in claim.sentence()
    assert claim.brief == "smoothed with uniform noise, sigma 0.25"


def test_rows_follow_from_their_votes(network):
    batch = Batch(torch.rand(12, 1, 4, 4), torch.arange(12) % 3, torch.arange(12))
    made = certifier()
    rows = made.certify(network, batch)
    p = lower_bound(rows.columns["count_top"], 400, 0.001)
    expected = np.where(p < 0.5, 0.0, 2 * made.noise.width * (p - 0.5))
    assert rows.radius == pytest.approx(expected, rel=1e-9)
    assert rows.radius.max() <= made.noise.width
    assert ((rows.predict == -1) == (p < 0.5)).all()
    again = made.certify(network, Batch(*(column[5:8] for column in batch)))
    assert again.columns["count_top"].tolist() == rows.columns["count_top"][5:8].tolist()


def test_the_true_radius_of_a_linear_network_is_never_exceeded():
    """One input: the class changes where x crosses 1/2, whose probability under uniform noise is exact."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=True))
    network[1].weight.data, network[1].bias.data = torch.tensor([[0.0], [1.0]]), torch.tensor([0.5, 0.0])
    x = torch.linspace(0, 1, 41).reshape(-1, 1)
    y = (x[:, 0] > 0.5).long()
    rows = certifier(n=2000).certify(network, Batch(x, y, torch.arange(41)))
    held = rows.correct & (rows.radius > 0)
    assert held.sum() > 20
    assert (rows.radius[held] <= (x[:, 0] - 0.5).abs().double().numpy()[held] + 1e-6).all()


def certified(network, folder, **options):
    """A log of 30 examples, with its card."""
    examples = Examples(torch.rand(30, 1, 4, 4), torch.arange(30) % 3, torch.arange(30), "test", "made")
    made, log = certifier(**options), folder / "uniform.tsv"
    made.bind(network, split="test", examples=30, device=torch.device("cpu"))
    card = {"checkpoint_sha256": "a" * 64, "split": "test"}
    certify_examples(network, made, examples, log, card, batch_size=16, device=torch.device("cpu"))
    return log


@pytest.mark.parametrize("two_sided", [False, True])
def test_its_card_passes_its_audit_and_another_claim_fails(network, tmp_path, two_sided):
    log = certified(network, tmp_path, two_sided=two_sided)
    audit = audit_card(log.with_suffix(".json"))
    assert not audit.failed, audit.of("DIFFERENT")
    assert any("the radius follows from the counts" in what for what in audit.of("same"))
    content = json.loads(log.with_suffix(".json").read_text())
    for change in ({"sigma": 0.5}, {"sigma": -0.25}, {"alpha": 0.01}):
        changed = {**content, "settings": {**content["settings"], **change}}
        log.with_suffix(".json").write_text(json.dumps(changed))
        assert audit_card(log.with_suffix(".json")).failed
    assert CertificateLog(log).read().columns["near_ties"].shape == (30,)


@pytest.mark.parametrize("sides", [[], ["--two-sided"]])
def test_at_another_alpha_its_radii_are_those_of_its_own_noise(network, tmp_path, capsys, sides):
    """Gaussian noise of this sigma would prove a third more by these votes, 2.25 times by 100,000, in another norm."""
    network[1].bias.data = torch.tensor([9.0, 0.0, 0.0])  # all votes for one class: the largest radius there is
    log = certified(network, tmp_path)
    derived = tmp_path / "derived.tsv"
    assert main(["audit", str(log), "--alpha", "0.01", *sides, "--output", str(derived)]) == 0
    assert "under uniform noise" in " ".join(capsys.readouterr().out.split())
    noise, level = Uniform(0.25), 0.01 / (2 if sides else 1)
    p = lower_bound(400, 400, level)
    assert CertificateLog(derived).read().radius == pytest.approx(np.full(30, 2 * noise.width * (p - 0.5)), rel=1e-9)
    audit = audit_card(derived.with_suffix(".json"))
    assert not audit.failed, audit.of("DIFFERENT")


@pytest.mark.parametrize("maker", ["somebody.Else", "certtrain.certifiers.bounds.BoundCertifier", None])
def test_votes_of_an_unknown_maker_have_no_radius_at_another_alpha(network, tmp_path, capsys, maker):
    log = certified(network, tmp_path)
    card = json.loads(log.with_suffix(".json").read_text())
    log.with_suffix(".json").write_text(json.dumps({**card, "made_by": maker}))
    assert main(["audit", str(log), "--alpha", "0.01", "--output", str(tmp_path / "derived.tsv")]) == 2
    assert "only that certifier knows" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "derived.tsv").exists()


def test_targets_of_gaussian_noise_are_not_those_of_another(network):
    schedule = StageSchedule.plan(certifier().radii, sigma=0.25, n=400, alpha=0.001)
    with pytest.raises(ValueError, match="not of uniform noise"):
        SmoothedClassifier(network, Uniform(0.25), 3).certify_targets(torch.rand(2, 1, 4, 4), torch.arange(2), schedule)


def test_it_rehearses_itself():
    cheap = certifier().rehearsal({"n0": 5, "n": 30, "alpha": 0.01}, seed=3)
    assert (type(cheap), cheap.n, cheap.seed, cheap.split) == (UniformCertifier, 30, 3, "val")


def test_what_makes_no_noise_is_refused():
    with pytest.raises(UserError, match="sigma = 0"):
        UniformCertifier(0, ["0.1"])
    with pytest.raises(UserError, match="unknown split"):
        certifier(split="odd")
