"""The ONNX file is the network: same logits in another program, same weights bit for bit, plain operators."""

import builtins
import inspect

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from certtrain import models
from certtrain.errors import UserError
from certtrain.export.onnx import OPSET, onnx_bytes

SMALL = {
    "cnn7": {"width": 2, "linear": 8},
    "resnet_small": {"width": 2, "linear": 8, "batch_norm": True},
    "zhang_2layer": {"linear": 8, "batch_norm": True},
    "zhang_3layer": {"linear": 8},
    "zhang_4layer": {"linear": 8},
    "mlp": {"hidden": [8]},
}
SHAPES = {
    "lenet": (1, 28, 28),
    "cifar_resnet20": (3, 32, 32),
    "cifar_resnet110": (3, 32, 32),
    **dict.fromkeys(("resnet18", "resnet50"), (3, 32, 32)),
}
BUILDERS = [name for name in models.__all__ if name[0].islower()]


def build(name):
    shape = SHAPES.get(name, (1, 16, 16))
    torch.manual_seed(0)
    network = getattr(models, name)(shape, 5, [0.4] * shape[0], [0.3] * shape[0], **SMALL.get(name, {}))
    for module in network.modules():  # statistics of their own, as after training
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for value in (module.running_mean, module.running_var, module.weight, module.bias):
                nn.init.uniform_(value, 0.5, 1.5)
    return network, shape


def session(content):
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def logits(running, x):
    return np.concatenate([running.run(["Y"], {"X": row[None]})[0] for row in x.numpy()])


@pytest.mark.parametrize("name", BUILDERS)
def test_every_model_exports_and_gives_the_same_logits(name):
    network, shape = build(name)
    network.train()
    content = onnx_bytes(network, shape)
    assert all(module.training for module in network.modules())
    x = torch.rand(3, *shape)
    with torch.no_grad():
        expected = network.eval()(x).numpy()
    found = logits(session(content), x)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["cnn7", "resnet_small", "mlp", "lenet"])
def test_the_file_holds_the_very_weights_and_plain_operators(name):
    network, shape = build(name)
    model = onnx.load_from_string(onnx_bytes(network, shape))
    held = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    state = {k: v.numpy() for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert [k for k in state if not any(np.array_equal(state[k], value) for value in held.values())] == []
    assert [w.name for w in model.graph.initializer if held[w.name].dtype != np.float32] == []
    kinds = {node.op_type for node in model.graph.node}
    assert kinds <= {"Sub", "Div", "Conv", "BatchNormalization", "Relu", "Add", "MaxPool", "Flatten", "Gemm"}
    assert (model.opset_import[0].version, model.opset_import[0].domain) == (OPSET, "")
    assert model.graph.node[0].op_type == "Sub"  # normalisation first
    [given] = model.graph.input
    assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [1, *shape]


def test_equal_weights_are_weights_and_not_identity_nodes():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.5)
    model = onnx.load_from_string(onnx_bytes(network, (4,)))
    assert [node.op_type for node in model.graph.node] == ["Gemm", "Relu", "Gemm"]
    x = torch.rand(2, 4)
    assert np.allclose(logits(session(onnx_bytes(network, (4,))), x), network(x).detach().numpy())


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class NoCounterpart(nn.Module):
    def forward(self, x):
        return torch.linalg.inv(x.reshape(-1, 2, 2)).flatten(1)


@pytest.mark.parametrize(
    ("network", "words"), [(Branches(), "depends on the values"), (NoCounterpart(), "cannot be exported to ONNX")]
)
def test_what_onnx_cannot_hold_is_refused(network, words):
    with pytest.raises(UserError, match=words):
        onnx_bytes(network, (4,))


def test_changed_weights_are_refused(monkeypatch):
    export = torch.onnx.export

    def rounding(network, *arguments, **options):
        with torch.no_grad():
            network.weight.mul_(1.001)
        export(network, *arguments, **options)
        with torch.no_grad():
            network.weight.div_(2)

    monkeypatch.setattr(torch.onnx, "export", rounding)
    with pytest.raises(UserError, match="changed weight"):
        onnx_bytes(nn.Linear(2, 2), (2,))


def test_without_onnx_the_message_has_the_line_that_installs_it(monkeypatch):
    imported = builtins.__import__

    def refusing(name, *rest, **options):
        if name == "onnx" or name.startswith("onnx."):
            raise ImportError(name)
        return imported(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(UserError, match="onnx is not installed") as caught:
        onnx_bytes(nn.Linear(2, 2), (2,))
    assert "certtrain[export]" in caught.value.fix


def test_the_list_of_models_is_complete():
    assert all(inspect.isfunction(getattr(models, name)) for name in BUILDERS)
    assert len(BUILDERS) >= 15
