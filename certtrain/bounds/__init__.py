"""Bound engines behind one signature: `native` (our own, on torch.fx) and `auto_lirpa`."""

from certtrain.bounds.base import METHODS, BoundEngine, Bounds, PreActivation, margin_matrix
from certtrain.bounds.native import NativeEngine

__all__ = ["METHODS", "BoundEngine", "Bounds", "NativeEngine", "PreActivation", "margin_matrix"]
