"""Scripts written for `pytorch_nndct` run after changing one import, on digits, also after a kill."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from vitis_networks import Likeness

from ofa import vitis

ROOT = Path(__file__).parents[1]

# Vitis' example (cifar10_mynet_pruning.py) with other data, on whatever device there is.
COMMON = """
import os
import signal
import sys

import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from pytorch_nndct import get_pruning_runner, OFAPruner, SparsePruner

device = "cuda" if torch.cuda.is_available() else "cpu"


class MyNet(nn.Module):
  def __init__(self):
    super(MyNet, self).__init__()
    self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
    self.bn1 = nn.BatchNorm2d(16)
    self.relu1 = nn.ReLU(inplace=True)
    self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
    self.bn2 = nn.BatchNorm2d(32)
    self.relu2 = nn.ReLU(inplace=True)
    self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
    self.bn3 = nn.BatchNorm2d(32)
    self.avgpool1 = nn.AdaptiveAvgPool2d((1, 1))
    self.fc = nn.Linear(32, 10)

  def forward(self, x):
    x = self.relu1(self.bn1(self.conv1(x)))
    x = self.relu2(self.bn2(self.conv2(x)))
    x = self.relu2(self.bn3(self.conv3(x)) + x)
    x = self.avgpool1(x)
    x = torch.flatten(x, 1)
    return self.fc(x)


def train(train_loader, model, optimizer):
  model.train()
  for images, target in train_loader:
    model = model.to(device)
    images, target = images.to(device), target.to(device)
    loss = nn.functional.cross_entropy(model(images), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def eval_fn(model, dataloader):
  with open("calls.txt", "a") as calls:
    calls.write("x")
  if os.path.getsize("calls.txt") == int(os.environ.get("KILL_AT", 0)):
    os.kill(os.getpid(), signal.SIGKILL)
  model.eval()
  right = total = 0
  with torch.no_grad():
    for images, targets in dataloader:
      images, targets = images.to(device), targets.to(device)
      right += (model(images).argmax(1) == targets).sum()
      total += len(targets)
  return 100.0 * right / total


def calibration_fn(model, dataloader, number_forward=100):
  model.train()
  with torch.no_grad():
    for index, (images, target) in enumerate(dataloader):
      images = images.to(device)
      model(images)
      if index > number_forward:
        break


digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
targets = torch.tensor(digits.target)
torch.manual_seed(0)
train_loader = DataLoader(TensorDataset(images[:1300], targets[:1300]), batch_size=64, shuffle=True)
val_loader = DataLoader(TensorDataset(images[1300:], targets[1300:]), batch_size=256)


def finetune(model, epochs, lr=5e-3):
  optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4)
  for epoch in range(epochs):
    train(train_loader, model, optimizer)
  return model


if __name__ == '__main__':
  model = MyNet().to(device)
  if os.path.exists("mynet.pth"):
    model.load_state_dict(torch.load("mynet.pth"))
  else:
    finetune(model, 6, 0.05)
    torch.save(model.state_dict(), "mynet.pth")
  input_signature = torch.randn([1, 1, 8, 8], dtype=torch.float32).to(device)
  baseline = eval_fn(model, val_loader)
"""

ITERATIVE = """
  runner = get_pruning_runner(model, input_signature, 'iterative')
  runner.ana(eval_fn, args=(val_loader,), gpus=['0'])
  for ratio in (0.3, 0.5):
    model = runner.prune(removal_ratio=ratio, mode='sparse')
    finetune(model, 3)
    torch.save(model.state_dict(), 'model_pruned.pth')
    torch.save(model.slim_state_dict(), 'model_slim.pth')
    final = eval_fn(model, val_loader)
    baseline_model = MyNet().to(device)
    baseline_model.load_state_dict(torch.load('model_pruned.pth'))
    runner = get_pruning_runner(baseline_model, input_signature, 'iterative')
  slim = runner.prune(spec_path='.vai/MyNet_ratio_0.5.spec', mode='slim')
  slim.load_state_dict(torch.load('model_slim.pth'))
  assert eval_fn(slim, val_loader) == final
  assert final > baseline - 4, (float(final), float(baseline))
"""

ONE_STEP = """
  runner = get_pruning_runner(model, input_signature, 'one_step')
  runner.search(gpus=['0'], calibration_fn=calibration_fn, calib_args=(train_loader,), eval_fn=eval_fn,
                eval_args=(val_loader,), num_subnet=12, removal_ratio=0.5)
  model = runner.prune(removal_ratio=0.5, index=None, mode='slim')
  scores = __import__("json").load(open(".vai/MyNet_ratio_0.5.search"))["scores"]
  assert abs(float(eval_fn(model, val_loader)) - max(scores.values())) < 1e-6
  finetune(model, 3)
  assert eval_fn(model, val_loader) > baseline - 4
