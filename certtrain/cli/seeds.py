"""`seeds=K`: the same setting trained from K seeds, as runs of their own, with the mean over them at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from certtrain.cli.compose import is_multirun
from certtrain.config.overrides import GROUPS, quoted
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
        UserError: K is no whole number >= 1; `seed=` or `resume=` beside it; a swept value without `-m`; one name for
            several jobs.
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
        refuse_one_name([*arguments, seeds], given)
        return [*(argument for argument in arguments if not argument.startswith("seeds=")), seeds]
    if swept := _sweeper(arguments) or _swept(arguments):
        raise UserError(
            f"{swept[0]} holds several values", where="the command line", fix=f"add -m, or quote it: '{swept[0]}'"
        )
    rest = [argument for argument in arguments if not argument.startswith("name=")]
    if "name" in given:  # one directory per seed
        rest.append(quoted("name", given["name"])[:-1] + "-seed${seed}'")
    return ["-m", *rest, seeds]


def refuse_one_name(arguments: Sequence[str], given: Mapping[str, str]) -> None:
    """Refuse a name that several jobs of a multirun would have: only the first could run.

    Args:
        arguments: of a multirun.
        given: the same by key.

    Raises:
        UserError: other keys are swept, and the name holds none of them.
    """
    name = given.get("name", "null")
    keys = [key for key in _keys(_swept(arguments)) if key != "name"]
    study = given.get("sweep", "null") != "null"  # which refuses to be swept itself
    if study or name == "null" or "${" in name or not (keys or _sweeper(arguments)):
        return
    differ = "-".join(f"${{{key}}}" for key in keys)
    plain = differ and not set(keys) & set(GROUPS)  # a group has no value of its own
    raise UserError(
        f"name={name} would be the name of every job",
        where="the command line",
        fix=f"leave name= out, or put in what differs: 'name={name}-{differ}'" if plain else "leave name= out",
    )


def swept_keys(words: Sequence[str]) -> tuple[str, ...]:
    """The keys of a command line that take several values in a multirun; none of any other command line."""
    return tuple(_keys(_swept(words))) if is_multirun(words) else ()


def _keys(overrides: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(override.lstrip("+~").split("=", 1)[0] for override in overrides))


def _sweeper(arguments: Sequence[str]) -> list[str]:
    """The arguments by which Hydra makes several jobs of other values than those on the command line."""
    return [a for a in arguments if a.startswith(("hydra.mode", "hydra.sweeper", "hydra/sweeper"))]


def _swept(arguments: Sequence[str]) -> list[str]:
    """The arguments that make several jobs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, found = OverridesParser.create(), []
    for argument in arguments:
        if "=" in argument and not argument.startswith("-"):
            try:
                if parser.parse_override(argument).is_sweep_override():
                    found.append(argument)
            except HydraException:  # Hydra says so itself, in our words
                continue
    return found
