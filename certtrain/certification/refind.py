"""Finds again the inputs that a certifier's attack broke examples with: its log keeps the verdict, not the input."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from certtrain.errors import UserError
from certtrain.threat import Threat, stated_threat

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from certtrain.data import DataModule
    from certtrain.reporting.page.counterexamples import Counterexample
    from certtrain.reporting.page.evidence import Certified
    from certtrain.runs.directory import RunDirectory

STEPS, RESTARTS, SEED = 40, 2, 1


class Refinder:
    """Attacks examples of a run's data in float64, inside the exact ball, with every attack there is.

    A network that is not the certified one is not attacked: the checkpoint's hash must be the card's. What was attacked
    once is not attacked again for the next certificate.

    Args:
        run: with its checkpoints, or without: then nothing is found.
        data: set up.
        trust: as for `load_run`.
    """

    def __init__(self, run: RunDirectory, data: DataModule, trust: Sequence[str] = ()) -> None:
        self.run, self.data, self.trust = run, data, trust
        self._found: dict[tuple[str, str, str, int, Fraction], Counterexample | None] = {}
        self._threats: dict[str, Threat] = {}

    def __call__(
        self, certificate: Certified, index: NDArray[np.int64], radii: Sequence[Fraction]
    ) -> dict[int, Counterexample]:
        """By index the inputs found within each example's radius; those that resist now are left out."""
        from certtrain.runs.directory import sha256_file

        path = self.run.checkpoints / Path(str(certificate.card.get("checkpoint", "last.ckpt"))).name
        claim = certificate.claim
        if claim is None or not path.exists():
            return {}
        sha = sha256_file(path)
        if sha != certificate.card.get("checkpoint_sha256"):
            return {}
        try:
            self._threats[claim.threat] = stated_threat(claim.threat, certificate.settings)
        except UserError:  # a threat model of somebody else's, or a card that does not say what it is about
            return {}
        keys = [(sha, claim.threat, certificate.split, i, r) for i, r in zip(index.tolist(), radii)]
        new = [key for key in keys if key not in self._found]
        self._found.update(dict.fromkeys(new))
        if new:
            try:
                self._attack(path, new)
            except Exception:  # a network of the user's own may fail in any way: the page does without these inputs
                return {}
        return {key[3]: found for key in keys if (found := self._found[key]) is not None}

    def _attack(self, path: Path, keys: Sequence[tuple[str, str, str, int, Fraction]]) -> None:
        import torch

        from certtrain.attacks import ATTACKS, inner, inside, strongest
        from certtrain.config.loading import load_run
        from certtrain.models.evaluation import frozen
        from certtrain.reporting.page.counterexamples import Counterexample

        network = load_run(self.run.path, path.stem, trust=self.trust).network.double()
        ball, split = keys[0][1], getattr(self.data, keys[0][2])
        threat = self._threats[ball]
        where = torch.tensor([key[3] for key in keys])
        x, y = split.x[where].double(), split.y[where]
        eps = torch.tensor([inside(key[4]) for key in keys], dtype=torch.float64)
        with frozen(network):
            options = {"steps": STEPS, "restarts": RESTARTS, "generator_seed": SEED}
            worst = strongest(tuple(ATTACKS), network, x, y, inner(threat, eps), **options)
            with torch.no_grad():
                predict = network(worst.x).argmax(1)
        distance = threat.distance(worst.x - x)
        for i, key in enumerate(keys):
            if predict[i] != y[i] and distance[i] <= float(key[4]):
                facts = (int(y[i]), int(predict[i]), float(key[4]), float(distance[i]))
                self._found[key] = Counterexample(key[3], *facts, worst.x[i].numpy())
