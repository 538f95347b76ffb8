"""Iterative pruning behind the Vitis AI Optimizer's interface: analyse once, then prune, finetune, and prune again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from ofa import Subnet, Supernet
from ofa.persistence import weights_digest
from ofa.search.problem import Problem
from ofa.search.pruning import grid_of
from ofa.search.vitis.analysis import Analysis, check_baseline, pending, rows_of
from ofa.search.vitis.arguments import check_call, check_whole, is_number, numbers_of
from ofa.search.vitis.candidates import Function, Scorer
from ofa.search.vitis.direction import check_told
from ofa.search.vitis.errors import (
    OptimizerInvalidAnaResultError,
    OptimizerInvalidArgumentError,
    OptimizerNoAnaResultsError,
)
from ofa.search.vitis.files import exclusive
from ofa.search.vitis.grids import SPARSITIES, Grid, Points
from ofa.search.vitis.groups import Group, find_groups, open_space, option_at, part_costs, subnet_of
from ofa.search.vitis.names import Excludes, excluded
from ofa.search.vitis.ratio import within_ratio
from ofa.search.vitis.results import Results
from ofa.search.vitis.runner import PruningRunner, check_mode, evaluate, metric_of, say
from ofa.search.vitis.specification import read_spec, write_spec
from ofa.search.vitis.unpruned import remains
from ofa.slicing import Measure

DIGITS = 7  # of numpy's short floats
ANEW = "ana(forced=True) starts anew, or work in another directory"
DIVISOR = 2  # Vitis analyses at this one, whatever it prunes at


class IterativePruningRunner(PruningRunner):
    """Sensitivity analysis (`ana`), and networks pruned to a share of MACs, a threshold or a specification (`prune`).

    The model and the example inputs are those of `PruningRunner`, and so is `importance`.
    """

    call: ClassVar[str] = "ana"

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
        mode: Literal["max", "min"] | None = None,
        calibration_fn: Function | None = None,
        calib_args: tuple[Any, ...] = (),
    ) -> None:
        """Score the network whole, and with each group alone at each sparsity of `grid`: 9·G + 1 calls of `eval_fn`.

        `eval_fn(network, *args)` gives a number, after `calibration_fn(network, *calib_args)` if given. `mode` says
        whether the largest is best, or the smallest; without it the scores of pruned networks tell, and it is said
        which. `grid` may be a mapping from excludes to sparsities, of which the largest limits these groups. With
        `adaptive`, only where a curve may bend. Each score is in `.vai/<Class>.sens` before it counts: the same call
        goes on after a kill, nothing is evaluated twice, other excludes reuse what is there, and several processes
        write one file; `forced` starts anew. Vitis' trial of everything at 0.9 is not run: all that may be pruned was
        run while converting.

        Raises:
            ValueError: the file is of another network or importance, or unfinished and of other weights; an exclude
                matches nothing; the whole network's score is not finite; it cannot be told which scores are better.
        """
        check_call(eval_fn, args, ("eval_fn", "args"), "gives its score")
        check_call(calibration_fn or len, calib_args, ("calibration_fn", "calib_args"), "calibrates it")
        numbers_of(gpus), metric_of(mode or "max")
        supernet, path = self.supernet(DIVISOR), self.path(".sens")
        groups = self.open_groups(supernet, excludes, with_group_conv)
        self._excludes, self._with_group_conv = excludes, with_group_conv
        points = Points.of(grid, self.model, groups)
        asked = self._asked(mode, calibration_fn is not None, excludes, with_group_conv)
        before = asked if forced or not path.exists() else self._known(path, asked)
        if adaptive and not before.direction:  # which halves intervals by damage
            self.ana(
                eval_fn, args, gpus, excludes, forced, with_group_conv,
                grid=points.coarsest, calibration_fn=calibration_fn, calib_args=calib_args,
            )  # fmt: skip
            before, forced = self._known(path, asked), False
        settings, metric = points.settings(adaptive), metric_of(before.direction or "max")

        def save(scores: Mapping[Subnet, float]) -> None:
            check_baseline(scores[supernet.space.largest])
            with exclusive(path.parent):
                latest = before if forced and len(scores) == 1 else self._latest(path, before, asked)
                known = {**scores, **known_scores(latest, groups, supernet)}
                rows = rows_of(groups, known, points.limits)
                missing = pending(rows, points.asked(groups), settings, before.direction)
                others = [row for row in latest.rows if not any(group.matches(row) for group in groups)]
                replace(asked, rows=rows + others, pending=missing).write(path)

        with Results(metric, save) as results:
            for subnet, score in known_scores(before, groups, supernet).items():
                results.recall(subnet, score)
            space = points.within(open_space(supernet.space, (group.name for group in groups)), groups)
            engine = settings.start(Problem.parse(space, [metric], part_costs(supernet, space)))
            scorer = Scorer(supernet, metric, eval_fn, tuple(args), calibration_fn, tuple(calib_args))
            total = 1 + sum(len(grid_of(group.choice, settings.grid)) for group in points.asked(groups))
            evaluate(engine, scorer, results, "analysis", gpus, total)
            save(results.scores)
        self._tell(path)

    def prune(
        self,
        removal_ratio: float | None = None,
        threshold: float | None = None,
        spec_path: str | Path | None = None,
        excludes: Excludes = None,
        mode: Literal["sparse", "slim"] = "sparse",
        pruning_info_path: str | Path | None = None,
        channel_divisible: int = 2,
        *,
        strict: bool = False,
    ) -> nn.Module:
        """The network with its weights of now, pruned in one of three ways to multiples of `channel_divisible`.

        By `removal_ratio`, the share of MACs removed, to within 0.01 or else, unless `strict`, as near as can be and
        with a warning; by `threshold`, the relative loss of score that each group alone may cost; or as a `.spec` file
        says. What the analysis has no curve of stays whole; channels
        that earlier rounds made zero do not come back. `mode` "sparse" keeps the shapes, with zeros that stay; "slim"
        has smaller layers. Without `excludes` those of `ana` hold. Leaves `.vai/<Class>_ratio_<r>.spec` and
        `…_pruning_info.json`.

        Raises:
            ValueError: not exactly one way, no finished analysis, or a file of another network or importance.
            UnreachableRatio: no subnet has the wanted MACs, and `strict`; the closest is named.
        """
        check_mode(mode)
        check_whole("channel_divisible", channel_divisible, 1)
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
            self.check_graph(path, spec.graph, "give the network that the specification was made of")
            subnet = subnet_of(supernet, find_groups(supernet), spec.rows, groups)
        else:
            path = self.path(f"_{way}_{value}.spec")
            subnet = chosen(analysis, supernet, groups, way, value, strict)
            write_spec(path, groups, subnet, divisor, self.graph)
            say(f"wrote {path}")
        information = pruning_info_path or path.with_name(f"{path.stem}_pruning_info.json")
        return self.pruned(supernet, subnet, mode, Path(information))

    def transform(self, spec_path: str | Path) -> nn.Module:
        """The slim network of a specification, whatever was excluded."""
        return self.prune(spec_path=spec_path, excludes=(), mode="slim")

    def _finished(self) -> Analysis:
        """The analysis in the work folder, checked to be one to prune from."""
        path = self.path(".sens")
        if not path.exists():
            raise OptimizerNoAnaResultsError(f"there is no analysis in {path}: call ana() before prune()")
        analysis = Analysis.read(path)
        self.check_graph(path, analysis.graph, ANEW)
        if analysis.pending:
            missing = f"{len(analysis.pending)} evaluations are missing"
            raise OptimizerInvalidAnaResultError(f"{path} is unfinished, {missing}: call ana() again")
        if analysis.baseline is None:
            raise OptimizerInvalidAnaResultError(
                f"{path} has no score of the whole network, a row [null, score] in metrics"
            )
        check_baseline(analysis.baseline)
        check_told(analysis.direction, analysis.baseline, analysis.pruned, "ana")
        if analysis.importance not in ("", self.importance.name):
            raise OptimizerInvalidAnaResultError(
                f"{path} was made with importance={analysis.importance!r}, that of this runner is"
                f" {self.importance.name!r}: give it the same, or ana(forced=True) starts anew"
            )
        return analysis

    def _asked(self, mode: str | None, calibrated: bool, excludes: Excludes, with_group_conv: bool) -> Analysis:
        """An analysis of this network that knows nothing yet."""
        digests = (self.graph, weights_digest(self.model))
        ranked = (self.importance.name, self.gradients)
        barred = sorted(excluded(self.model, excludes))
        return Analysis([], mode or "", *digests, [], calibrated, *ranked, barred, with_group_conv)

    def _known(self, path: Path, asked: Analysis) -> Analysis:
        """What an earlier analysis found, checked to be of this network and, if unfinished, of these weights."""
        known = Analysis.read(path)
        self.check_graph(path, known.graph, ANEW)
        if known.pending and known.weights and known.weights != asked.weights:
            raise OptimizerInvalidAnaResultError(f"{path} is an unfinished analysis of other weights: {ANEW}")
        if known.pending and known.gradients != asked.gradients and known.importance == asked.importance:
            raise OptimizerInvalidAnaResultError(f"{path} is an unfinished analysis of other gradients: {ANEW}")
        for name in ("calibrated", "importance"):
            theirs, ours = getattr(known, name), getattr(asked, name)
            if known.graph and theirs not in ("", ours):
                raise OptimizerInvalidAnaResultError(
                    f"{path} was made with {name}={theirs!r}, asked is {ours!r}: {ANEW}"
                )
        return replace(known, mode=asked.mode)

    def _latest(self, path: Path, before: Analysis, asked: Analysis) -> Analysis:
        """What the file knows by now, where other processes write it, too; what was known before if it is another's."""
        latest = Analysis.read(path) if path.exists() else before
        return latest if latest.is_like(asked) else before

    def _tell(self, path: Path) -> None:
        """Say what was written, and which scores are better.

        Raises:
            OptimizerInvalidArgumentError: that cannot be told.
        """
        analysis = Analysis.read(path)
        say(f"wrote {path}")
        check_told(analysis.direction, analysis.baseline or 0.0, analysis.pruned, "ana")
        if analysis.announcement:
            say(analysis.announcement)


