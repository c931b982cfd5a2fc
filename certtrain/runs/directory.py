"""The run directory: everything that a result rests on, written beside it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import yaml

from certtrain.errors import UserError, command_line, nearest
from certtrain.runs import environment
from certtrain.runs.folder import FOLDERS, make_folder, take_back
from certtrain.runs.locks import RunLock
from certtrain.runs.run_yaml import read_yaml
from certtrain.system.files import plain, refuse_links, write_json_atomic, write_text_atomic

RESULT_SCHEMA = 1
STATUSES = ("complete", "interrupted", "failed")
State = Literal["new", "resume", "complete"]

ABSENT = "(absent)"


class RunDirectory:
    """One run's directory: the paths in it, its configuration, its result, and the lock that keeps it to one process.

    `RunDirectory(path)` only names paths. `RunDirectory.open` creates or resumes; use the run as a context manager, or
    call `close`, to give the lock back.

    Args:
        path: of the directory.
        held: the process that started this one has it open, for as long as this one lives.
    """

    def __init__(self, path: str | Path, held: bool = False) -> None:
        self.path = Path(path)
        self._held = held
        self._lock = RunLock(self.path)
        self._found: frozenset[str] | None = None  # what lay in the directory when it was opened; None: it was made

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def config(self) -> Path:
        """The resolved configuration; written last at creation, so that its presence makes a directory a run."""
        return self.path / "config.yaml"

    @property
    def earlier_configs(self) -> list[Path]:
        """`config.N.yaml`: what `config.yaml` was in session N, from 0, where a later one changed it. Certificates from
        before, about weights that are still these, state its hash."""
        found = {path: re.fullmatch(r"config\.(\d+)\.yaml", path.name) for path in self.path.glob("config.*.yaml")}
        return sorted((path for path, name in found.items() if name), key=lambda path: int(found[path][1]))

    @property
    def overrides(self) -> Path:
        return self.path / "overrides.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def diff(self) -> Path:
        """The patch from the commit to the code that ran; present when it was dirty."""
        return self.path / "diff.patch"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def figure(self) -> Path:
        return self.path / "certified_accuracy.png"

    @property
    def certificates(self) -> Path:
        """The folder of certificate logs: `<name>.tsv` with its card `<name>.json`."""
        return self.path / "certificates"

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        overrides: Sequence[str],
        *,
        may_differ: Collection[str] = (),
        extends: Collection[str] = (),
    ) -> tuple[RunDirectory, State]:
        """Create a run, or go on with the one of that name, and lock it. Called by one process of a run only.

        Args:
            path: the run directory.
            config: the composed, resolved configuration.
            overrides: what the user wrote on the command line.
            may_differ: keys (`data_dir`, `trainer`; a key stands for all below it) that do not make another
                configuration.
            extends: keys, such as `epochs`, that do not either, but whose change leaves a complete run work to do.

        Returns:
            The run and its state: `new`; `resume`: begun with this configuration; `complete`: finished, nothing to do.
            A resumed run's files get the new configuration where it differs, the old one stays as `config.N.yaml`, and
            `environment.json` gets one more entry of `resumed`.

        Raises:
            UserError: the name belongs to another configuration (with the keys that differ) or to something that is
                not a run; another process works in it; the directory cannot be written. The old files stay as they are.
        """
        run = cls(path)
        run._found = make_folder(run.path)
        run.lock()
        try:
            if not run.config.exists():
                run._write_evidence(config, overrides)
                return run, "new"
            differing = config_differences(run.read_config(), config)
            other = [entry for entry in differing if not _below(entry[0], (*may_differ, *extends))]
            if other and not run._failed_at_once():
                raise _other_configuration(run, other)
            if other:  # a failure before anything was learnt leaves the name free for the mended configuration
                run.result.unlink(missing_ok=True)
                run._write_evidence(config, overrides)
                return run, "new"
            longer = any(_below(key, extends) for key, _, _ in differing)
            result = run.read_result()
            if result is not None and result["status"] == "complete" and not longer:
                return run, "complete"
            run._write_resumption(config if differing else None, overrides)
            return run, "resume"
        except BaseException:
            run.close()
            raise

    def lock(self, shard: str | None = None) -> None:
        """Keep every other process out of this directory until `close` or the end of this process; see `RunLock`.

        Args:
            shard: `1-of-4`: let the other shards of a job in, but nobody else, and this shard only once.

        Raises:
            UserError: another process has the lock; the lock file cannot be written; files of the run are links.
        """
        refuse_links(self.path, (*FOLDERS, "certificates/parts"))
        if not self._held:
            self._lock.acquire(shard)

    def close(self) -> None:
        """Give the locks back."""
        self._lock.release()

    def withdraw(self) -> None:
        """Take back a new run that came to nothing: what `open` and its session made goes, so that its name is free.

        Whatever lay there before stays, and so does a file that no run has. To be called by who has the run open.
        """
        take_back(self.path, self._found)

    def read_config(self, path: Path | None = None) -> dict[str, Any]:
        """The resolved configuration, or one of `earlier_configs`.

        Raises:
            UserError: missing, or no YAML mapping.
        """
        return read_yaml(path or self.config, dict)

    def read_overrides(self) -> list[str]:
        """The command-line overrides that the run was composed with.

        Raises:
            UserError: missing, or no YAML list.
        """
        return read_yaml(self.overrides, list)

    def write_result(self, result: Mapping[str, Any]) -> Path:
        """Replace `result.json` in one step; `schema` is added.

        A run is opened before torch is imported, so this is also where `environment.json` learns of accelerators.

        Raises:
            ValueError: `status` is not complete, interrupted or failed.
            UserError: the file cannot be written.
        """
        if result.get("status") not in STATUSES:
            raise ValueError(f"status {result.get('status')!r} is none of {', '.join(STATUSES)}")
        self._complete_environment()
        head = {"schema": RESULT_SCHEMA, "status": result["status"]}
        return write_json_atomic(self.result, head | {key: result[key] for key in result if key not in head})

    def read_result(self) -> dict[str, Any] | None:
        """The content of `result.json`; None before there is one.

        Raises:
            UserError: not JSON, not a result, or of a newer version of certtrain.
        """
        try:
            result = json.loads(self.result.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"cannot read {self.result}: {error}", where="result", fix="move it away") from error
        if not isinstance(result, dict) or result.get("status") not in STATUSES:
            raise UserError(f"{self.result} is not the result of a run", where="result", fix="move it away")
        if result.get("schema", 0) > RESULT_SCHEMA:
            raise UserError(
                f"{self.result} has schema {result['schema']}; this version reads up to {RESULT_SCHEMA}",
                where="result",
                fix="use the version of certtrain that wrote it, or a newer one",
            )
        return result

    def checkpoint_hashes(self) -> dict[str, str]:
        """The sha256 of each checkpoint there is, by its file's name: `checkpoints_sha256` of `result.json`."""
        return {path.name: sha256_file(path) for path in (self.last, self.best) if path.is_file()}

    def stated_hash(self, name: str) -> Any:
        """What `result.json` says of a checkpoint's sha256; None where it says nothing.

        Raises:
            UserError: as `read_result`.
        """
        stated = (self.read_result() or {}).get("checkpoints_sha256")
        return stated.get(name) if isinstance(stated, dict) else None

    def check_checkpoint(self, path: Path) -> str | None:
        """Hold a checkpoint to the hash that `result.json` keeps of it.

        Returns:
            None when it is that one; else why nothing is known: the training is unfinished.

        Raises:
            UserError: it is another one.
        """
        if not path.is_file():  # which is said where it is read
            return None
        expected = self.stated_hash(path.name)
        if expected is None:
            return f"result.json keeps no hash of {path.name} (an unfinished run)"
        if sha256_file(path) != expected:
            raise UserError(
                f"{path} is not the checkpoint that the run wrote: it was damaged or replaced since",
                where=f"{self.result}, key checkpoints_sha256.{path.name}",
                fix="restore the file from a copy, or train again",
            )
        return None

    def _failed_at_once(self) -> bool:
        """Whether the run failed and left no checkpoint, no metric and no certificate that could be lost."""
        left = self.metrics.exists() or any(any(f.glob("*")) for f in (self.checkpoints, self.certificates))
        return not left and (self.read_result() or {}).get("status") == "failed"

    def _write_evidence(self, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
        described = environment.describe()
        self._write_patch(self.diff)
        for folder in (self.checkpoints, self.certificates):
            folder.mkdir(exist_ok=True)
        write_json_atomic(self.environment, {"config_sha256": config_hash(config), **described, "resumed": []})
        write_text_atomic(self.overrides, _yaml(list(overrides)))
        write_text_atomic(self.config, _yaml(plain(config)))

    def _write_resumption(self, config: Mapping[str, Any] | None, overrides: Sequence[str]) -> None:
        """The earlier sessions' evidence stays; this one's is added to it, with its own patch when the code is dirty.

        Args:
            config: None: as it was.
            overrides: of this session.
        """
        described = self._read_environment()
        sessions = list(described.get("resumed", []))
        patch = self._write_patch(self.path / f"diff.{len(sessions) + 1}.patch")
        session = environment.describe() | ({"patch": patch.name} if patch else {})
        if config is None:
            config = self.read_config()
        else:
            write_text_atomic(self.path / f"config.{len(sessions)}.yaml", self.config.read_text(encoding="utf-8"))
        described["config_sha256"] = config_hash(config)
        described["resumed"] = [*sessions, session]
        write_json_atomic(self.environment, described)
        write_text_atomic(self.overrides, _yaml(list(overrides)))
        write_text_atomic(self.config, _yaml(plain(config)))

    def _complete_environment(self) -> None:
        found = environment.accelerators()
        if found is None or not (
            self._held or self._lock.held
        ):  # only the process that opened the run knows its hardware
            return
        described = self._read_environment()
        session = (described.get("resumed") or [described])[-1]
        if session.get("hardware", {}).get("accelerators", found) is None:
            session["hardware"]["accelerators"] = found
            write_json_atomic(self.environment, described)

    def _read_environment(self) -> dict[str, Any]:
        try:
            described = json.loads(self.environment.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # lost or torn by other hands: begin again rather than refuse to go on
            return {}
        return described if isinstance(described, dict) else {}

    @staticmethod
    def _write_patch(path: Path) -> Path | None:
        state = environment.git_state()
        return write_text_atomic(path, state[1]) if state and state[1] else None


def find_run(name: str | Path, root: str | Path = "runs") -> RunDirectory:
    """The run called `NAME` under root, or at the path `runs/NAME`.

    Raises:
        UserError: there is none; names the nearest ones.
    """
    for candidate in (Path(name), Path(root) / name):
        if (candidate / "config.yaml").is_file():
            return RunDirectory(candidate)
    known = {str(path.parent.relative_to(root)) for path in Path(root).glob("**/config.yaml")}
    known = {run for run in known if not any(str(folder) in known for folder in Path(run).parents)}  # wandb has its own
    hint = nearest(Path(name).name, known) if known else "train one first: certtrain train experiment=quickstart"
    raise UserError(f"there is no run {str(name)!r}", where=f"{name} and {Path(root) / name}", fix=hint)


def config_hash(config: Mapping[str, Any]) -> str:
    """The sha256 of a configuration's canonical JSON: keys sorted, 1.0 the same as 1, NaN and infinities null."""
    return hashlib.sha256(_canonical(config).encode()).hexdigest()


def difference_lines(differing: Sequence[tuple[str, Any, Any]], most: int = 12) -> list[str]:
    """What `config_differences` found, in lines for a message: so many at most, and how many more there are."""
    lines = [f"    {key}: {_told(old)} there, {_told(new)} now" for key, old, new in differing[:most]]
    return lines if len(differing) <= most else [*lines, f"    and {len(differing) - most} more"]


def _told(value: Any) -> str:
    return "absent" if value is ABSENT else repr(value)


def config_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], may_differ: Collection[str] = ()
) -> list[tuple[str, Any, Any]]:
    """The `(dotted key, old value, new value)` in which two configurations differ, in the order of the new one.

    A list is one value. A key that only one of them has stands with `ABSENT` for the other. `may_differ` names keys to
    pass over, each with all below it.
    """
    before, after = _flatten(plain(old)), _flatten(plain(new))
    keys = [*after, *(key for key in before if key not in after)]
    pairs = [(key, before.get(key, ABSENT), after.get(key, ABSENT)) for key in keys]
    return [(key, a, b) for key, a, b in pairs if _canonical(a) != _canonical(b) and not _below(key, may_differ)]


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's content, in hexadecimal.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}", where="input file") from error


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix.removesuffix("."): value}
    return {key: item for name, inner in value.items() for key, item in _flatten(inner, f"{prefix}{name}.").items()}


def _canonical(value: Any) -> str:
    def integral(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: integral(inner) for key, inner in item.items()}
        if isinstance(item, list):
            return [integral(inner) for inner in item]
        return int(item) if isinstance(item, float) and item.is_integer() else item

    return json.dumps(integral(plain(value)), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _below(key: str, tops: Collection[str]) -> bool:
    return any(key == top or key.startswith(f"{top}.") for top in tops)


def _yaml(value: object) -> str:
    # Without allow_unicode, whose output PyYAML itself cannot always read back (a next-line character in a key).
    return yaml.safe_dump(value, sort_keys=False, width=120)


def _other_configuration(run: RunDirectory, differing: list[tuple[str, Any, Any]]) -> UserError:
    try:
        former = command_line(*run.read_overrides()) or "no overrides"
    except UserError:
        former = "its config.yaml"
    fix = f"choose another name=, or give the overrides that it was made with: {former}"
    if all(old is ABSENT for _, old, _ in differing):
        fix += "; if certtrain has got the key since, the version in the run's environment.json resumes it"
    return UserError(
        "\n".join([f"the run {run.name} exists with another configuration:", *difference_lines(differing)]),
        where=str(run.path),
        fix=fix,
    )
