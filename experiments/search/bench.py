"""How much of the reference front's hypervolume engines reach at 25, 50, 100 and 300 evaluations.

python experiments/search/bench.py [--spaces NAME …] [--engines NAME …] [--seeds 10] [--table]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import moocore
import numpy as np
import torch
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments import results
from experiments.search.spaces import KNOWN, Known, reference
from ofa.search import Engine, Evolution, Guided, RandomSearch
from ofa.search.engines import Aging
from ofa.search.learning import Blockwise, Linas, OptunaSearch, PredictedEvolution
from ofa.space import Genome

RESULTS, REFERENCES = Path(__file__).parent / "results.csv", Path(__file__).parent / "references.csv"
MARKS = (25, 50, 100, 300)
MOST = MARKS[-1]

ENGINES: dict[str, Engine] = {
    "random": RandomSearch(evaluations=MOST, population=10),
    "evolution": Evolution(evaluations=MOST, population=50),
    "nsga3": Evolution(evaluations=MOST, population=50, selection="nsga3"),
    "aging": Aging(evaluations=MOST),
    "ofa_evolution": PredictedEvolution(evaluations=MOST),
    "linas": Linas(evaluations=MOST),
    "blockwise": Blockwise(answers=MOST, evaluations=MOST),
    "guided": Guided(evaluations=MOST),
    "optuna nsgaii": OptunaSearch("nsgaii", evaluations=MOST),
    "optuna tpe": OptunaSearch("tpe", evaluations=MOST),
}


def searched(known: Known, engine: Engine, seed: int) -> tuple[Genome, list[float], float]:
    """The genomes that an engine asks for, what it is told of them, and the seconds of CPU that it takes."""
    clock = time.process_time
    started, told, spent = clock(), dict[Any, float](), 0.0
    search = engine.start(known.problem, seed)
    spent += clock() - started
    while True:
        started = clock()
        batch = search.ask()
        spent += clock() - started
        if not batch:
            genomes = np.stack([known.problem.space.encode(subnet) for subnet in told])
            return genomes, list(told.values()), spent
        for subnet in batch:
            told[subnet] = known.evaluate(known.problem.space.encode(subnet), seed)
            search.tell(subnet, {"accuracy": told[subnet]})


def by_pymoo(known: Known, seed: int) -> tuple[Genome, list[float], float]:
    """The same of pymoo's NSGA-II, population 50, on option indices."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as Posed
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    space = known.problem.space
    upper = space.counts - 1
    algorithm = NSGA2(
        pop_size=50,
        sampling=IntegerRandomSampling(),
        crossover=UX(),
        mutation=PM(eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    posed = Posed(n_var=len(space), n_obj=2, xl=np.zeros(len(space)), xu=upper, vtype=int)
    algorithm.setup(posed, termination=("n_eval", MOST), seed=seed, verbose=False)
    asked, told, spent = list[Genome](), list[float](), 0.0
    while algorithm.has_next():
        started = time.process_time()
        population = algorithm.ask()
        genomes = space.canonical_genomes(np.rint(population.get("X")).astype(np.int64).clip(0, upper))
        spent += time.process_time() - started
        scores = [known.evaluate(genome, seed) for genome in genomes]
        asked, told = [*asked, *genomes], [*told, *scores]
        started = time.process_time()
        macs = np.asarray(known.problem.costs(genomes)["macs"]) / 1e6
        population.set("F", np.stack([-np.array(scores), macs], axis=1))
        algorithm.tell(infills=population)
        spent += time.process_time() - started
    return np.stack(asked), told, spent


def shares(known: Known, whole: float, genomes: Genome, told: list[float]) -> Iterator[float]:
    """What the front of the first evaluations, chosen by what was told, is truly worth, in per cent of `whole`."""
    macs = np.asarray(known.problem.costs(genomes)["macs"])
    points = np.stack([np.array(told), macs], axis=1)
    for mark in MARKS:
        chosen = moocore.is_nondominated(points[:mark], maximise=[True, False])
        yield 100 * known.hypervolume(genomes[:mark][chosen]) / whole


def worth(known: Known) -> float:
    """The reference front's hypervolume, found once and kept."""
    rows = {row["space"]: float(row["hypervolume"]) for row in results.read(REFERENCES)}
    if known.name not in rows:
        results.append(REFERENCES, {"space": known.name, "hypervolume": reference(known)})
        return worth(known)
    return rows[known.name]


def table() -> str:
    """Means and 95 % intervals over the seeds, as Markdown."""
    lines = []
    for (space, engine), rows in results.by(results.read(RESULTS), "space", "engine").items():
        cells = [interval([float(row[f"at {mark}"]) for row in rows]) for mark in MARKS]
        lines.append([space, engine, len(rows), *cells, f"{mean(float(row['cpu']) for row in rows):.1f}"])
    order = {name: i for i, name in enumerate([*KNOWN, *ENGINES, "pymoo nsga2"])}
    lines.sort(key=lambda line: (order[str(line[0])], order[str(line[1])]))
    return results.markdown(["space", "engine", "seeds", *(f"at {mark}" for mark in MARKS), "CPU (s)"], lines)


def interval(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.1f} ± {half:.1f}"


def main() -> None:
    engines: dict[str, Callable[[Known, int], tuple[Genome, list[float], float]]] = {
        name: lambda known, seed, engine=engine: searched(known, engine, seed) for name, engine in ENGINES.items()
    } | {"pymoo nsga2": by_pymoo}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spaces", nargs="+", default=list(KNOWN), choices=list(KNOWN))
    parser.add_argument("--engines", nargs="+", default=list(engines), choices=list(engines))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--table", action="store_true", help="show what there is, and search nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = {} if given.table else {name: KNOWN[name]() for name in given.spaces}
    done = {(row["space"], row["engine"], row["seed"]) for row in results.read(RESULTS)}
    for seed in range(given.seeds):
        for space, problem in known.items():
            for name in (n for n in given.engines if (space, n, str(seed)) not in done):
                genomes, told, cpu = engines[name](problem, seed)
                reached = dict(zip(MARKS, shares(problem, worth(problem), genomes, told), strict=True))
                figures = {f"at {mark}": round(share, 2) for mark, share in reached.items()}
                row = {"space": space, "engine": name, "seed": seed, **figures, "cpu": round(cpu, 2)}
                results.append(RESULTS, row)
    print(table())


if __name__ == "__main__":
    main()
