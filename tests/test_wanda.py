"""Wanda: a weight's magnitude times the norm of what it meets."""

from __future__ import annotations

import pytest
import torch
from networks import build
from torch import nn

from ofa.sparsity import Pattern, eligible, layer_of, mask_of, sparsify, wanda_scores
from ofa.sparsity.wanda import input_norms


def test_scores_equal_the_formula_for_every_kind_of_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up = nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 8, 2, groups=2)
            self.linear = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.up(self.conv(x)).flatten(2).transpose(1, 2))

    net, batches = Net(), [torch.randn(2, 4, 5, 5), torch.randn(3, 4, 5, 5)]
    scores = wanda_scores(net, ["conv", "up", "linear"], batches)
    with torch.no_grad():
        first = torch.cat(batches)
        second = net.conv(first)
        third = net.up(second)
    norms = [x.movedim(1, 0).flatten(1).norm(dim=1) for x in (first, second, third)]
    for output in range(6):  # the first three outputs meet channels 0 and 1, the others 2 and 3
        for place in range(2):
            expected = net.conv.weight[output, place].abs() * norms[0][place + 2 * (output // 3)]
            torch.testing.assert_close(scores["conv"][output, place], expected.detach())
    torch.testing.assert_close(scores["up"], (net.up.weight.abs() * norms[1].view(6, 1, 1, 1)).detach())
    torch.testing.assert_close(scores["linear"], (net.linear.weight.abs() * norms[2]).detach())


def test_inputs_may_be_given_by_keyword() -> None:
    net, x = nn.Sequential(nn.Linear(4, 4)), torch.randn(3, 4)
    wanted = wanda_scores(net, ["0"], [x])["0"]
    net.forward = lambda x: net[0](input=x)  # type: ignore[method-assign]
    assert torch.equal(wanda_scores(net, ["0"], [x])["0"], wanted)


def test_calibration_leaves_no_trace() -> None:
    model, x = build("mobilenetv3")
    patterns, _ = eligible(model, Pattern(2, 4))
    before, modes = {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.train().modules()]
    norms = input_norms(model, patterns, [x, (x,), {"x": x}])
    assert set(norms) == set(patterns)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_a_loud_channel_keeps_its_small_weights() -> None:
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.1, 1.0, 2.0, 3.0]]).expand(3, 4))
    x = torch.randn(64, 4) * torch.tensor([100.0, 1.0, 1.0, 1.0])
    sparsify(layer, {"": Pattern(2, 4)}, wanda_scores(layer, [""], [x]))
    assert (layer.weight != 0).tolist() == [[True, False, False, True]] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_scores_of_half_precision_do_not_overflow(dtype: torch.dtype) -> None:
    """The masks are those of float32, in the weight's own dtype."""
    layer = nn.Linear(8, 4).to(dtype)
    with torch.no_grad():
        layer.weight[0, :4] = 0
    x = 5e4 * torch.ones(16, 8, dtype=dtype)
    scores = wanda_scores(layer, [""], [x])[""]
    assert scores.dtype == torch.float32 and bool(scores.isfinite().all())
    mask = mask_of(layer, Pattern(2, 4), scores)
    wanted = mask_of(layer.float(), Pattern(2, 4))
    assert mask.dtype == dtype and torch.equal(mask.float(), wanted)
    assert torch.equal(mask_of(layer.to(dtype), Pattern(2, 4), scores, out=torch.empty_like(mask)), mask)


def test_layers_that_no_batch_reaches_have_no_scores() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 1))
    net.forward = lambda x: net[0](x)  # type: ignore[method-assign]
    scores = wanda_scores(net, ["0", "1.out_proj"], [torch.randn(2, 4)])
    assert list(scores) == ["0"]
    sparsify(net, dict.fromkeys(["0", "1.out_proj"], Pattern(2, 4)), scores)
    assert Pattern(2, 4).fits(layer_of(net, "1.out_proj").weight)


def test_no_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="input norms need at least one batch, got none"):
        wanda_scores(nn.Linear(4, 4), [""], [])
