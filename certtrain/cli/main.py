"""`certtrain <command> [key=value ...]`: dispatch only. Imports nothing heavy, so that a typo is answered at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from certtrain._version import __version__
from certtrain.errors import UserError, nearest
from certtrain.system import escape

COMMANDS = {
    "train": "train a network and certify it on the validation set as it learns",
    "certify": "certify a trained network: certtrain certify run=runs/NAME [certifier=...] [radii=...] [n=...]",
    "predict": "the prediction and certified radius of one image: certtrain predict run=... input=image.png",
    "export": "ONNX and VNN-LIB for other verifiers: certtrain export run=runs/NAME [radii=...] [output=DIR]",
    "table": "ours beside the published, from result files: certtrain table experiments/zhang2020",
    "audit": "recompute what certificates state; other people's logs, too: certtrain audit runs/NAME",
    "plot": "certified accuracy with intervals, of any logs: certtrain plot runs/NAME [--risk-coverage | --compare]",
    "report": "one HTML page about a run, which needs no other file: certtrain report runs/NAME",
    "flips": "what fraction of a table's decisions bounded changes cannot flip: certtrain flips runs/NAME",
    "reproduce": "train, certify and compare one published row: certtrain reproduce zhang2020/mnist_small_eps0.3",
}

USAGE = """certtrain {version}: train classifiers whose robustness can be proved, and prove it

usage: certtrain <command> [key=value ...]

commands
{commands}

start here
  certtrain train experiment=quickstart              CROWN-IBP on digits, l-inf certificates (seconds)
  certtrain train experiment=quickstart_smoothing    Gaussian noise on digits, l2 certificates
  certtrain certify run=runs/quickstart-seed0 certifier=alpha_crown
  certtrain certify checkpoint=FILE model=... data=...   a network trained elsewhere
  certtrain train --help                             every group, its options and the keys to override
  certtrain train experiment=quickstart --cfg job    the composed configuration, nothing run
  certtrain train -m method=ibp,crown_ibp eps=0.1,0.2   one run per combination, and a table of all
  certtrain train experiment=quickstart seeds=5      five seeds, mean and standard deviation
  certtrain train sweep=optuna val_size=0.2          a study of the method's search space

--traceback (or CERTTRAIN_TRACEBACK=1) shows where an error was raised."""

WORKER = "worker"  # of `sessions.launcher`, which nobody types
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def usage() -> str:
    commands = "\n".join(f"  {name:<9} {text}" for name, text in COMMANDS.items())
    return USAGE.format(version=__version__, commands=commands)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 for what failed or fell, 2 for a user's mistake, 130 or 143."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in arguments or os.environ.get("CERTTRAIN_TRACEBACK", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--traceback"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"certtrain {__version__}")
        return 0
    try:
        return _dispatch(arguments[0], arguments[1:])
    except UserError as error:
        if traceback:
            raise
        print(escape.terminal(f"certtrain: {error}"), file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:
        from certtrain.system.files import explained

        if traceback or (message := explained(error)) is None:
            raise
        print(escape.terminal(f"certtrain: {message}"), file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:  # outside training and certifying, which save their work first
        if traceback:
            raise
        print("certtrain: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _dispatch(command: str, arguments: list[str]) -> int:
    if command not in COMMANDS and not (command == WORKER and "TORCHELASTIC_RUN_ID" in os.environ):
        hint = "certtrain train " + command if "=" in command else nearest(command, COMMANDS)
        raise UserError(f"unknown command {command!r}", where="the command line", fix=hint)
    from importlib import import_module

    from certtrain.cli.launch import run_hydra
    from certtrain.runs import environment
    from certtrain.system.allocator import keep_freed_memory

    keep_freed_memory()
    environment.remember_command(["certtrain", command, *arguments])
    started = environment.torchrun()
    if command == "train" and started is not None and started.number > 0:
        from certtrain.sessions.ranks import follow_torchrun

        return follow_torchrun()  # it is told what to train, and where
    module = import_module(f"certtrain.cli.{command}")
    if hasattr(module, "main"):  # composes no configuration of its own
        return module.main(arguments)
    return run_hydra(command, module.prepare(arguments), module.run)


def entry_point() -> None:
    """The console script; a `_target_` of the user's own may lie in the working directory, as under `python -m`."""
    sys.path.append(os.getcwd())
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has stopped, as `| head` does; nor may Python complain when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_BROKEN_PIPE
    sys.exit(status)
