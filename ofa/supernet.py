"""The supernet: one set of shared weights that holds every subnet of a search space (Cai et al., 2020)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ofa.arrays import FloatArray
from ofa.backbone import as_call, check_parameters, unwrapped
from ofa.conversion import (
    Conversion,
    Converter,
    Examples,
    KernelTransforms,
    Progress,
    Report,
    SpaceConfig,
    elastic_rows,
    kernel_edges,
    layer_rows,
    silent,
    with_containers,
)
from ofa.costs import Cost, PopulationCosts
from ofa.persistence import identity, load_weights, save_weights
from ofa.selection import select
from ofa.slicing import (
    Index,
    Measure,
    Plan,
    aliases,
    cumulative_statistics,
    detached_slice,
    duplicate,
    find_modules,
    find_owners,
    full_size,
    installed,
    move_units,
    put,
    rank_units,
    reduced,
    slice_of,
    take,
    tensor_of,
    unit_scores,
    write,
)
from ofa.space import Genome, SearchSpace, Subnet
from ofa.sparsity import blockwise
from ofa.tracing import operations_of, resized, traces
from ofa.versions import version

REMEMBERED = 256  # plans of subnets


class Supernet(nn.Module):
    """A network made elastic: `activate` a subnet, run it, `calibrate` it, `extract` it.

    `model` is copied; the copy in `.model` keeps its own parameters, names and code. `example_inputs` is a tensor, a
    tuple of positional inputs, or a dict of keyword inputs, on the model's device. `progress` hears how many of how
    many checks of a round of the proof are done, which takes seconds to minutes.

    Threads that call one supernet wait for each other; the active subnet is the same for all of them.

    Modules see their slices during `forward` only: activation checkpointing, which runs them again in the backward
    pass, needs an extracted network.

    >>> supernet = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.zeros(1, 4))
    >>> supernet.activate(supernet.space.smallest)
    >>> supernet.extract()
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): Linear(in_features=8, out_features=2, bias=True)
    )

    Raises:
        ValueError: the model does not run on the example inputs, or an exclude matches nothing.
        TypeError: `model` is no `nn.Module`.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        space: SpaceConfig | None = None,
        progress: Progress = silent,
    ) -> None:
        super().__init__()
        config = space or SpaceConfig()
        self.model = duplicate(unwrapped(model))
        self._owners = with_containers(self.model, find_owners(self.model))
        self._modules_by_name = find_modules(self.model)
        self._plans: dict[Subnet, Plan] = {}
        self._lock = threading.RLock()  # one thread's slices are in the modules
        self.conversion = self._convert(model, Examples(*as_call(example_inputs)), config, progress)
        self._operators = operations_of(self.model, example_inputs)
        edges = kernel_edges(self.conversion.choices, self.conversion.groups, self._tensor)
        self.transforms = KernelTransforms(edges) if config.kernel_transform else None
        self._costs = self._priced(*as_call(example_inputs))
        self.activate(self.space.largest)
        self.report = self._report()

    def _convert(self, original: nn.Module, examples: Examples, config: SpaceConfig, progress: Progress) -> Conversion:
        check_parameters(self.model)
        excluded = select(unwrapped(original), config.exclude)
        return Converter(self.model, original, examples, config, excluded, progress).run()

    def _priced(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> PopulationCosts:
        """The cost formulas, for each resolution that is a choice."""
        found = self.conversion
        flows = traces(self.model, args, kwargs, found.config.resolution) or {0: found.trace}
        return PopulationCosts.of(self.model, flows, found)

    @property
    def space(self) -> SearchSpace:
        """The choices, and what a subnet is one value each of."""
        return self.conversion.space

    # ------------------------------------------------------------ subnets

    @property
    def active(self) -> Subnet:
        """The subnet that `forward` runs."""
        return self._active

    def activate(self, subnet: Subnet) -> None:
        """Run `subnet` from now on; statistics of an earlier `calibrate` are dropped.

        Raises:
            ValueError: `subnet` is not in the space; the message names the choice and its options.
        """
        self._plan = self.plan(subnet)
        self._active = subnet
        self._statistics: dict[str, Tensor] = {}
        self._cache: tuple[Any, dict[str, Tensor]] | None = None

    def plan(self, subnet: Subnet) -> Plan:
        """What `subnet` changes: kept indices, attributes, skipped blocks."""
        if subnet in self._plans:
            return self._plans[subnet]
        if len(self._plans) >= REMEMBERED:
            self._plans.pop(next(iter(self._plans)))
        self._plans[subnet] = self.conversion.plan(subnet)
        return self._plans[subnet]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the active subnet: the user's own forward on the slices."""
        with self._lock:
            tensors = self._tensors()
            with installed(self._modules_by_name, self._owners, tensors, self._plan.changes, self._plan.skipped):
                output = self.model(*args, **kwargs)
            if self.training:
                self._write_back(tensors)
        return output

    def resize(self, images: Tensor, subnet: Subnet | None = None) -> Tensor:
        """Images at the (active) subnet's resolution, on their device; unchanged where resolution is no choice."""
        edge = (self._active if subnet is None else subnet).get("resolution")
        return images if edge is None else resized(images, int(edge))

    def extract(self, subnet: Subnet | None = None) -> nn.Module:
        """The (active) subnet as a plain copy of the user's own class with smaller layers, free of this library.

        The statistics of `calibrate` go along when it is the active one.
        """
        subnet = self._active if subnet is None else subnet
        plan, statistics = self.plan(subnet), self._statistics if subnet == self._active else {}

        def part(name: str, tensor: Tensor) -> Tensor:
            kept = self._part(plan, name, partial(take, tensor))
            return statistics.get(name, kept)

        return reduced(self.model, plan, part)

    def absorb(self, state: Mapping[str, Tensor]) -> None:
        """Put the weights of the extracted network, trained meanwhile, into the active subnet's slices.

        Extracting it again gives the same network; the others share what was learned.

        Raises:
            ValueError: the weights are of another network, or a smaller kernel in it is made by a transform matrix.
        """
        transformed = [n for n, i in self._plan.indices.items() if self.transforms and self.transforms.smaller(n, i)]
        if transformed:
            raise ValueError(f"{transformed[0]} is a larger kernel times a matrix, which cannot be undone")
        write(self.model.state_dict(), state, self._plan, aliases(self.model))
        self.activate(self._active)

    def full_size(self) -> dict[str, Tensor]:
        """The active subnet's weights in the original network's shapes and names, zeros where something is removed."""
        return full_size(self.extract().state_dict(), self._plan, self.model)

    def calibrate(self, batches: Iterable[Any]) -> None:
        """Give the active subnet batch statistics of its own: the cumulative mean over `batches` (Yu & Huang, 2019).

        They hold until the next `activate`; the shared statistics do not change. Networks without batch norm need none.

        Raises:
            ValueError: there is no batch.
        """
        self._statistics, self._cache = {}, None
        with torch.inference_mode(False), torch.no_grad():  # passes with gradients may follow
            tensors = self._tensors()
            self._statistics = cumulative_statistics(self.model, self._owners, tensors, self._plan, batches)
        self._cache = None

    def sort(self, measure: str | Measure = "l1", move: bool = True) -> None:
        """Order the active subnet's units of every group by importance, so that narrower ones keep the important ones.

        `measure` is l1, l2, scale, fpgm, random, after a backward pass taylor or fisher, or a function of a parameter
        and a dimension. The active subnet computes the same function as before. With `move` units change places, a
        subnet is a prefix of them, and gradients are dropped; without it every weight keeps its place, and what a
        subnet keeps is scattered: its slices are copies, slower in training, and the order is in no state dict. Input
        channels of layers that have an N:M pattern, of weights or activations, keep their order, and so their blocks.

        Raises:
            ValueError: no such measure, or no gradients where it needs them.
        """
        groups, vectors = self.conversion.groups, self.conversion.trace.parameters
        sizes, _ = self.conversion.sizes(self.space.encode(self._active))
        for name, dim in (*((n, z.dim) for n, z in self._plan.zeros.items()), *blockwise(self.model)):
            sizes[groups.along(vectors[name][dim])] = 0
        groups = rank_units(self.model, groups, vectors, measure, self._plan.indices, sizes)
        if move:
            groups = move_units(self.model, groups, vectors)
            self.zero_grad()
        self.conversion = self.conversion.ranked(groups)
        self._plans.clear()
        self.activate(self._active)

    def importance(self, measure: str | Measure = "l1") -> dict[str, FloatArray]:
        """The importance of the units of every width choice in the active subnet, about 1 on average, by its name.

        Where several groups follow one choice, their units come one group after the other.
        """
        found = self.conversion
        scores = unit_scores(self.model, found.groups, found.trace.parameters, measure, self._plan.indices)
        return {
            one.choice.name: np.concatenate([scores[g].mean(axis=0) for g in one.sizes])
            for one in found.choices
            if one.choice.kind == "width"
        }

    def explain(self, layer: str) -> str:
        """Why a layer is as it is, in sentences: what decides each of its dimensions, or what fixed it.

        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> print(Supernet(net, torch.randn(2, 8)).explain("2"))  # doctest: +ELLIPSIS
        2 is a Linear of 68 parameters.
        Its outputs (4): they stay, the network's output.
        Its inputs (16): the choice 0.width: 8, 16, with 0 (shown by sliced = zeroed; it moves the output by ...).

        Raises:
            ValueError: no layer has this name; close ones are shown.
        """
        return self.report.explain(layer)

    # ------------------------------------------------------------ costs

    def cost(self, subnet: Subnet) -> Cost:
        """Exact costs of a subnet, without a forward pass."""
        rows = self.costs(self.space.encode(subnet)[None])
        return Cost(**{field.name: round(float(rows[field.name][0])) for field in fields(Cost)})

    def costs(self, genomes: Genome) -> dict[str, FloatArray]:
        """Costs of a population of genomes, shape (population, choices), as arrays of shape (population,).

        Keys: macs (without those that N:M patterns save), params, weight_bytes, peak_bytes (of activations, per
        sample), bytes (activations written), kernels (contractions), macs_conv, macs_depthwise, … (zeros count)
        """
        return self._costs(np.atleast_2d(genomes))

    def features(self, genomes: Genome) -> dict[str, FloatArray]:
        """What latencies of a population of genomes, (population, choices), follow from, as arrays (population,).

        Keys and meaning are those of `complexity(network, inputs).features`.
        """
        return self._costs.features(np.atleast_2d(genomes))

    def _report(self) -> Report:
        found = self.conversion
        scores = [rows.mean(axis=0) for rows in unit_scores(self.model, found.groups, found.trace.parameters)]
        layers, shares = layer_rows(self.model, found)
        small, large = (self.cost(subnet) for subnet in (self.space.smallest, self.space.largest))
        ranges = {name: (float(getattr(small, name)), float(getattr(large, name))) for name in asdict(small)}
        notes = (*found.trace.faults, *self._miscounted(small))
        rows = elastic_rows(found, scores)
        return Report(rows, layers, self.space.size, found.proved.error, ranges, notes, shares)

    def _miscounted(self, cost: Cost) -> list[str]:
        """What is wrong with the cost of the smallest subnet: its network, extracted, has other parameters."""
        params = sum(p.numel() for p in self.extract(self.space.smallest).parameters())
        return [] if params == cost.params else [f"the smallest subnet has {params:,} parameters, not {cost.params:,}"]

    # ------------------------------------------------------------ identity

    @property
    def identity(self) -> dict[str, str]:
        """What makes this network and this space, in words."""
        return identity(self._owners, self._tensor, self.conversion.groups, self.space, self._operators)

    @property
    def digest(self) -> str:
        """Identifies the network and its space: two supernets with one digest share subnets.

        Shapes, choices and the operators that ran count, weights do not.
        """
        return hashlib.sha256(repr(sorted(self.identity.items())).encode()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write the weights with the digest of the network."""
        save_weights(self, self.state_dict(), Path(path))

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote for the same network and space.

        Raises:
            ValueError: the file is damaged, or of another network or space; the first differences are named.
        """
        self.load_state_dict(load_weights(self, Path(path)))
        self.activate(self._active)

    # ------------------------------------------------------------ slices

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle is whole, but for the remembered slices."""
        return {**self.__dict__, "_cache": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._lock = threading.RLock()

    def _tensor(self, name: str) -> Tensor:
        return tensor_of(self._owners, name)

    def _tensors(self) -> dict[str, Tensor]:
        """Slices for one forward pass: differentiable ones in training, remembered ones otherwise."""
        plan = self._plan
        named = {name: self._tensor(name) for name in {**plan.indices, **plan.zeros}}
        if torch.is_grad_enabled():
            return {n: self._part(plan, n, partial(slice_of, tensor)) for n, tensor in named.items()} | self._statistics
        watched = [*named.values(), *(self.transforms.parameters() if self.transforms else ())]
        key = tuple(version(tensor) for tensor in watched)
        if self._cache is None or self._cache[0] != key:
            parts = {n: self._part(plan, n, partial(detached_slice, tensor)) for n, tensor in named.items()}
            self._cache = (key, parts | self._statistics)
        return self._cache[1]

    def _part(self, plan: Plan, name: str, slice_of: Callable[[Sequence[Index]], Tensor]) -> Tensor:
        index = plan.indices.get(name, ())
        part = self.transforms.part(name, index, slice_of) if self.transforms else slice_of(index)
        return plan.zeros[name].masked(part) if name in plan.zeros else part

    def _write_back(self, tensors: Mapping[str, Tensor]) -> None:
        """Batch statistics that a training pass updated in a copy go back to the shared buffers."""
        with torch.no_grad():
            for name, index in self._plan.indices.items():
                shared, copied = self._tensor(name), any(isinstance(i, Tensor) for i in index)
                if copied and name not in self._statistics and not isinstance(shared, nn.Parameter):
                    put(shared, index, tensors[name], accumulate=False)
