"""Fine-grained pruning of layers: who takes a pattern, who does not and why, and what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
import torchvision
from networks import TIMM, build
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ofa import SpaceConfig
from ofa.export import export_onnx, export_program, save_weights
from ofa.sparsity import FineGrained, Pattern, eligible, input_dim, layer_of, mask_of, sparsify, sparsify_inputs
from ofa.sparsity.semi_structured import semi_structured


@pytest.mark.parametrize(
    ("weights", "activations", "block", "zeros"),
    [(0.5, 0, 4, 2), (0.5, 0, 8, 4), (0.5, 0, 16, 8), (0.75, 0, 4, 3), (0.75, 0, 16, 12), (0, 0, 16, 0)],
)
def test_weights_alone_may_be_half_or_three_quarters_sparse(
    weights: float, activations: float, block: int, zeros: int
) -> None:
    given = FineGrained(weights, activations, block)
    assert given.weight_pattern == (Pattern(zeros, block) if zeros else None)
    assert given.activation_pattern is None


def test_activations_want_three_quarters_of_the_weights_unless_told_otherwise() -> None:
    assert FineGrained(0.75, 0.5, 16).activation_pattern == Pattern(8, 16)
    for weights in (0, 0.5):
        with pytest.raises(ValueError, match=r"activations at 0.5 want weights at 0.75, got .*; strict=False allows"):
            FineGrained(weights, 0.5)
        assert FineGrained(weights, 0.5, strict=False).activation_pattern == Pattern(8, 16)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weights": 0.25}, r"weights are 0, 0.5 or 0.75 sparse and activations 0 or 0.5, got 0.25 and 0"),
        ({"weights": 0.75, "activations": 0.75}, r"got 0.75 and 0.75"),
        ({"weights": 0.75, "block": 6}, r"0.75 of a block of 6 is no whole number of zeros below 6"),
        ({"weights": 1.0, "strict": False}, r"1 of a block of 16 is no whole number"),
        ({"weights": -0.5, "strict": False}, r"-0.5 of a block of 16"),
        ({"block": 512}, r"a block has 2 to 256 weights"),
    ],
)
def test_other_sparsities_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FineGrained(**wrong)


def test_without_the_rules_any_whole_number_of_zeros_goes() -> None:
    assert FineGrained(0.25, 0.25, 8, strict=False).weight_pattern == Pattern(2, 8)


class Layers(nn.Module):
    """One of everything: what takes a pattern, and what does not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1d, self.conv2d, self.conv3d = nn.Conv1d(8, 6, 3), nn.Conv2d(8, 6, 3), nn.Conv3d(8, 6, (1, 2, 3))
        self.up1d, self.up2d, self.up3d = (
            nn.ConvTranspose1d(8, 6, 3),
            nn.ConvTranspose2d(8, 6, 3),
            nn.ConvTranspose3d(8, 6, 2),
        )
        self.linear = nn.Linear(16, 3)
        self.grouped = nn.Conv2d(16, 6, 1, groups=2)
        self.up_grouped = nn.ConvTranspose2d(16, 6, 3, groups=2)
        self.attention = nn.MultiheadAttention(8, 2)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.stem = nn.Conv2d(3, 8, 3)
        self.odd = nn.Linear(18, 3)
        self.odd_grouped = nn.Conv2d(36, 6, 1, groups=2)
        self.standard = timm.layers.StdConv2d(8, 4, 3)
        self.same = timm.layers.Conv2dSame(8, 4, 3, dilation=2)
        self.spectral = spectral_norm(nn.Linear(8, 4))
        self.embedding, self.tied = nn.Embedding(5, 8), nn.Linear(8, 5, bias=False)
        self.tied.weight = self.embedding.weight
        self.norm = nn.BatchNorm2d(8)


TAKING = {
    *("conv1d", "conv2d", "conv3d", "up1d", "up2d", "up3d", "linear", "grouped", "up_grouped"),
    *("attention.out_proj", "same"),
}
REASONS = {
    "attention": "MultiheadAttention is neither a convolution nor a linear layer",
    "depthwise": "depthwise: one input channel a group",
    "stem": "3 input channels, fewer than a block of 4",
    "odd": "18 input channels cannot be cut in blocks of 4",
    "odd_grouped": "18 input channels a group cannot be cut in blocks of 4",
    "standard": "the weight of a StdConv2d changes in each forward pass",
    "spectral": "its weight is computed from other parameters",
    "spectral.parametrizations.weight": "ParametrizationList is neither a convolution nor a linear layer",
    "embedding": "Embedding is neither a convolution nor a linear layer",
    "tied": "shares its weight with embedding",
}


