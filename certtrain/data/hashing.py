"""A hash of examples, so that certificates say which inputs they are about and not only where these stood in a file."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from certtrain.data.split import Inputs
from certtrain.system.work import pause

PIECE = 256  # inputs made at once


def inputs_sha256(x: Inputs, y: Tensor, indices: Tensor) -> str:
    """The sha256 of the examples at some positions: dtype and shape of the inputs, their bytes, then likewise y.

    The same for the same values whatever the machine: little-endian, row by row, in the order of the positions. Read
    piece by piece: inputs that are made on demand need not fit in memory.

    Args:
        x: (n, ...) inputs.
        y: (n,) classes.
        indices: (m,) int64 positions.
    """
    found = hashlib.sha256()
    for values in (x, y):
        name = str(values.dtype).removeprefix("torch.")
        found.update(f"{name} {len(indices)} {' '.join(map(str, values.shape[1:]))}\n".encode())
        for part in indices.split(PIECE):
            pause()
            array = _at(values, part)
            found.update(array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).data)
    return found.hexdigest()


def _at(values: Inputs, index: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values[index].detach().to(torch.device("cpu")).numpy())
