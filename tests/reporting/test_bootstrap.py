"""The paired bootstrap: known answers, coverage, and logs that cannot be paired."""

from dataclasses import replace

import numpy as np
import pytest

from certtrain.errors import UserError
from certtrain.reporting.bootstrap import paired_difference, same_images
from certtrain.reporting.curves import Outcomes, image_sets


def make(certificate, correct=None, index=None, label=None):
    n = len(certificate)
    index = np.arange(n) if index is None else np.array(index)
    label = index % 3 if label is None else np.array(label)
    correct = np.ones(n, bool) if correct is None else np.array(correct, bool)
    return Outcomes(index, label, np.array(certificate, float), correct)


def test_a_log_against_itself():
    log = make(np.random.default_rng(0).random(50))
    found = paired_difference(log, log, [0.2, 0.5], resamples=200)
    assert found.certified.tolist() == [0, 0]
    assert (found.acr, found.acr_low, found.acr_high) == (0, 0, 0)


def test_a_constant_gain_has_no_spread():
    radius = np.random.default_rng(0).random(50)
    found = paired_difference(make(radius), make(radius + 0.125), [0.0], resamples=200)
    assert found.acr_low == pytest.approx(0.125)
    assert found.acr_high == pytest.approx(0.125)


def test_the_interval_is_that_of_the_differences():
    rng = np.random.default_rng(1)
    a = rng.random(400)
    b = a + rng.normal(0.02, 0.1, 400).clip(-a)
    found = paired_difference(make(a), make(b), [0.5], resamples=4000)
    half = 1.96 * np.std(b - a) / 20
    assert found.acr == pytest.approx(np.mean(b - a))
    assert found.acr_low == pytest.approx(found.acr - half, rel=0.1, abs=1e-3)
    assert found.acr_high == pytest.approx(found.acr + half, rel=0.1, abs=1e-3)


def test_order_does_not_matter_and_the_seed_does():
    rng = np.random.default_rng(2)
    a, b, order = make(rng.random(60)), make(rng.random(60)), rng.permutation(60)
    shuffled = Outcomes(b.index[order], b.label[order], b.certificate[order], b.correct[order])
    one, two = (paired_difference(a, other, [0.3], resamples=300, seed=4) for other in (b, shuffled))
    assert one.acr_low == two.acr_low
    assert one.certified_high.tolist() == two.certified_high.tolist()
    assert paired_difference(a, b, [0.3], resamples=300, seed=5).acr_low != one.acr_low


def test_intervals_cover_the_true_difference():
    rng, covered = np.random.default_rng(3), 0
    for trial in range(100):
        a, b = rng.random(100), rng.random(100) * 1.2
        found = paired_difference(make(a), make(b), [0.5], resamples=400, seed=trial)
        covered += found.acr_low <= 0.1 <= found.acr_high
    assert 88 <= covered <= 100


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make([0.1, 0.2], index=[0, 2]), "1 only in the first, such as idx 1; 1 only in the second, such as idx 2"),
        (make([0.1, 0.2, 0.3]), "of other images: 1 only in the second, such as idx 2"),
        (make([0.1, 0.2], label=[0, 2]), "other labels at 1 images, such as idx 1: 1 in the first, 2 in the second"),
    ],
)
def test_other_images_or_labels_are_refused(other, message):
    with pytest.raises(UserError) as caught:
        same_images(make([0.1, 0.2]), other)
    assert message in str(caught.value)


def test_one_image_is_too_few():
    with pytest.raises(UserError, match="over 1 image"):
        paired_difference(make([0.1]), make([0.1]), [0.1])


def test_other_inputs_under_the_same_labels_are_not_paired():
    clean, foggy, unknown = (replace(make([0.1, 0.2, 0.3]), inputs_sha256=known) for known in ("a", "b", None))
    with pytest.raises(UserError, match="are of other inputs"):
        same_images(clean, foggy)
    same_images(clean, unknown)
    assert image_sets([clean, foggy, unknown, clean]) == [*(sets := image_sets([clean, foggy])), sets[0], sets[0]]
    assert len(set(sets)) == 2
