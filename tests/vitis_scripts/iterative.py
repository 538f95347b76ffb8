"""Iterative pruning as scripts for the Vitis AI Optimizer do it: analyse by the loss, prune, finetune, again.

Run by torchrun: every rank calls everything, and only the first one saves.
"""

import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from ofa.vitis import get_pruning_runner
from ofa.vitis.utils import slim


class MyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = (self.bn3(self.conv3(x)) + x).relu()
        return self.fc(x.mean((2, 3)))


def evaluate(model, loader):
    model.eval()
    loss = right = total = 0
    with torch.no_grad():
        for images, targets in loader:
            outputs = model(images)
            loss += nn.functional.cross_entropy(outputs, targets, reduction="sum")
            right += (outputs.argmax(1) == targets).sum()
            total += len(targets)
    return (loss / total).item(), (100 * right / total).item()


def eval_fn(model, loader):
    """A loss, and nobody says so."""
    return evaluate(model, loader)[0]


def train(model, loader, epochs, lr):
    model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    for epoch in range(epochs):
        model.train()
        loader.sampler.set_epoch(epoch)
        for images, targets in loader:
            loss = nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def save(state, path):
    if dist.get_rank() == 0:
        torch.save(state, path)
    dist.barrier()


def main():
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    targets = torch.tensor(digits.target)
    train_set, val_set = (TensorDataset(images[part], targets[part]) for part in (slice(1300), slice(1300, None)))
    train_loader = DataLoader(train_set, batch_size=32, sampler=DistributedSampler(train_set))
    val_loader = DataLoader(val_set, batch_size=256)

    model = MyNet()
    train(model, train_loader, 8, 0.05)
    save(model.state_dict(), "mynet.pth")
    model.load_state_dict(torch.load("mynet.pth"))
    baseline = evaluate(model, val_loader)[1]

    input_signature = torch.randn([1, 1, 8, 8], dtype=torch.float32)
    runner = get_pruning_runner(model, input_signature, "iterative")
    runner.ana(eval_fn, args=(val_loader,), gpus=["0"])
    for ratio in (0.3, 0.5):
        model = runner.prune(removal_ratio=ratio, mode="sparse")
        train(model, train_loader, 4, 0.02)
        save(model.state_dict(), "model_pruned.pth")
        save(model.slim_state_dict(), "model_slim.pth")
        baseline_model = MyNet()
        baseline_model.load_state_dict(torch.load("model_pruned.pth"))
        runner = get_pruning_runner(baseline_model, input_signature, "iterative")
    model.load_state_dict(torch.load("model_pruned.pth"))  # statistics of the first rank
    final = evaluate(model, val_loader)

    runner = get_pruning_runner(MyNet(), input_signature, "iterative")
    slim_model = runner.prune(spec_path=".vai/MyNet_ratio_0.5.spec", mode="slim")
    slim_model.load_state_dict(torch.load("model_slim.pth"))
    without_runner = slim.load_state_dict(MyNet(), torch.load("model_slim.pth"))
    assert evaluate(slim_model, val_loader)[1] == evaluate(without_runner, val_loader)[1] == final[1]
    print(f"rank {dist.get_rank()} of {os.environ['WORLD_SIZE']}: {baseline:.2f} {final[1]:.2f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
