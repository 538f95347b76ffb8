"""One-step pruning behind the Vitis AI Optimizer's interface: many candidates of one cost, calibrated and scored.

EagleEye, Li et al., 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from ofa import Subnet
from ofa.persistence import weights_digest
from ofa.search.vitis.arguments import check_call, check_index, check_share, check_whole, numbers_of
from ofa.search.vitis.candidates import Function, Scorer
from ofa.search.vitis.drawing import candidates
from ofa.search.vitis.errors import OptimizerInvalidArgumentError, OptimizerNoAnaResultsError
from ofa.search.vitis.files import FOLDER, exclusive
from ofa.search.vitis.groups import find_groups
from ofa.search.vitis.names import Excludes, excluded
from ofa.search.vitis.results import Results
from ofa.search.vitis.runner import PruningRunner, check_mode, evaluate, metric_of, on_gpu, say
from ofa.search.vitis.scored import Contenders, Statistics
from ofa.search.vitis.sparse_and_slim import NOTHING
from ofa.search.vitis.specification import write_spec
from ofa.slicing import Measure

METRIC = "accuracy"  # of what nothing here depends on


class OneStepPruningRunner(PruningRunner):
    """Candidates that remove one share of MACs (`search`), and the best of them as a network (`prune`).

    The model and the example inputs are those of `PruningRunner`, and so is `importance`.
    """

    call: ClassVar[str] = "search"

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
        mode: Literal["max", "min"] | None = None,
        channel_divisible: int = 2,
        seed: int = 0,
    ) -> None:
        """Score the network and `num_subnet` candidates that remove `removal_ratio` of its MACs, to within 0.01.

        Each is calibrated by `calibration_fn(network, *calib_args)`, which gives its batch norms statistics of their
        own, and scored by `eval_fn(network, *eval_args)`. `mode` says whether the largest score is best, or the
        smallest; without it the scores tell, and it is said which. Scores are in `.vai/<Class>_ratio_<r>.search` before
        they count, statistics beside it: the same call goes on after a kill, a larger `num_subnet` adds what is
        missing, and several processes write one file; `forced` starts anew.

        Raises:
            ValueError: no `eval_fn`, no subnet in the band, a file of another network, weights, importance or settings,
                or it cannot be told which scores are better.
        """
        check_call(eval_fn, eval_args, ("eval_fn", "eval_args"), "gives its score")
        check_call(calibration_fn or len, calib_args, ("calibration_fn", "calib_args"), "calibrates it")
        assert eval_fn is not None
        check_share("removal_ratio", removal_ratio)
        for name, count, least in (("num_subnet", num_subnet, 1), ("seed", seed, 0)):
            check_whole(name, count, least)
        numbers_of(gpus), metric_of(mode or "max")
        path = self.path(f"_ratio_{removal_ratio}.search")
        self._ratio, supernet = removal_ratio, self.supernet(channel_divisible)
        groups = self.open_groups(supernet, excludes, with_group_conv)
        engine = candidates(supernet, groups, METRIC, removal_ratio, num_subnet, seed)
        identity = self._identity(
            channel_divisible=channel_divisible,
            excludes=sorted(excluded(self.model, excludes)),
            with_group_conv=with_group_conv,
        )
        before = None if forced or not path.exists() else Contenders.read(path)
        scorer = Scorer(supernet, METRIC, eval_fn, tuple(eval_args))
        if before is not None:
            before.check(identity, path)
        self._warn_of_statistics(calibration_fn)
        whole = on_gpu(scorer, gpus)(supernet.space.largest)[METRIC] if before is None else before.whole

        def save(scores: Mapping[Subnet, float]) -> None:
            with exclusive(path.parent):
                latest = None if not path.exists() or (forced and len(scores) == 1) else Contenders.read(path)
                if latest is not None and not latest.differ(identity):
                    scores = {**scores, **dict(latest.scores(supernet, groups))}
                Contenders.of(supernet, groups, latest.whole if latest else whole, scores, identity, mode or "").write(
                    path
                )

        with Results(METRIC, save) as results:
            for subnet, score in before.scores(supernet, groups) if before else ():
                results.recall(subnet, score)
            keep = Statistics(statistics_of(path))
            scorer = replace(scorer, calibration_fn=calibration_fn, calib_args=tuple(calib_args), keep=keep)
            evaluate(engine, scorer, results, "search", gpus)
            save(results.scores)
        self._tell(path)

    def prune(
        self,
        mode: Literal["sparse", "slim"] = "slim",
        removal_ratio: float | None = None,
        index: int | None = None,
        pruning_info_path: str | Path | None = None,
        channel_divisible: int = 2,
    ) -> nn.Module:
        """The best candidate, or the one at `index` of all by ascending score, as it was scored.

        As there, index 0 is the best, too, 1 the second lowest score and -1 the highest. Its batch norms have the
        statistics of its calibration. A network of other weights than were scored is pruned to the same shapes, which
        is said: finetuned weights fit. `removal_ratio` is that of the last search unless given. Leaves
        `.vai/<Class>_ratio_<r>_best.spec` and `…_pruning_info.json`.

        Raises:
            ValueError: no such search or index, another importance, or widths that are no multiples of
                `channel_divisible`.
        """
        check_mode(mode)
        check_whole("channel_divisible", channel_divisible, 1)
        check_index(index)
        path = self._searched(removal_ratio)
        found = Contenders.read(path)
        own = self._is_of_these_weights(found, path)
        divisor = int(found.identity.get("channel_divisible", channel_divisible))
        if divisor % channel_divisible:
            raise OptimizerInvalidArgumentError(
                f"{path} has multiples of {divisor}, asked are {channel_divisible}: the scores would not be of the"
                f" network; search(channel_divisible={channel_divisible}, forced=True) finds such candidates"
            )
        member = found.member(index)
        supernet = self.supernet(divisor)
        groups = find_groups(supernet)
        subnet = found.subnet(member, supernet, groups)
        stem = path.name.removesuffix(".search")
        spec = path.with_name(f"{stem}_{index or 'best'}.spec")
        write_spec(spec, groups, subnet, divisor, self.graph)
        say(f"wrote {spec}")
        information = Path(pruning_info_path or path.with_name(f"{stem}_pruning_info.json"))
        statistics = Statistics(statistics_of(path)).of(subnet) if own else NOTHING
        return self.pruned(supernet, subnet, mode, information, statistics)

    def _searched(self, removal_ratio: float | None) -> Path:
        """The file of the search to prune from.

        Raises:
            OptimizerNoAnaResultsError: there is none; says which call makes it.
        """
        ratio = self._ratio if removal_ratio is None else removal_ratio
        asked = "removal_ratio=…" if ratio is None else f"removal_ratio={ratio}"
        path = self.path(f"_ratio_{ratio}.search")
        if ratio is None or not path.exists():
            others = sorted(p.stem.rpartition("_")[2] for p in FOLDER.glob(f"{self.name}_ratio_*.search"))
            earlier = f", or give the removal_ratio of an earlier one: {', '.join(others)}" if others else ""
            raise OptimizerNoAnaResultsError(
                f"there is no search to prune from: call search({asked}, eval_fn=…) before prune(){earlier}"
            )
        return path

    def _is_of_these_weights(self, found: Contenders, path: Path) -> bool:
        """Whether the network has the weights that were scored; says so where it has others.

        Raises:
            OptimizerInvalidAnaResultError: it is another network, or its units are ranked by another importance.
        """
        identity = self._identity()
        if not found.differ({"weights_digest": identity["weights_digest"]}):
            found.check(identity, path)
            return True
        found.check({key: identity[key] for key in ("graph_digest", "importance")}, path)
        say(
            f"{path} has scores of other weights than this {self.name}'s: it is pruned to the same shapes, with weights"
            " and statistics of its own until others are loaded"
        )
        return False

    def _warn_of_statistics(self, calibration_fn: Function | None) -> None:
        """Say so where candidates are scored with statistics that are not theirs."""
        normed = any(getattr(module, "running_mean", None) is not None for module in self.model.modules())
        if calibration_fn is None and normed:
            say(
                "search() without calibration_fn scores candidates with the batch statistics of the large network:"
                " calibration_fn=calibrate_bn, calib_args=(batches,) gives each its own"
            )

    def _tell(self, path: Path) -> None:
        """Say what was written, and which scores are better.

        Raises:
            OptimizerInvalidArgumentError: that cannot be told.
        """
        found = Contenders.read(path)
        kept = statistics_of(path)
        say(f"wrote {path}" + (f" and {kept}/" if kept.exists() else ""))
        found.check_told()
        if found.announcement:
            say(found.announcement)

    def _identity(self, **settings: Any) -> dict[str, Any]:
        """What scores hold for."""
        weights, importance = weights_digest(self.model), self.importance.name
        ranked = {"importance": importance, "gradients_digest": self.gradients}
        return {"graph_digest": self.graph, "weights_digest": weights, **ranked, **settings}


def statistics_of(path: Path) -> Path:
    """The folder of a search's statistics."""
    return path.with_name(f"{path.name.removesuffix('.search')}_statistics")
