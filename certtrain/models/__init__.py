"""Networks by their published names; the first layer of each is its normalisation."""

from certtrain.models.normalize import Normalize

__all__ = ["Normalize"]
