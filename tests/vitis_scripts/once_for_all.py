"""Once-for-all as scripts for the Vitis AI Optimizer do it: sandwich training, evolutionary search, static export."""

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ofa.vitis import OFAPruner
from ofa.vitis.utils import profiler


class MyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 5, stride=2, padding=2)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(32)
        self.conv4 = nn.Conv2d(32, 48, 3, padding=1)
        self.bn4 = nn.BatchNorm2d(48)
        self.fc = nn.Linear(48, 10)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = x + self.bn3(self.conv3(x)).relu()
        x = self.bn4(self.conv4(x)).relu()
        return self.fc(x.mean((2, 3)))


def evaluate(model, loader):
    model.eval()
    right = total = 0
    with torch.no_grad():
        for images, targets in loader:
            right += (model(images).argmax(1) == targets).sum()
            total += len(targets)
    return (100 * right / total).item()


def calibration_fn(model, loader, number_forward=16):
    model.eval()
    OFAPruner.reset_bn_running_stats_for_calibration(model)
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
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()


def soft_cross_entropy(outputs, soft_targets):
    return -(soft_targets.softmax(1) * outputs.log_softmax(1)).sum(1).mean()


def train_ofa(pruner, model, teacher, loader, epochs, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    for _ in range(epochs):
        model.train()
        for images, targets in loader:
            with torch.no_grad():
                soft_targets = teacher(images)
            optimizer.zero_grad()
            for kind in ("max", "min", "random", "random"):
                model, _ = pruner.sample_subnet(model, kind)
                outputs = model(images)
                loss = soft_cross_entropy(outputs, soft_targets) + nn.functional.cross_entropy(outputs, targets)
                loss.backward()
            torch.nn.utils.clip_grad_value_(model.parameters(), 1.0)
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
    baseline = evaluate(model, val_loader)
    teacher = copy.deepcopy(model).eval()

    inputs = torch.randn([1, 1, 8, 8], dtype=torch.float32)
    pruner = OFAPruner(model, inputs)
    ofa_model = pruner.ofa_model(expand_ratio=[0.5, 0.75, 1], channel_divisble=4, save_search_space=True)
    train_ofa(pruner, ofa_model, teacher, train_loader, 4, 0.01)
    torch.save(ofa_model.state_dict(), "ofa_model.pth")

    _, setting = pruner.sample_subnet(ofa_model, "max")
    print("largest kernel", max(max(layer["active_kernel_size"]) for group in setting for layer in group))
    max_macs = profiler.count_macs(model, inputs) / 1e6
    found = pruner.run_evolutionary_search(
        ofa_model,
        calibration_fn,
        (train_loader,),
        evaluate,
        (val_loader,),
        "acc1",
        "max",
        0.4 * max_macs,
        0.7 * max_macs,
        macs_step=0.05 * max_macs,
        parent_popu_size=6,
        iteration=2,
        mutate_size=3,
        crossover_size=2,
    )
    pruner.save_subnet_config(found, "pareto.json")
    best = max(pruner.load_subnet_config("pareto.json").values(), key=lambda row: row["acc1"])
    static_subnet, _, macs, _ = pruner.get_static_subnet(ofa_model, best["subnet_setting"])
    calibration_fn(static_subnet, train_loader)
    train(static_subnet, train_loader, 3, 0.01)
    final = evaluate(static_subnet, val_loader)
    torch.onnx.export(static_subnet.eval(), (inputs,), "static.onnx", dynamo=True, verbose=False)
    torch.save(static_subnet.state_dict(), "static.pth")
    print(f"result {baseline:.2f} {best['acc1']:.2f} {final:.2f} {macs / max_macs:.3f}")


if __name__ == "__main__":
    main()
