"""Time torch's 2:4 kernels on a GPU against the dense layer of the same weight, in turns.

python experiments/fine_grained/kernels.py [--rounds 30]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments import results
from ofa.sparsity import Pattern, sparsify
from ofa.sparsity.semi_structured import semi_structured

RESULTS = Path(__file__).parent / "kernels.csv"
SHAPES = ((768, 3072), (3072, 768), (4096, 4096), (8192, 8192))
ROWS = (256, 4096, 12608)  # 12608: 64 pictures of a ViT at 224²
WORK = 20  # forward passes a round


def milliseconds(layer: nn.Module, x: Tensor) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(WORK):
        layer(x)
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - started) / WORK


@torch.no_grad()
def compare(inputs: int, outputs: int, rows: int, rounds: int) -> dict[str, Any]:
    """Medians of both, the ratio, and the largest difference of their outputs."""
    dense = nn.Sequential(nn.Linear(inputs, outputs)).half().cuda().eval()
    sparsify(dense, {"0": Pattern(2, 4)})
    sparse = nn.Sequential(nn.Linear(inputs, outputs)).half().cuda().eval()
    sparse.load_state_dict(dense.state_dict())
    refused = semi_structured(sparse)
    x = torch.randn(rows, inputs, device="cuda").half()
    took: dict[nn.Module, list[float]] = {dense: [], sparse: []}
    for i in range(rounds + 3):
        for net in (dense, sparse) if i % 2 else (sparse, dense):
            passed = milliseconds(net, x)
            took[net] += [passed] if i >= 3 else []
    a, b = median(took[dense]), median(took[sparse])
    row = {"inputs": inputs, "outputs": outputs, "rows": rows, "dense_ms": f"{a:.4f}", "sparse_ms": f"{b:.4f}"}
    difference = float((dense(x) - sparse(x)).abs().max() / dense(x).abs().max())
    return row | {"ratio": f"{a / b:.2f}", "difference": f"{difference:.1e}", "refused": refused.get("0", "")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    print(torch.cuda.get_device_name())
    for inputs, outputs in SHAPES:
        for rows in ROWS:
            results.append(RESULTS, compare(inputs, outputs, rows, options.rounds))


if __name__ == "__main__":
    main()
