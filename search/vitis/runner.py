"""What all pruning runners share: a network's supernets by what is excluded, evaluations, and the pruned network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import distributed as dist
from torch import nn

from ofa import SpaceConfig, Subnet, Supernet
from ofa.search import Archive, Search, run
from ofa.search.evaluation import Result
from ofa.search.objectives import Macs, Params
from ofa.search.vitis.arguments import check_whole, numbers_of
from ofa.search.vitis.candidates import Scorer
from ofa.search.vitis.errors import OptimizerError, OptimizerInvalidArgumentError
from ofa.search.vitis.files import FOLDER, gradients_digest, graph_digest, write_json
from ofa.search.vitis.groups import Group, find_groups, open_groups
from ofa.search.vitis.information import write_information
from ofa.search.vitis.names import Excludes, excluded
from ofa.search.vitis.reasons import reasons_of, table_of
from ofa.search.vitis.sparse_and_slim import NOTHING, original, slim_network, sparse_network
from ofa.search.vitis.unpruned import Remaining
from ofa.search.workers import workers
from ofa.slicing import Measure, Plan, State, importance_of

METRICS = {"max": "accuracy", "min": "loss"}
"""What a score is called in a search, by which scores are better."""

console = Console(stderr=True)


class PruningRunner:
    """A network to prune, which stays as it is, and its example inputs (a tensor, a tuple, or a dict of keywords).

    `importance` ranks the units of a group; l1 unless another of `ofa.slicing.importance` is named, or a function
    given. taylor and fisher take the gradients that the network has: run a loss backward before each call.
    `reasons` says of layers that were not pruned why; `call` is the method whose scores networks are pruned by.

    Raises:
        ValueError: an unknown importance, or `model` is the sparse result of another pruning.
        TypeError: `model` is no `nn.Module`.
    """

    call: ClassVar[str]

    def __init__(self, model: nn.Module, input_signature: Any, *, importance: str | Measure = "l1") -> None:
        importance_of(importance)  # refuses what is none
        self.model, self.inputs, self.importance = original(model), input_signature, Remaining(importance)
        self.name = type(self.model).__name__
        self.reasons: dict[str, str] = {}
        self._supernets: dict[int, Supernet] = {}
        self._removed: tuple[Plan, dict[str, Any]] | None = None

    @cached_property
    def graph(self) -> str:
        """The digest of the network without its weights."""
        return graph_digest(self.model, self.inputs)

    @property
    def gradients(self) -> str:
        """The digest of the gradients, where units are ranked by them."""
        return gradients_digest(self.model) if self.importance.gradients else ""

    def path(self, ending: str) -> Path:
        """A file of this network in the work folder, in the directory of now."""
        return FOLDER / f"{self.name}{ending}"

    def supernet(self, divisor: int) -> Supernet:
        """The network with its weights of now as a supernet of all widths, units ranked by importance."""
        check_whole("channel_divisible", divisor, 1)
        if divisor not in self._supernets:
            config = SpaceConfig("multiples", kernel=False, depth=False, divisor=divisor)
            with progress("converting") as tell:
                self._supernets[divisor] = Supernet(self.model, self.inputs, config, tell)
        supernet = self._supernets[divisor]
        supernet.model.load_state_dict(self.model.state_dict())
        for mine, theirs in zip(supernet.model.parameters(), self.model.parameters(), strict=True):
            mine.grad = None if theirs.grad is None else theirs.grad.clone()
        supernet.activate(supernet.space.largest)
        supernet.sort(self.importance, move=False)
        return supernet

    def open_groups(self, supernet: Supernet, excludes: Excludes, with_group_conv: bool) -> list[Group]:
        """The groups that may be pruned; why other layers may not is shown once.

        Raises:
            ValueError: there is none, or an exclude matches nothing.
        """
        groups, barred = find_groups(supernet), excluded(self.model, excludes)
        opened = open_groups(groups, barred, with_group_conv)
        if not opened:
            free = len(open_groups(groups, (), with_group_conv))
            why = f": {', '.join(sorted(set(barred.values())))} bars all {free} groups" if free and barred else ""
            if not free and open_groups(groups, barred, True):
                why = f"; {self.call}(with_group_conv=True) opens convolutions in groups"
            report = "" if free else f":\n{supernet.report}"
            raise OptimizerInvalidArgumentError(f"nothing of {self.name} can be pruned{why}{report}")
        reasons = reasons_of(supernet, groups, opened, barred, self.call)
        if reasons and reasons != self.reasons:
            say(table_of(self.name, reasons))
        self.reasons = reasons
        return opened

    def pruned(
        self, supernet: Supernet, subnet: Subnet, mode: str, path: Path, statistics: State = NOTHING
    ) -> nn.Module:
        """The network at `subnet`, sparse or slim; what is removed is written to `path` and summed up in a table."""
        plan, whole, part = supernet.plan(subnet), supernet.cost(supernet.space.largest), supernet.cost(subnet)
        facts = {"graph_digest": self.graph, "macs": part.macs, "params": part.params, "subnet": dict(subnet)}
        self._removed = plan, facts
        self.generate_pruning_info(path)
        table = Table("metric", "baseline", "pruned", "removed", title=f"{self.name}, {mode}")
        for label, cost in (("MACs", Macs()), ("Params", Params())):
            before, after = getattr(whole, cost.name), getattr(part, cost.name)
            table.add_row(label, cost.written(before), cost.written(after), f"{1 - after / max(before, 1):.1%}")
        say(table)
        return (sparse_network if mode == "sparse" else slim_network)(self.model, plan, statistics)

    def generate_pruning_info(self, filename: str | Path, pruning_info: Mapping[str, Any] | None = None) -> None:
        """Write the pruning information of the last `prune()` to a file, or the content of another such file.

        Raises:
            OptimizerError: nothing was pruned yet, and nothing is given.
        """
        path = Path(filename)
        if pruning_info is not None:
            write_json(path, pruning_info)
        elif self._removed is not None:
            write_information(path, self.model, *self._removed)
        else:
            raise OptimizerError("there is no pruning information yet: call prune() before generate_pruning_info()")
        say(f"wrote {path}")

    def check_graph(self, path: Path, digest: str, help: str) -> None:
        """Raise an error, which says what helps, where a file is of another network; Vitis' own do not say."""
        if digest and digest != self.graph:
            raise OptimizerError(
                f"{path} is of another network called {self.name} ({digest}, here {self.graph}): {help}"
            )


