"""Lightning data modules over splits held in memory."""

from certtrain.data.batch import Batch

__all__ = ["Batch"]
