"""The smoothing certifier's rows say all that is needed to compute its radii again."""

import json
import math

import numpy as np
import pytest
import torch
from claims import SMOOTHED
from torch import nn

from certtrain.certificates import ABSTAIN, CertificateLog
from certtrain.certificates.summary import summarise
from certtrain.certifiers.smoothing import SmoothingCertifier
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.smoothing.confidence import radius_one_sided


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return Batch(
        torch.rand(12, 1, 4, 4, generator=generator),
        torch.randint(0, 4, (12,), generator=generator),
        torch.arange(12) * 20,
    )


def test_rows(network, batch, tmp_path):
    certifier = SmoothingCertifier(0.25, [0.1, 0.25], n0=50, n=500, alpha=0.01, seed=5)
    rows = certifier.certify(network, batch)
    assert rows.index.tolist() == batch.index.tolist()
    names = ["n0", "n", "top", "count_top", "count_runner_up", "classes", "p_lower", "near_ties", "status"]
    assert list(rows.columns) == names
    again = radius_one_sided(rows.columns["count_top"], rows.columns["n"], 0.01, 0.25)
    assert (again.radius == rows.radius).all()
    assert ((rows.predict == ABSTAIN) == again.abstain).all()
    assert (rows.columns["status"] == np.where(again.abstain, "abstained", "certified")).all()
    assert (rows.columns["count_top"] + rows.columns["count_runner_up"] <= 500).all()
    assert (rows.columns["classes"] == 4).all()
    log = CertificateLog(tmp_path / "smoothing.tsv")
    log.append(rows)
    read = log.read()
    assert (read.radius == rows.radius).all()
    assert (read.columns["p_lower"] == rows.columns["p_lower"]).all()
    summary = summarise(read, certifier.radii, certifier.claim())
    assert summary["acr"] > 0
    assert summary["near_ties"] == rows.columns["near_ties"].sum()


def test_the_same_rows_for_any_order_and_network_mode(network, batch):
    certifier = SmoothingCertifier(0.25, [0.1], n=200)
    network.train()
    rows = certifier.certify(network, batch)
    assert all(module.training for module in network.modules())
    network.eval()
    reverse = certifier.certify(network, Batch(*(column.flip(0) for column in batch))).sorted()
    assert (reverse.radius == rows.radius).all()
    assert (reverse.predict == rows.predict).all()


def test_splits_seeds_and_purposes_give_other_noise(network, batch):
    kinds = [{}, {"split": "val"}, {"seed": 1}, {"purposes": ("val_select", "val_estimate")}]
    counts = [SmoothingCertifier(0.25, [0.1], **k).certify(network, batch).columns["count_top"] for k in kinds]
    assert all((counts[0] != other).any() for other in counts[1:])


def test_an_invalid_example_is_counted_as_such(batch):
    class Nan(nn.Module):
        def forward(self, x):
            logits = torch.eye(4)[:1].repeat(len(x), 1)
            logits[x.flatten(1).mean(1) > 0.9] = math.nan
            return logits

    batch.x[3] = 1
    with pytest.warns(UserWarning, match="60"):
        rows = SmoothingCertifier(0.25, [0.1]).certify(Nan(), batch)
    assert rows.columns["status"][3] == "invalid"
    assert (rows.predict[3], rows.radius[3], rows.correct[3]) == (ABSTAIN, 0.0, False)
    summary = summarise(rows, (), SMOOTHED)
    assert (summary["invalid"], summary["abstained"]) == (1, 1)


def test_settings_are_plain_json():
    certifier = SmoothingCertifier(0.25, ["2/255", 0.1], purposes=["val_select", "val_estimate"])
    assert json.loads(json.dumps(certifier.settings())) == certifier.settings()
    assert certifier.settings()["purposes"] == ["val_select", "val_estimate"]
    assert (certifier.name, certifier.threat.norm, certifier.claim().kind) == ("smoothing", "l2", "probabilistic")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"sigma": 0}, "sigma"),
        ({"sigma": "abc"}, "sigma"),
        ({"radii": []}, "empty"),
        ({"radii": [-1]}, "negative"),
        ({"n": 0}, "n = 0"),
        ({"n0": True}, "n0"),
        ({"alpha": 2}, "alpha"),
        ({"batch_size": 0}, "batch_size"),
        ({"split": "tets"}, "test"),
        ({"purposes": ("select", "select")}, "two streams"),
        ({"purposes": ("select", "other")}, "two streams"),
    ],
)
def test_mistakes(wrong, says):
    with pytest.raises(UserError, match=says):
        SmoothingCertifier(**{"sigma": 0.25, "radii": [0.1], **wrong})


def test_a_network_that_is_no_classifier(batch):
    with pytest.raises(UserError, match="maps"):
        SmoothingCertifier(0.25, [0.1]).certify(nn.Identity(), batch)


def test_a_data_set_budget_is_shared_by_all_examples(network, batch):
    shared = SmoothingCertifier(0.25, [0.1], n=500, alpha=0.01, budget="dataset")
    with pytest.raises(ValueError, match="spread_over"):
        shared.certify(network, batch)
    shared.spread_over(len(batch.y))
    rows = shared.certify(network, batch)
    alone = SmoothingCertifier(0.25, [0.1], n=500, alpha=0.01 / 12).certify(network, batch)
    assert (rows.radius == alone.radius).all()
    assert shared.settings()["alpha_each"] == 0.01 / 12
    assert shared.settings()["budget"] == "alpha for all 12 examples (Bonferroni)"
    assert "alpha_each" not in SmoothingCertifier(0.25, [0.1]).settings()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_the_networks_alone(network, batch, precision):
    """The noise stays float32: what the first layer sees differs from the float32 run by rounding only."""
    seen = {}
    for name in ("float32", precision):
        inputs = []

        def record(module, x, out, into=inputs):
            if x[0].dtype != torch.float64:  # the check of a copy in float64
                into.append((x[0], out.dtype))

        hook = network[0].register_forward_hook(record)
        certifier = SmoothingCertifier(0.25, [0.1], n0=10, n=50, precision=name)
        rows = certifier.certify(network, batch)
        hook.remove()
        seen[name] = torch.cat([x for x, _ in inputs])
        assert certifier.settings()["precision"].startswith(f"{name} network")
        assert (rows.columns["count_top"] <= 50).all()
    assert seen[precision].dtype == torch.float32
    assert torch.equal(seen[precision], seen["float32"])


@pytest.mark.parametrize(("key", "value"), [("budget", "everyone"), ("precision", "float64"), ("precision", "bf16")])
def test_unknown_budget_and_precision(key, value):
    with pytest.raises(UserError, match=value):
        SmoothingCertifier(0.25, [0.1], **{key: value})
