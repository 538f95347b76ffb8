"""Sliced ONNX files: equal to real exports over families of networks; no wrong slice leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model

import ofa
import ofa.onnx_files.supernet as sliced
from ofa.export import export_onnx
from ofa.onnx_files import OnnxSupernet, difference
from ofa.onnx_files.formulas import Formula, sizes_of
from ofa.onnx_files.template import Template
from ofa.space import Subnet
from tests.networks import build

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter

FAMILIES = [
    "vit",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "convnext",
            "convnextv2",
            "densenet",
            "dla",
            "efficientnet",
            "ghostnet",
            "mixer",
            "mobilenetv2",
            "mobilenetv3",
            "regnet",
            "resnet",
            "resnext",
            "torchvision/efficientnet_b0",
            "torchvision/mobilenet_v3_small",
            "torchvision/shufflenet_v2_x0_5",
            "torchvision/swin_t",
        )
    ),
]


def family(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if name == "convnextv2":
        small = timm.create_model("convnextv2_atto", num_classes=10, depths=(2, 2, 2, 2), dims=(16, 32, 48, 64))
        return small.eval(), torch.randn(1, 3, 64, 64)
    if not name.startswith("torchvision/"):
        return build(name)
    return get_model(name.partition("/")[2], num_classes=10).eval(), torch.randn(1, 3, 64, 64)


def refuse(text: str) -> None:
    pytest.fail(text)


def shapes(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Types and shapes of a file's weights and other tables."""
    tensors = onnx.load(path).graph.initializer
    return sorted((onnx.TensorProto.DataType.Name(t.data_type), tuple(t.dims)) for t in tensors)


def operators(path: Path) -> list[str]:
    """What a file runs; the exporter leaves an identity where a block was skipped."""
    return [node.op_type for node in onnx.load(path).graph.node if node.op_type != "Identity"]


