"""Progress: a bar on a terminal, a few lines elsewhere, nothing when quiet."""

from io import StringIO

import pytest
from rich.console import Console

from ofa.train.progress import LINES, Progress


def shown(total: int, done: int = 0, *, terminal: bool = False, quiet: bool = False) -> str:
    console = Console(file=StringIO(), force_terminal=terminal, width=120)
    with Progress("supernet", console=console, quiet=quiet) as progress:
        progress.expect(total, done)
        for step in range(done, total):
            progress.advance(loss=1 / (step + 1))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("total", [1, 3, 7, 1000])
def test_without_a_terminal_there_are_a_few_plain_lines(total: int) -> None:
    lines = shown(total).splitlines()
    assert 1 <= len(lines) <= LINES
    assert lines[-1].startswith(f"supernet  100 %  {total}/{total}  loss") and "took" in lines[-1]
    assert all("left" in line for line in lines[:-1])


def test_a_resumed_stage_begins_where_it_was() -> None:
    assert [line.split()[1] for line in shown(100, 60).splitlines()] == ["75", "100"]
    assert shown(100, 100) == ""


def test_a_terminal_gets_a_bar_with_the_figures() -> None:
    text = shown(50, terminal=True)
    assert "supernet" in text and "50/50" in text and "loss 0.02" in text


def test_quiet_is_silent() -> None:
    assert shown(50, quiet=True) == ""
