"""One-step pruning as scripts for the Vitis AI Optimizer do it: search by the loss, prune, finetune, save, deploy."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ofa.vitis import get_pruning_runner
from ofa.vitis.utils import slim


class MyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 48, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(48)
        self.fc = nn.Linear(48, 10)

    def forward(self, x):
        x = self.bn1(self.depthwise(self.conv1(x))).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = self.bn3(self.conv3(x)).relu()
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


def calibration_fn(model, loader, number_forward=100):
    model.train()
    with torch.no_grad():
        for index, (images, _) in enumerate(loader):
            model(images)
            if index > number_forward:
                break


def train(model, loader, epochs, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    for _ in range(epochs):
        model.train()
        for images, targets in loader:
            loss = nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main():
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    targets = torch.tensor(digits.target)
    train_loader = DataLoader(TensorDataset(images[:1300], targets[:1300]), batch_size=64, shuffle=True)
    val_loader = DataLoader(TensorDataset(images[1300:], targets[1300:]), batch_size=256)

    model = MyNet()
    train(model, train_loader, 8, 0.05)
    baseline = evaluate(model, val_loader)[1]

    input_signature = torch.randn([1, 1, 8, 8], dtype=torch.float32)
    runner = get_pruning_runner(model, input_signature, "one_step")
    runner.search(
        gpus=["0"],
        calibration_fn=calibration_fn,
        calib_args=(train_loader,),
        eval_fn=eval_fn,
        eval_args=(val_loader,),
        num_subnet=10,
        removal_ratio=0.5,
    )
    model = runner.prune(removal_ratio=0.5, index=0, mode="slim")
    pruned = evaluate(model, val_loader)[0]
    train(model, train_loader, 4, 0.02)
    final = evaluate(model, val_loader)
    torch.save(model.state_dict(), "mynet_pruned.pth")

    runner = get_pruning_runner(MyNet(), input_signature, "one_step")
    deployed = runner.prune(removal_ratio=0.5, mode="slim")
    deployed.load_state_dict(torch.load("mynet_pruned.pth"))
    without_runner = slim.load_state_dict(MyNet(), torch.load("mynet_pruned.pth"))
    assert evaluate(deployed, val_loader) == evaluate(without_runner, val_loader) == final
    print(f"{pruned:.6f} {baseline:.2f} {final[1]:.2f}")


if __name__ == "__main__":
    main()