def chosen(
    analysis: Analysis, supernet: Supernet, groups: Sequence[Group], way: str, value: float, strict: bool
) -> Subnet:
    """The subnet that an analysis leads to."""
    curved = [group.name for group in groups if analysis.scores(group)]
    if not curved:
        raise OptimizerInvalidAnaResultError(
            "the analysis has no group of this network that may be pruned: its nodes are other layers"
        )
    part = remains(supernet, analysis.allowed(open_space(supernet.space, curved), groups))
    curves = analysis.curves(part, groups)
    if way == "threshold":
        return part.decode(curves.at(value + 1e-8))
    whole = supernet.cost(supernet.space.largest).macs
    return within_ratio(curves, part_costs(supernet, part), value, whole, strict) if value else part.largest


def known_scores(before: Analysis, groups: Sequence[Group], supernet: Supernet) -> dict[Subnet, float]:
    """The scores of an earlier analysis of these groups, by subnet."""
    largest = supernet.space.largest
    if before.baseline is None or not any(before.scores(group) for group in groups):
        return {}
    found = {largest: before.baseline}
    for group in groups:
        for share, score in before.scores(group).items():
            option = option_at(group.choice, share)
            if option != group.choice.largest:
                found.setdefault(largest.replace(**{group.name: option}), score)
    return found


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
        raise OptimizerInvalidArgumentError(
            f"prune by exactly one of removal_ratio, threshold and spec_path, got {got}"
        )
    way, value = next(iter(ways.items()))
    if way != "spec" and not is_number(value):
        name = "removal_ratio" if way == "ratio" else way
        raise OptimizerInvalidArgumentError(f"{name} is a number, got {value!r}")
    if (way == "ratio" and not 0 <= value < 1) or (way == "threshold" and not value >= 0):
        raise OptimizerInvalidArgumentError(
            f"removal_ratio lies in [0, 1) and threshold is at least 0, got {way}={value}"
        )
    plain = way == "spec" or isinstance(value, (int, float))
    return way, value if plain else round(float(value), DIGITS)
