"""The progress shows eps, kappa, beta, loss, clean and certified accuracy, and leaves a terminal as it found it."""

import io
import re
from fractions import Fraction

import pytest
from rich.console import Console

from certtrain.training.callbacks.guard import FiniteGuard
from certtrain.training.callbacks.progress import TrainingProgress

PATTERN = r"eps 0\.05 +kappa 0\.5 +beta 0 +loss \d+\.\d{3} +clean \d+\.\d% +certified@0\.02 \(ibp\) \d+\.\d%"


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=140, force_terminal=terminal)


@pytest.mark.parametrize("terminal", [False, True])
def test_shows_what_matters(digits, make_module, make_trainer, make_validation, terminal):
    validation = make_validation(radii=["0.01", "0.02", "0.3"], watched=Fraction(1, 50))
    screen = console(terminal)
    progress = TrainingProgress(screen, validation, refresh_seconds=0)
    make_trainer(validation, progress, epochs=3).fit(make_module(), datamodule=digits)
    shown = screen.file.getvalue()
    found = re.search(PATTERN, shown)
    assert found, shown
    assert "certified@0.3" not in shown
    assert "3/3" in shown
    assert f"certified@0.02 (ibp) {validation.summary['certified']['0.02']:.1%}" in shown
    assert progress._bar is None


def test_prints_about_ten_lines_where_there_is_no_terminal(digits, make_module, make_trainer):
    screen = console(False)
    run = make_trainer(TrainingProgress(screen, None), epochs=25)
    run.limit_val_batches = 0
    run.fit(make_module(), datamodule=digits)
    lines = screen.file.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("epoch 25/25")
    assert "certified" not in lines[-1]


def test_an_error_stops_the_bar(digits, make_module, make_trainer):
    module, screen = make_module(lr=1e30), console(True)
    progress = TrainingProgress(screen, None)
    with pytest.raises(Exception, match="NaN"):
        make_trainer(progress, FiniteGuard(1)).fit(module, datamodule=digits)
    assert progress._bar is None
    assert screen.file.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in screen.file.getvalue()  # the cursor is back
