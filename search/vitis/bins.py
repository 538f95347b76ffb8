"""The result of a once-for-all search as the Vitis AI Optimizer gives it: the best subnet of every bin of MACs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ofa import Subnet
from ofa.search import Search
from ofa.search.vitis.errors import OptimizerSubnetError

MILLION = 1e6


def best_of_bins(
    search: Search, metric: str, name: str, step: float, setting: Callable[[Subnet], Any]
) -> dict[str, dict[str, Any]]:
    """The best evaluated subnet of each bin of `step` million MACs, by the bin as a string, in ascending order.

    `metric` is its score in the search, `name` what the score is called in the result.

    Raises:
        OptimizerSubnetError: no score is a finite number.
    """
    best: dict[float, tuple[float, int, Subnet]] = {}
    for i, (subnet, metrics) in enumerate(search.results.items()):
        key, gain = round(metrics["macs"] / MILLION / step) * step, search.problem.gains(metrics)[0]
        if np.isfinite(gain) and (key not in best or gain > best[key][0]):
            best[key] = gain, i, subnet
    if not best:
        raise OptimizerSubnetError(f"{name} of all {len(search.results)} subnets is nan or infinite: look at eval_fn")
    rows = {}
    for key, (_, i, subnet) in sorted(best.items(), key=lambda item: item[0]):
        metrics = search.results[subnet]
        macs, params = metrics["macs"] / MILLION, metrics["params"] / MILLION
        facts = {"net_id": f"net_evo_{i}_macs_{int(macs)}", "mode": "evaluate", name: metrics[metric]}
        rows[str(key)] = {**facts, "macs": macs, "params": params, "subnet_setting": setting(subnet)}
    return rows
