"""The bar says the share done, how many of how many, the rate and both times in words; of names no markup."""

import io
import re

from rich.console import Console

from certtrain.reporting.bar import Bar, _clock


def drawn(width: int = 100, **more) -> str:
    screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with Bar(screen, "certify [red]crown", 360) as bar:
        bar.update(0)
        bar.update(150.7, "crown at 0.15; certified 81.3% so far", **more)
    return screen.file.getvalue()


def test_what_it_says():
    shown = drawn()
    assert "certify [red]crown" in shown
    assert " 42 %" in shown
    assert "150/360 examples" in shown
    assert re.search(r"0:0\d elapsed", shown)
    assert "crown at 0.15; certified 81.3% so far" in shown
    assert "train epoch 2/3" in drawn(label="train epoch 2/3")
    assert all(len(line) <= 100 for line in re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", shown).splitlines())


def test_the_rate_and_the_time_left():
    screen = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    now = [0.0]
    bar = Bar(screen, "train", 60, "batches")
    bar._progress.get_time = lambda: now[0]
    task = bar._progress.tasks[0]
    task._get_time = lambda: now[0]
    task.start_time = 0.0
    for second in range(1, 21):
        now[0] = float(second)
        bar.update(second)
    line = next(iter(bar._progress.get_renderables()))
    screen.print(line)
    assert "20/60 batches 1.0/s 0:20 elapsed, 0:40 left" in " ".join(screen.file.getvalue().split())


def test_nothing_is_drawn_where_there_is_no_terminal():
    screen = Console(file=io.StringIO(), width=100)
    with Bar(screen, "certify crown", 10) as bar:
        bar.often(5, "half")
        bar.update(10)
    assert screen.file.getvalue() == ""


def test_clocks():
    assert [_clock(seconds) for seconds in (0, 59.9, 60, 3599, 3661)] == ["0:00", "0:59", "1:00", "59:59", "1:01:01"]