def answer(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sliced_file_is_the_exported_one(name: str, tmp_path: Path) -> None:
    model, images = family(name)
    supernet, rng = ofa.Supernet(model, images[:1]), np.random.default_rng(1)
    exporter, space = OnnxSupernet(supernet, say=refuse), supernet.space
    for number, subnet in enumerate((space.smallest, space.largest, *(space.sample(rng) for _ in range(2)))):
        network = supernet.extract(subnet)
        exporter.export(network, images[:1], tmp_path / "sliced.onnx", metadata={"name": name})
        assert difference(tmp_path / "sliced.onnx", network, images[:1]) < 1e-4
        if number == 2:
            export_onnx(network, images[:1], tmp_path / "real.onnx")
            assert shapes(tmp_path / "sliced.onnx") == shapes(tmp_path / "real.onnx")
            assert operators(tmp_path / "sliced.onnx") == operators(tmp_path / "real.onnx")
            batch = torch.cat([images, images.flip(-1), -images])
            real, mine = (answer(tmp_path / file, batch) for file in ("real.onnx", "sliced.onnx"))
            torch.testing.assert_close(mine, real, rtol=1e-4, atol=1e-5 * float(real.abs().max()))
    (entry,) = onnx.load(tmp_path / "sliced.onnx").metadata_props
    assert (entry.key, entry.value) == ("name", name)


class Attention(nn.Module):
    """Sizes where an exporter puts numbers into the graph: heads, scales, halves, flattened maps, grouped kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, 2, 2)
        self.deep = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.qkv, self.heads = nn.Linear(16, 48), 4
        self.out = nn.Linear(16, 16)
        self.blocks = nn.Sequential(*(Residual(16) for _ in range(3)))
        self.head = nn.Linear(16 * 16, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.deep(self.stem(images).relu()).relu().flatten(2).transpose(1, 2)
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        x = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))
        return self.head(self.blocks(x).flatten(1))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


@pytest.fixture(scope="module")
def small() -> tuple[ofa.Supernet, Tensor]:
    torch.manual_seed(0)
    images = torch.randn(1, 3, 8, 8)
    return ofa.Supernet(Attention().eval(), images), images


@pytest.fixture(scope="module")
def learned(small: tuple[ofa.Supernet, Tensor], tmp_path_factory: pytest.TempPathFactory) -> OnnxSupernet:
    """An exporter that has its template."""
    supernet, images = small
    exporter = OnnxSupernet(supernet, say=refuse)
    exporter.export(random_network(supernet, 0), images, tmp_path_factory.mktemp("learned") / "model.onnx")
    return exporter


def random_network(supernet: ofa.Supernet, seed: int) -> nn.Module:
    return supernet.extract(supernet.space.sample(np.random.default_rng(seed))).eval()


def test_weights_are_the_networks_own(
    small: tuple[ofa.Supernet, Tensor], learned: OnnxSupernet, tmp_path: Path
) -> None:
    supernet, images = small
    network = random_network(supernet, 0)
    learned.export(network, images, tmp_path / "a.onnx")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    learned.export(network, images, tmp_path / "b.onnx")
    assert difference(tmp_path / "a.onnx", network, images) > 1e-3 > difference(tmp_path / "b.onnx", network, images)


def rolled(model: ir.Model) -> None:
    """Channels of one weight in another order."""
    value = next(v for v in model.graph.initializers.values() if v.shape is not None and len(v.shape) == 4)
    assert value.const_value is not None
    value.const_value = ir.tensor(np.roll(value.const_value.numpy(), 1, axis=0), name=value.name)


def swapped(model: ir.Model) -> None:
    """The wrong slice of a weight: as large, from elsewhere."""
    value = next(v for v in model.graph.initializers.values() if v.shape is not None and len(v.shape) == 2)
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy()[::-1].copy(), name=value.name)


def scaled(model: ir.Model) -> None:
    """A wrong number where attention is scaled."""
    node = next(n for n in model.graph if n.op_type == "Mul" and n.inputs[1] is not None and n.inputs[1].const_value)
    assert node.inputs[1] is not None
    old = node.inputs[1].const_value
    assert old is not None
    node.inputs[1].const_value = ir.tensor((old.numpy() * 1.5).astype(np.float32), name=old.name)


def regrouped(model: ir.Model) -> None:
    """A wrong number of groups."""
    node = next(n for n in model.graph if n.op_type == "Conv" and n.attributes["group"].as_int() > 1)
    node.attributes["group"] = ir.AttrInt64("group", 1)


def test_a_network_that_rounds_more_than_others_is_sliced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output is the small difference of large numbers, which no two runtimes give alike."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    supernet = ofa.Supernet(network, torch.randn(1, 16))
    small = supernet.extract(supernet.space.smallest).eval()
    last = small.get_submodule("4")
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        small.get_parameter("2.bias").fill_(1e4)
        last.weight -= last.weight.mean(1, keepdim=True)
    said: list[str] = []
    OnnxSupernet(supernet, said.append).export(small, torch.randn(1, 16), tmp_path / "model.onnx")
    assert not said
    monkeypatch.setattr(sliced, "ROUNDING", 0)
    OnnxSupernet(supernet, said.append).export(small, torch.randn(1, 16), tmp_path / "model.onnx")
    assert said == ["ONNX is exported, not sliced: a sliced file is not its network"]


@pytest.mark.parametrize("fault", [rolled, swapped, scaled, regrouped])
def test_a_wrong_slice_never_leaves(
    fault: Callable[[ir.Model], None],
    small: tuple[ofa.Supernet, Tensor],
    learned: OnnxSupernet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (supernet, images), said = small, []
    network, right = random_network(supernet, 0), Template.filled

    def wrong(self: Template, *given: Any) -> ir.Model:
        model = right(self, *given)
        fault(model)
        return model

    monkeypatch.setattr(Template, "filled", wrong)
    monkeypatch.setattr(sliced, "MOST", 2)  # it has learned what there is to learn
    exporter = OnnxSupernet(supernet, said.append)
    exporter._learners = dict(learned._learners)
    exporter.export(network, images, tmp_path / "model.onnx")
    assert said == ["ONNX is exported, not sliced: a sliced file is not its network"]
    assert difference(tmp_path / "model.onnx", network, images) < 1e-5


def test_a_template_that_does_not_do_learns_from_one_more_probe(
    small: tuple[ofa.Supernet, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernet, images = small
    right, learned = Template.of, []

    def wrong_at_first(models: Any, sizes: Any, blocks: Any) -> Template:
        template = right(models, sizes, blocks)
        learned.append(len(models))
        holes = {
            place: replace(hole, numbers=tuple(map(other, hole.numbers))) for place, hole in template.holes.items()
        }
        return template if len(models) > 2 else replace(template, holes=holes)

    def other(number: Formula | float) -> Formula | float:
        return replace(number, offset=number.offset + 1) if isinstance(number, Formula) else number

    monkeypatch.setattr(Template, "of", wrong_at_first)
    exporter = OnnxSupernet(supernet, say=refuse)
    for seed in (0, 1):
        exporter.export(network := random_network(supernet, seed), images, tmp_path / "model.onnx")
        assert difference(tmp_path / "model.onnx", network, images) < 1e-5
    assert learned == [2, 3]


def test_one_template_serves_sizes_of_pictures_until_one_needs_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = counted(monkeypatch)
    model, images = build("resnet")
    supernet = ofa.Supernet(model, images[:1], ofa.SpaceConfig(proof="off", resolution=(48, 64)))
    exporter = OnnxSupernet(supernet, say=refuse)
    for edge in (64, 48, 64):
        subnet = Subnet({**supernet.space.smallest, "resolution": edge})
        example, network = supernet.resize(images[:1], subnet), supernet.extract(subnet)
        exporter.export(network, example, tmp_path / "model.onnx")
        assert difference(tmp_path / "model.onnx", network, example) < 1e-4
        assert onnxruntime.InferenceSession(tmp_path / "model.onnx").get_inputs()[0].shape == ["batch", 3, edge, edge]
    assert len(exported) == 2
    flattened = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Unflatten(1, (-1, 1)), Tokens(8))
    supernet = ofa.Supernet(flattened.eval(), torch.randn(1, 3, 8, 8))
    exporter, network = OnnxSupernet(supernet, say=refuse), supernet.extract(supernet.space.smallest)
    for edge in (8, 12):
        exporter.export(network, example := torch.randn(1, 3, edge, edge), tmp_path / "model.onnx")
        assert difference(tmp_path / "model.onnx", network, example) < 1e-5
    assert len(exported) == 2 + 2 * 2


class Tokens(nn.Module):
    """Says how many positions there are, in a number of the graph."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        return self.head(x.mean(2) * x.shape[2])


def counted(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks whose graphs are exported."""
    networks, right = [], sliced.open_graph

    def counting(network: nn.Module, example: Any) -> ir.Model:
        networks.append(network)
        return right(network, example)

    monkeypatch.setattr(sliced, "open_graph", counting)
    return networks


class Branching(nn.Module):
    """Other operators at other sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        return self.down(x.relu() if x.shape[1] == 16 else x.tanh())


class Constant(nn.Module):
    """One answer for every input."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 2)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Branching, "another size has other operators: "),
        (Constant, "the network answers the same whatever it is given, which would hide a wrong slice"),
    ],
)
def test_what_cannot_be_sliced_is_exported_and_said_once(
    kind: type[nn.Module], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    supernet = ofa.Supernet(kind().eval(), torch.randn(1, 4), ofa.SpaceConfig(proof="off"))
    exported, said = counted(monkeypatch), []
    exporter, network = OnnxSupernet(supernet, said.append), supernet.extract(supernet.space.smallest)
    for _ in range(2):
        exporter.export(network, torch.randn(1, 4), tmp_path / "model.onnx", {"a": "b"})
        assert difference(tmp_path / "model.onnx", network, torch.randn(1, 4)) < 1e-5
    assert len(said) == 1 and said[0].startswith(f"ONNX is exported, not sliced: {reason}")
    assert len(exported) == (0 if kind is Constant else 2)
    assert onnx.load(tmp_path / "model.onnx").metadata_props[0].key == "a"


def test_what_runs_on_the_options_alone_is_learned_from_them(tmp_path: Path) -> None:
    class Even(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(x)
            assert x.shape[1] % 8 == 0
            return self.down(x.relu())

    supernet = ofa.Supernet(Even().eval(), torch.randn(1, 4))
    network = supernet.extract(supernet.space.smallest)
    OnnxSupernet(supernet, say=refuse).export(network, torch.randn(1, 4), tmp_path / "model.onnx")
    assert difference(tmp_path / "model.onnx", network, torch.randn(1, 4)) < 1e-5


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (lambda n: [math.sin(i) for i in range(n)], "Mul in the network holds a table that no size explains"),
        (lambda n: [float(n**3)], r"Mul in the network holds \[512.0, 216.0\] in networks of several sizes, which no"),
    ],
)
def test_a_number_that_follows_no_size_is_named(numbers: Callable[[int], list[float]], message: str) -> None:
    class Computed(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.up = nn.Linear(4, width)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x) * torch.tensor(numbers(self.up.out_features))

    networks, example = [Computed(8), Computed(6)], torch.randn(1, 4)
    with pytest.raises(ValueError, match=message):
        Template.of([sliced.open_graph(one, example) for one in networks], [sizes_of(one) for one in networks])