def test_layers_that_fit_take_the_pattern_and_the_others_say_why() -> None:
    taking, reasons = eligible(Layers(), Pattern(2, 4))
    assert set(taking) == TAKING and set(taking.values()) == {Pattern(2, 4)}
    assert reasons == REASONS


def test_padding_takes_layers_with_one_group() -> None:
    taking, reasons = eligible(Layers(), Pattern(2, 4), padding=True)
    assert set(taking) == TAKING | {"odd"}
    assert reasons == {name: reason for name, reason in REASONS.items() if name != "odd"}


def test_a_layer_of_two_names_is_one() -> None:
    model = nn.Module()
    model.first, model.second = nn.Linear(32, 32), nn.Linear(32, 32)
    model.layers = nn.ModuleList([model.first])
    model.tied = nn.Linear(32, 32)
    model.tied.weight = model.second.weight
    taking, reasons = eligible(model, Pattern(2, 4))
    assert taking == {"first": Pattern(2, 4)}
    assert reasons == {"second": "shares its weight with tied", "tied": "shares its weight with second"}


def test_excludes_are_those_of_everywhere() -> None:
    model = Layers()
    excludes = ["up?d", model.linear, nn.Conv3d, lambda name, module: name == "grouped"]
    taking, reasons = eligible(model, Pattern(2, 4), excludes)
    assert set(taking) == TAKING - {"up1d", "up2d", "up3d", "linear", "conv3d", "grouped"}
    assert reasons["up1d"] == "excluded by 'up?d'" and reasons["linear"] == "excluded by Linear"
    with pytest.raises(ValueError, match=r"exclude 'conv4d' matches no module; close names: .*conv3d"):
        eligible(model, Pattern(2, 4), ["conv4d"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_kind_of_layer_gets_its_zeros_along_its_input_channels(dtype: torch.dtype) -> None:
    model = Layers().to(dtype)
    patterns, _ = eligible(model, Pattern(3, 4), padding=True)
    before = {name: layer_of(model, name).weight.clone() for name in patterns}
    masks = sparsify(model, patterns)
    for name in patterns:
        layer = layer_of(model, name)
        dim = input_dim(layer)
        assert torch.equal(layer.weight, before[name] * masks[name])
        nonzero = Pattern(3, 4).blocks(layer.weight != 0, dim).sum(dim + 1)
        assert bool((nonzero == 1).all()) and layer.weight.dtype == dtype
        assert dim == (0 if name.startswith("up") else 1)


def test_a_zero_weight_hides_its_input_channel() -> None:
    for layer, shape in ((nn.ConvTranspose2d(4, 3, 3), (1, 4, 5, 5)), (nn.Conv1d(4, 3, 3), (1, 4, 9))):
        with torch.no_grad():
            layer.weight.copy_(torch.rand_like(layer.weight) + 1)
            layer.weight.select(input_dim(layer), 2).mul_(0.01)
        sparsify(layer, {"": Pattern(1, 4)})
        x = torch.randn(shape)
        changed = x.clone()
        changed[:, 2] += 1
        assert torch.equal(layer(x), layer(changed))
        changed[:, 1] += 1
        assert not torch.equal(layer(x), layer(changed))


def test_large_weights_are_masked_part_by_part() -> None:
    layer = nn.Linear(640, 1700)
    assert torch.equal(mask_of(layer, Pattern(8, 16)).bool(), Pattern(8, 16).mask(layer.weight.abs()))
    other = nn.ConvTranspose1d(640, 1700, 1)
    assert torch.equal(mask_of(other, Pattern(8, 16)).bool(), Pattern(8, 16).mask(other.weight.abs(), 0))


def test_scores_decide_where_they_are_given() -> None:
    layer = nn.Linear(4, 1)
    sparsify(layer, {"": Pattern(2, 4)}, {"": torch.tensor([[4.0, 1.0, 3.0, 2.0]])})
    assert (layer.weight != 0).tolist() == [[True, False, True, False]]
    with pytest.raises(ValueError, match=r"scores of shape \(4, 1\) for a weight of shape \(1, 4\)"):
        mask_of(layer, Pattern(2, 4), torch.ones(4, 1))


@pytest.mark.parametrize(("name", "found"), [("missing", "no module"), ("norm", "a BatchNorm2d")])
def test_patterns_for_no_layer_are_refused(name: str, found: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' is {found} of the model; a pattern is for a convolution or lin"):
        sparsify(Layers(), {name: Pattern(2, 4)})


def test_patterns_as_texts_are_refused_where_they_are_none() -> None:
    layer: Any = nn.Linear(8, 8)
    before, text = layer.weight.clone(), cast(Any, "2:4")
    for wrong in (
        lambda: eligible(layer, text),
        lambda: sparsify(layer, {"": text}),
        lambda: sparsify_inputs(layer, {"": text}),
    ):
        with pytest.raises(TypeError, match=r"a pattern is a Pattern, such as Pattern.parse\(\"2:4\"\), got '2:4'"):
            wrong()
    assert torch.equal(layer.weight, before) and not layer._forward_pre_hooks


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("2:4", 4), r'a pattern is a text, such as "2:4" or "dense", got 4'),
        (None, r'sparsity is a list of patterns, such as \("2:4", "8:16"\), got None'),
        ("2:4", r"sparsity is a list of patterns, .* got '2:4'"),
    ],
)
def test_spaces_want_lists_of_texts(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        SpaceConfig(sparsity=given)


@pytest.mark.parametrize("name", TIMM)
def test_real_networks_stay_what_they_are_with_zeros(name: str) -> None:
    model, x = build(name)
    twin, _ = build(name)
    patterns, reasons = eligible(model, Pattern(2, 4))
    layers = {n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert layers <= {*patterns, *reasons} and not {*patterns} & {*reasons}
    sparsify(model, patterns)
    assert [type(m) for m in model.modules()] == [type(m) for m in twin.modules()]
    for n in patterns:
        weight = layer_of(model, n).weight
        assert (weight == 0).float().mean() == 0.5
    twin.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(twin(x), model(x)) and bool(model(x).isfinite().all())


def test_torchvisions_attention_is_sparse_through_its_output_projection() -> None:
    model = torchvision.models.VisionTransformer(32, 16, 1, 2, 32, 64, num_classes=10).eval()
    patterns, reasons = eligible(model, Pattern(8, 16))
    name = "encoder.layers.encoder_layer_0.self_attention"
    assert f"{name}.out_proj" in patterns and reasons[name].startswith("MultiheadAttention")
    sparsify(model, patterns)
    with torch.no_grad():
        assert bool(model(torch.randn(2, 3, 32, 32)).isfinite().all())


def convolutions() -> tuple[nn.Module, torch.Tensor]:
    features = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, bias=False), nn.ReLU()
    model = nn.Sequential(*features, nn.ConvTranspose2d(32, 16, 2), nn.Flatten(), nn.Linear(16 * 49, 10))
    return model.eval(), torch.randn(2, 3, 16, 16)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [convolutions, lambda: build("vit")], ids=["convolutions", "vit"])
