"""On an accelerator a training is what it is on a processor, waits for nothing, and compiles."""

import copy

import pytest
import torch
from all_methods import METHODS
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.cli.main import main
from certtrain.data.augment import Augment
from certtrain.data.batch import Batch
from certtrain.data.loader import TensorLoader
from certtrain.data.split import Split
from certtrain.methods import Streams
from certtrain.methods.compiled import Compiled
from certtrain.models.evaluation import float32_products
from certtrain.models.normalize import Normalize
from certtrain.threat import threat_of
from certtrain.training.module import CertifiedTraining

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


class Module(CertifiedTraining):
    """Without a trainer to count its steps."""

    global_step = 0


@pytest.fixture(autouse=True)
def exactly():
    with float32_products("ieee"):
        yield
    torch.compiler.reset()


def network():
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(
        Normalize([0.4], [0.2], (1, 8, 8)), *body, nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 3)
    )


def batch(step, device):
    draw = torch.Generator().manual_seed(step)
    x, y = torch.rand(16, 1, 8, 8, generator=draw), torch.randint(0, 3, (16,), generator=draw)
    return Batch(x.to(device), y.to(device), torch.arange(16, device=device))


@pytest.mark.parametrize("methods", [("ibp", "crown_ibp"), ("crown",)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bounds_are_those_of_the_processor(methods, norm):
    here, there = network().eval(), network().eval().to(DEVICE)
    threat = threat_of(norm, 0.05)
    ours = NativeEngine(here).bounds(*batch(0, "cpu")[:2], threat, methods)
    theirs = NativeEngine(there).bounds(*batch(0, DEVICE)[:2], threat, methods)
    for method in methods:
        torch.testing.assert_close(theirs.margins[method].cpu(), ours.margins[method], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_losses_and_gradients_are_those_of_the_processor(name):
    here, there = network(), network().to(DEVICE)
    engines = NativeEngine(here), NativeEngine(there)
    for step in range(8):
        one = METHODS[name](here, engines[0], batch(step, "cpu"), step, Streams(0)).loss
        two = METHODS[name](there, engines[1], batch(step, DEVICE), step, Streams(0)).loss
        torch.testing.assert_close(two.cpu(), one, rtol=1e-4, atol=1e-4)
        grads = (torch.autograd.grad(loss, net.parameters()) for loss, net in ((one, here), (two, there)))
        for left, right in zip(*grads):
            torch.testing.assert_close(right.cpu(), left, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_no_step_waits_for_it(name):
    net = network().to(DEVICE)
    training = Module(net, METHODS[name], NativeEngine(net), torch.optim.Adam, lambda step: 1.0).to(DEVICE)
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    split = Split(torch.rand(64, 1, 8, 8), torch.randint(0, 3, (64,)), "train")
    loader = TensorLoader(split, 16, augment=Augment(1, "edge", True), device=DEVICE)

    def step(number):
        training.global_step = number
        optimizer.zero_grad()
        training.training_step(loader.batch(number % 4), number).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()

    step(4)  # an epoch's order is sent once, kernels are chosen once
    try:
        torch.cuda.set_sync_debug_mode("error")
        for number in range(8):
            step(number)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("name", METHODS)
def test_compiled_it_computes_the_same(name, mode):
    net = network().to(DEVICE)
    other = copy.deepcopy(net)
    compiled, engines = Compiled(METHODS[name], 16, mode), (NativeEngine(net), NativeEngine(other))
    optimizers = [torch.optim.SGD(one.parameters(), lr=1e-3, fused=True) for one in (net, other)]
    for step in (0, 1, 3, 3, 4, 5, 6, 7):
        found = compiled(net, engines[0], batch(step, DEVICE), step, Streams(0))
        expected = METHODS[name](other, engines[1], batch(step, DEVICE), step, Streams(0))
        for objective, optimizer in zip((found, expected), optimizers):
            optimizer.zero_grad()
            objective.loss.backward()
            optimizer.step()
        torch.testing.assert_close(found.loss, expected.loss, rtol=1e-3, atol=1e-4)
        for part in expected.parts:
            torch.testing.assert_close(found.parts[part], expected.parts[part], rtol=1e-2, atol=1e-2)
    for left, right in zip(net.state_dict().values(), other.state_dict().values()):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "more", [[], ["trainer.compile=reduce-overhead"], ["trainer.precision=tf32", "trainer.compile=true"]]
)
def test_a_run_trains_resumes_and_certifies(more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["experiment=quickstart", "schedule.warmup=1", "schedule.ramp=2", "certify_test=false", "name=run", *more]
    assert main(["train", *short, "epochs=3"]) == 0
    assert main(["train", "resume=run", "epochs=4"]) == 0
    assert main(["certify", "run=run", "indices=first_20"]) == 0
    assert main(["audit", "runs/run"]) == 0
