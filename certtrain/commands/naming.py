"""The name of a run, from what was chosen: the same choices give the same directory, others another one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

# Choices that do not make another run.
NOT_IN_NAME = ("experiment", "seed", "name", "resume", "runs_dir", "data_dir", "certify_test", "logger", "trainer")
LONGEST = 80


def run_name(choices: Mapping[str, str | None], seed: int, overrides: Sequence[str]) -> str:
    """`quickstart-seed0`, `digits_wong_small_ibp-seed1-eps=0.2`; a hash replaces what would get too long.

    Args:
        choices: option chosen per group.
        seed: of the run.
        overrides: what the user wrote, in order; of a key given twice the last counts, as for Hydra.
    """
    if choices.get("experiment"):
        base, named = str(choices["experiment"]).replace("/", "_"), NOT_IN_NAME
    else:
        base = "_".join(str(choices[group]) for group in ("data", "model", "method"))
        named = (*NOT_IN_NAME, "data", "model", "method")
    last = {override.lstrip("+~").split("=", 1)[0]: override.lstrip("+~") for override in overrides}
    rest = [
        re.sub(r"[^\w.=,-]+", "_", override)
        for key, override in last.items()
        if key not in named and key.split(".")[0] not in ("hydra", "trainer", "logger")
    ]
    tail = "-".join(sorted(rest))
    if len(tail) > LONGEST:
        tail = tail[: LONGEST - 9] + "-" + hashlib.sha256(tail.encode()).hexdigest()[:8]
    return f"{base}-seed{seed}" + (f"-{tail}" if tail else "")


def plain_value(override: str) -> str:
    """An override without the quotes that only the command line needs: `eps='2/255'` is `eps=2/255`."""
    key, separator, value = override.partition("=")
    quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
    return f"{key}{separator}{value[1:-1] if quoted else value}"
