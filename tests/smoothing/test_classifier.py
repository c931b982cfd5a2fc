"""CERTIFY and PREDICT on networks whose answers under noise are known."""

import numpy as np
import pytest
import torch
from torch import nn

from certtrain.errors import UserError
from certtrain.smoothing.classifier import ABSTAIN, SmoothedClassifier
from certtrain.smoothing.confidence import radius_one_sided, radius_two_sided
from certtrain.smoothing.votes import COMPARED


def test_certify_is_the_radius_of_the_estimation_votes_for_the_selected_class(pixels):
    x, index = torch.rand(30, 6), torch.arange(30)
    g = SmoothedClassifier(pixels(3), 0.5, 3, batch_size=64)
    for two_sided in (False, True):
        found = g.certify(x, index, n0=50, n=400, alpha=0.01, seed=3, two_sided=two_sided)
        select = g.votes(x, index, range(50), seed=3, purpose="select", split="test").counts.numpy()
        counts = g.votes(x, index, range(400), seed=3, purpose="estimate", split="test").counts.numpy()
        top = select.argmax(1)
        votes = counts[np.arange(30), top]
        if two_sided:
            expected = radius_two_sided(counts, top, 0.01, 0.5)
        else:
            expected = radius_one_sided(votes, 400, 0.01, 0.5)
        assert (found.predict == np.where(expected.abstain, ABSTAIN, top)).all()
        assert (found.radius == expected.radius).all()
        assert (found.count_top == votes).all()
        assert found.count_runner_up.tolist() == [np.delete(row, t).max() for row, t in zip(counts, top)]
        assert found.radius.dtype == np.float64
        assert 0 < (found.predict == ABSTAIN).sum() < 30


def test_selection_and_estimation_never_see_the_same_noise(pixels, monkeypatch):
    monkeypatch.setattr(SmoothedClassifier, "check", lambda self, x: None)  # which evaluates the network, too
    network = pixels(3)
    SmoothedClassifier(network, 0.5, 3, batch_size=100).certify(torch.zeros(1, 6), torch.tensor([4]), n0=300, n=700)
    seen = torch.cat(network.seen)
    assert len(seen) == 1000 + 2 * COMPARED  # of each stream some are evaluated once more
    assert len(seen.unique(dim=0)) == 1000
    with pytest.raises(UserError, match="both from the stream"):
        SmoothedClassifier(network, 0.5, 3).certify(
            torch.zeros(1, 6), torch.tensor([4]), purposes=("estimate", "estimate")
        )


def test_certificates_do_not_depend_on_the_batch(pixels):
    x, index = torch.rand(11, 6), torch.arange(100, 111)
    whole = SmoothedClassifier(pixels(3), 0.5, 3, batch_size=1000).certify(x, index, n=200)
    for i in range(11):
        alone = SmoothedClassifier(pixels(3), 0.5, 3, batch_size=13).certify(x[i : i + 1], index[i : i + 1], n=200)
        assert all(a[0] == w[i] for a, w in zip(alone, whole))


class NanClass(nn.Module):
    """Certain of class 1, but for a logit that is NaN when the first pixel is large."""

    def forward(self, x):
        logits = torch.zeros(len(x), 3)
        logits[:, 1] = 1
        logits[:, 2] = torch.where(x[:, 0] > 9, float("nan"), 0.0)
        return logits


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("start", [8.0, 9.0, 100.0])  # NaN in one draw of fifty, in half of them, in all
def test_an_example_with_nan_logits_abstains_as_invalid(two_sided, start):
    x = torch.zeros(3, 4)
    x[1] = start
    g = SmoothedClassifier(NanClass(), 0.5, 3)
    with pytest.warns(UserWarning, match="1;"):
        found = g.certify(x, torch.arange(3), two_sided=two_sided)
    assert found.predict.tolist() == [1, ABSTAIN, 1]
    assert found.invalid.tolist() == [False, True, False]
    assert found.radius[1] == 0
    with pytest.warns(UserWarning, match="1;"):
        assert g.predict(x, torch.arange(3)).tolist() == [1, ABSTAIN, 1]


def test_predict_abstains_when_undecided(linear):
    network = linear(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.zeros(2))
    x = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.0, 1.0]])
    assert SmoothedClassifier(network, 0.5, 2).predict(x, torch.arange(3)).tolist() == [0, ABSTAIN, 1]


def test_nothing_to_certify(pixels):
    g = SmoothedClassifier(pixels(3), 0.5, 3)
    none = torch.zeros(0, dtype=torch.int64)
    assert len(g.certify(torch.rand(0, 6), none).predict) == 0
    assert len(g.certify(torch.rand(0, 6), none, two_sided=True).predict) == 0
    assert len(g.predict(torch.rand(0, 6), none)) == 0


def test_mistakes(pixels):
    for sigma in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="sigma"):
            SmoothedClassifier(pixels(3), sigma, 3)
    with pytest.raises(UserError, match="batch_size"):
        SmoothedClassifier(pixels(3), 0.5, 3, batch_size=0)
    with pytest.raises(UserError, match="classes"):
        SmoothedClassifier(pixels(1), 0.5, 1)
    g = SmoothedClassifier(pixels(3), 0.5, 3)
    for wrong in ({"n0": 0}, {"n": 0}, {"n": 10.5}, {"alpha": 0.0}, {"alpha": 1.0}, {"alpha": float("nan")}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            g.certify(torch.rand(1, 6), torch.tensor([0]), **wrong)
