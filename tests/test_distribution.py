"""Two real processes train as one: the gradient of the joint batch, the same subnets, one writer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import json, sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch import nn
from ofa import SpaceConfig, Supernet
from ofa.train import Digits, Recipe, Sandwich, SandwichRule, fit
from ofa.train.distribution import joined, part, rank, world
from ofa.train.fitting import Fitting

folder = Path(sys.argv[1])
torch.set_num_threads(1)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 16, 3, 2), nn.Conv2d(16, 32, 3, 2)
        self.norm, self.head = nn.GroupNorm(4, 32), nn.Linear(32, 10)
    def forward(self, x):
        return self.head(self.norm(self.b(self.a(x).relu())).relu().mean((2, 3)))

torch.manual_seed(0)
splits = Digits(size=16).load()
supernet = Supernet(Net(), torch.zeros(2, 1, 16, 16), SpaceConfig(width=(0.5, 1.0)))
calls = []
original = dist.all_reduce
dist.all_reduce = lambda *a, **k: (calls.append(1), original(*a, **k))[1]
with joined(torch.device("cpu")):
    learner = Sandwich(supernet, splits, SandwichRule(), calibration_batches=1)
    fitting = Fitting(learner, Recipe(batch_size=64, epochs=1, clip_value=None))
    images, labels = next(iter(splits.train.ordered(64)))
    mine, n = part()
    supernet.train()
    before = len(calls)
    fitting.step(images[mine::n], labels[mine::n])
    reduced = len(calls) - before
    gradients = {k: p.grad.clone() for k, p in supernet.named_parameters() if p.grad is not None}
    figures = fit(learner, Recipe(batch_size=64, epochs=3, lr=0.01), path=folder / "net.pt")
    name = f"rank{rank()}-of-{world()}"
    torch.save({"gradients": gradients, "state": supernet.state_dict(), "reduced": reduced}, folder / f"{name}.pt")
    (folder / f"{name}.json").write_text(json.dumps(figures))
"""


FEW = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from torch import nn
from ofa.train import Digits, Recipe, Supervised
from ofa.train.distribution import joined, rank, world
from ofa.train.fitting import Fitting

def first(split, pictures):
    return replace(split, images=split.images[:pictures], labels=split.labels[:pictures])

torch.manual_seed(0)
model, splits = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Digits(size=8).load()
messages = []
with joined(torch.device("cpu")):
    for pictures, batch in ((9, 1), (9, 3), (1, 2), (9, 10)):
        learner = Supervised(model, replace(splits, train=first(splits.train, pictures)))
        try:
            Fitting(learner, Recipe(batch_size=batch))
        except ValueError as error:
            messages.append(str(error))
    examined = [
        Supervised(model, replace(splits, validation=first(splits.validation, pictures)), validation_batch=4).validate()
        for pictures in (1, 4, 5, 9)
    ]
    report = json.dumps([messages, examined])
    (Path(sys.argv[1]) / f"rank{rank()}-of-{world()}.json").write_text(report)
"""


def launch(folder: Path, processes: int, content: str = SCRIPT) -> None:
    script = folder / "script.py"
    script.write_text(content)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    settings = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}  # this tree, not an installed one
    done = subprocess.run(
        [*command, str(script), str(folder)], capture_output=True, text=True, timeout=300, env=settings
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    launch(one, 1)
    launch(two, 2)
    return one, two


def test_averaged_gradients_equal_those_of_the_joint_batch(folders: tuple[Path, Path]) -> None:
    alone = torch.load(folders[0] / "rank0-of-1.pt")
    for rank in (0, 1):
        together = torch.load(folders[1] / f"rank{rank}-of-2.pt")
        assert together["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in together["gradients"].items():
            assert torch.allclose(gradient, alone["gradients"][name], atol=1e-5), name
        assert (alone["reduced"], together["reduced"]) == (0, 1)  # all-reduces of a step


def test_processes_stay_equal_and_one_writes(folders: tuple[Path, Path]) -> None:
    first, second = (torch.load(folders[1] / f"rank{rank}-of-2.pt") for rank in (0, 1))
    assert all(torch.equal(value, second["state"][name]) for name, value in first["state"].items())
    figures = [json.loads((folders[1] / f"rank{rank}-of-2.json").read_text()) for rank in (0, 1)]
    assert figures[0] == figures[1]
    assert figures[0]["loss"] < 2.3  # ln 10 is what chance gives
    saved = torch.load(folders[1] / "net.pt")["model"]
    assert all(torch.equal(value, saved[name]) for name, value in first["state"].items())


@pytest.mark.slow
def test_more_processes_than_data_is_one_clear_error_or_no_difference(tmp_path: Path) -> None:
    for processes in (1, 2):
        launch(tmp_path, processes, FEW)
    (_, alone), *together = (
        json.loads((tmp_path / f"rank{name}.json").read_text()) for name in ("0-of-1", "0-of-2", "1-of-2")
    )
    for messages, examined in together:
        assert messages == [
            "batch_size 1 cannot be cut evenly for 2 processes in 1 parts each; multiples of 2 are allowed",
            "batch_size 3 cannot be cut evenly for 2 processes in 1 parts each; multiples of 2 are allowed",
            "1 training pictures are too few for 2 processes in 1 parts each",
            "batch_size 10 asked of 9 pictures; 1 to 9 are allowed",
        ]
        assert examined == [pytest.approx(figures) for figures in alone]


@pytest.mark.slow
def test_the_program_runs_under_torchrun(tmp_path: Path) -> None:
    """Both processes train both networks; the first goes on alone to the front."""
    brief = ["teacher.recipe.epochs=1", "supernet.recipe.epochs=1", "search.population=4", "search.evaluations=8"]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "ofa.conf.program.command",
    ]
    settings = [f"run={tmp_path / 'run'}", *brief, "latency.samples=6", "export.subnets=1", "finetune.recipe.epochs=1"]
    done = subprocess.run([*command, *settings], capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("supernet: accuracy") == 1  # one of them speaks
    assert json.loads((tmp_path / "run" / "front.json").read_text())
