"""Bound engines behind one signature: `native` (our own, on torch.fx) and `auto_lirpa`."""

from certtrain.bounds.base import METHODS, BoundEngine, Bounds, FusedLoss, PreActivation, margin_matrix
from certtrain.bounds.native import NativeEngine

__all__ = ["METHODS", "BoundEngine", "Bounds", "FusedLoss", "NativeEngine", "PreActivation", "margin_matrix"]
