"""The stage `export`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from torch import nn

import ofa
from ofa.conf.program.latencies import Verdict, Verification
from ofa.conf.program.proposals import NETWORK, Proposals
from ofa.conf.program.records import digest
from ofa.conf.program.run import Run
from ofa.conf.program.stage import Stage
from ofa.costs import complexity
from ofa.persistence import save_subnet, weights_digest
from ofa.search import Front, ScoredNetwork
from ofa.search.front import EXECUTED
from ofa.space import Subnet
from ofa.train import checkpoint as checkpoints
from ofa.train import evaluate

TIMED = "timed.json"


@dataclass(frozen=True)
class ExportFront(Stage):
    """Extract what was proposed, score it on the test split, write and check every file, show the table."""

    name: ClassVar[str] = "export"
    after: ClassVar[str | None] = "prune"
    depends: ClassVar[tuple[str, ...]] = ("export",)
    needs: ClassVar[tuple[str, ...]] = ("search.json", "supernet.pt", "teacher.pt")
    leaves: ClassVar[tuple[str, ...]] = ("front.json", "front.png", "subnets", TIMED)
    repeatable: ClassVar[bool] = True

    def forecast(self, run: Run) -> float | None:
        """One network is exported in earnest, with the weights that it has, and its files stay where `run` is."""
        started = time.perf_counter()
        Exported(run, ScoredNetwork("largest", run.supernet.space.largest, {"accuracy": 0.0})).row()
        return (time.perf_counter() - started) * (run.settings.export.subnets + 1)

    def run(self, run: Run) -> None:
        front = Proposals.load(run).front
        front.picture(run.folder / "front.png")
        chosen = front.spread(run.settings.export.subnets)
        assert front.teacher is not None
        wanted, rows = self._timed(run, (front.teacher, *chosen.rows), front), []
        with run.progress(self.name, len(wanted)) as bar:
            bar.expect(len(wanted), 0)
            for row in wanted:
                rows.append(Exported(run, row).row())
                bar.advance(test_accuracy=rows[-1].metrics["accuracy"])
        verdict = Verdict.of_rows(rows[1:])
        if verdict is not None:
            run.say(f"latency: {verdict}")
        run.folder.write("front.json", Front(tuple(rows[1:]), front.objectives, rows[0]).to_json())

    def _timed(self, run: Run, wanted: Sequence[ScoredNetwork], front: Front) -> list[ScoredNetwork]:
        """Networks with their latencies, which a run that was cut off has in its folder already."""
        key = digest([[row.to_json() for row in wanted], weights_digest(run.supernet), run.folder.made_with(self.name)])
        known = run.folder.read(TIMED, {})
        if known.get("key") == key:
            return [ScoredNetwork.from_json(row) for row in known["rows"]]
        spare = [row for row in front.rows if row not in wanted]
        rows = Verification(run).verified(wanted, spare)
        run.folder.write(TIMED, {"key": key, "rows": [row.to_json() for row in rows]})
        return rows


class Exported:
    """One network in a folder of its own; `subnet.json` is written last and says that the folder is whole."""

    def __init__(self, run: Run, proposed: ScoredNetwork) -> None:
        self.run, self.proposed, self.supernet = run, proposed, run.supernet
        self.subnet: Subnet = proposed.subnet or self.supernet.space.largest
        self.place = f"subnets/{proposed.name}"

    def row(self) -> ScoredNetwork:
        """What leaves, with its figures and files; what the folder holds of the same network and settings stays."""
        facts = self.run.folder.read(f"{self.place}/subnet.json", {})
        if facts.get("key") != self._key:
            facts = self._made()
        return ScoredNetwork(self.proposed.name, self.proposed.subnet, facts["metrics"], facts["files"])

    @property
    def _key(self) -> str:
        """Identifies the network and all that its files are made with."""
        settings = self.run.folder.made_with(ExportFront.name)
        return digest([self.proposed.to_json(), weights_digest(self.supernet), settings])

    def _made(self) -> dict[str, Any]:
        run, folder = self.run, self.run.folder / self.place
        shutil.rmtree(folder, ignore_errors=True)  # no file of an earlier network beside those of this one
        folder.mkdir(parents=True)
        net = network(run, self.supernet, self.proposed)
        fitted = partial(self.supernet.resize, subnet=self.subnet)
        batches = ((fitted(images), labels) for images, labels in run.splits.test.ordered(256))
        metrics = {**self.proposed.metrics, "validation_accuracy": self.proposed.metrics["accuracy"]}
        metrics |= evaluate(net, batches, run.settings.task)
        plan, size = self.supernet.plan(self.subnet), fitted(run.example).shape[-1]
        if plan.zeros:
            metrics[EXECUTED] = float(complexity(net, fitted(run.example)).macs)
        known = run.facts | {"preprocessing": replace(run.splits.preprocessing, size=size).to_json()}
        exporters = [exporter for exporter in run.settings.export.files if exporter.fits(plan)]
        for exporter in exporters:
            metrics |= exporter.write(net, fitted(run.picture), folder / exporter.file, plan, known)
        files = {exporter.name: f"{self.place}/{exporter.file}" for exporter in exporters}
        facts = {
            **known,
            "metrics": metrics,
            "files": {**files, "subnet": f"{self.place}/subnet.json"},
            "key": self._key,
        }
        save_subnet(self.subnet, self.supernet.digest, facts, folder / "subnet.json")
        return facts


def network(run: Run, supernet: ofa.Supernet, row: ScoredNetwork) -> nn.Module:
    """The teacher itself, or a subnet with weights of its own, or with batch statistics of its own."""
    if row.subnet is None:
        return run.teacher
    if NETWORK in row.files:
        net = supernet.extract(row.subnet).eval()
        net.load_state_dict(checkpoints.load(run.folder / row.files[NETWORK])["model"])
        return net
    supernet.activate(row.subnet)
    supernet.calibrate(map(supernet.resize, run.learner(supernet).calibration))
    return supernet.extract().eval()
