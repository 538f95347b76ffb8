"""What the subnets of a space cost: the cost formulas of the network, for genomes of whole populations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from ofa.arrays import FloatArray, IntArray
from ofa.conversion import Conversion
from ofa.costs.features import FeatureModel
from ofa.costs.sizes import Sizes
from ofa.costs.terms import CostModel
from ofa.space import Genome, SearchSpace
from ofa.sparsity import population_patterns
from ofa.tracing import Trace

Evaluate = Callable[[int, IntArray, IntArray, IntArray], Mapping[str, FloatArray]]
PART = 512  # genomes priced at once: their hundreds of terms fit into the processor's cache


@dataclass(frozen=True)
class PopulationCosts:
    """Costs of genomes, (population, choices); one formula for each resolution, or a single one under another name.

    >>> from ofa import Supernet
    >>> network = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2))
    >>> found = Supernet(network, torch.zeros(1, 4)).conversion
    >>> costs = PopulationCosts.of(network, {0: found.trace}, found)
    >>> costs(np.array([[0], [1]]))["macs"].tolist()  # of widths 8 and 16
    [48.0, 96.0]
    """

    found: Conversion
    space: SearchSpace
    models: Mapping[int, CostModel]
    features_of: Mapping[int, FeatureModel]

    @classmethod
    def of(cls, model: nn.Module, flows: Mapping[int, Trace], found: Conversion) -> PopulationCosts:
        known = (found.groups, found.stages, dict(model.named_parameters()), found.sparse)
        features = {edge: FeatureModel(flow, Sizes(found.groups), found.stages) for edge, flow in flows.items()}
        return cls(found, found.space, {edge: CostModel(flow, *known) for edge, flow in flows.items()}, features)

    def __call__(self, genomes: Genome) -> dict[str, FloatArray]:
        """Every cost by name, (population,)."""

        def costs(edge: int, mine: IntArray, sizes: IntArray, depths: IntArray) -> Mapping[str, FloatArray]:
            patterns = population_patterns(self.space, genomes[mine], self.found.sparse)
            return self.models[edge].evaluate(sizes, depths, patterns)

        return self._by_parts(genomes, costs)

    def features(self, genomes: Genome) -> dict[str, FloatArray]:
        """Every feature by name, (population,): what a latency follows from."""
        return self._by_parts(genomes, lambda edge, _, *kept: self.features_of[edge].evaluate(*kept))

    def _by_parts(self, genomes: Genome, evaluate: Evaluate) -> dict[str, FloatArray]:
        (sizes, depths), edges = self.found.sizes(genomes), self._edges(genomes)
        rows: dict[str, FloatArray] = {}
        for edge in self.models:
            places = np.flatnonzero(edges == edge)
            for mine in np.array_split(places, len(places) // PART + 1):
                for name, values in evaluate(edge, mine, sizes[mine], depths[mine]).items():
                    rows.setdefault(name, np.zeros(len(genomes)))[mine] = values
        return rows

    def _edges(self, genomes: Genome) -> IntArray:
        """The resolution of each genome; where there is no choice, the one that costs are known for."""
        for i, choice in enumerate(self.space.choices):
            if choice.kind == "resolution":
                return np.array(choice.options)[genomes[:, i]]
        return np.full(len(genomes), next(iter(self.models)))