"""

SPARSE = """
  pruner = SparsePruner(model, input_signature)
  sparse_model = pruner.sparse_model(w_sparsity=0.5, a_sparsity=0, block_size=4)
  finetune(sparse_model, 3)
  sparse = eval_fn(sparse_model, val_loader)
  torch.save(sparse_model.state_dict(), 'sparse.pth')
  sparse_model.load_state_dict(torch.load('sparse.pth'))
  exported = pruner.export_sparse_model(sparse_model)
  assert (exported.conv2.weight.detach().unflatten(1, (4, 4)) == 0).sum(2).eq(2).all()
  assert type(exported.conv2) is nn.Conv2d and eval_fn(exported, val_loader) == sparse > baseline - 4
"""

OFA = """
  teacher_model = model
  ofa_pruner = OFAPruner(model, input_signature)
  ofa_model = ofa_pruner.ofa_model([0.5, 0.75, 1], 8, auto_add_excludes=False)
  optimizer = torch.optim.SGD(ofa_model.parameters(), 0.02, momentum=0.9)
  for epoch in range(3):
    ofa_model.train()
    for images, target in train_loader:
      images, target = images.to(device), target.to(device)
      optimizer.zero_grad()
      teacher_model.eval()
      with torch.no_grad():
        soft = teacher_model(images).softmax(1)
      for arch_id in range(4):
        kind = 'max' if arch_id == 0 else 'min' if arch_id == 1 else 'random'
        model, _ = ofa_pruner.sample_subnet(ofa_model, kind)
        output = model(images)
        loss = nn.functional.cross_entropy(output, target) - (soft * output.log_softmax(1)).sum(1).mean()
        loss.backward()
      torch.nn.utils.clip_grad_value_(ofa_model.parameters(), 1.0)
      optimizer.step()

  def calibration(model, loader):
    model.eval()
    with torch.no_grad():
      ofa_pruner.reset_bn_running_stats_for_calibration(model)
      for index, (images, _) in enumerate(loader):
        model(images.to(device))
        if index >= 16:
          break

  pareto_global = ofa_pruner.run_evolutionary_search(ofa_model, calibration, (train_loader,), eval_fn, (val_loader,),
      'acc1', 'max', min_macs=0.1, max_macs=0.25, macs_step=0.05, parent_popu_size=6, iteration=3, mutate_size=4,
      crossover_size=2)
  ofa_pruner.save_subnet_config(pareto_global, 'pareto_global.txt')
  pareto_global = ofa_pruner.load_subnet_config('pareto_global.txt')
  for key, row in pareto_global.items():
    static_subnet, _, macs, params = ofa_pruner.get_static_subnet(ofa_model, row['subnet_setting'])
    calibration(static_subnet, train_loader)
    assert row['acc1'] > baseline - 8, (key, row['acc1'], float(baseline))
