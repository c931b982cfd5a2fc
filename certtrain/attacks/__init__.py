"""Attacks: upper bounds of robust accuracy, and the test that every certificate must stand."""

from certtrain.attacks.apgd import apgd_margins
from certtrain.attacks.ball import inner, inside
from certtrain.attacks.losses import dlr, margin
from certtrain.attacks.pgd import pgd_margins
from certtrain.attacks.search import Attack
from certtrain.attacks.suite import ATTACKS, check_attacks, strongest

__all__ = [
    "ATTACKS",
    "Attack",
    "apgd_margins",
    "check_attacks",
    "dlr",
    "inner",
    "inside",
    "margin",
    "pgd_margins",
    "strongest",
]
