"""One-step pruning behind the Vitis AI Optimizer's interface: many candidates of one cost, calibrated and scored.

EagleEye, Li et al., 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ofa import Subnet
from ofa.persistence import weights_digest
from ofa.search.vitis.candidates import Function, Scorer
from ofa.search.vitis.drawing import candidates
from ofa.search.vitis.groups import find_groups
from ofa.search.vitis.names import Excludes, excluded
from ofa.search.vitis.results import Results
from ofa.search.vitis.runner import PruningRunner, check_divisor, check_mode, evaluate, metric_of, on_gpu
from ofa.search.vitis.scored import Contenders, Statistics
from ofa.search.vitis.specification import write_spec
from ofa.slicing import Measure


class OneStepPruningRunner(PruningRunner):
    """Candidates that remove one share of MACs (`search`), and the best of them as a network (`prune`).

    The model and the example inputs are those of `PruningRunner`, and so is `importance`.
    """

    def __init__(self, model: nn.Module, input_signature: Any, *, importance: str | Measure = "l1") -> None:
        super().__init__(model, input_signature, importance=importance)
        self._ratio: float | None = None

    def search(
        self,
        gpus: Sequence[Any] | None = ("0",),
        calibration_fn: Function | None = None,
        calib_args: tuple[Any, ...] = (),
        num_subnet: int = 200,
        removal_ratio: float = 0.5,
        excludes: Excludes = (),
        eval_fn: Function | None = None,
        eval_args: tuple[Any, ...] = (),
        forced: bool = False,
        with_group_conv: bool = False,
        *,
        mode: Literal["max", "min"] = "max",
        channel_divisible: int = 2,
        seed: int = 0,
    ) -> None:
        """Score the network and `num_subnet` candidates that remove `removal_ratio` of its MACs, to within 0.01.

        Each is calibrated by `calibration_fn(network, *calib_args)`, which gives its batch norms statistics of their
        own, and scored by `eval_fn(network, *eval_args)`, of which the largest, or with `mode="min"` the smallest, is
        best. Scores are in `.vai/<Class>_ratio_<r>.search` before they count, statistics beside it: the same call goes
        on after a kill, a larger `num_subnet` adds what is missing; `forced` starts anew.

        Raises:
            ValueError: no `eval_fn`, no subnet in the band, or a file of another network, weights, importance or
                settings.
        """
        if eval_fn is None:
            raise ValueError("one-step pruning needs eval_fn, a function of a network that gives its score")
        metric, path = metric_of(mode), self.path(f"_ratio_{removal_ratio}.search")
        self._ratio, supernet = removal_ratio, self.supernet(channel_divisible)
        groups = self.open_groups(supernet, excludes, with_group_conv)
        engine = candidates(supernet, groups, metric, removal_ratio, num_subnet, seed)
        identity = self._identity(
            mode=mode,
            channel_divisible=channel_divisible,
            excludes=sorted(excluded(self.model, excludes)),
            with_group_conv=with_group_conv,
        )
        before = None if forced or not path.exists() else Contenders.read(path)
        scorer = Scorer(supernet, metric, eval_fn, tuple(eval_args))
        if before is not None:
            before.check(identity, path)
        whole = on_gpu(scorer, gpus)(supernet.space.largest)[metric] if before is None else before.whole

        def save(scores: Mapping[Subnet, float]) -> None:
            Contenders.of(supernet, groups, whole, scores, identity).write(path)

        with Results(metric, save) as results:
            for subnet, score in before.scores(supernet, groups) if before else ():
                results.recall(subnet, score)
            keep = Statistics(statistics_of(path))
            scorer = replace(scorer, calibration_fn=calibration_fn, calib_args=tuple(calib_args), keep=keep)
            evaluate(engine, scorer, results, "search", gpus)

    def prune(
        self,
        mode: Literal["sparse", "slim"] = "slim",
        removal_ratio: float | None = None,
        index: int | None = None,
        pruning_info_path: str | Path | None = None,
        channel_divisible: int = 2,
    ) -> nn.Module:
        """The best candidate, or the one at `index` of all from the worst (0) to the best (-1), as it was scored.

        Its batch norms have the statistics of its calibration. `removal_ratio` is that of the last search unless given.
        Leaves `.vai/<Class>_ratio_<r>_best.spec` and `…_pruning_info.json`.

        Raises:
            ValueError: no such search or index, other weights or another importance, or widths that are no multiples of
                `channel_divisible`.
        """
        check_mode(mode)
        check_divisor(channel_divisible)
        ratio = self._ratio if removal_ratio is None else removal_ratio
        if ratio is None:
            raise ValueError("removal_ratio says which search to prune from; none was made here")
        path = self.path(f"_ratio_{ratio}.search")
        found = Contenders.read(path)
        found.check(self._identity(), path)
        divisor = int(found.identity.get("channel_divisible", channel_divisible))
        if divisor % channel_divisible:
            raise ValueError(
                f"{path} has multiples of {divisor}, asked are {channel_divisible}: the scores would not be of the"
                f" network; search(channel_divisible={channel_divisible}, forced=True) finds such candidates"
            )
        member = found.member(index)
        supernet = self.supernet(divisor)
        groups = find_groups(supernet)
        subnet = found.subnet(member, supernet, groups)
        stem = path.name.removesuffix(".search")
        spec = path.with_name(f"{stem}_{'best' if index is None else index}.spec")
        write_spec(spec, groups, subnet, divisor, self.graph)
        information = Path(pruning_info_path or path.with_name(f"{stem}_pruning_info.json"))
        return self.pruned(supernet, subnet, mode, information, Statistics(statistics_of(path)).of(subnet))

    def _identity(self, **settings: Any) -> dict[str, Any]:
        """What scores hold for."""
        weights, importance = weights_digest(self.model), self.importance.name
        ranked = {"importance": importance, "gradients_digest": self.gradients}
        return {"graph_digest": self.graph, "weights_digest": weights, **ranked, **settings}


def statistics_of(path: Path) -> Path:
    """The folder of a search's statistics."""
    return path.with_name(f"{path.name.removesuffix('.search')}_statistics")