"""


def run(body: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text((COMMON + body).replace("from pytorch_nndct import", "from ofa.vitis import"))
    place = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=place, capture_output=True, text=True, timeout=300
    )


def test_the_readme_has_every_call() -> None:
    table = (ROOT / "docs" / "vitis.md").read_text()
    for name in set(vitis.__all__) - {"IterativePruningRunner", "OneStepPruningRunner"}:
        assert name in table, name
    methods = [name for name in vars(vitis.OFAPruner) if not name.startswith("_") and "config" not in name]
    assert all(name in table for name in methods if name not in ("settings", "save_search_space")), methods
    for name in re.findall(r"`(ofa\.[\w.]+)", table):
        module, _, last = name.rpartition(".")
        found = importlib.import_module(module)
        assert hasattr(found, last) or importlib.import_module(name), name
    groups = re.findall(r"ofa (method|search)=(\w+)", table)
    assert len(groups) == 4 and all((ROOT / "conf" / group / f"{value}.yaml").exists() for group, value in groups)


@pytest.mark.parametrize("body", [ITERATIVE, ONE_STEP, OFA, SPARSE], ids=["iterative", "one_step", "ofa", "sparse"])
def test_a_script_runs_after_changing_one_import(body: str, tmp_path: Path) -> None:
    done = run(body, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    if body is ITERATIVE:
        names = {path.name for path in (tmp_path / ".vai").iterdir()}
        assert {"MyNet.sens", "MyNet_ratio_0.3.spec", "MyNet_ratio_0.5_pruning_info.json"} <= names
        assert "MyNet, sparse" in done.stderr and "MACs" in done.stderr


@pytest.mark.slow
def test_a_process_that_is_killed_loses_one_evaluation(tmp_path: Path) -> None:
    """The second process evaluates what is missing."""
    ana = (
        "  get_pruning_runner(model, input_signature, 'iterative').ana(eval_fn, args=(val_loader,), grid=(0.3, 0.6))\n"
    )
    killed = run(ana, tmp_path, KILL_AT="4")  # the baseline, the whole network, two points
    assert killed.returncode == -9
    assert len(json.loads((tmp_path / ".vai/MyNet.sens").read_text())["uncompleted_steps"]) == 3
    again = run(ana, tmp_path)
    assert again.returncode == 0, again.stderr[-2000:]
    assert json.loads((tmp_path / ".vai/MyNet.sens").read_text())["uncompleted_steps"] == []
    assert len((tmp_path / "calls.txt").read_text()) == 4 + 1 + 3


WHERE_VITIS_FAILS = {
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
    "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(num_classes=10),
    "regnet_y_400mf": lambda: torchvision.models.regnet_y_400mf(num_classes=10),
    "shufflenet_v2": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=10),
    "squeezenet": lambda: torchvision.models.squeezenet1_1(num_classes=10),
    "resnext50": lambda: torchvision.models.resnext50_32x4d(num_classes=10),
    "ghostnet": lambda: timm.create_model("ghostnet_050", num_classes=10),
    "convnext": lambda: timm.create_model("convnext_atto", num_classes=10, depths=(1, 1, 1, 1), dims=(16, 32, 48, 64)),
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=64, depth=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WHERE_VITIS_FAILS)
def test_networks_on_which_vitis_fails_are_pruned(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the MACs, sparse and slim alike, the outputs whole; weights go both ways."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model, x = WHERE_VITIS_FAILS[name]().eval(), torch.randn(2, 3, 64, 64)
    runner = vitis.get_pruning_runner(model, x, "iterative")
    assert isinstance(runner, vitis.IterativePruningRunner)
    runner.ana(Likeness(model, x), grid=(0.5,), with_group_conv=True)
    sparse, slim = runner.prune(0.5), runner.prune(0.5, mode="slim")
    (whole, _), (part, _) = (vitis.model_complexity(net, x) for net in (model, slim))
    assert part / whole == pytest.approx(0.5, abs=0.01)
    with torch.no_grad():
        assert slim(x).shape == (2, 10)
        assert (sparse(x) - slim(x)).abs().max() <= 1e-5 * slim(x).abs().max()
    sparse.train()(x).square().mean().backward()
    torch.optim.SGD(sparse.parameters(), 1e-3, momentum=0.9, weight_decay=1e-2).step()
    slim.load_state_dict(sparse.slim_state_dict())
    path = next((tmp_path / ".vai").glob("*_pruning_info.json"))
    rebuilt = vitis.transform_to_slim_model(model, sparse.state_dict(), path)
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(x), slim.eval()(x))


DISTRIBUTED = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, "tests")
from vitis_networks import make
import os
from ofa.vitis import OFAPruner, get_pruning_runner
dist.init_process_group("gloo")
os.chdir(f"{sys.argv[1]}/{dist.get_rank()}")
model, x = make("plain")
x = x + dist.get_rank()
runner, pruner = get_pruning_runner(model, x, "iterative"), OFAPruner(model, x)
runner.ana(lambda network: 1.0, grid=(0.5,))
for net in (runner.prune(0.5), pruner.ofa_model(channel_divisible=4)):
    wrapped = DistributedDataParallel(net.train())
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.1)
    for step in range(3):
        optimizer.zero_grad()
        if net.__class__.__name__ == "Supernet":
            pruner.sample_subnet(wrapped, "random")
        wrapped(x).square().mean().backward()
        optimizer.step()
    mine = torch.cat([p.detach().flatten() for p in net.parameters()])
    both = [torch.zeros_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    assert torch.equal(*both)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_sparse_and_elastic_networks_train_in_two_processes(tmp_path: Path) -> None:
    """DistributedDataParallel adds up the gradients of what is sliced."""
    (tmp_path / "script.py").write_text(DISTRIBUTED)
    for rank in "01":
        (tmp_path / rank).mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(tmp_path / "script.py")]
    place = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(tmp_path)], cwd=ROOT, env=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
