"""`certtrain report RUN`: one HTML page about a run, which needs no network and no other file.

Certificates with their figures, intervals, classes and examples, the training's curves, the configuration and the
environment. The data are read for the examples where they lie in data_dir; nothing is downloaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certtrain.cli.table import Parser
from certtrain.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from certtrain.reporting.page.evidence import Evidence
    from certtrain.reporting.page.gallery import Source
    from certtrain.runs.directory import RunDirectory

NAME = "report.html"
IMAGES = 8


def parser() -> Parser:
    """The arguments of the command."""
    made = Parser(prog="certtrain report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("run", metavar="RUN", help="a run directory, or its name below runs/")
    made.add_argument("--output", metavar="FILE.html", help=f"default: {NAME} in the run directory")
    made.add_argument("--radius", metavar="R", help="of the tables by class (default: eps, or the middle of the grid)")
    made.add_argument("--data-dir", metavar="DIR", help="folder of the data files (default: the run's data_dir)")
    made.add_argument("--images", type=int, default=IMAGES, metavar="N", help=f"examples a row; 0: none ({IMAGES})")
    made.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="of your own, which the run names"
    )
    made.add_argument("--no-attack", action="store_true", help="do not look again for inputs that broke examples")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns 0."""
    options = parser().parse_args(list(arguments))
    if options.images < 0:
        raise UserError(f"--images {options.images}", where="--images", fix="a whole number >= 0")
    from certtrain.radii import parse_radius
    from certtrain.reporting.page.evidence import read_evidence
    from certtrain.reporting.page.page import check_output, page, write_page
    from certtrain.runs.directory import find_run

    radius = None if options.radius is None else parse_radius(options.radius, where="--radius")
    run = find_run(options.run)
    output = Path(options.output) if options.output else run.path / NAME
    check_output(output)
    evidence = read_evidence(run)
    source, why = _source(evidence, options, run)
    text = page(evidence, source=source, why=why, most=options.images, radius=radius, audits=_audits(run.certificates))
    print(f"wrote {write_page(output, text)}")
    return 0


def _audits(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """What an audit of each complete card finds."""
    from certtrain.audit.card import audit_card
    from certtrain.certificates import read_card

    found: dict[str, list[tuple[str, str]]] = {}
    for card in sorted(folder.glob("*.json")):
        if ".counterexamples" in card.name:
            continue
        try:
            if read_card(card).get("status") != "complete":  # there is nothing to hold it to yet
                continue
            found[card.stem] = [(finding.kind, finding.what) for finding in audit_card(card).findings]
        except UserError as error:
            found[card.stem] = [("DIFFERENT", error.what)]
    return found


def _source(evidence: Evidence, options: argparse.Namespace, run: RunDirectory) -> tuple[Source | None, str]:
    """The run's data, or why there are none."""
    from certtrain.certification.refind import Refinder
    from certtrain.config.received import check_received, trusted
    from certtrain.reporting.page.gallery import Source

    if not options.images:
        return None, "--images 0"
    if not any(c.rows is not None and len(c.rows) for c in evidence.certificates):
        return None, "there is no log"
    trust = trusted(options.trust)
    try:
        check_received(evidence.config, ("data", "model"), trust, run.config)
    except UserError as error:
        fix = f"{error.fix}, or --images 0".replace("trust=", "--trust ")
        raise UserError(error.what, where=error.where, fix=fix) from error
    try:
        data = _data(evidence.config, options.data_dir)
    except UserError as error:
        return None, error.what
    except Exception as error:  # a data set of the user's own may fail in any way: the page does without it
        return None, f"{type(error).__name__}: {error}"

    def inputs(split: str, index: NDArray[np.int64]) -> NDArray[Any]:
        import torch

        return getattr(data, split).x[torch.from_numpy(index)].numpy()

    def labels(split: str, index: NDArray[np.int64]) -> NDArray[np.int64]:
        return getattr(data, split).y.numpy()[index]

    def hash_of(split: str, index: NDArray[np.int64]) -> str:
        import torch

        from certtrain.data.hashing import inputs_sha256

        return inputs_sha256(getattr(data, split).x, getattr(data, split).y, torch.from_numpy(index))

    sizes = {split: len(getattr(data, split)) for split in ("train", "val", "test")}
    names = (getattr(data, "class_names", None), data.feature_names)
    attack = None if options.no_attack else Refinder(run, data, trust)
    more = {"hash_of": hash_of, "attack": attack, "features": getattr(data, "features", None)}
    return Source(data.name, inputs, labels, sizes, *names, **more), ""


def _data(config: Mapping[str, Any], data_dir: str | None) -> Any:
    """The data module of a run's configuration, set up from the files that are there."""
    from certtrain.config.instantiate import instantiate

    if not isinstance(config.get("data"), Mapping):
        raise UserError("the configuration names no data", where="config.yaml")
    node = dict(config["data"])
    if "download" in node:
        node["download"] = False
    if data_dir is not None:
        node["data_dir"] = data_dir
    data = instantiate(node, "data")
    data.setup()
    return data
