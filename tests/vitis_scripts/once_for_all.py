"""Once-for-all pruning as scripts for the Vitis AI Optimizer do it: train, evolve, export the subnet, go on to ONNX.

Each step makes its own pruner and loads what the step before saved, as the three scripts there do.
"""

import onnxruntime
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
        self.conv2 = nn.Conv2d(16, 32, 5, padding=2)
        self.bn2 = nn.BatchNorm2d(32)
        self.squeeze = nn.Linear(32, 8)
        self.gate = nn.Linear(8, 32)
        self.conv3 = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.bn3 = nn.BatchNorm2d(32)
        self.conv4 = nn.Conv2d(32, 64, 3, padding=1)
        self.bn4 = nn.BatchNorm2d(64)
        self.fc1 = nn.Linear(64, 32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = x * self.gate(self.squeeze(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]
        x = self.bn3(self.conv3(x)).relu()
        x = self.bn4(self.conv4(x)).relu()
        return self.fc(self.fc1(x.mean((2, 3))).relu())


def make_pruner():
    ofa_pruner = OFAPruner(MyNet(), torch.randn([1, 1, 8, 8], dtype=torch.float32))
    return ofa_pruner, ofa_pruner.ofa_model([0.5, 0.75, 1], 8, None)


def load_weights(model, path):
    checkpoint = torch.load(path, map_location="cpu")
    for k, v in model.state_dict().items():
        v.copy_(checkpoint[k])


def eval_fn(model, loader):
    model.eval()
    right = total = 0
    with torch.no_grad():
        for images, targets in loader:
            right += (model(images).argmax(1) == targets).sum()
            total += len(targets)
    return float(100 * right / total)


def calibration_fn(model, loader, number_forward=16):
    model.eval()
    for _, m in model.named_modules():
        if isinstance(m, nn.BatchNorm2d):
            m.training = True
            m.momentum = None
            m.reset_running_stats()
    with torch.no_grad():
        for index, (images, _) in enumerate(loader):
            model(images)
            if index > number_forward:
                break


def train(model, loader, epochs):
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    for _ in range(epochs):
        model.train()
        for images, targets in loader:
            loss = nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def train_ofa(teacher, loader, epochs):
    """The largest, the smallest and two random subnets a step; all learn from the teacher, too."""
    ofa_pruner = OFAPruner(teacher, torch.randn([1, 1, 8, 8], dtype=torch.float32))
    ofa_model = ofa_pruner.ofa_model([0.5, 0.75, 1], 8, None)
    optimizer = torch.optim.SGD(ofa_model.parameters(), 0.02, momentum=0.9, weight_decay=1e-4)
    teacher.eval()
    for _ in range(epochs):
        ofa_model.train()
        for images, targets in loader:
            with torch.no_grad():
                soft_label = teacher(images).softmax(1)
            optimizer.zero_grad()
            for arch_id in range(4):
                kind = ("max", "min", "random", "random")[arch_id]
                model, _ = ofa_pruner.sample_subnet(ofa_model, kind)
                output = model(images)
                loss = nn.functional.cross_entropy(output, targets)
                loss = loss - (soft_label * output.log_softmax(1)).sum(1).mean()
                loss.backward()
            nn.utils.clip_grad_value_(ofa_model.parameters(), 1.0)
            optimizer.step()
    torch.save(ofa_model.state_dict(), "mynet_ofa.pth")


def evolve(train_loader, val_loader):
    ofa_pruner, model = make_pruner()
    load_weights(model, "mynet_ofa.pth")
    sizes = {}
    for kind in ("max", "min"):
        dynamic_subnet, dynamic_subnet_setting = ofa_pruner.sample_subnet(model, kind)
        _, _, macs, _ = ofa_pruner.get_static_subnet(dynamic_subnet, dynamic_subnet_setting)
        sum_k = sum(max(c["active_kernel_size"]) for config in dynamic_subnet_setting for c in config)
        sum_c = sum(c["active_out_channel"] for config in dynamic_subnet_setting for c in config)
        sizes[kind] = macs
        print(f"{kind}: {macs:.6f} net_sum_k_{sum_k}_sum_c_{sum_c}")
    middle = (sizes["min"] + sizes["max"]) / 2
    pareto_global = ofa_pruner.run_evolutionary_search(
        model, calibration_fn, (train_loader,), eval_fn, (val_loader,), "acc@top1", "max",
        sizes["min"], middle, 0.05, 6, 3, 4, 0.2, 2,
    )  # fmt: skip
    ofa_pruner.save_subnet_config(pareto_global, "pareto_global.txt")
    by_hand(ofa_pruner, model, sizes["min"], middle)


def by_hand(ofa_pruner, model, min_macs, max_macs):
    """One round of the search there, in a script's own words."""
    parents = [ofa_pruner.sample_random_subnet_within_range(model, min_macs, max_macs)[1] for _ in range(2)]
    for _ in range(100):
        cfg = ofa_pruner.sample_random_subnet_crossover_and_reset(*parents, p=0.5)
        cfg = ofa_pruner.sample_random_subnet_mutate_and_reset(cfg, prob=0.3)
        assert ofa_pruner.check_dynamic_subnet_setting(cfg)
        subnet, _, macs, _ = ofa_pruner.get_static_subnet(model, cfg)
        if min_macs <= macs <= max_macs:
            break
    counted = sum(profiler.count_macs(subnet, torch.randn(1, 1, 8, 8)).values())
    assert counted == round(1e6 * macs), (counted, macs)
    params = profiler.count_params(subnet)
    print(f"child: {macs:.6f} {sum(n for row in params.values() for n in row.values())}")


def export(train_loader, val_loader):
    ofa_pruner, model = make_pruner()
    load_weights(model, "mynet_ofa.pth")
    pareto_global = ofa_pruner.load_subnet_config("pareto_global.txt")
    best = max(pareto_global.values(), key=lambda row: row["acc@top1"])
    static_subnet, _, macs, params = ofa_pruner.get_static_subnet(model, best["subnet_setting"])
    calibration_fn(static_subnet, train_loader)
    accuracy = eval_fn(static_subnet, val_loader)
    torch.save(static_subnet.state_dict(), "subnet.pth")
    images = next(iter(val_loader))[0][:1]
    torch.onnx.export(static_subnet.eval(), (images,), "subnet.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession("subnet.onnx", providers=["CPUExecutionProvider"])
    onnx_output = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    assert torch.allclose(torch.from_numpy(onnx_output), static_subnet(images), atol=1e-4)
    print(f"subnet: {macs:.6f} {params:.6f} {best['acc@top1']:.2f} {accuracy:.2f}")


def main():
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    targets = torch.tensor(digits.target)
    train_loader = DataLoader(TensorDataset(images[:1300], targets[:1300]), batch_size=64, shuffle=True)
    calib_loader = DataLoader(TensorDataset(images[:1300], targets[:1300]), batch_size=64)
    val_loader = DataLoader(TensorDataset(images[1300:], targets[1300:]), batch_size=256)
    model = MyNet()
    train(model, train_loader, 6)
    print(f"baseline: {eval_fn(model, val_loader):.2f}")
    train_ofa(model, train_loader, 4)
    evolve(calib_loader, val_loader)
    export(calib_loader, val_loader)


if __name__ == "__main__":
    main()
