"""Every training method, with a ramp of four steps after two of warm-up, for tests that go through all of them."""

from certtrain.methods import IBP, CrownIBP, Gaussian, Ramp, ShiRegulariser, Standard, Weight

RAMP, HALF = Ramp(2, 4), Weight(1.0, 0.5)
METHODS = {
    "standard": Standard(l1=1e-3),
    "gaussian": Gaussian(0.25),
    "ibp": IBP(0.1, RAMP, regulariser=ShiRegulariser(0.5)),
    "ibp kappa 0": IBP(0.1, RAMP, kappa=Weight(0.0, 0.0)),
    "ibp l2": IBP(0.3, RAMP, norm="l2"),
    "crown_ibp": CrownIBP(0.1, RAMP, kappa=HALF),
    "crown_ibp fused": CrownIBP(0.1, RAMP, kappa=HALF, loss_fusion=True),
}
