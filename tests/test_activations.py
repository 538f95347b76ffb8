"""Sparse activations: at most half of every block of channels goes in, and gradients go the same way back."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from networks import build
from torch import Tensor, nn

from ofa.export import export_onnx, export_program
from ofa.sparsity import BlockActivations, FineGrained, Pattern, eligible, sparsify, sparsify_inputs

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "linear": (lambda: nn.Linear(16, 3), (5, 16), 1),
    "linear of tokens": (lambda: nn.Linear(16, 3), (5, 7, 16), 2),
    "conv1d": (lambda: nn.Conv1d(16, 3, 3), (5, 16, 9), 1),
    "conv2d": (lambda: nn.Conv2d(16, 3, 3), (5, 16, 6, 7), 1),
    "one picture": (lambda: nn.Conv2d(16, 3, 3), (16, 6, 7), 0),
    "grouped": (lambda: nn.Conv2d(16, 4, 3, groups=2), (5, 16, 6, 7), 1),
    "conv3d": (lambda: nn.Conv3d(16, 3, 2), (2, 16, 3, 4, 5), 1),
    "transposed": (lambda: nn.ConvTranspose2d(16, 3, 2), (5, 16, 6, 7), 1),
}


def captured(layer: nn.Module) -> list[Tensor]:
    """What goes into a layer after all other hooks."""
    seen: list[Tensor] = []
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_the_largest_half_of_every_block_of_channels_goes_in(name: str, dtype: torch.dtype) -> None:
    make, shape, dim = LAYERS[name]
    layer, x = make().to(dtype), torch.randn(shape).to(dtype)
    sparsify_inputs(layer, {"": Pattern(4, 8)})
    seen = captured(layer)
    layer(x)
    blocks, whole = (t.movedim(dim, -1).unflatten(-1, (2, 8)) for t in (seen[0], x))
    assert bool(((blocks != 0).sum(-1) == 4).all())
    kept = blocks != 0
    assert torch.equal(blocks[kept], whole[kept])
    weakest = torch.where(kept, blocks.abs(), torch.inf).amin(-1)
    assert bool((weakest >= torch.where(kept, 0, whole.abs()).amax(-1)).all())


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(8, 16, 1), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.linear(input=self.conv(input=x).mean((2, 3))))


def test_inputs_may_be_given_by_keyword(tmp_path: Path) -> None:
    model, x = ByKeyword(), torch.randn(2, 8, 4, 4)
    twin = nn.Sequential(model.conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.linear)
    handles = sparsify_inputs(model, eligible(model, Pattern(4, 8))[0])
    outputs = model(x)
    torch.testing.assert_close(twin(x), outputs)
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(same(x), outputs)
    export_program(model.eval(), x, tmp_path / "model.pt2")
    torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(x), outputs)
    for handle in handles:
        handle.remove()
    assert not torch.equal(model(x), outputs)
    assert not any(m._forward_pre_hooks or m._forward_pre_hooks_with_kwargs for m in model.modules())


def test_gradients_flow_through_what_was_kept_alone() -> None:
    layer = nn.Linear(8, 5)
    x = torch.randn(3, 8, requires_grad=True)
    sparsify_inputs(layer, {"": Pattern(2, 4)})
    upstream = torch.randn(3, 5)
    layer(x).backward(upstream)
    mask = Pattern(2, 4).mask(x.detach().abs())
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (upstream @ layer.weight.detach()) * mask)
    torch.testing.assert_close(layer.weight.grad, upstream.T @ (x.detach() * mask))


def test_equal_activations_are_cut_all_the_same() -> None:
    keep = BlockActivations(Pattern(2, 4), -1).keep
    assert keep(torch.tensor([[1.0, -1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 5.0]])).tolist() == [[1, -1, 0, 0, 0, 0, 0, 5]]


def test_whole_inputs_come_back() -> None:
    model, x = build("vit")
    with torch.no_grad():
        expected = model(x)
        handles = sparsify_inputs(model, eligible(model, Pattern(8, 16))[0])
        assert not torch.equal(model(x), expected)
        for handle in handles:
            handle.remove()
        assert torch.equal(model(x), expected)


def test_names_of_no_layer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'norm' is a LayerNorm of the model"):
        sparsify_inputs(build("vit")[0], {"norm": Pattern(2, 4)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_transformer_learns_with_sparse_weights_and_activations(dtype: torch.dtype) -> None:
    model, x = build("vit")
    model, x, given = model.train().to(dtype), x.to(dtype), FineGrained(0.75, 0.5, 16)
    assert given.weight_pattern and given.activation_pattern
    sparsify(model, eligible(model, given.weight_pattern)[0])
    sparsify_inputs(model, eligible(model, given.activation_pattern)[0])
    model(x).square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)


def sparse(name: str) -> tuple[nn.Module, Tensor]:
    model, x = build(name)
    sparsify_inputs(model, eligible(model, Pattern(4, 8))[0])
    return model, x


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies_and_pickles_stay_sparse(way: Callable[[nn.Module], nn.Module]) -> None:
    model, x = sparse("resnet")
    with torch.no_grad():
        assert torch.equal(way(model)(x), model(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "way",
    [torch.jit.trace, lambda model, x: torch.compile(model, backend="aot_eager", fullgraph=True)],
    ids=["trace", "compile"],
)
def test_traced_and_compiled_networks_are_sparse_inside(way: Callable[..., Any]) -> None:
    model, x = tokens()
    torch.compiler.reset()
    with torch.no_grad():
        traced = way(model, x)
        for batch in (x, torch.randn_like(x)):
            torch.testing.assert_close(traced(batch), model(batch))


def tokens() -> tuple[nn.Module, Tensor]:
    """Short, with ties: after a ReLU, and from equal inputs."""
    model = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.Flatten(2), nn.Linear(16, 5)).eval()
    sparsify_inputs(model, eligible(model, Pattern(4, 8))[0])
    return model, torch.randn(2, 8, 4, 4).round()


@pytest.mark.filterwarnings("ignore")
def test_exported_networks_are_sparse_inside(tmp_path: Path) -> None:
    import onnxruntime

    model, x = tokens()
    with torch.no_grad():
        expected = model(x).numpy()
    export_program(model, x, tmp_path / "model.pt2")
    export_onnx(model, x, tmp_path / "model.onnx")
    session: Any = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    again = torch.export.load(tmp_path / "model.pt2").module()(x).detach().numpy()
    for other in (got, again):
        assert np.abs(other - expected).max() < 1e-5 * np.abs(expected).max()
