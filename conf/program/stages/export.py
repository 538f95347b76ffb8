"""The stage `export`."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from ofa.conf.program.exporters.standalone import SCRIPTS
from ofa.conf.program.latencies import Verdict, timed
from ofa.conf.program.proposals import Proposals, identity, network
from ofa.conf.program.records import digest
from ofa.conf.program.run import Run
from ofa.conf.program.settings import Settings
from ofa.conf.program.stage import Stage
from ofa.costs import complexity
from ofa.digests import write_sealed
from ofa.files import writing
from ofa.persistence import network_content
from ofa.search import Front, ScoredNetwork
from ofa.search.certainty import VALIDATION, bounded
from ofa.search.front import EXECUTED
from ofa.search.latency import version_of
from ofa.space import Subnet
from ofa.train import evaluate

PICTURES = "test_pictures"  # how many there are
PACKAGES = ("ofa-lab", "torch", "torchvision", "timm", "safetensors", "onnx")


@dataclass(frozen=True)
class ExportFront(Stage):
    """Extract what was proposed, score it on the test split, write and check every file, show the table."""

    name: ClassVar[str] = "export"
    after: ClassVar[str | None] = "finetune"
    depends: ClassVar[tuple[str, ...]] = ("export",)
    needs: ClassVar[tuple[str, ...]] = ("search.json", "supernet.pt", "teacher.pt")
    leaves: ClassVar[tuple[str, ...]] = ("front.json", "front.png", "front.html", "subnets")
    repeatable: ClassVar[bool] = True

    def brings(self, settings: Settings) -> tuple[str, ...]:
        return ("finetune",) if settings.finetune.trained else ()

    def forecast(self, run: Run) -> float | None:
        """Two networks are exported in earnest, with the weights that they have; their files stay where `run` is.

        The first takes longer.
        """
        space, times = run.supernet.space, []
        for name, subnet in (("largest", space.largest), ("smallest", space.smallest)):
            started = time.perf_counter()
            Exported(run, ScoredNetwork(name, subnet, {"accuracy": 0.0})).row()
            times.append(time.perf_counter() - started)
        return times[0] + times[1] * run.settings.export.subnets

    def run(self, run: Run) -> None:
        proposals = Proposals.load(run)
        wanted, rows = timed(run, proposals), list[ScoredNetwork]()
        with run.progress(self.name, len(wanted)) as bar:
            bar.expect(len(wanted), 0)
            for row in wanted:
                rows.append(Exported(run, row).row())
                bar.advance(test_accuracy=rows[-1].metrics["accuracy"])
        for name in run.settings.timers:
            if (verdict := Verdict.of_rows(rows[1:], name)) is not None:
                run.say(f"{name}: {verdict}")
        front = Front(tuple(rows[1:]), proposals.front.objectives, rows[0])
        run.folder.write("front.json", front.to_json())
        path, title = run.folder / "front.png", run.title(rows[0].metrics[PICTURES])
        chosen_from = replace(proposals.front, teacher=rows[0])  # limits are shares of its figures, latency among them
        chosen_from.picture(path, title=title, tested=rows, budget=run.settings.constraints)
        chosen_from.page(run.folder / "front.html", title, rows)
        run.tracker.leave()


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
            try:
                facts = self._made()
            except BaseException:  # nothing half stays
                shutil.rmtree(self.run.folder / self.place, ignore_errors=True)
                raise
        return ScoredNetwork(self.proposed.name, self.proposed.subnet, facts["metrics"], facts["files"])

    @property
    def _key(self) -> str:
        """Identifies the network and all that its files are made with."""
        return digest([identity(self.run, self.proposed), self.run.folder.made_with(ExportFront.name)])

    def _made(self) -> dict[str, Any]:
        run, folder = self.run, self.run.folder / self.place
        shutil.rmtree(folder, ignore_errors=True)  # no file of an earlier network beside those of this one
        folder.mkdir(parents=True)
        net = network(run, self.proposed)
        fitted = partial(self.supernet.resize, subnet=self.subnet)
        batches = ((fitted(images), labels) for images, labels in run.splits.test.ordered(256))
        score, objectives = self.proposed.metrics["accuracy"], run.settings.objectives
        metrics = {**self.proposed.metrics, "validation_accuracy": score}
        seen = bounded({"accuracy": score}, objectives, len(run.splits.validation))
        metrics |= {f"{VALIDATION}{name}": end for name, end in seen.items()}
        metrics |= (found := evaluate(net, batches, run.settings.task))
        metrics |= bounded(found, objectives, len(run.splits.test)) | {PICTURES: len(run.splits.test)}
        plan, size = self.supernet.plan(self.subnet), fitted(run.example).shape[-1]
        if plan.zeros:
            metrics[EXECUTED] = float(complexity(net, fitted(run.example)).macs)
        known = self._known(metrics, size)
        exporters = [exporter.sliced(run.onnx) for exporter in run.settings.export.files if exporter.fits(plan)]
        for exporter in exporters:
            with writing(folder / exporter.file):
                metrics |= exporter.write(net, fitted(run.picture), folder / exporter.file, plan, known)
        files = {exporter.name: f"{self.place}/{exporter.file}" for exporter in exporters}
        files["subnet"] = f"{self.place}/subnet.json"
        facts = {**known, "files": files, **network_content(net, plan), "key": self._key}
        lasting = [path.name for path in folder.iterdir() if path.is_file() and path.name not in SCRIPTS]
        write_sealed(folder / "subnet.json", facts, lasting)
        return facts

    def _known(self, metrics: dict[str, float], size: int) -> dict[str, Any]:
        """What is said of the network in its files."""
        run = self.run
        return {
            "name": self.proposed.name,
            "subnet": dict(self.subnet),
            "network": self.supernet.digest,
            **run.facts,
            "preprocessing": replace(run.splits.preprocessing, size=size).to_json(),
            "metrics": metrics,
            "latency": {name: dev.fingerprint for name, dev in run.settings.timers.items() if name in metrics},
            "versions": {package: version_of(package) for package in PACKAGES},
        }