def test_exported_networks_keep_their_zeros(make: Callable[[], Any], tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    model, x = make()
    patterns, _ = eligible(model, Pattern(12, 16))
    sparsify(model, patterns)
    with torch.no_grad():
        expected = model(x).numpy()
    export_onnx(model, x, tmp_path / "model.onnx")
    export_program(model, x, tmp_path / "model.pt2")
    save_weights(model, tmp_path / "weights.safetensors")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()
    with torch.no_grad():
        again = torch.export.load(tmp_path / "model.pt2").module()(x).numpy()
    assert np.abs(again - expected).max() < 1e-5 * np.abs(expected).max()
    stored = [onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "model.onnx").graph.initializer]
    for layer in patterns:
        weight = layer_of(model, layer).weight
        same_size = [t for t in stored if t.size == weight.numel()]
        assert any((t == 0).sum() >= math.prod(weight.shape) * 0.75 for t in same_size), layer


def test_without_the_kernels_networks_stay_dense_and_say_why() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    sparsify(net, {"0": Pattern(2, 4)})
    x = torch.randn(3, 64)
    expected = net(x)
    reasons = semi_structured(net)
    assert reasons == dict.fromkeys(("0", "2"), "its weight is on cpu, the kernels run on cuda")
    assert torch.equal(net(x), expected)
    convolutions = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ConvTranspose1d(8, 8, 3))
    assert semi_structured(convolutions) == {
        "0": "torch has 2:4 kernels for linear layers, not for a Conv2d",
        "1": "torch has 2:4 kernels for linear layers, not for a ConvTranspose1d",
    }


@pytest.mark.gpu
def test_torchs_kernels_give_what_the_dense_network_does() -> None:
    net = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128), nn.Linear(128, 3)).half().cuda().eval()
    sparsify(net, {"0": Pattern(2, 4)})
    x = torch.randn(64, 128, device="cuda").half()
    with torch.no_grad():
        expected = net(x)
        reasons = semi_structured(net)
        assert reasons["2"] == "its weight is not 2:4 sparse" and "0" not in reasons
        torch.testing.assert_close(net(x), expected, rtol=1e-2, atol=1e-2)
