"""The anytime certifier's rows carry all that is needed to check them under the logged schedule."""

import json

import numpy as np
import pytest
import torch
from claims import SMOOTHED
from torch import nn

from certtrain.certificates import ABSTAIN, CertificateLog
from certtrain.certificates.summary import summarise
from certtrain.certifiers import AnytimeCertifier, SmoothingCertifier
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.smoothing.anytime import StageSchedule


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(12, 1, 4, 4, generator=generator)
    return Batch(x, torch.randint(0, 4, (12,), generator=generator), torch.arange(12) * 20)


def test_rows_replay_from_the_log(network, batch, tmp_path):
    certifier = AnytimeCertifier(0.25, [0.1, 0.25], n0=50, n=2000, alpha=0.01, seed=5)
    rows = certifier.certify(network, batch)
    log = CertificateLog(tmp_path / "anytime.tsv")
    log.append(rows)
    read = log.read()
    schedule = StageSchedule.from_dict(json.loads(json.dumps(certifier.settings()))["schedule"])
    for i in range(len(read)):
        replay = schedule.replay(schedule.read_counts(read.columns["stage_counts"][i]))
        assert replay.finished
        assert read.columns["stage"][i] == replay.stage
        assert read.radius[i] == float(schedule.targets[max(0, replay.claimed)])
        assert (read.predict[i] == ABSTAIN) == (replay.claimed < 0)
    assert (read.columns["n"] <= 2000).all()
    assert len(set(read.columns["n"].tolist())) > 1
    assert set(np.unique(read.radius).tolist()) <= {0.0, 0.1, 0.25}


def test_it_claims_no_average_radius(network, batch):
    certifier = AnytimeCertifier(0.25, [0.1], n=1000)
    rows = certifier.certify(network, batch)
    summary = summarise(rows, certifier.radii, certifier.claim())
    assert "acr" not in summary
    assert summary["mean_draws"] == rows.columns["n"].mean()
    fixed = summarise(SmoothingCertifier(0.25, [0.1]).certify(network, batch), certifier.radii, SMOOTHED)
    assert fixed["acr"] > 0
    assert "mean_draws" not in fixed


def test_one_target_by_hand(batch):
    """A network that always answers class 2: every look sees all votes, the first that may claim does."""

    class Always(nn.Module):
        def forward(self, x):
            return torch.eye(4)[2].repeat(len(x), 1)

    rows = AnytimeCertifier(0.5, [0.5, 1.0], n=100_000).certify(Always(), batch)
    assert (rows.predict == 2).all()
    assert (rows.radius == 1.0).all()
    schedule = AnytimeCertifier(0.5, [0.5, 1.0], n=100_000).schedule
    first = next(i for i, c in enumerate(schedule.critical[-1]) if c <= schedule.draws[i])
    assert set(rows.columns["n"].tolist()) == {schedule.draws[first]}
    assert set(rows.columns["stage"].tolist()) == {first + 1}
    assert 301 <= schedule.draws[first] < 700


def test_settings_are_plain_json():
    settings = AnytimeCertifier(0.25, ["2/255", 0.1], n=5000).settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings["schedule"]["targets"] == ["0", "2/255", "0.1"]
    assert max(settings["schedule"]["crossing_probability"]) <= settings["alpha"]


def test_a_data_set_budget_changes_the_schedule():
    certifier = AnytimeCertifier(0.25, [0.1], n=5000, budget="dataset")
    certifier.spread_over(100)
    assert certifier.schedule.alpha == 0.001 / 100
    certifier.spread_over(10)
    assert certifier.schedule.alpha == 0.001 / 10


def test_a_target_out_of_reach():
    with pytest.raises(UserError, match=r"1000 draws cannot show a radius of 1\.5"):
        AnytimeCertifier(0.5, [1.5], n=1000).schedule  # noqa: B018
