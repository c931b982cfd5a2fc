"""Attacks in a row: each sees what is still standing, and together they find at least what each finds."""

import pytest
import torch
from torch import nn

from certtrain.attacks import ATTACKS, check_attacks, margin, strongest
from certtrain.attacks import suite as module
from certtrain.errors import UserError
from certtrain.threat import threat_of


@pytest.fixture
def problem():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.rand(40, 6)
    return net, x, net(x).argmax(1)


def test_each_attack_sees_only_what_still_stands(problem, monkeypatch):
    net, x, y = problem
    seen = []

    def watched(name, attack):
        def run(network, x, y, threat, **options):
            seen.append((name, len(x)))
            assert threat.eps.shape == (len(x),)
            return attack(network, x, y, threat, **options)

        return run

    monkeypatch.setattr(module, "ATTACKS", {name: watched(name, attack) for name, attack in ATTACKS.items()})
    eps = torch.linspace(0, 0.6, 40)
    found = strongest(tuple(ATTACKS), net, x, y, threat_of("linf", eps), steps=10, restarts=1)
    assert [name for name, _ in seen] == list(ATTACKS)
    assert seen[0][1] == 40 > seen[1][1] > 0
    assert 0 < int((found.margin <= 0).sum()) < 40
    with torch.no_grad():
        assert torch.allclose(margin(net(found.x), y), found.margin, atol=1e-6)
    assert bool(((found.x - x).abs().amax(1) <= eps + 1e-6).all())


def test_together_they_are_as_strong_as_the_strongest(problem):
    net, x, y = problem
    threat, options = threat_of("linf", 0.2), {"steps": 10, "restarts": 1}
    found = strongest(tuple(ATTACKS), net, x, y, threat, **options).margin
    for attack in ATTACKS.values():
        alone = attack(net, x, y, threat, **options).margin
        assert bool((found <= 0)[alone <= 0].all())


def test_nothing_to_attack_with_finds_nothing(problem):
    net, x, y = problem
    found = strongest((), net, x, y, threat_of("linf", 0.2), steps=10, restarts=1)
    assert bool(found.margin.isposinf().all())
    assert torch.equal(found.x, x)


def test_an_unknown_attack_is_refused():
    with pytest.raises(UserError, match="unknown attack 'pgd_margn'") as error:
        check_attacks(["pgd_ce", "pgd_margn"], where="certifier.attacks")
    assert "did you mean pgd_margin" in str(error.value)
    with pytest.raises(UserError, match="not a list of attacks"):
        check_attacks("pgd_ce", where="certifier.attacks")
