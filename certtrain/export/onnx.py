"""The network as ONNX: its normalisation first, its very weights, the plain operators that verifiers read."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from certtrain.errors import UserError
from certtrain.models.evaluation import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

# Competition verifiers read it; from 18 on, reductions take their axes as an input, which several do not.
OPSET = 13
INPUT, OUTPUT = "X", "Y"


def onnx_bytes(network: nn.Module, shape: Sequence[int]) -> bytes:
    """The ONNX file of a network: `X` (1, *shape) float32 in [0, 1] to `Y` (1, K) logits.

    Weights are the network's own, bit for bit, and BatchNorm stays a node: folded into the convolution before it, it
    would round them, and what another verifier proves would be about another network. torch's newer exporter folds, or
    leaves shape arithmetic in the graph, and writes opset 18 at least; the older one, used here, needs only `onnx`.

    Args:
        network: maps (B, *shape) to (B, K); evaluated in eval mode on the CPU, its modes are restored.
        shape: of one example.

    Raises:
        UserError: `onnx` is not installed; an operation that ONNX has no counterpart of; a forward that depends on the
            values of its input, which one traced example cannot show; weights that changed on the way.
    """
    onnx = _onnx()
    place = next(network.parameters(), torch.empty(0)).device
    buffer = io.BytesIO()
    try:
        with frozen(network.cpu()), warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            torch.onnx.export(
                network,
                (torch.full((1, *shape), 0.5),),
                buffer,
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                do_constant_folding=False,
            )
    except Exception as error:  # the exporter raises whatever it meets
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        raise UserError(f"the network cannot be exported to ONNX ({reason})", where="model") from error
    finally:
        network.to(place)
    for warning in raised:
        if issubclass(warning.category, torch.jit.TracerWarning):
            raise UserError(
                f"the network's forward depends on the values of its input: {str(warning.message).splitlines()[0]}",
                where="model",
                fix="a forward without branches on values: ONNX holds one fixed sequence of operations",
            )
    model = onnx.load_from_string(buffer.getvalue())
    _refuse_changed_weights(model, network)
    _inline_shared_weights(model)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.numpy_helper
    except ImportError as error:
        raise UserError(
            "the package onnx is not installed", where="certtrain export", fix="pip install 'certtrain[export]'"
        ) from error
    return onnx


def _refuse_changed_weights(model: Any, network: nn.Module) -> None:
    from onnx import numpy_helper

    own = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    for weight in model.graph.initializer:
        if weight.name in own:
            found: Tensor = torch.from_numpy(numpy_helper.to_array(weight).copy())
            if not torch.equal(found, own[weight.name]):
                raise UserError(f"the exporter changed {weight.name}", where="ONNX", fix="another release of torch")


def _inline_shared_weights(model: Any) -> None:
    """Equal weights are written once, with Identity nodes for the others: verifiers want them as weights."""
    graph = model.graph
    weights = {weight.name for weight in graph.initializer}
    same: dict[str, str] = {}
    for node in list(graph.node):
        if node.op_type == "Identity" and node.input[0] in weights and node.output[0] != OUTPUT:
            same[node.output[0]] = node.input[0]
            graph.node.remove(node)
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in same:
                node.input[place] = same[name]
