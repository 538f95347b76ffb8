"""Iterative pruning behind the Vitis AI Optimizer's interface: analyse once, then prune, finetune, and prune again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ofa import Subnet, Supernet
from ofa.persistence import weights_digest
from ofa.search.problem import Problem
from ofa.search.vitis.analysis import Analysis, check_baseline, pending, rows_of
from ofa.search.vitis.candidates import Function, Scorer
from ofa.search.vitis.grids import SPARSITIES, Grid, Points
from ofa.search.vitis.groups import Group, find_groups, open_space, option_at, part_costs, subnet_of
from ofa.search.vitis.names import Excludes, excluded
from ofa.search.vitis.ratio import within_ratio
from ofa.search.vitis.results import Results
from ofa.search.vitis.runner import PruningRunner, check_mode, evaluate, metric_of
from ofa.search.vitis.specification import read_spec, write_spec
from ofa.search.vitis.unpruned import remains
from ofa.slicing import Measure

DIGITS = 7  # of numpy's short floats
DIVISOR = 2  # Vitis analyses at this one, whatever it prunes at


class IterativePruningRunner(PruningRunner):
    """Sensitivity analysis (`ana`), and networks pruned to a share of MACs, a threshold or a specification (`prune`).

    The model and the example inputs are those of `PruningRunner`, and so is `importance`.
    """

    def __init__(self, model: nn.Module, input_signature: Any, *, importance: str | Measure = "l1") -> None:
        super().__init__(model, input_signature, importance=importance)
        self._excludes: Excludes = None
        self._with_group_conv: bool | None = None

    def ana(
        self,
        eval_fn: Function,
        args: tuple[Any, ...] = (),
        gpus: Sequence[Any] | None = None,
        excludes: Excludes = None,
        forced: bool = False,
        with_group_conv: bool = False,
        *,
        grid: Grid = SPARSITIES,
        adaptive: bool = False,
        mode: Literal["max", "min"] = "max",
        calibration_fn: Function | None = None,
        calib_args: tuple[Any, ...] = (),
    ) -> None:
        """Score the network whole, and with each group alone at each sparsity of `grid`: 9·G + 1 calls of `eval_fn`.

        `eval_fn(network, *args)` gives a number of which the largest, or with `mode="min"` the smallest, is best, after
        `calibration_fn(network, *calib_args)` if given. `grid` may be a mapping from excludes to sparsities, of which
        the largest limits these groups. With `adaptive`, only where a curve may bend. Each score is in
        `.vai/<Class>.sens` before it counts: the same call goes on after a kill, nothing is evaluated twice, other
        excludes reuse what is there; `forced` starts anew. Vitis' trial of everything at 0.9 is not run: all that may
        be pruned was run while converting.

        Raises:
            ValueError: the file is of another network or importance, or unfinished and of other weights; an exclude
                matches nothing; the whole network's score is not finite.
        """
        metric, path = metric_of(mode), self.path(".sens")
        supernet = self.supernet(DIVISOR)
        groups = self.open_groups(supernet, excludes, with_group_conv)
        self._excludes, self._with_group_conv = excludes, with_group_conv
        points = Points.of(grid, self.model, groups)
        settings = points.settings(adaptive)
        digests = (self.graph, weights_digest(self.model))
        ranked = (self.importance.name, self.gradients)
        barred = sorted(excluded(self.model, excludes))
        empty = Analysis([], mode, *digests, [], calibration_fn is not None, *ranked, barred, with_group_conv)
        before = empty if forced or not path.exists() else self._known(path, empty)
        others = [row for row in before.rows if not any(group.matches(row) for group in groups)]

        def save(scores: Mapping[Subnet, float]) -> None:
            check_baseline(scores[supernet.space.largest])
            rows = rows_of(groups, scores, points.limits)
            missing = pending(rows, points.asked(groups), settings, mode)
            replace(empty, rows=rows + others, pending=missing).write(path)

        with Results(metric, save) as results:
            recall(results, before, groups, supernet)
            space = points.within(open_space(supernet.space, (group.name for group in groups)), groups)
            engine = settings.start(Problem.parse(space, [metric], part_costs(supernet, space)))
            scorer = Scorer(supernet, metric, eval_fn, tuple(args), calibration_fn, tuple(calib_args))
            evaluate(engine, scorer, results, "analysis", gpus)
            save(results.scores)
        warn_of_gains(Analysis.read(path), groups)

    def prune(
        self,
        removal_ratio: float | None = None,
        threshold: float | None = None,
        spec_path: str | Path | None = None,
        excludes: Excludes = None,
        mode: Literal["sparse", "slim"] = "sparse",
        pruning_info_path: str | Path | None = None,
        channel_divisible: int = 2,
    ) -> nn.Module:
        """The network with its weights of now, pruned in one of three ways to multiples of `channel_divisible`.

        By `removal_ratio`, the share of MACs removed, to within 0.01; by `threshold`, the relative loss of score that
        each group alone may cost; or as a `.spec` file says. What the analysis has no curve of stays whole; channels
        that earlier rounds made zero do not come back. `mode` "sparse" keeps the shapes, with zeros that stay; "slim"
        has smaller layers. Without `excludes` those of `ana` hold. Leaves `.vai/<Class>_ratio_<r>.spec` and
        `…_pruning_info.json`.

        Raises:
            ValueError: not exactly one way, no finished analysis, or a file of another network or importance.
            UnreachableRatio: no subnet has the wanted MACs; the closest is named.
        """
        check_mode(mode)
        way, value = the_way(removal_ratio, threshold, spec_path)
        spec = read_spec(Path(value)) if way == "spec" else None
        divisor = channel_divisible if spec is None else spec.divisor
        analysis = self._finished() if spec is None else Analysis()
        excludes = self._excludes if excludes is None else excludes
        with_group_conv = analysis.with_group_conv if self._with_group_conv is None else self._with_group_conv
        supernet = self.supernet(divisor)
        groups = self.open_groups(supernet, analysis.excluded if excludes is None else excludes, with_group_conv)
        if spec is not None:
            path = Path(value)
            self.check_graph(path, spec.graph)
            subnet = subnet_of(supernet, find_groups(supernet), spec.rows, groups)
        else:
            path = self.path(f"_{way}_{value}.spec")
            subnet = chosen(analysis, supernet, groups, way, value)
            write_spec(path, groups, subnet, divisor, self.graph)
        information = pruning_info_path or path.with_name(f"{path.stem}_pruning_info.json")
        return self.pruned(supernet, subnet, mode, Path(information))

    def transform(self, spec_path: str | Path) -> nn.Module:
        """The slim network of a specification, whatever was excluded."""
        return self.prune(spec_path=spec_path, excludes=(), mode="slim")

    def _finished(self) -> Analysis:
        """The analysis in the work folder, checked to be one to prune from."""
        path = self.path(".sens")
        if not path.exists():
            raise ValueError(f"there is no analysis in {path}: call ana() before prune()")
        analysis = Analysis.read(path)
        self.check_graph(path, analysis.graph)
        if analysis.pending:
            raise ValueError(f"{path} is unfinished, {len(analysis.pending)} evaluations are missing: call ana() again")
        if analysis.baseline is None:
            raise ValueError(f"{path} has no score of the whole network, a row [null, score] in metrics")
        check_baseline(analysis.baseline)
        if analysis.importance not in ("", self.importance.name):
            raise ValueError(
                f"{path} was made with importance={analysis.importance!r}, that of this runner is"
                f" {self.importance.name!r}: give it the same, or ana(forced=True) starts anew"
            )
        return analysis

    def _known(self, path: Path, asked: Analysis) -> Analysis:
        """What an earlier analysis found, checked to be of this network and, if unfinished, of these weights."""
        known = Analysis.read(path)
        self.check_graph(path, known.graph)
        if known.pending and known.weights and known.weights != asked.weights:
            raise ValueError(f"{path} is an unfinished analysis of other weights; forced=True starts anew")
        if known.pending and known.gradients != asked.gradients and known.importance == asked.importance:
            raise ValueError(f"{path} is an unfinished analysis of other gradients; forced=True starts anew")
        for name in ("mode", "calibrated", "importance"):
            theirs, ours = getattr(known, name), getattr(asked, name)
            if known.graph and theirs not in ("", ours):
                raise ValueError(f"{path} was made with {name}={theirs!r}, asked is {ours!r}; forced=True starts anew")
        return replace(known, mode=asked.mode)


def chosen(analysis: Analysis, supernet: Supernet, groups: Sequence[Group], way: str, value: float) -> Subnet:
    """The subnet that an analysis leads to."""
    curved = [group.name for group in groups if analysis.scores(group)]
    if not curved:
        raise ValueError("the analysis has no group of this network that may be pruned: its nodes are other layers")
    part = remains(supernet, analysis.allowed(open_space(supernet.space, curved), groups))
    curves = analysis.curves(part, groups)
    if way == "threshold":
        return part.decode(curves.at(value + 1e-8))
    whole = supernet.cost(supernet.space.largest).macs
    return within_ratio(curves, part_costs(supernet, part), value, whole) if value else part.largest


def recall(results: Results, before: Analysis, groups: Sequence[Group], supernet: Supernet) -> None:
    """Take in the scores of an earlier analysis of these groups."""
    largest = supernet.space.largest
    if before.baseline is not None and any(before.scores(group) for group in groups):
        results.recall(largest, before.baseline)
        for group in groups:
            for share, score in before.scores(group).items():
                option = option_at(group.choice, share)
                if option != group.choice.largest:
                    results.recall(largest.replace(**{group.name: option}), score)


def the_way(removal_ratio: float | None, threshold: float | None, spec_path: str | Path | None) -> tuple[str, Any]:
    """Which of three ways of pruning is asked for, and its value.

    Vitis reaches the other two only with a ratio of 0.0 beside them, which counts as none.
    """
    given: dict[str, Any] = {"ratio": removal_ratio, "threshold": threshold, "spec": spec_path}
    ways = {name: value for name, value in given.items() if value is not None}
    if len(ways) > 1 and ways.get("ratio") == 0:
        del ways["ratio"]
    if len(ways) != 1:
        got = ", ".join(ways) or "none"
        raise ValueError(f"prune by exactly one of removal_ratio, threshold and spec_path, got {got}")
    way, value = next(iter(ways.items()))
    if way != "spec" and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{way} is a number, got {value!r}")
    if (way == "ratio" and not 0 <= value < 1) or (way == "threshold" and not value >= 0):
        raise ValueError(f"removal_ratio lies in [0, 1) and threshold is at least 0, got {way}={value}")
    plain = way == "spec" or isinstance(value, (int, float))
    return way, value if plain else round(float(value), DIGITS)


def warn_of_gains(analysis: Analysis, groups: Sequence[Group]) -> None:
    """Say so where most groups score better without most of their channels: then perhaps lower is better."""
    worst = [analysis.scores(group) for group in groups]
    last = [scores[max(scores)] for scores in worst if scores]
    better = sum(score > (analysis.baseline or 0.0) for score in last)
    if analysis.mode == "max" and 2 * better > len(last):
        warnings.warn(
            f"{better} of {len(last)} groups score higher with fewest channels: if lower is better say mode='min'",
            stacklevel=3,
        )
