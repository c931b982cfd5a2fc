"""Radii from a log's counts are those of the certifier; logs in stages are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certtrain.certificates import Certificates
from certtrain.certificates.rederive import UNNAMED, rederived
from certtrain.errors import UserError
from certtrain.smoothing.confidence import radius_two_sided
from certtrain.smoothing.distribution import Gaussian


@given(st.integers(2, 6), st.integers(1, 400), st.sampled_from([0.1, 0.001]), st.randoms(use_true_random=False))
def test_two_sided_from_runner_up_alone_is_that_of_all_counts(classes, n, alpha, random):
    counts = np.random.default_rng(random.getrandbits(32)).multinomial(n, np.full(classes, 1 / classes), size=8)
    counts[0] = 0
    counts[0, 0] = n
    top = np.array([random.randrange(classes) for _ in counts])
    rows = np.arange(len(counts))
    others = counts.copy()
    others[rows, top] = -1
    whole = radius_two_sided(counts, top, alpha, 0.5)
    runner_up = others.max(axis=1)
    found = Gaussian(0.5).two_sided(counts[rows, top], runner_up, classes, n, alpha)
    for one, two in zip(whole, found):
        assert np.array_equal(one, two)


def log(count_top, predict, status="certified", n=1000, **columns):
    size = len(count_top)
    further = {"n0": [100] * size, "n": np.broadcast_to(n, size), "count_top": count_top, "count_runner_up": [0] * size}
    further |= {"classes": [10] * size, "p_lower": [0.6] * size, "status": [status] * size, **columns}
    predict = np.array(predict)
    return Certificates(range(size), [3] * size, predict, (predict >= 0) * 0.1, predict == 3, [0.1] * size, further)


def test_one_sided_at_another_alpha():
    new, unnamed = rederived(log([1000, 900, 545, 400], [3, 2, 3, -1]), 0.001, Gaussian(1.0))
    assert new.radius[0] == pytest.approx(2.4633, abs=5e-5)
    assert new.predict.tolist() == [3, 2, -1, -1]  # 545 of 1,000 abstain at 0.001: 550 are needed
    assert new.correct.tolist() == [True, False, False, False]
    assert new.columns["status"].tolist()[:3] == ["certified", "certified", "abstained"]
    assert not unnamed.any()


def test_a_class_that_the_log_does_not_name_stays_an_abstention():
    old = log([1000, 545], [3, -1])
    new, unnamed = rederived(old, 0.1, Gaussian(1.0))
    assert unnamed.tolist() == [False, True]
    assert new.predict.tolist() == [3, -1]
    assert new.radius[1] == 0.0
    assert new.columns["status"].tolist()[1] == UNNAMED


def test_a_class_that_the_log_names_is_certified_again():
    old = log([1000, 545, 400], [3, -1, -1], top=[3, 7, 3])
    new, unnamed = rederived(old, 0.1, Gaussian(1.0))
    assert not unnamed.any()
    assert new.predict.tolist() == [3, 7, -1]
    assert new.radius[1] > 0
    assert new.columns["status"].tolist() == ["certified", "certified", "abstained"]
    back, _ = rederived(new, 0.001, Gaussian(1.0))
    assert back.predict.tolist() == [3, -1, -1]


def test_invalid_rows_stay_invalid():
    new, unnamed = rederived(log([1000], [-1], status="invalid"), 0.1, Gaussian(1.0))
    assert new.columns["status"].tolist() == ["invalid"]
    assert not unnamed.any()


def test_larger_alpha_never_shrinks_a_radius():
    rows = log(list(range(600, 1001, 25)), [3] * 17)
    radii = [rederived(rows, alpha, Gaussian(0.5))[0].radius for alpha in (1e-6, 0.001, 0.05)]
    assert (np.diff(radii, axis=0) > 0).all()


def test_refusals():
    with pytest.raises(UserError, match="made in stages"):
        rederived(log([1000], [3], stage=[1]), 0.01, Gaussian(1.0))
    bounds = Certificates([0], [3], [3], [0.1], [True], [0.1], {"margin": [0.5]})
    with pytest.raises(UserError, match="no column n, count_top"):
        rederived(bounds, 0.01, Gaussian(1.0))
    with pytest.raises(UserError, match="no certificate follows from the counts"):
        rederived(log([1001], [3]), 0.01, Gaussian(1.0))
    with pytest.raises(UserError, match="between 100 and 1000 draws: their number may have depended on the votes"):
        rederived(log([90, 900], [3, 3], n=[100, 1000]), 0.01, Gaussian(1.0))
    with pytest.raises(UserError, match="column classes holds"):
        rederived(log([10, 10], [3, 3], classes=[10, 9]), 0.01, Gaussian(1.0), two_sided=True)
    with pytest.raises(ValueError, match="number of classes"):
        Gaussian(1.0).two_sided([5], [1], 1, 10, 0.1)
