"""What a run depended on besides its configuration: code, package versions, hardware, command line."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = (
    "certtrain",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "numpy",
    "scipy",
    "scikit-learn",
    "auto_LiRPA",
    "wandb",
)
# Untracked files that can change a result: names are evidence, contents may be keys and stay where they are.
CODE_SUFFIXES = frozenset({".py", ".yaml", ".yml", ".toml"})


def describe() -> dict[str, Any]:
    """The content of `environment.json`, without importing anything heavy and without the machine's name.

    Accelerators are listed when torch is already imported; null means that nobody has looked.
    """
    code = git_state()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "git": None if code is None else {"commit": code[0], "dirty": bool(code[1])},
        "python": platform.python_version(),
        "packages": package_versions(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "hardware": hardware(),
    }


_typed: list[str] = []


def remember_command(words: Sequence[str]) -> None:
    """Keep what the user typed: a command may add to it before it is parsed."""
    _typed[:] = words


def typed_words() -> list[str]:
    """What `remember_command` was given; empty when nothing was typed."""
    return list(_typed)


def command_line() -> str:
    """The command as typed, its program without the folder that it lies in, without the password of a database."""
    words = _typed or sys.argv
    program = Path(words[0]).name if words and words[0] else "python"
    # A program of two words is a command with its name.
    return " ".join([program, *(shlex.quote(without_password(word)) for word in words[1:])])


def without_password(text: str) -> str:
    """`postgresql://me:***@host/db` for a URL with a password: evidence gets shared."""
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1:***@", text)


class Started(NamedTuple):
    """A process of several that torchrun started: its number from 0, how many, and its number on this machine."""

    number: int
    of: int
    local: int


def torchrun() -> Started | None:
    """This process's place when torchrun started it with others; None otherwise."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return None
    return Started(*(int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))


def package_versions() -> dict[str, str | None]:
    """The installed version of every package that can change a result, null where it is not installed."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def hardware() -> dict[str, Any]:
    """CPU model, cores (in the machine, and usable by this process), memory in GiB, accelerator names."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "memory_gib": _memory_gib(),
        "accelerators": accelerators(),
    }


def git_state() -> tuple[str, str] | None:
    """The commit of certtrain's own source and the patch from it to the files as they are ("" when clean).

    The patch covers tracked files; of untracked code and configuration it lists the names, in lines that `git apply`
    passes over. None when the package is not run from a git checkout: a wheel installed inside somebody's repository
    must not claim that repository's commit.
    """
    source = Path(__file__).resolve()
    top = _git(source.parent, "rev-parse", "--show-toplevel")
    if top is None or _git(source.parent, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    root = Path(top.strip())
    commit = _git(root, "rev-parse", "HEAD")
    tracked = _git(root, "diff", "HEAD", "--binary", "--no-color", "--no-ext-diff")
    untracked = _git(root, "ls-files", "--others", "--exclude-standard", "-z")
    if commit is None or tracked is None or untracked is None:
        return None
    names = [name for name in untracked.split("\0") if Path(name).suffix in CODE_SUFFIXES]
    listed = [f"# untracked, its content not in this patch: {json.dumps(name)}\n" for name in names]
    return commit.strip(), "".join(listed) + tracked


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, stdin=subprocess.DEVNULL, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def _cpu_model() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or None


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def accelerators() -> list[str] | None:
    """The names of the accelerators that torch sees; None while torch is not imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ["Apple MPS"] if torch.backends.mps.is_available() else []
