"""`certtrain audit CARD|RUN|LOG ...`: recompute what certificates state, derive radii anew, check other people's logs.

A card or a run: hashes, every row and every summary; exit status 1 when anything differs. A log with --alpha: radii,
abstentions and the curve at another alpha, from its counts. A plain log `idx label predict radius correct time`: which
(n, alpha) its radii are consistent with, and what is wrong with its rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certtrain.cli.table import Parser
from certtrain.errors import UserError
from certtrain.system import escape

if TYPE_CHECKING:
    from fractions import Fraction

    from rich.console import Console

    from certtrain.certificates.findings import Audit
    from certtrain.claim import Claim
    from certtrain.reporting.curves import Outcomes
    from certtrain.smoothing.distribution import Noise

DIFFERENT = 1  # exit status when something differs


def parser() -> Parser:
    """The arguments of the command."""
    made = Parser(prog="certtrain audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("paths", nargs="+", metavar="PATH", help="a card (.json), a run directory, or a log")
    made.add_argument(
        "--alpha", type=float, help="derive the radii at this alpha; of a plain log, with --n: check them"
    )
    made.add_argument("--two-sided", action="store_true", help="bound the other classes, too (needs their counts)")
    made.add_argument("--bonferroni", type=int, metavar="N", help="share alpha equally by N examples")
    made.add_argument("--output", metavar="FILE", help="write the derived log, with its card, under a new name")
    made.add_argument("--sigma", type=float, help="of the noise, where no card says it")
    made.add_argument("--n", type=int, help="draws of a plain log, when they are known")
    made.add_argument("--total", type=int, metavar="N", help="examples in the split of a plain log")
    made.add_argument("--radii", nargs="+", default=[], help="radii of the table")
    made.add_argument("--verbose", action="store_true", help="every check that holds, too, of several cards")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns 0, or 1 when anything differs."""
    options = parser().parse_args(list(arguments))
    _check(options)
    from certtrain.audit.card import audit_card
    from certtrain.certificates.findings import INTEGRITY
    from certtrain.reporting import terminal

    console = terminal.console()
    cards, logs = _sort(options.paths, derive=options.alpha is not None)
    if options.output and (cards or len(logs) != 1):
        raise UserError("--output takes one log", where="the command line", fix="one log with --alpha")
    if cards and (options.alpha is not None or options.two_sided or options.bonferroni):
        raise UserError(
            "--alpha derives radii from a log, and a card states its own alpha",
            where=str(cards[0]),
            fix="name the log: certtrain audit NAME.tsv --alpha 0.01",
        )
    failed = 0
    sets: dict[str, dict[str, int]] = {}
    for path in cards:
        audit = audit_card(path)
        _add_images(sets, path)
        _show(console, audit, every=options.verbose or len(cards) == 1)
        failed += audit.failed
        if len(cards) == 1 and not audit.failed:
            _card_table(console, path, options.radii)
    for path in logs:
        failed += _audit_log(console, path, options, sets)
    _show_images(console, sets)
    if len(cards) + len(logs) > 1:
        console.print(f"{len(cards) + len(logs) - failed} of {len(cards) + len(logs)} pass", highlight=False)
    if cards:
        console.print(INTEGRITY, style="dim", highlight=False)
    return DIFFERENT if failed else 0


