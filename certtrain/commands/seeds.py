"""`seeds=K`: the same setting trained from K seeds, as runs of their own, with the mean over them at the end."""

from __future__ import annotations

from collections.abc import Mapping

from certtrain.commands.compose import is_multirun, quoted
from certtrain.errors import UserError

SHOWS_ONLY = ("-h", "--help", "-c", "--cfg", "-i", "--info", "-p", "--package", "--hydra-help")


def expand_seeds(arguments: list[str], given: Mapping[str, str]) -> list[str]:
    """The arguments of a multirun over seeds 0 to K-1.

    Alone, `seeds=K` stays in the arguments: every seed is reported and none is chosen, so the test set may be
    certified. Beside other swept keys it goes, and the multirun is one like any other.

    Args:
        arguments: of the command, with `seeds=K` among them.
        given: the same by key.

    Raises:
        UserError: K is no whole number >= 1; `seed=` or `resume=` beside it; a swept value without `-m`.
    """
    if any(argument.split("=")[0] in SHOWS_ONLY for argument in arguments):
        return arguments
    text = given["seeds"]
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"seeds={text} is not a whole number >= 1", where="the command line", fix="seeds=5")
    for key, why in (("seed", "are both given"), ("resume", "do not go together: a run has one seed")):
        if key in given:
            raise UserError(f"seeds={text} and {key}={given[key]} {why}", where="the command line", fix="leave one out")
    seeds = f"seed={','.join(map(str, range(int(text))))}"
    if is_multirun(arguments):
        if "name" in given:
            raise _same_name(given["name"])
        return [*(argument for argument in arguments if not argument.startswith("seeds=")), seeds]
    if swept := _swept(arguments):
        raise UserError(
            f"{swept} holds several values", where="the command line", fix=f"add -m, or quote it: '{swept}'"
        )
    rest = [argument for argument in arguments if not argument.startswith("name=")]
    if "name" in given:  # one directory per seed
        rest.append(quoted("name", given["name"].strip("'\""))[:-1] + "-seed${seed}'")
    return ["-m", *rest, seeds]


def _swept(arguments: list[str]) -> str | None:
    """The first argument that would make several jobs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if hydra := [a for a in arguments if a.startswith(("hydra.mode", "hydra.sweeper", "hydra/sweeper"))]:
        return hydra[0]
    parser = OverridesParser.create()
    for argument in arguments:
        if not argument.startswith("-"):
            try:
                if parser.parse_override(argument).is_sweep_override():
                    return argument
            except HydraException:  # Hydra says so itself, in our words
                continue
    return None


def _same_name(name: str) -> UserError:
    return UserError(
        f"name={name} would be the name of every job",
        where="the command line",
        fix="leave name= out, or choose runs_dir=",
    )
