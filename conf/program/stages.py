"""The stages of the main job, in order; each goes on from what it finds in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ofa
from ofa.conf.program.job import NETWORK, Job
from ofa.conf.program.pruner import Pruner
from ofa.conf.program.records import digest, read_json, write_json
from ofa.conf.program.scoring import context_of, costs_of, evaluators, importance_of
from ofa.export import export_onnx, export_program, save_weights
from ofa.persistence import plan_to_json, save_subnet, weights_digest
from ofa.search import Archive, Front, LatencyPredictor, ScoredNetwork, run
from ofa.search.front import TEACHER
from ofa.search.objectives import priced
from ofa.search.problem import Problem
from ofa.search.sampling import skewed, spread
from ofa.sparsity import save_packed
from ofa.train import Supervised, evaluate, fit
from ofa.train import checkpoint as checkpoints
from ofa.train.plan import estimates, known_rules, table


def train_teacher(job: Job) -> None:
    """The backbone learns from labels → teacher.pt."""
    learner = Supervised(job.backbone(), job.splits, job.teacher_config.label_smoothing, task=job.task)
    job.console.print(f"{job.config.backbone}: {sum(p.numel() for p in learner.model.parameters()):,} parameters")
    _fit(job, "teacher", learner, job.teacher_config.recipe)


def train_supernet(job: Job) -> None:
    """Convert the teacher, write what is elastic and why the rest is not, train by the sandwich rule → supernet.pt."""
    supernet = job.convert()
    if job.writes:
        (job.folder / "space.json").write_text(supernet.space.to_json())
        for name in ("report.json", "report.html", "report.txt"):
            supernet.report.save(job.folder / name)
    largest, smallest = supernet.cost(supernet.space.largest), supernet.cost(supernet.space.smallest)
    job.console.print(
        f"{supernet.report.summary}; {smallest.macs / 1e6:.2f} to {largest.macs / 1e6:.2f} M MACs, "
        f"{smallest.params:,} to {largest.params:,} parameters"
    )
    learner, recipe = job.learner(supernet), job.supernet_config.recipe
    if not job.supernet_config.trained:
        if job.writes:
            checkpoints.save(job.folder / "supernet.pt", {"model": supernet.state_dict()})
        return
    if not (job.folder / "supernet.pt").exists():
        rows = estimates(learner, recipe, known_rules(learner.rule))
        job.console.print(table(rows, recipe.epochs))
    _fit(job, "supernet", learner, recipe)


def _fit(job: Job, stage: str, learner: Any, recipe: Any) -> None:
    with job.progress(stage) as bar:
        figures = fit(learner, recipe, path=job.folder / f"{stage}.pt", stage=stage, tracker=job.tracker, progress=bar)
    shown = {name: value for name, value in figures.items() if name.startswith("accuracy")}
    job.console.print(f"{stage}: " + ", ".join(f"{k.replace('_', ' ')} {v:.2f} %" for k, v in shown.items()))


def measure_latency(job: Job) -> None:
    """Measure random subnets on the latency device → latency.jsonl; fit the predictor → latency.json."""
    supernet, given = job.supernet, job.latency_config
    rng = np.random.default_rng([int(job.config.seed), 1])
    pool = skewed(supernet.space, rng, 2000)
    chosen = pool[spread(supernet.costs(pool)["macs"], given.samples)]
    path = job.folder / "latency.jsonl"
    known = {row["subnet"]: row["latency_ms"] for row in read_lines(path)}
    with job.progress("latency", len(chosen)) as bar, path.open("a") as file:
        bar.expect(len(chosen), 0)
        for genome in chosen:
            subnet = supernet.space.decode(genome)
            if subnet.to_json() not in known:
                example = supernet.resize(job.example, subnet)
                milliseconds = given.measure(supernet.extract(subnet), example).median_ms
                known[subnet.to_json()] = milliseconds
                file.write(json.dumps({"subnet": subnet.to_json(), "latency_ms": milliseconds}) + "\n")
                file.flush()
            bar.advance(latency_ms=known[subnet.to_json()])
    features = features_of(supernet.costs(chosen))
    values = [known[supernet.space.decode(genome).to_json()] for genome in chosen]
    predictor = LatencyPredictor.fit(features, values)
    (job.folder / "latency.json").write_text(predictor.to_json())
    job.console.print(f"latency predictor: {predictor.held_out}")


def features_of(costs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in costs.items() if name not in ("params", "weight_bytes")}


def search_front(job: Job) -> None:
    """Evaluate proposals on the validation split, each recalibrated and archived → archive.sqlite, search.json."""
    supernet = job.supernet
    learner = job.learner(supernet)
    costs = costs_of(job, supernet)
    problem = Problem.parse(supernet.space, job.objectives, costs, job.constraints, importance_of(job, supernet))
    engine = job.engine.start(problem, int(job.config.seed))
    with (
        Archive(job.folder / "archive.sqlite", context_of(job, supernet)) as archive,
        job.progress("search") as bar,
        evaluators(job, learner.evaluate_subnet) as (evaluate_subnet, map),
    ):
        bar.expect(engine.evaluations, 0)
        front = run(engine, evaluate_subnet, archive, lambda r: bar.advance(accuracy=r.metrics["accuracy"]), map)
    job.tracker.rewind("search", -1)
    job.tracker.log("search", {"epoch": 0, "evaluated": len(engine.results), "front": len(front.rows)})
    record(job, supernet, front)
    job.console.print(
        f"search: {len(engine.results)} subnets evaluated, {len(front.rows)} on the front. {engine.stopped}"
    )


def prune(job: Job) -> None:
    """Prune step by step, each finetuned → pruning/<step>/, search.json."""
    pruner = Pruner(job)
    rows = [step.to_row() for step in pruner.run() if step.accepted]
    cheapest_first = tuple(sorted(rows, key=lambda row: row.metrics["macs"]))
    record(job, pruner.supernet, Front(cheapest_first, job.objectives, evaluated=(*pruner.seen, *rows)))


def record(job: Job, supernet: ofa.Supernet, front: Front) -> None:
    """Leave a front for the export, with the whole network beside it."""
    teacher = evaluate(job.teacher, job.splits.validation.ordered(256), job.task)
    rows = replace(front, teacher=teacher_row(job, supernet, teacher))
    write_json(
        job.folder / "search.json", {"front": rows.to_json(), "evaluated": [r.to_json() for r in rows.evaluated]}
    )


def teacher_row(job: Job, supernet: ofa.Supernet, metrics: Mapping[str, float]) -> ScoredNetwork:
    genome = supernet.space.encode(supernet.space.largest)[None]
    costs = priced(supernet, job.objectives)(genome)
    names = [*asdict(supernet.cost(supernet.space.largest)), *(objective.name for objective in job.objectives)]
    return ScoredNetwork(TEACHER, None, {**metrics, **{name: float(costs[name][0]) for name in names if name in costs}})


def export_front(job: Job) -> None:
    """Extract the front, score it on the test split, write and verify every file → subnets/, front.json, front.png."""
    path = job.folder / "search.json"
    if not path.exists():
        raise ValueError(f"{path} is missing: run the stage 'search' first (stages=[search,export])")
    found = read_json(path)
    front = Front.from_json(found["front"], job.objectives)
    teacher = next(ScoredNetwork.from_json(row) for row in found["front"] if row["name"] == TEACHER)
    front = replace(front, evaluated=tuple(ScoredNetwork.from_json(row) for row in found["evaluated"]))
    front.picture(job.folder / "front.png")
    chosen = front.spread(job.export_config.subnets)
    supernet, rows = job.supernet, []
    wanted = (teacher, *chosen.rows)
    with job.progress("export", len(wanted)) as bar:
        bar.expect(len(wanted), 0)
        for row in wanted:
            rows.append(exported(job, supernet, row))
            bar.advance(test_accuracy=rows[-1].metrics["accuracy"])
    final = Front(tuple(rows[1:]), front.objectives, rows[0])
    write_json(job.folder / "front.json", final.to_json())


def exported(job: Job, supernet: ofa.Supernet, row: ScoredNetwork) -> ScoredNetwork:
    """One network in a folder of its own; `subnet.json` is written last and says that the folder is whole."""
    folder = job.folder / "subnets" / row.name
    facts = folder / "subnet.json"
    key = digest([row.to_json(), weights_digest(supernet), job.settings("latency"), job.settings("export")])
    if facts.exists() and (stored := read_json(facts)).get("key") == key:
        return ScoredNetwork.from_json(stored["row"])
    folder.mkdir(parents=True, exist_ok=True)
    net = extracted(job, supernet, row)
    fitted = partial(supernet.resize, subnet=row.subnet or supernet.space.largest)
    test = evaluate(net, ((fitted(images), labels) for images, labels in job.splits.test.ordered(256)), job.task)
    example = fitted(job.example)
    files = {"weights": "weights.safetensors", "plan": "plan.json", "onnx": "model.onnx", "subnet": "subnet.json"}
    subnet = row.subnet or supernet.space.largest
    save_weights(net, folder / files["weights"])
    plan = supernet.plan(subnet)
    (folder / files["plan"]).write_text(plan_to_json(plan, {"backbone": str(job.config.backbone)}))
    if plan.zeros:
        files["packed"] = "packed.safetensors"
        save_packed(net, plan.patterns, folder / files["packed"])
    export_onnx(net, example, folder / files["onnx"])
    difference = onnx_difference(net, folder / files["onnx"], fitted(job.picture), job.export_config.tolerance)
    if job.export_config.program:
        files["program"] = "model.pt2"
        export_program(net, example, folder / files["program"])
    latency = job.latency_config.measure(net, example)
    metrics = {
        **row.metrics,
        "accuracy": test["accuracy"],
        "loss": test["loss"],
        "validation_accuracy": row.metrics["accuracy"],
        "latency_ms": latency.median_ms,
        "onnx_difference": difference,
    }
    relative = {kind: f"subnets/{row.name}/{name}" for kind, name in files.items()}
    result = ScoredNetwork(row.name, row.subnet, metrics, relative)
    unfinished = folder / ".subnet.json.partial"
    save_subnet(subnet, supernet.digest, {"row": result.to_json(), "key": key}, unfinished)
    unfinished.replace(facts)
    return result


def extracted(job: Job, supernet: ofa.Supernet, row: ScoredNetwork) -> nn.Module:
    """The teacher itself, or a subnet with weights of its own, or with batch statistics of its own."""
    if row.subnet is None:
        return job.teacher
    if NETWORK in row.files:
        net = supernet.extract(row.subnet).eval()
        net.load_state_dict(checkpoints.load(job.folder / row.files[NETWORK])["model"])
        return net
    supernet.activate(row.subnet)
    supernet.calibrate(map(supernet.resize, job.learner(supernet).calibration))
    return supernet.extract().eval()


def onnx_difference(net: nn.Module, path: Path, picture: Tensor, tolerance: float) -> float:
    """Run the ONNX file beside the network on a real picture; the largest difference relative to the largest output.

    Raises:
        ValueError: it exceeds the tolerance.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = net(picture).cpu().numpy()
    (got,) = session.run(None, {session.get_inputs()[0].name: picture.cpu().numpy()})
    difference = float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-12))
    if not difference <= tolerance:
        raise ValueError(f"{path} differs from the network by {difference:.1e}, above {tolerance:.1e}")
    return difference


def read_lines(path: Path) -> list[Any]:
    """The rows of a JSON-lines file; a line that a kill cut off is dropped."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


STAGES: dict[str, Callable[[Job], None]] = {
    "teacher": train_teacher,
    "supernet": train_supernet,
    "latency": measure_latency,
    "search": search_front,
    "prune": prune,
    "export": export_front,
}
