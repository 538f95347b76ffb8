"""Time conversions with their proofs, in forward passes' time, beside those of another checkout.

python experiments/speed/conversion.py [--beside CHECKOUT] [--rounds 3] [NAME…]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments import results

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "conversion.csv"
NAMES = ("resnet50", "densenet121", "mobilenetv2_100", "efficientnet_b0", "swin_tiny_patch4_window7_224",
         "vit_small_patch16_224")  # fmt: skip

ONE = """
import sys, time
import timm, torch
import ofa
torch.set_num_threads(1)
torch.manual_seed(0)
model, x = timm.create_model(sys.argv[1]).eval(), torch.randn(1, 3, 224, 224)
def seconds(work):
    started = time.process_time()
    work()
    return time.process_time() - started
with torch.no_grad():
    model(x)
    forward = sorted(seconds(lambda: model(x)) for _ in range(9))[4]
print(forward, seconds(lambda: ofa.Supernet(model, x)))
"""


def measured(root: Path, name: str) -> tuple[float, float]:
    """Process time of a forward pass, and of a conversion, on one thread of a fresh process."""
    place = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", ONE, name], env=place, cwd=root, capture_output=True, check=True)
    forward, conversion = map(float, done.stdout.split()[-2:])
    return forward, conversion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--beside", type=Path, help="another checkout, measured in turns")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for name in options.names:
        roots = [ROOT, *([options.beside.resolve()] if options.beside else [])]
        turns = [[measured(root, name) for root in roots] for _ in range(options.rounds)]
        forward = median(f for turn in turns for f, _ in turn)
        ours, *others = (median(turn[i][1] for turn in turns) for i in range(len(roots)))
        row = {"model": name, "forward, s": forward, "conversion, s": ours, "forward passes": ours / forward}
        for other in others:
            row |= {"beside, s": other, "forward passes beside": other / forward, "ratio": ours / other}
        row = {column: value if column == "model" else f"{value:.3g}" for column, value in row.items()}
        print(*row.values(), flush=True)
        results.put(RESULTS, row, "model")


if __name__ == "__main__":
    main()
