"""Vitis' fine-grained pruner: N:M zeros in weights and activations."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from ofa.search.vitis import SparsePruner
from ofa.search.vitis.fine_grained import BEFORE, Straight
from ofa.sparsity import Pattern, mask_of, sparsify, sparsify_inputs
from ofa.sparsity.semi_structured import semi_structured


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding_mode="reflect", padding=1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 20, 1), nn.Conv2d(20, 32, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 48), nn.Linear(48, 10),
    )  # fmt: skip


def batch() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_signature_is_that_of_vitis() -> None:
    parameters = inspect.signature(SparsePruner.sparse_model).parameters.values()
    assert [(p.name, p.default) for p in parameters if p.kind is not p.KEYWORD_ONLY][1:] == [
        ("w_sparsity", 0.5),
        ("a_sparsity", 0),
        ("block_size", 16),
        ("excludes", None),
    ]


def test_what_combinations_are_allowed() -> None:
    model = network()
    pruner = SparsePruner(model, batch())
    assert pruner.sparse_model(0, 0) is model
    for weights, activations in ((0.5, 0), (0.75, 0), (0.75, 0.5)):
        assert pruner.sparse_model(weights, activations)(batch()).shape == (2, 10)
    for weights, activations in ((0.25, 0), (0.5, 0.5), (0, 0.5), (0.75, 0.75)):
        with pytest.raises(ValueError, match=r"weights are 0, 0.5 or 0.75|activations at 0.5 want weights at 0.75"):
            pruner.sparse_model(weights, activations)


def test_other_combinations_go_without_the_rules() -> None:
    pruner = SparsePruner(network())
    with pytest.raises(ValueError, match=r"got 0.25 and 0; strict=False allows others"):
        pruner.sparse_model(0.25)
    exported = pruner.export_sparse_model(pruner.sparse_model(0.25, 0.5, strict=False))
    assert (exported[2].weight == 0).float().mean() == 0.25
    with pytest.raises(ValueError, match=r"sparse activations want sparse weights, got 0 and 0.5"):
        pruner.sparse_model(0, 0.5, strict=False)
    for decay in (-1, float("nan"), True, "0.1"):
        with pytest.raises(ValueError, match=rf"decay is at least 0, or None for no gradient, got {decay!r}"):
            pruner.sparse_model(decay=decay)  # type: ignore[arg-type]
    for name, value in (("w_sparsity", True), ("w_sparsity", "0.5"), ("a_sparsity", False)):
        with pytest.raises(ValueError, match=rf"{name} is a number, got {value!r}"):
            pruner.sparse_model(**{name: value})  # type: ignore[arg-type]
    for block in (True, 4.0, 0):
        with pytest.raises(ValueError, match=rf"block_size is a whole number of at least 1, got {block!r}"):
            pruner.sparse_model(block_size=block)  # type: ignore[arg-type]


@pytest.mark.parametrize("block", [4, 8, 16])
def test_every_block_has_its_zeros_while_training(block: int) -> None:
    """Also among equals; weights that are masked learn on and may come back."""
    model = network()
    nn.init.constant_(model[2].weight, 0.02)
    pruner = SparsePruner(model)
    sparse = pruner.sparse_model(0.75, block_size=block)
    assert sparse.state_dict().keys() == model.state_dict().keys()
    first = pruner.export_sparse_model(sparse)
    optimizer = torch.optim.SGD(sparse.parameters(), 0.2)
    for _ in range(5):
        optimizer.zero_grad()
        (sparse(batch()) - 1).square().mean().backward()
        optimizer.step()
    last = pruner.export_sparse_model(sparse)
    for net in (first, last):
        zeros = (net[2].weight.unflatten(1, (-1, block)) == 0).sum(2)
        assert (zeros == block * 3 // 4).all()
    assert ((first[9].weight == 0) & (last[9].weight != 0)).any() and (sparse[9].weight != 0).all()


def test_gradients_pass_straight_through_and_masked_weights_decay() -> None:
    """Against the formula; None gives no gradient, as in Vitis."""
    weight, mask = torch.randn(2, 4, requires_grad=True), torch.tensor([1.0, 0, 1, 0])
    for decay, wanted in ((None, mask.expand(2, 4)), (0.1, 1 + 0.1 * (1 - mask) * weight.detach())):
        weight.grad = None
        Straight.apply(weight, mask, weight.detach() * mask, decay).sum().backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None and torch.allclose(weight.grad, wanted)


@pytest.mark.parametrize("fused", [False, True])
def test_masks_are_made_once_a_step_and_never_in_evaluation(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after steps that autograd does not count, and after weights are loaded; the gradients accumulate."""
    made: list[Any] = []

    def counted(*given: Any, **others: Any) -> torch.Tensor:
        made.append(given)
        return mask_of(*given, **others)

    monkeypatch.setattr("ofa.search.vitis.fine_grained.mask_of", counted)
    sparse = SparsePruner(network()).sparse_model(block_size=4, excludes=["2", "5", "6"])
    optimizer = torch.optim.SGD(sparse.parameters(), 0.2, fused=fused)
    for step in range(1, 4):
        for _ in range(2):
            sparse(batch()).square().mean().backward()
        assert len(made) == step
        optimizer.step()
    with torch.no_grad():
        outputs = [sparse.eval()(batch()) for _ in range(3)]
    assert len(made) == 4 and all(torch.equal(output, outputs[0]) for output in outputs)
    assert torch.equal(SparsePruner.export_sparse_model(sparse)(batch()), outputs[0])
    sparse.load_state_dict(network().state_dict())
    assert not torch.equal(sparse(batch()), outputs[0]) and len(made) == 5


