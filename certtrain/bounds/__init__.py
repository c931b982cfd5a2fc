"""Bound engines behind one signature: `native` (our own, on torch.fx) and `auto_lirpa`."""

from certtrain.bounds.base import METHODS, BoundEngine, Bounds, PreActivation, margin_matrix

__all__ = ["METHODS", "BoundEngine", "Bounds", "PreActivation", "margin_matrix"]
