"""What a run's files say on the command line of Hydra, which evaluates, composes and calls what it is told.

A command takes a run's radii, draws and certifier over, and `resume=` the overrides that it was made with. A stranger
may have written them, so they are plain values, names of options, and settings of a training, or refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NoReturn

from certtrain.config.overrides import GROUPS, quoted
from certtrain.config.received import nodes, refuse_interpolations, trusted
from certtrain.errors import UserError

OPTION = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*")  # of a group: never `..`, never absolute
# What OmegaConf evaluates: `${oc.env:TOKEN}`, and `${${a}:TOKEN}`. `${epochs}` only repeats another key.
RESOLVER = re.compile(r"\$\{[^{}]*(:|\$\{)")
OF_A_SESSION = ("trust", "resume", "seeds", "sweep", "name", "runs_dir")  # and not of a run: nobody writes them there
TYPED = re.compile(r"""_target_['"]?\s*[:=]\s*['"]?([\w.]+)""")


def literal(key: str, value: Any, source: object) -> str:
    """The override `key=value` for a plain value of a run's configuration: Hydra finds nothing in it to evaluate.

    Raises:
        UserError: neither a number, a text, a truth value, null nor a list of these; or an interpolation.
    """
    return f"{key}={_literal(value, key, f'{source}, key {key}')}"


def option(key: str, value: Any, source: object) -> str:
    """The override `group=option` for a choice of a run: an option's name leads nowhere but into its group's folder.

    Raises:
        UserError: another text, or no text.
    """
    if not isinstance(value, str) or not OPTION.fullmatch(value):
        where = f"{source}, key choices.{key}"
        raise UserError(f"{value!r} is not the name of an option", where=where, fix=f"{key}=... on the command line")
    return f"{key}={value}"


def kept_overrides(overrides: Sequence[Any], typed: Sequence[str], source: object) -> list[str]:
    """The overrides that a run was made with, as far as they are not given anew, to compose its configuration again.

    Args:
        overrides: what its `overrides.yaml` holds.
        typed: keys that the user gives now.
        source: names that file in messages.

    Raises:
        UserError: what is no override, one of Hydra's own keys, an option that leads out of its group's folder, or an
            interpolation that reads the environment.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    kept, parser = [], OverridesParser.create()
    for text in overrides:
        where = f"{source}, {text!r}"
        if not isinstance(text, str) or text.startswith("-"):
            _refuse_override("is not an override", where)
        if text.split("=", 1)[0].lstrip("+~") in typed:
            continue
        try:
            override = parser.parse_override(text)
            value = override.value()
        except HydraException:
            _refuse_override("is not an override", where)
        places = [override.key_or_group, *filter(None, (override.package,))]
        session = override.key_or_group.split(".")[0] in OF_A_SESSION
        if session or any("hydra" in re.split(r"[./@]", place) for place in places) or override.is_sweep_override():
            _refuse_override("is not a setting of a training", where)
        _refuse_resolvers(value, where)
        if _names_an_option(override.key_or_group) and not _is_option(value):
            _refuse_override("does not name an option of a group", where)
        kept.append(text)
    return kept


def typed_trust(arguments: Sequence[str]) -> list[str]:
    """`trust=[...]` of what a command line trusts, and of the `_target_`s that it names itself; none for none."""
    given = [argument.removeprefix("trust=") for argument in arguments if argument.startswith("trust=")]
    names = [name.strip(" '\"") for text in given for name in text.strip(" []").split(",")]
    names += [target for argument in arguments for target in TYPED.findall(argument)]
    names = [name for name in dict.fromkeys(names) if name]
    trusted(names)
    return [f"trust=[{','.join(names)}]"] if names else []


def _literal(value: Any, key: str, where: str) -> str:
    if isinstance(value, str):
        refuse_interpolations(value, where)
        return quoted("", value).removeprefix("=")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(_literal(item, key, where) for item in value)}]"
    raise UserError(f"{key} = {value!r} is not a plain value", where=where, fix=f"{key}=... on the command line")


def _refuse_override(what: str, where: str) -> NoReturn:
    raise UserError(
        f"a line of a run's overrides {what}", where=where, fix="give it on the command line, if you mean it"
    )


def _refuse_resolvers(value: Any, where: str) -> None:
    for _, item in nodes(value, ""):
        if isinstance(item, str) and RESOLVER.search(item):
            _refuse_override("would be evaluated", where)


def _names_an_option(key: str) -> bool:
    """Whether Hydra may look for a file: of a group, or of anything that a user's folder makes one."""
    return key in GROUPS or "/" in key or ("." not in key and key not in ("data_dir", "init"))


def _is_option(value: Any) -> bool:
    """Whether no part of a value leads out of a folder."""
    texts = [item for _, item in nodes(value, "") if isinstance(item, str)]
    return not any(text.startswith("/") or ".." in re.split(r"[/\\]", text) for text in texts)
