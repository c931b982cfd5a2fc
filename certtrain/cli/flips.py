"""`certtrain flips RUN`: what fraction of a table's decisions bounded changes cannot flip, by class and by feature.

From a certificate over `scales` of the run: the right decisions that no allowed change flips, by class, against the
size of the change; then each feature alone, all others fixed: which flips most (a column of `scales.categories` by any
of its categories). Writes flips_NAME.png and .json.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certtrain.cli.table import Parser
from certtrain.errors import UserError, nearest

if TYPE_CHECKING:
    from fractions import Fraction

    from certtrain.certificates import Certificates
    from certtrain.certifiers.alone import Alone
    from certtrain.runs.directory import RunDirectory
    from certtrain.threat.scales import Scales


def parser() -> Parser:
    """The arguments of the command."""
    made = Parser(prog="certtrain flips", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("run", metavar="RUN", help="a run directory, or its name below runs/")
    made.add_argument("--certificate", metavar="NAME", help="of the run (default: the only one over scales)")
    made.add_argument("--radius", metavar="R", help="at which features are compared (default: the grid's largest)")
    made.add_argument("--data-dir", metavar="DIR", help="folder of the data files (default: the run's data_dir)")
    made.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="of your own, which the run names"
    )
    made.add_argument("--no-features", action="store_true", help="leave out what each feature does alone")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns 0."""
    options = parser().parse_args(list(arguments))
    from certtrain.certificates.card_check import read_whole
    from certtrain.radii import parse_radii, parse_radius, radius_text
    from certtrain.reporting import flips, terminal
    from certtrain.runs.directory import find_run
    from certtrain.system.files import write_json_atomic
    from certtrain.threat.scales import Scales

    run = find_run(options.run)
    name, card = chosen_card(run, options.certificate)
    radii = parse_radii(card["radii"])
    radius = radii[-1] if options.radius is None else parse_radius(options.radius, where="--radius")
    if radius not in radii:
        told = ", ".join(map(radius_text, radii))
        raise UserError(f"{radius_text(radius)} is no radius of {name}", where="--radius", fix=f"one of {told}")
    rows = read_whole(run.certificates / f"{name}.tsv", card)
    scales = Scales.from_dict(card["settings"]["scales"])
    settings = card["settings"]
    beyond = settings.get("bisect_up_to")  # a bisection ends within its tolerance of there
    reach = None if beyond is None else parse_radius(beyond) - parse_radius(settings["bisect"])
    classes = flips.by_class(rows, radii, card["input_contract"].get("class_names"), reach)
    alone = [] if options.no_features else _alone(run, card, rows, scales, radii, options)
    unit = unit_of(card.get("scales_asked") or {}, scales)
    free = [column for column, _ in scales.groups]
    terminal.console().print(flips.flips_tables(classes, alone, radii, radius, unit, free))
    found = {key: card[key] for key in ("run", "dataset", "split", "certifier", "checkpoint_sha256")}
    found |= {"certificate": name, "scales": scales.label, "unit": unit} | ({"any_category": free} if free else {})
    found |= flips.to_dict(classes, alone, radii)
    subject = f"{card['dataset']} {card['split']}"
    figure = run.path / f"flips_{name}.png"
    flips.flips_figure(classes, alone, figure, radius=radius, unit=unit, subject=subject)
    for path in (write_json_atomic(run.path / f"flips_{name}.json", found), figure):
        print(f"wrote {path}")
    return 0


def chosen_card(run: RunDirectory, name: str | None) -> tuple[str, dict[str, Any]]:
    """The certificate over scales, by name or because there is one only.

    Raises:
        UserError: there is none, or none of the name, or several; it is not complete, over no scales, or was refuted.
    """
    from certtrain.certificates import read_card

    paths = sorted(path for path in run.certificates.glob("*.json") if ".counterexamples" not in path.name)
    cards = {path.stem: read_card(path) for path in paths}
    scaled = [stem for stem, card in cards.items() if "scales" in card.get("settings", {})]
    if name is not None and name not in cards:
        raise UserError(f"{run.path} has no certificate {name!r}", where="--certificate", fix=nearest(name, cards))
    if name is None and len(scaled) != 1:
        which = f"{len(scaled)} certificates over scales" + (f": {', '.join(scaled)}" if scaled else "")
        fix = "--certificate NAME" if scaled else "certtrain certify run=RUN certifier=crown scales={...}"
        raise UserError(f"{run.path} has {which}", where="certtrain flips", fix=fix)
    name = name or scaled[0]
    card = cards[name]
    if name not in scaled:
        raise UserError(f"{name} is not over scales of features", where="--certificate", fix=nearest(name, scaled))
    if card.get("status") != "complete":
        raise UserError(f"{name} is not complete", where="--certificate", fix="certify it again: it goes on")
    if (card.get("falsification") or {}).get("failed"):
        raise UserError(
            f"an attack broke certificates of {name}: nothing it says is to be shown", where="--certificate"
        )
    return name, card


def unit_of(asked: Mapping[str, Any], scales: Scales) -> str:
    """What radius 1 is, in words: `a standard deviation` where it is one of every feature that may change."""
    others = asked.get("others")
    alike = isinstance(others, Mapping) and not any(asked.get(kind) for kind in ("units", "spread", "range"))
    if alike and others == {"spread": 1}:
        return "its standard deviation"
    if (alike and others == {"range": 1}) or (others == 1 and not any(asked.get(k) for k in ("units", "spread"))):
        return "its range"
    return f"the change stated in {scales.label}"


def _alone(
    run: RunDirectory,
    card: Mapping[str, Any],
    rows: Certificates,
    scales: Scales,
    radii: Sequence[Fraction],
    options: argparse.Namespace,
) -> list[Alone]:
    """Each feature alone, on the examples of the log that are classified correctly, by the network that it is about."""
    import torch

    from certtrain.certifiers.alone import each_alone
    from certtrain.config.build import build_data
    from certtrain.config.loading import load_run
    from certtrain.config.received import trusted
    from certtrain.data import Batch
    from certtrain.data.hashing import inputs_sha256
    from certtrain.reporting import terminal
    from certtrain.reporting.bar import Bar
    from certtrain.runs.directory import sha256_file

    loaded = load_run(run.path, Path(str(card["checkpoint"])).stem, trust=trusted(options.trust))
    if sha256_file(loaded.checkpoint) != card["checkpoint_sha256"]:
        raise UserError(
            f"{loaded.checkpoint} is not the network that was certified", where="checkpoint", fix="--no-features"
        )
    config = loaded.config
    node = {**config["data"], **({} if options.data_dir is None else {"data_dir": options.data_dir})}
    data = build_data({**config, "data": node})
    split, index = getattr(data, card["split"]), torch.from_numpy(rows.index)
    if inputs_sha256(split.x, split.y, index) != card.get("inputs_sha256"):
        raise UserError("the data are not those that were certified", where="data", fix="--data-dir, or --no-features")
    right = torch.from_numpy(rows.index[rows.correct])
    batch = Batch(split.x[right], split.y[right], right)
    features = sum(map(bool, scales.values)) + len(scales.groups)
    with Bar(terminal.console(), "each feature alone", features) as bar:
        done: list[str] = []

        def progress(name: str) -> None:
            bar.update(len(done), name)
            done.append(name)

        return each_alone(loaded.network, batch, scales, radii, progress=progress)