@pytest.mark.parametrize("decay", [None, 2e-4])
def test_a_pass_waits_for_its_backward_while_another_network_learns(decay: float | None) -> None:
    gradients = []
    for steps in (0, 1):
        sparse = SparsePruner(network()).sparse_model(block_size=4, excludes=["2", "5", "6"], decay=decay)
        other = torch.nn.Linear(2, 2)
        other(torch.ones(1, 2)).sum().backward()
        first = sparse(batch())
        for _ in range(steps):
            torch.optim.SGD(other.parameters(), 0.1).step()
        (first + sparse(batch())).square().mean().backward()
        gradients.append([parameter.grad for parameter in sparse.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_network_of_another_dtype_has_masks_of_its_own() -> None:
    sparse = SparsePruner(network()).sparse_model(block_size=4, excludes=["2", "5", "6"])
    sparse(batch())
    sparse.double()
    outputs = sparse(batch().double())
    assert outputs.dtype == torch.float64
    assert torch.equal(outputs, SparsePruner.export_sparse_model(sparse)(batch().double()))


def test_activations_keep_half_of_every_block() -> None:
    sparse = SparsePruner(network()).sparse_model(0.75, 0.5, block_size=8)
    seen: list[torch.Tensor] = []
    sparse[2].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    sparse(batch())
    assert ((seen[0].unflatten(1, (4, 8)) != 0).sum(2) <= 4).all()


def test_layers_that_take_none_are_listed_with_reasons() -> None:
    model = network()
    pruner = SparsePruner(model)
    sparse = pruner.sparse_model(excludes=["9"])
    assert pruner.skipped == {
        "0": "3 input channels, fewer than a block of 16",
        "4": "depthwise: one input channel a group",
        "5": "20 output channels, no multiple of 8",
        "6": "20 input channels cannot be cut in blocks of 16",
        "9": "excluded by '9'",
        "10": "10 output channels, no multiple of 8",
    }
    exported = pruner.export_sparse_model(sparse)
    assert torch.equal(exported[9].weight, model[9].weight) and (exported[2].weight == 0).any()
    for excludes in ([model[9]], lambda name, _: name == "9", ["Net::Net/Linear[9]/ret.3"]):
        pruner.sparse_model(excludes=excludes)
        assert "9" in pruner.skipped and "2" not in pruner.skipped
    with pytest.raises(ValueError, match="no layer of Sequential takes 8:16"):
        pruner.sparse_model(excludes=[nn.Conv2d, nn.Linear])


def test_the_exported_network_is_plain_and_computes_the_same() -> None:
    """Of the same layers, without hooks but the user's own."""
    model = network()
    model[2].register_forward_hook(lambda module, args, output: output + 1)
    pruner = SparsePruner(model)
    sparse = pruner.sparse_model(0.5, block_size=4).eval()
    exported = pruner.export_sparse_model(nn.DataParallel(sparse))
    assert [type(m) for m in exported.modules()] == [type(m) for m in model.modules()]
    assert sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in exported.modules()) == 1
    assert torch.equal(exported(batch()), sparse(batch())) and exported[2].padding_mode == "reflect"
    assert not any("weight" in m.__dict__ for m in sparse.modules())
    both = pruner.export_sparse_model(pruner.sparse_model(0.75, 0.5))
    assert not any(m._forward_pre_hooks for m in both.modules())
    with pytest.raises(ValueError, match="no layer of this Sequential is sparse"):
        pruner.export_sparse_model(exported)


def test_copies_and_files_are_sparse_too() -> None:
    pruner = SparsePruner(network())
    sparse = pruner.sparse_model()
    wanted = sparse(batch())
    file = io.BytesIO()
    torch.save(sparse, file)
    file.seek(0)
    for again in (copy.deepcopy(sparse), torch.load(file, weights_only=False)):
        assert torch.equal(again(batch()), wanted)
        assert (pruner.export_sparse_model(again)[2].weight == 0).float().mean() == 0.5
    fresh = SparsePruner(network()).sparse_model()
    fresh.load_state_dict(sparse.state_dict())
    assert torch.equal(fresh(batch()), wanted)


def test_what_is_exported_is_handed_to_the_semi_structured_kernels() -> None:
    """Where there is no such device it stays dense, with a reason, and computes the same."""
    pruner = SparsePruner(network())
    exported = pruner.export_sparse_model(pruner.sparse_model(0.5, block_size=4)).eval()
    wanted = exported(batch())
    reasons = semi_structured(exported)
    assert {"9", "10"} <= set(reasons) and "the kernels run on cuda" in reasons["9"]
    assert torch.equal(exported(batch()), wanted) and Pattern(2, 4).fits(exported[9].weight)


def test_the_native_zeros_are_those_of_the_drop_in() -> None:
    """A ViT with three quarters of its weights and half of its activations zero, by either interface."""
    arguments: dict[str, Any] = {"img_size": 32, "depth": 1, "num_classes": 16}
    model, x = timm.create_model("vit_tiny_patch16_224", **arguments).eval(), torch.randn(1, 3, 32, 32)
    pruner, native = SparsePruner(model), copy.deepcopy(model)
    sparse = pruner.sparse_model(0.75, 0.5)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    sparsify(native, dict.fromkeys(linear, Pattern(12, 16)))
    sparsify_inputs(native, dict.fromkeys(linear, Pattern(8, 16)))
    with torch.no_grad():
        assert not set(linear) & set(pruner.skipped) and not torch.equal(sparse(x), model(x))
        assert torch.equal(sparse(x), native(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_run_in_every_dtype(dtype: torch.dtype) -> None:
    """A ViT with linear inputs of three dimensions, on the CPU."""
    arguments: dict[str, Any] = {"img_size": 32, "depth": 1, "num_classes": 16}
    model = timm.create_model("vit_tiny_patch16_224", **arguments).to(dtype)
    sparse = SparsePruner(model).sparse_model(0.75, 0.5)
    x = torch.randn(1, 3, 32, 32, dtype=dtype)
    sparse(x).square().mean().backward()
    assert sparse.blocks[0].attn.qkv.weight.grad.dtype == dtype


class Unasked(nn.Module):
    """Layers whose weights are used without calling them, in a list and under two names; one is called as well."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.both = nn.Linear(32, 32), nn.Linear(32, 32)
        self.layers = nn.ModuleList([nn.Linear(32, 32), self.both])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.both(F.linear(x, self.qkv.weight, self.qkv.bias).relu())
        return F.linear(x, self.layers[0].weight) + F.linear(x, self.both.weight)


def unasked() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(Unasked(), nn.ReLU(), nn.Linear(32, 16)), torch.randn(2, 32)


def attention() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 16, 2, 4, 64, 128, num_classes=16)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model, torch.randn(2, 3, 32, 32)


def encoder() -> tuple[nn.Module, torch.Tensor]:
    """With torch's fast path, where hooks allow it."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2), torch.randn(2, 5, 32)


def beit() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.models.beit.Beit(img_size=32, embed_dim=32, depth=1, num_heads=2, num_classes=16)
    return model, torch.randn(2, 3, 32, 32)


@pytest.mark.parametrize("make", [unasked, attention, encoder, beit])
def test_weights_that_are_used_without_a_call_are_sparse_too(make: Callable[[], tuple[nn.Module, Any]]) -> None:
    """What runs is what is exported, also after training and in parts; nothing is left behind."""
    model, x = make()
    sparse = SparsePruner(model).sparse_model(0.5)
    sparse(x).square().mean().backward()
    torch.optim.SGD(sparse.parameters(), 0.1).step()
    for net in (copy.deepcopy(sparse), sparse):
        exported = SparsePruner.export_sparse_model(net).eval()
        with torch.no_grad():
            torch.testing.assert_close(net.eval()(x), exported(x))
            for part, plain in zip(net.children(), exported.children(), strict=True):
                if isinstance(part, Unasked):
                    assert torch.equal(part(x), plain(x))
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in exported.modules())
        assert not any({"weight", BEFORE} & vars(m).keys() for m in net.modules())
        for linear in (m for m in net.modules() if isinstance(m, nn.Linear)):
            linear.register_forward_pre_hook(lambda module, args: 1 / 0)  # type: ignore[arg-type, return-value]
        with pytest.raises(ZeroDivisionError):
            net(x)
        assert not any({"weight", BEFORE} & vars(m).keys() for m in net.modules())


@pytest.mark.parametrize("decay", [None, 2e-4])
def test_training_goes_on_after_an_evaluation_in_inference_mode(decay: float | None) -> None:
    sparse = SparsePruner(network()).sparse_model(block_size=4, decay=decay)
    optimizer = torch.optim.SGD(sparse.parameters(), 0.1)
    for _ in range(2):
        with torch.inference_mode():
            wanted = sparse(batch())
        outputs = sparse(batch())
        assert torch.equal(outputs, wanted)
        outputs.square().mean().backward()
        optimizer.step()
    with torch.inference_mode():
        loaded = SparsePruner(network()).sparse_model(block_size=4, decay=decay).double().eval()
        exported = SparsePruner.export_sparse_model(loaded)
        assert torch.equal(loaded(batch().double()), exported(batch().double()))


def test_a_weight_of_another_shape_has_a_mask_of_its_own() -> None:
    sparse = SparsePruner(nn.Sequential(nn.Linear(16, 16))).sparse_model()
    sparse(torch.randn(2, 16))
    sparse[0].weight, sparse[0].bias = nn.Parameter(torch.randn(24, 16)), None
    x = torch.randn(2, 16)
    assert torch.equal(sparse(x), SparsePruner.export_sparse_model(sparse)(x))


def test_weights_may_be_plain_tensors() -> None:
    """As in `torch.func.functional_call` and in replicas, each with masks of its own."""
    sparse = SparsePruner(network()).sparse_model(block_size=4)
    for seed in range(4):
        torch.manual_seed(seed)
        weights = {name: torch.randn_like(p) for name, p in sparse.named_parameters()}
        wanted = copy.deepcopy(sparse)
        wanted.load_state_dict(weights)
        given = {name: w.clone().requires_grad_() for name, w in weights.items()}
        outputs = torch.func.functional_call(sparse, given, (batch(),))
        assert torch.equal(outputs, SparsePruner.export_sparse_model(wanted)(batch()))
        outputs.sum().backward()
        assert all(w.grad is not None for w in given.values())
        del outputs, given  # the next may take their memory


def test_replicas_compute_the_same_more_than_once() -> None:
    sparse = SparsePruner(network()).sparse_model(block_size=4)
    layer = sparse[9]
    replica = layer._replicate_for_data_parallel()
    replica.weight, replica.bias = layer.weight * 1, layer.bias * 1
    x = torch.randn(2, 32)
    for _ in range(2):
        assert torch.equal(replica(x), layer(x))
    replica(x).sum().backward()
    assert layer.weight.grad is not None


def test_what_is_sparse_already_is_refused() -> None:
    sparse = SparsePruner(network()).sparse_model()
    with pytest.raises(ValueError, match=r"this Sequential is sparse already, .* call export_sparse_model\(\) first"):
        SparsePruner(sparse).sparse_model()
    assert SparsePruner(SparsePruner.export_sparse_model(sparse)).sparse_model(0.75)(batch()).shape == (2, 10)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [lambda: (network(), batch()), unasked], ids=["convolutions", "unasked"])
def test_sparse_networks_are_exported_as_they_are(make: Callable[[], tuple[nn.Module, Any]], tmp_path: Path) -> None:
    """Before and after they have run, and compiled; masks are part of the graph."""
    import onnxruntime

    model, x = make()
    sparse = SparsePruner(model).sparse_model(0.75, 0.5, block_size=4).eval()
    torch.compiler.reset()
    with torch.no_grad():
        programs = [torch.export.export(sparse, (x,), strict=False)]
        wanted = sparse(x)
        programs.append(torch.export.export(sparse, (x,), strict=False))
        compiled = torch.compile(sparse, backend="aot_eager")(x)
        for outputs in (compiled, *(program.module()(x) for program in programs)):
            torch.testing.assert_close(outputs, wanted)
    torch.onnx.export(sparse, (x,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    session: Any = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), wanted)
    assert not any({"weight", BEFORE} & vars(m).keys() for m in sparse.modules())
