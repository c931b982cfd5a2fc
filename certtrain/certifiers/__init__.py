"""Certifiers: a network, a batch and a threat to certificates."""

from certtrain.certifiers.anytime import AnytimeCertifier
from certtrain.certifiers.base import Certifier
from certtrain.certifiers.bounds import BoundCertifier
from certtrain.certifiers.cascade import CascadeCertifier
from certtrain.certifiers.smoothing import SmoothingCertifier

__all__ = ["AnytimeCertifier", "BoundCertifier", "CascadeCertifier", "Certifier", "SmoothingCertifier"]
