"""Two objectives: a cost that is computed, and one that the task measures."""

from dataclasses import dataclass

from ofa import Supernet
from ofa.search.objectives import CostObjective, Floats, Objective
from ofa.space import Genome


@dataclass(frozen=True)
class EnergyMj(CostObjective):
    name, label, unit = "energy_mj", "Energy", "mJ"
    mac_pj: float = 4.6
    byte_pj: float = 640.0

    def costs(self, supernet: Supernet, genomes: Genome) -> Floats:
        known = supernet.costs(genomes)
        return 1e-9 * (self.mac_pj * known["macs"] + self.byte_pj * known["weight_bytes"])


class Sureness(Objective):
    name, label, unit, maximise = "sureness", "Sureness", "%", True
