"""Claims for entries and cards that tests write by hand."""

from certtrain.certifiers.claims import bounds_claim, smoothing_claim
from certtrain.smoothing.distribution import Gaussian
from certtrain.threat import threat_of

LINF = bounds_claim(threat_of("linf"), "float64")
L2_BOUNDS = bounds_claim(threat_of("l2"), "float64")
SMOOTHED = smoothing_claim(Gaussian(0.25), 0.001, "example", "continuous")
STAGED = smoothing_claim(Gaussian(0.25), 0.001, "example", "targets")