def _check(options: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing."""
    if options.alpha is not None and not 0 < options.alpha < 1:
        raise UserError(f"alpha = {options.alpha:g} is not in (0, 1)", where="--alpha", fix="--alpha 0.001")
    for name in ("bonferroni", "n", "total"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}", where=f"--{name}", fix="a whole number >= 1")
    if options.sigma is not None and not 0 < options.sigma < float("inf"):
        raise UserError(f"sigma = {options.sigma:g}", where="--sigma", fix="sigma > 0, such as --sigma 0.25")
    if options.alpha is None and (options.two_sided or options.bonferroni or options.output):
        raise UserError("this needs --alpha", where="the command line", fix="--alpha 0.001")


def _sort(paths: Sequence[str], *, derive: bool) -> tuple[list[Path], list[Path]]:
    """Cards, and logs that are to be read without one."""
    from certtrain.audit.card import card_of, cards_of
    from certtrain.audit.fieldlog import is_ours

    cards: list[Path] = []
    logs: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            cards += cards_of(path)
        elif path.suffix == ".json":
            cards.append(path)
        elif not derive and is_ours(path) and card_of(path).exists():
            cards.append(card_of(path))
        else:
            logs.append(path)
    return cards, logs


def _add_images(sets: dict[str, dict[str, int]], card: Path) -> None:
    """Note on which images of its data set a card's figures are."""
    from certtrain.certificates import read_card

    content = read_card(card)
    of = " ".join(str(content[key]) for key in ("dataset", "split") if content.get(key))
    if content.get("indices_sha256") and isinstance(content.get("n"), int):
        sets.setdefault(of or "unnamed data", {})[content["indices_sha256"]] = content["n"]


def _show_images(console: Console, sets: dict[str, dict[str, int]]) -> None:
    """Say where figures are of different images of one data set, which are never set beside each other."""
    for data, images in sets.items():
        if len(images) > 1:
            counts = " and ".join(f"{n:,}" for n in sorted(images.values()))
            text = f"{data}: certificates on different images ({counts}); their figures do not compare"
            console.print(escape.one_line(text), highlight=False, markup=False)


def _audit_log(console: Console, path: Path, options: argparse.Namespace, sets: dict[str, dict[str, int]]) -> bool:
    """Returns whether the log fails."""
    from certtrain.audit.field import Stated, audit_field_log
    from certtrain.audit.fieldlog import is_ours, read_field_log
    from certtrain.audit.sources import unstated

    if is_ours(path) and options.alpha is not None:
        _derive(console, path, options)
        return False
    log = read_field_log(path)
    if options.alpha is not None and options.n is None:
        raise UserError(
            f"{path} has no counts of votes: radii at another alpha do not follow from its radii",
            where="--alpha",
            fix="--n N with it checks whether the radii are those of N draws at this alpha",
        )
    if options.output or options.bonferroni:
        raise UserError(f"{path} has no counts of votes", where="--output and --bonferroni", fix="leave them out")
    stated = Stated(options.sigma, options.n, options.alpha, options.two_sided, options.total)
    audit, examples = audit_field_log(log, stated)
    _show(console, audit, every=True)
    _table(console, examples, options.radii, unstated(None))
    sets.setdefault("logs without a card", {})[examples.images] = len(examples)
    return audit.failed


def _derive(console: Console, path: Path, options: argparse.Namespace) -> None:
    """The log's radii at another alpha, beside its own."""
    from certtrain.audit.card import card_of
    from certtrain.audit.rewrite import check_output, write_derived
    from certtrain.certificates import CertificateLog, read_card
    from certtrain.certificates.card_check import read_whole
    from certtrain.certificates.findings import rows_text
    from certtrain.certificates.rederive import rederived, refuse_stages
    from certtrain.certifiers.claims import EACH, shared_budget
    from certtrain.reporting.curve_tables import old_and_new
    from certtrain.reporting.curves import outcomes

    card = read_card(card_of(path)) if card_of(path).exists() else None
    settings: dict[str, Any] = (card or {}).get("settings", {})
    source = CertificateLog(path, read_only=True)
    if source.torn():
        console.print("the last line is broken and left out", highlight=False)
    refuse_stages(source.read(), settings)
    rows = read_whole(path, card or {})
    if options.bonferroni and options.bonferroni < len(rows):
        raise UserError(
            f"alpha shared by {options.bonferroni:,} examples does not hold for the {len(rows):,} of {path} together",
            where="--bonferroni",
            fix=f"--bonferroni {len(rows)} or more",
        )
    sigma = options.sigma if options.sigma is not None else settings.get("sigma")
    if sigma is None:
        raise UserError(f"no card beside {path} says sigma", where="--sigma", fix="--sigma 0.25")
    if float(sigma) != float(settings.get("sigma", sigma)):
        raise UserError(
            f"--sigma {sigma:g}, and the card beside {path} says {settings['sigma']:g}: votes under one noise say "
            "nothing about another",
            where="--sigma",
            fix="leave it out",
        )
    if options.output:
        check_output(Path(options.output))
    share = options.bonferroni or 1
    noise = _noise(path, card, float(sigma))
    new, unnamed = rederived(rows, options.alpha / share, noise, two_sided=options.two_sided)
    sides = "two-sided" if options.two_sided else "one-sided"
    shared = f" for {share:,} examples together" if options.bonferroni else ""
    was = f"alpha {settings['alpha']:g}" if "alpha" in settings else "as logged"
    examples, derived = outcomes(rows), outcomes(new)
    radii = _radii(options.radii, max(examples.held.max(), derived.held.max()))
    console.print(f"{path}: radii from the counts of {len(rows):,} rows under {noise.law}", highlight=False)
    if card is None:
        console.print(
            f"no card beside it says which noise it was: {noise.law} of sigma {sigma:g} is taken on your word"
        )
    console.print(old_and_new(examples, derived, radii, (was, f"alpha {options.alpha:g}{shared}, {sides}")))
    if unnamed.any():
        console.print(
            f"{int(unnamed.sum()):,} rows abstained in the log and need not now; it does not name their class, so that "
            f"they stay abstentions: {rows_text(rows.index[unnamed])}",
            highlight=False,
        )
    if options.output:
        changed: dict[str, Any] = {"alpha": options.alpha, "two_sided": options.two_sided, "sigma": float(sigma)}
        changed["budget"] = EACH
        if options.bonferroni:
            changed |= {"budget": shared_budget(share), "alpha_each": options.alpha / share}
            changed["budget_examples"] = share
        for written in write_derived(new, source, card, Path(options.output), changed):
            console.print(f"wrote {written}", highlight=False, soft_wrap=True)


def _noise(path: Path, card: dict[str, Any] | None, sigma: float) -> Noise:
    """The noise that a log's votes were drawn with, by its card's maker; without a card Gaussian noise.

    Raises:
        UserError: the maker is not a smoothing certifier of certtrain, or its settings state no noise.
    """
    from certtrain.certifiers.named import certifier_class
    from certtrain.certifiers.smoothing import SmoothingCertifier
    from certtrain.smoothing.distribution import Gaussian

    if card is None:
        return Gaussian(sigma)
    maker = card.get("made_by")
    kind = certifier_class(maker, ours=True)
    if kind is None or not issubclass(kind, SmoothingCertifier):
        raise UserError(
            f"the card beside {path} is of {maker}: which radii its counts prove, only that certifier knows",
            where="audit --alpha",
            fix="a log of certifier=smoothing or certifier=uniform",
        )
    try:
        return kind.noise_kind.from_settings(card["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the card beside {path} states no noise: {error}", where="its settings") from error


def _radii(texts: Sequence[str], largest: float) -> list[Fraction]:
    from certtrain.reporting.curves import parse_grid, sensible_radii

    return parse_grid(texts) if texts else sensible_radii(largest)


def _table(console: Console, examples: Outcomes, texts: Sequence[str], claim: Claim) -> None:
    from certtrain.reporting.curve_tables import curve_table

    radii = _radii(texts, float(examples.held.max()))
    none = {"targets": "no ACR: radii are targets", "grid": "no ACR: radii are those of a grid"}
    console.print(curve_table(examples, radii, selective=claim.probabilistic, acr=none.get(claim.radii)))


def _card_table(console: Console, path: Path, texts: Sequence[str]) -> None:
    """What a card that passes certifies, with intervals over images."""
    from certtrain.audit.sources import read_lines
    from certtrain.certificates import read_card

    [line] = read_lines([path])
    radii = texts or ["0", *read_card(path)["radii"]]
    _table(console, line.examples, radii, line.claim)


def _show(console: Console, audit: Audit, *, every: bool) -> None:
    """What differs, what could not be checked, and when asked what holds."""
    from rich.table import Table
    from rich.text import Text

    from certtrain.certificates.findings import DIFFERENT, SAME, UNCHECKED, WARNING

    styles = {SAME: "green", UNCHECKED: "dim", WARNING: "yellow", DIFFERENT: "bold red"}
    count = {kind: len(audit.of(kind)) for kind in styles}
    verdict = "FAILS" if audit.failed else "passes"
    facts = [f"{count[SAME]} checks hold", f"{count[UNCHECKED]} not possible"]
    facts += [f"{count[WARNING]} warnings"] * bool(count[WARNING]) + [f"{count[DIFFERENT]} differ"] * audit.failed
    console.print(f"{audit.subject} {verdict}: {', '.join(facts)}", highlight=False, soft_wrap=True)
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True)
    lines.add_column(overflow="fold")
    for finding in audit.findings:
        if every or finding.kind != SAME:
            lines.add_row(Text(f"  {finding.kind}", style=styles[finding.kind]), Text(escape.one_line(finding.what)))
    if lines.row_count:
        console.print(lines)
