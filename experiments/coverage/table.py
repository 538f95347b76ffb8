"""Write the README's support table from results.csv (`python experiments/coverage/table.py`)."""

from __future__ import annotations

import csv
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- support: experiments/coverage/table.py writes this -->", "<!-- support ends -->"


def table() -> str:
    """Families by library, and what does not convert."""
    rows = list(csv.DictReader((HERE / "results.csv").read_text().splitlines()))
    lines = [
        "| library | families | at least half of the parameters elastic, proved | fewer | not converted |",
        "|---|---|---|---|---|",
    ]
    for library in ("timm", "torchvision"):
        mine = [row for row in rows if row["family"].startswith(library)]
        states = [row["status"] for row in mine]
        half, fewer = states.count("converted"), states.count("partly")
        share = f"{half} ({half / max(len(mine), 1):.0%})"
        lines.append(f"| {library} | {len(mine)} | {share} | {fewer} | {len(mine) - half - fewer} |")
    rest = [f"`{row['model']}` ({row['status']})" for row in rows if row["status"] != "converted"]
    return "\n".join([*lines, "", f"The smallest model of each family; the exceptions: {', '.join(rest) or 'none'}."])


def written(readme: str) -> str:
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
