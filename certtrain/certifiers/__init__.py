"""Certifiers: a network, a batch and a threat to certificates."""

from certtrain.certifiers.base import Certifier
from certtrain.certifiers.bounds import BoundCertifier
from certtrain.certifiers.smoothing import SmoothingCertifier

__all__ = ["BoundCertifier", "Certifier", "SmoothingCertifier"]
