"""The name of a run, from what was chosen: the same choices give the same directory, others another one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence

from certtrain.cli.compose import unquoted
from certtrain.runs.session_keys import MAY_DIFFER

# What makes no other run, or stands in the name anyway.
NOT_IN_NAME = (*MAY_DIFFER, "experiment", "seed", "name", "certify_test", "trainer", "hydra")
LONGEST = 60


def run_name(
    choices: Mapping[str, str | None], seed: int, overrides: Sequence[str], differing: Collection[str] = ()
) -> str:
    """`quickstart-seed0`, `digits_wong_small_ibp-seed1-eps=0.2`; a hash replaces the overrides that are too long.

    Args:
        choices: option chosen per group.
        seed: of the run.
        overrides: what the user wrote, in order; of a key given twice the last counts, as for Hydra.
        differing: keys of a sweep, whose values stay readable before all others.
    """
    if choices.get("experiment"):
        base, named = str(choices["experiment"]), NOT_IN_NAME
    else:
        base = "_".join(str(choices[group]) for group in ("data", "model", "method"))
        named = (*NOT_IN_NAME, "data", "model", "method")
    last = {override.lstrip("+~").split("=", 1)[0]: plain_value(override.lstrip("+~")) for override in overrides}
    chosen = {f"{group}._target_={choice}" for group, choice in choices.items()}
    rest = {key: _part(text) for key, text in last.items() if not _named(key, named) and text not in chosen}
    tail = "-".join(sorted(rest.values()))
    if len(tail) > LONGEST:
        digest = hashlib.sha256("-".join(sorted(text for key, text in last.items() if key in rest)).encode())
        kept = [rest[key] for key in sorted(rest, key=lambda key: (key not in differing, key))]
        tail = "-".join([*_as_many_as_fit(kept, LONGEST - 9), digest.hexdigest()[:8]])
    return f"{_part(base)}-seed{seed}" + (f"-{tail}" if tail else "")


def _part(text: str) -> str:
    """What of a text can stand in the name of a folder."""
    return re.sub(r"[^\w.=,-]+", "_", text)


def _named(key: str, named: Collection[str]) -> bool:
    """Whether a key makes no difference to the name; `trainer` stands for all below it, `data` for itself."""
    whole = (*MAY_DIFFER, "trainer", "hydra")
    return key in named or key.startswith("hydra/") or any(key.startswith(f"{top}.") for top in whole)


def _as_many_as_fit(texts: Sequence[str], most: int) -> list[str]:
    """The texts from the first on, whole ones, that have together at most so many characters."""
    found: list[str] = []
    for text in texts:
        if len("-".join([*found, text])) > most:
            break
        found.append(text)
    return found


def plain_value(override: str) -> str:
    """An override without the quotes that only the command line needs: `eps='2/255'` is `eps=2/255`."""
    key, separator, value = override.partition("=")
    return f"{key}{separator}{unquoted(value)}"
