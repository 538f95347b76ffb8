"""Progress: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

from io import StringIO
from itertools import pairwise

import pytest
from rich.console import Console

from ofa.train.progress import Progress


def shown(total: int, done: int = 0, *, terminal: bool = False, quiet: bool = False) -> str:
    console = Console(file=StringIO(), force_terminal=terminal, width=120)
    with Progress("supernet", console=console, quiet=quiet) as progress:
        progress.expect(total, done)
        for step in range(done, total):
            progress.advance(loss=1 / (step + 1))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


class Clock:
    """Every step takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 0.0

    def perf_counter(self) -> float:
        self.now += self.seconds
        return self.now


@pytest.mark.parametrize("total", [1, 3, 7, 1000])
def test_without_a_terminal_a_quick_stage_has_one_plain_line(total: int) -> None:
    (line,) = shown(total).splitlines()
    assert line.startswith(f"supernet  100 %  {total}/{total}  loss") and "took" in line


@pytest.mark.parametrize(("seconds", "steps"), [(1.0, 10), (0.02, 250), (60.0, 10)])
def test_a_long_stage_has_a_line_every_ten_seconds_at_most_and_each_ten_per_cent_at_least(
    monkeypatch: pytest.MonkeyPatch, seconds: float, steps: int
) -> None:
    """The clock is looked at twice a line and once a step, which is near enough."""
    monkeypatch.setattr("ofa.train.progress.time", Clock(seconds))
    lines = shown(1000).splitlines()
    shares = [int(line.split()[1]) for line in lines]
    assert shares[-1] == 100 and all(b - a <= 10 or seconds < 0.1 for a, b in pairwise([0, *shares]))
    assert len(lines) <= min(100, 1000 // steps + 100) and all("left" in line for line in lines[:-1])
    assert len(lines) >= (9 if seconds >= 1 else 1)
    assert len(lines) <= max(1000 * seconds * 1.3 / 10, 1) + 1


def test_a_resumed_stage_begins_where_it_was() -> None:
    assert [line.split()[1] for line in shown(100, 60).splitlines()] == ["100"]
    assert shown(100, 100) == ""


def test_a_terminal_gets_a_bar_with_the_figures() -> None:
    text = shown(50, terminal=True)
    assert "supernet" in text and "50/50" in text and "loss 0.02" in text


def test_quiet_is_silent() -> None:
    assert shown(50, quiet=True) == ""
