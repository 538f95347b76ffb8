"""A stage: a page about the networks that leave."""

from dataclasses import dataclass

from ofa.conf.program.run import Run
from ofa.conf.program.stage import Stage
from ofa.files import write_text


@dataclass(frozen=True)
class Card(Stage):
    name, after, repeatable = "card", "export", True
    needs, leaves = ("front.json",), ("card.md",)
    title: str = "Networks"

    def run(self, run: Run) -> None:
        rows = run.folder.read("front.json")
        lines = [f"- {row['name']}: {row['accuracy']:.1f} %, {row['macs'] / 1e6:.2f} M MACs" for row in rows]
        write_text(run.folder / "card.md", "\n".join([f"# {self.title}", "", *lines, ""]))
        run.say(f"card: {len(rows)} networks")
