"""Inputs outside the threat model's range: clipped to it, a box around one would not hold the input itself."""

import pytest
import torch
from small_networks import network

from certtrain.attacks import ATTACKS, margin
from certtrain.bounds import NativeEngine
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.certifiers import BoundCertifier, SmoothingCertifier
from certtrain.certifiers.anytime import AnytimeCertifier
from certtrain.certifiers.cascade import CascadeCertifier
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.threat import linf as threats
from certtrain.threat import threat_of

LINF = threat_of("linf", 0.1)


def outside(n=200):
    """Inputs of which about half lie outside [0, 1], and their classes."""
    x = torch.rand(n, 4, generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    return x, network()(x).argmax(1)


@pytest.mark.parametrize("engine", [NativeEngine, AutoLirpaEngine])
@pytest.mark.parametrize("gradients", [True, False])
def test_engines_refuse_them(engine, gradients):
    (x, y), net = outside(), network()
    with torch.set_grad_enabled(gradients):
        for call in ("bounds", "fused_loss"):
            with pytest.raises(
                UserError, match=r"inputs between -0\.4\d* and 1\.4\d*, outside the input range \[0, 1\]"
            ):
                getattr(engine(net), call)(x, y, LINF)
            getattr(engine(net), call)(x.clamp(0, 1), y, LINF)
            getattr(engine(net), call)(x, y, threat_of("linf", 0.1, lower=None, upper=None))
            getattr(engine(net), call)(x, y, threat_of("l2", 0.1))  # whose ball is not clipped


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_refuse_them(attack, norm):
    (x, y), net = outside(20), network()
    with pytest.raises(UserError, match="outside the input range"):
        ATTACKS[attack](net, x, y, threat_of(norm, 0.1), steps=1, restarts=1)
    ATTACKS[attack](net, x, y, threat_of(norm, 0.1, lower=None, upper=None), steps=1, restarts=1)


@pytest.mark.parametrize(
    "certifier",
    [
        BoundCertifier(("ibp",), [0.1], NativeEngine),
        BoundCertifier(("ibp",), [0.1], NativeEngine, norm="l2"),
        CascadeCertifier(("ibp",), [0.1], NativeEngine),
        SmoothingCertifier(0.1, [0.1]),
        AnytimeCertifier(0.1, [0.1], n=1000),
    ],
)
def test_certifiers_refuse_them(certifier):
    x, y = outside(20)
    with pytest.raises(UserError, match="outside the input range") as caught:
        certifier.certify(network(), Batch(x, y, torch.arange(20)))
    assert caught.value.where == "certifier"


@pytest.mark.parametrize("methods", [("ibp",), ("crown_ibp",), ("crown",)])
def test_where_nobody_may_look_the_box_holds_the_input(methods, monkeypatch):
    """As in compiled code: the bounds are never above the margin at the input itself."""
    (x, y), net = outside(), network()
    inside = NativeEngine(net).bounds(x.clamp(0, 1), y, LINF, methods).margins[methods[0]]
    monkeypatch.setattr(threats, "may_be_asked", lambda x: False)
    found = NativeEngine(net).bounds(x, y, LINF, methods).margins[methods[0]]
    assert (found.amin(1) <= margin(net(x), y) + 1e-5).all()
    assert torch.equal(NativeEngine(net).bounds(x.clamp(0, 1), y, LINF, methods).margins[methods[0]], inside)
