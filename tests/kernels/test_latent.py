"""The loops of an attack in boxes give what tensor operations give."""

import pytest
import torch

from certtrain.kernels import latent, loader

needs_compiler = pytest.mark.skipif(latent.LOOPS.get() is None, reason="this machine has no C compiler")


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    monkeypatch.setattr(loader, "SEVERAL", 8)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def boxes(dtype):
    torch.manual_seed(0)
    place, best = torch.rand(2, 5, 3, 2, 9, dtype=dtype)
    lower, width = torch.randn(5, 2, 9, dtype=dtype), torch.rand(5, 2, 9, dtype=dtype)
    width[0] = 0
    return place, best, lower, width


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_has_the_bits_of_tensors(threads, dtype):
    place, best, lower, width = boxes(dtype)
    gradient = torch.randn_like(place)
    gradient[1, 0, 0, :3] = torch.tensor([0.0, torch.inf, -0.0], dtype=dtype)
    better = torch.tensor([[True, False, True]]).expand(5, 3)
    found = []
    for loops in (latent.LOOPS.get(), None):
        with latent.LOOPS.instead(loops):
            found.append(latent.advance(place.clone(), best.clone(), better, gradient, lower, width, 0.3))
    assert all(map(torch.equal, *found))
    moved, kept, point = found[0]
    assert bool(((moved >= 0) & (moved <= 1)).all())
    assert torch.equal(kept[:, [0, 2]], place[:, [0, 2]])
    assert torch.equal(kept[:, 1], best[:, 1])
    assert bool(((point >= lower[:, None]) & (point <= (lower + width)[:, None] + 1e-6)).all())


@pytest.mark.parametrize("loops", [pytest.param(True, marks=needs_compiler), False])
def test_the_gradient_link_is_the_papers(threads, loops):
    """1 at the bound, linearly less inside, 0 from half the width on; 1/2 for both in a box without width."""
    link, least = 0.5, 1e-5
    place = torch.tensor([0.0, 0.1, 0.25, 0.4, 0.5, 0.75, 1.0], dtype=torch.float64).reshape(1, 1, 7)
    lower = torch.zeros(1, 7, dtype=torch.float64, requires_grad=True)
    upper = torch.full((1, 7), 2.0, dtype=torch.float64, requires_grad=True)
    with latent.LOOPS.instead(latent.LOOPS.get() if loops else None):
        points = latent.Linked.apply(place, lower, upper, link, least)
        to_lower, to_upper = torch.autograd.grad(points.sum(), (lower, upper))
        narrow = latent.Linked.apply(place, upper, upper.detach().requires_grad_(), link, least)
        (halved,) = torch.autograd.grad(narrow.sum(), upper)
    torch.testing.assert_close(points, 2 * place)
    share = place.flatten()
    floor = torch.where(share <= 0.5, least / 2, 0.0)  # the least numerator of the paper's code
    torch.testing.assert_close(to_lower[0], torch.maximum(1 - 2 * share, floor), atol=1e-5, rtol=0)
    torch.testing.assert_close(to_upper[0], (2 * share - 1).clamp_min(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(halved, torch.full_like(halved, 0.5))
