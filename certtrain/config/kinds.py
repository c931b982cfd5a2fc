"""What the certifiers of a configuration are of, asked of their classes before one is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from certtrain.system.files import conf_dir

if TYPE_CHECKING:
    from certtrain.certifiers import Certifier

Kinds = Sequence[type["Certifier"]]


def of_nodes(nodes: object, *, ours: bool = False) -> Kinds:
    """The classes of `certifier` in a composed configuration; those that cannot be found say so when they are built.

    Args:
        nodes: by name, each with a `_target_`.
        ours: of a run that may have been sent by a stranger: only certtrain's own classes are looked at.
    """
    values = nodes.values() if isinstance(nodes, Mapping) else ()
    return _classes((node.get("_target_") for node in values if isinstance(node, Mapping)), ours=ours)


def of_choice(choice: object, arguments: Sequence[str] = ()) -> Kinds:
    """The classes that an option of the group `certifier` stands for, before anything is composed.

    Args:
        choice: `smoothing`; a name that is no option stands for none.
        arguments: of the command line, whose `--config-dir` may have further options.
    """
    places = [conf_dir() / "certifier"]
    pairs = [*pairwise(arguments), *(argument.split("=", 1) for argument in arguments if "=" in argument)]
    places += [Path(folder) / "certifier" for flag, folder in pairs if flag in ("--config-dir", "-cd")]
    return _classes(_targets(str(choice), places), ours=False)


def fixed_norm(kinds: Kinds) -> str | None:
    """The norm of certifiers that know no other; None where one of them takes `norm`, and of none."""
    norms = {kind.fixed_norm for kind in kinds}
    return norms.pop() if len(norms) == 1 else None


def _targets(choice: str, places: Sequence[Path]) -> list[object]:
    file = next((place / f"{choice}.yaml" for place in places if (place / f"{choice}.yaml").is_file()), None)
    if file is None or not choice.replace("_", "a").isalnum():
        return []
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # which Hydra says when it composes
        return []
    found: list[object] = []
    for key, node in content.items() if isinstance(content, dict) else ():
        if key == "defaults":
            named = [entry for entry in node if isinstance(entry, str) and entry not in ("_self_", choice)]
            found += [target for entry in named for target in _targets(entry, places)]
        elif isinstance(node, dict):
            found.append(node.get("_target_"))
    return found


def _classes(targets: Iterable[object], *, ours: bool) -> list[type[Certifier]]:
    from certtrain.certifiers.named import certifier_class

    return [kind for target in targets if (kind := certifier_class(target, ours=ours)) is not None]