def check_mode(mode: str) -> None:
    if mode not in ("sparse", "slim"):
        raise OptimizerInvalidArgumentError(f"mode is 'sparse' or 'slim', got {mode!r}")


def metric_of(mode: str) -> str:
    """The metric's name in a search, for scores of which the largest ("max") or the smallest ("min") is best."""
    if mode not in METRICS:
        raise OptimizerInvalidArgumentError(f"mode is 'max' or 'min', for what a better score is, got {mode!r}")
    return METRICS[mode]


def evaluate(
    search: Search,
    scorer: Scorer,
    archive: Archive,
    title: str,
    gpus: Sequence[Any] | None = None,
    total: int | None = None,
) -> None:
    """Run a search to its end under a progress bar, with a process for each of several `gpus`.

    Where there is a GPU, networks go to the first of `gpus`, or to the process's own. Where there is none they stay
    where they are, and several `gpus` are as many processes. `total` is the number of evaluations, if it is known.
    """
    chosen, cuda = numbers_of(gpus), torch.cuda.is_available()
    with progress(title) as tell:

        def report(result: Result) -> None:
            tell(result.done, total or result.total)

        if len(chosen) < 2:
            run(search, on_gpu(scorer, chosen), archive, report)
            return
        if not cuda:
            say(f"no GPU here: {len(chosen)} processes on the CPU instead of gpus {', '.join(chosen)}")
        devices = [f"cuda:{gpu}" for gpu in chosen] if cuda else []
        with workers(replace(scorer, device="cuda") if cuda else scorer, len(chosen), devices) as (held, spread):
            run(search, held, archive, report, map=spread)


def on_gpu(scorer: Scorer, gpus: Sequence[Any] | None) -> Scorer:
    """The scorer on the first of `gpus`, or on the process's own GPU; as it is where there is none or it says where."""
    if scorer.device is not None or not torch.cuda.is_available():
        return scorer
    return replace(scorer, device=f"cuda:{numbers_of(gpus)[0]}" if gpus else "cuda")


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, elsewhere a line at each tenth; it is told how many of how many are done."""
    if not console.is_terminal:
        yield tenths(title)
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def tenths(title: str) -> Callable[[int, int], None]:
    """What says how far a long work is, once it has done another tenth of it."""
    reached = 0

    def tell(done: int, total: int) -> None:
        nonlocal reached
        if 10 * done // max(total, 1) > reached:
            reached = 10 * done // total
            say(f"{title}: {done} of {total}")

    return tell


def say(what: str | Table) -> None:
    """Print a line, or a table, as the first of several ranks."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_rank()):
        console.print(what, soft_wrap=isinstance(what, str), markup=False, highlight=False)
