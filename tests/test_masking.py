"""Training under masks: every option does what its formula says, and resumed equals uninterrupted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_fitting import Killed, Mortal, same
from torch import Tensor, nn

from ofa.sparsity import Pattern, layer_of, wanda_scores
from ofa.train.data import Digits, Splits
from ofa.train.fitting import Fitting
from ofa.train.masks import SRSTE, Fixed, Magnitude, Masked, Masking, MaskUpdate
from ofa.train.masks.masking import Masks
from ofa.train.recipe import Recipe
from ofa.train.tasks import Supervised
from ofa.train.training import fit

UPDATES = (Fixed(), Magnitude(), SRSTE())
RECIPE = Recipe(epochs=3, batch_size=128, lr=0.02, clip_value=None)
PATTERNS = {"3": Pattern(2, 4), "7": Pattern(12, 16)}


@pytest.fixture(scope="module")
def splits() -> Splits:
    return Digits(size=12).load()


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    features = nn.Conv2d(1, 12, 3, 2), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, bias=False)
    return nn.Sequential(*features, nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def exact(model: nn.Module, patterns: dict[str, Pattern]) -> bool:
    """Whether every block has just its zeros."""
    counts = [pattern.blocks(layer_of(model, name).weight != 0, 1).sum(2) for name, pattern in patterns.items()]
    return all(bool((n == p.block - p.zeros).all()) for n, p in zip(counts, patterns.values(), strict=True))


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(16, 8, bias=False)


def step(net: nn.Module, masks: Masks, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
    """One step on the square of the outputs; gives the gradient that the weights got from it."""
    optimizer.zero_grad()
    net(x).square().sum().backward()
    (weight,) = masks.weights.values()
    assert weight.grad is not None
    gradient = weight.grad.clone()
    optimizer.step()
    return gradient


@pytest.mark.parametrize("update", UPDATES, ids=str)
def test_steps_equal_their_formulas(update: MaskUpdate) -> None:
    """Plain gradient descent, three times over, written out."""
    net, pattern, x, decay, lr = layer(), Pattern(2, 4), torch.randn(32, 16), 0.1, 1e-3
    dense = net.weight.detach().clone()
    masks = Masking(replace(update, decay=decay) if isinstance(update, SRSTE) else update).start(net, {"": pattern})
    optimizer = torch.optim.SGD(net.parameters(), lr)
    masks.attach(optimizer)
    mask = pattern.mask(dense.abs())
    assert torch.equal(net.weight, dense * mask)
    for _ in range(3):
        sparse = dense * mask
        gradient = 2 * (x @ sparse.T).T @ x
        seen = step(net, masks, optimizer, x)
        torch.testing.assert_close(seen, gradient)
        if not update.dense:
            dense = dense * mask - lr * seen * mask
        else:
            dense = dense - lr * (seen + (decay * ~mask * dense if isinstance(update, SRSTE) else 0))
            mask = pattern.mask(dense.abs())
        torch.testing.assert_close(net.weight.detach(), dense * mask)
        assert exact(net, {"": pattern})


class FirstOnes(Magnitude):
    """The first weights of a block stay, whatever they are."""

    def scores(self, weight: Tensor) -> Tensor:
        return torch.arange(weight.shape[1], 0.0, -1.0).expand_as(weight)


def test_an_update_says_by_what_masks_are_made() -> None:
    net, first = layer(), torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(8, 4)
    masks = Masking(FirstOnes()).start(net, {"": Pattern(2, 4)})
    assert torch.equal(masks.masks[""], first)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    masks.attach(optimizer)
    step(net, masks, optimizer, torch.randn(4, 16))
    assert torch.equal(masks.masks[""], first) and torch.equal(net.weight != 0, first.bool())


def test_decay_is_on_what_is_masked_alone() -> None:
    net = layer()
    dense = net.weight.detach().clone()
    masks = Masking(SRSTE(0.5)).start(net, {"": Pattern(2, 4)})
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-9)
    masks.attach(optimizer)
    gradient = step(net, masks, optimizer, torch.randn(4, 16))
    mask = Pattern(2, 4).mask(dense.abs())
    assert net.weight.grad is not None
    assert torch.equal(net.weight.grad[mask], gradient[mask])
    assert torch.equal(net.weight.grad, gradient + 0.5 * (dense * ~mask))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb", "rmsprop"])
@pytest.mark.parametrize("update", UPDATES, ids=str)
def test_masked_weights_stay_zero_through_momentum_and_decay(
    update: MaskUpdate, optimizer: str, splits: Splits
) -> None:
    net = network()
    learner = Masked(Supervised(net, splits), Masking(update).start(net, PATTERNS))
    fitting = Fitting(learner, replace(RECIPE, optimizer=optimizer, lr=0.01))
    first = {name: mask.clone() for name, mask in learner.masks.masks.items()}
    for i, (images, labels) in enumerate(splits.train.shuffled(128, 0, 0)):
        fitting.step(images, labels)
        assert exact(net, PATTERNS), i
    kept = all(torch.equal(mask, learner.masks.masks[name]) for name, mask in first.items())
    assert kept == (not update.dense)


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("update", UPDATES, ids=str)
def test_resumed_equals_uninterrupted_bit_for_bit(
    update: MaskUpdate, stages: int, splits: Splits, tmp_path: Path
) -> None:
    masking = Masking(update, interval=3, stages=stages)

    def learner() -> Masked:
        net = network()
        return Masked(Supervised(net, splits), masking.start(net, PATTERNS))

    straight, resumed = learner(), learner()
    expected = fit(straight, RECIPE, path=tmp_path / "one.pt")
    for steps in (3, 12, 10):  # dies in the first, the second and the third epoch of 7 steps
        with pytest.raises(Killed):
            fit(learner(), RECIPE, path=tmp_path / "other.pt", progress=Mortal(steps))
    assert fit(resumed, RECIPE, path=tmp_path / "other.pt") == expected
    assert same(resumed.model, straight.model)
    for kept in ("masks", "dense"):
        mine, others = getattr(straight.masks, kept), getattr(resumed.masks, kept)
        assert mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)
    assert exact(straight.model, PATTERNS)


@pytest.mark.parametrize("update", UPDATES, ids=str)
def test_sparse_networks_learn_and_can_be_loaded_as_dense_ones(update: MaskUpdate, splits: Splits) -> None:
    net = network()
    learner = Masked(Supervised(net, splits), Masking(update).start(net, PATTERNS))
    figures = fit(learner, replace(RECIPE, epochs=5, clip_value=1.0))
    assert figures["accuracy"] > 80
    other = network(seed=1).eval()
    other.load_state_dict(net.state_dict(), strict=True)
    images = splits.test.ordered(64).__next__()[0]
    with torch.no_grad():
        assert torch.equal(other(images), net(images)) and exact(other, PATTERNS)


def test_zeros_grow_in_stages_and_in_fixed_masks_never_come_back(splits: Splits) -> None:
    masking = Masking(Fixed(), stages=3, until=0.5)
    pattern = Pattern(12, 16)
    assert [str(masking.grown(pattern, stage)) for stage in range(3)] == ["4:16", "8:16", "12:16"]
    assert [masking.stage(progress) for progress in (0, 0.24, 0.25, 0.49, 0.5, 1)] == [0, 0, 1, 1, 2, 2]
    assert [str(masking.grown(Pattern(2, 4), stage)) for stage in range(3)] == ["1:4", "2:4", "2:4"]
    net = network()
    learner = Masked(Supervised(net, splits), masking.start(net, {"7": pattern}))
    fitting = Fitting(learner, replace(RECIPE, epochs=1, batch_size=134, lr=1.0))  # 8 steps
    shares, before = [], torch.ones(10, 144, dtype=torch.bool)
    for images, labels in splits.train.shuffled(134, 0, 0):
        fitting.step(images, labels)
        kept = net[7].weight != 0
        shares.append(float((~kept).float().mean()))
        assert not bool((kept & ~before).any())
        before = kept
    assert shares == [0.25] * 2 + [0.5] * 2 + [0.75] * 4


@pytest.mark.parametrize("update", UPDATES, ids=str)
@pytest.mark.parametrize("average", [None, 0.9])
def test_growing_zeros_are_no_collapse(update: MaskUpdate, average: float | None, splits: Splits) -> None:
    """Figures of sparser stages are not measured by those of denser ones, and come after steps under the new masks."""
    net = network()
    patterns = {"3": Pattern(3, 4), "7": Pattern(35, 36)}
    learner = Masked(Supervised(net, splits), Masking(update, stages=2).start(net, patterns))
    fit(learner, replace(RECIPE, epochs=10, average=average))  # a Collapse would be raised
    assert learner.masks.stage == 1 and all(p.fits(layer_of(net, name).weight) for name, p in patterns.items())


def test_the_last_stage_is_reached_even_if_the_last_step_is_skipped(splits: Splits) -> None:
    net = network()
    learner = Masked(Supervised(net, splits), Masking(stages=2, until=1.0).start(net, {"7": Pattern(12, 16)}))
    fitting = Fitting(learner, replace(RECIPE, epochs=1, batch_size=134))
    for i, (images, labels) in enumerate(splits.train.shuffled(134, 0, 0)):
        assert not Pattern(12, 16).fits(net[7].weight)
        fitting.step(images * float("nan") if i == 7 else images, labels)
    assert fitting.skipped == 1 and Pattern(12, 16).fits(net[7].weight)


def test_masks_are_renewed_at_intervals(splits: Splits) -> None:
    net = network()
    learner = Masked(Supervised(net, splits), Masking(Magnitude(), interval=3).start(net, PATTERNS))
    fitting, changed = Fitting(learner, RECIPE), []
    for images, labels in splits.train.shuffled(128, 0, 0):
        before = learner.masks.masks["7"].clone()
        fitting.step(images, labels)
        changed.append(not torch.equal(before, learner.masks.masks["7"]))
    assert changed == [False, False, True, False, False, True, False, False]


def test_the_first_mask_may_come_from_scores(splits: Splits) -> None:
    net, twin = network(), network()
    scores = wanda_scores(net, PATTERNS, splits.train.calibration(64, 2, 0))
    masks = Masking(Fixed()).start(net, PATTERNS, scores)
    for name, pattern in PATTERNS.items():
        assert torch.equal(masks.masks[name].bool(), pattern.mask(scores[name]))
    by_magnitude = Masking(Fixed()).start(twin, PATTERNS)
    assert not torch.equal(by_magnitude.masks["7"], masks.masks["7"])


@pytest.mark.parametrize("changes", [{"accumulate": 4}, {"precision": "float16"}, {"precision": "bfloat16"}], ids=str)
@pytest.mark.parametrize("update", UPDATES, ids=str)
def test_recipes_go_on_working_under_masks(update: MaskUpdate, changes: dict[str, Any], splits: Splits) -> None:
    net = network()
    learner = Masked(Supervised(net, splits), Masking(update).start(net, PATTERNS))
    fitting = Fitting(learner, replace(RECIPE, **changes))
    for images, labels in splits.train.shuffled(128, 0, 0):
        fitting.step(images, labels)
    assert fitting.skipped < 3 and exact(net, PATTERNS)


def test_accumulated_gradients_are_those_of_the_whole_batch(splits: Splits) -> None:
    def trained(parts: int) -> nn.Module:
        net = nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 10)).double()
        learner = Masked(Supervised(net, splits), Masking(SRSTE(0.1)).start(net, {"1": Pattern(2, 4)}))
        fitting = Fitting(learner, replace(RECIPE, accumulate=parts, optimizer="sgd"))
        for images, labels in splits.train.shuffled(128, 0, 0):
            fitting.step(images.double(), labels)
        return net

    torch.manual_seed(0)
    whole = trained(1)
    torch.manual_seed(0)
    for a, b in zip(whole.parameters(), trained(4).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("update", UPDATES, ids=str)
def test_a_step_that_is_not_finite_leaves_the_masks_alone(update: MaskUpdate, splits: Splits) -> None:
    net = network()
    learner = Masked(Supervised(net, splits), Masking(update).start(net, PATTERNS))
    fitting = Fitting(learner, RECIPE)
    images, labels = next(splits.train.ordered(64))
    fitting.step(images, labels)
    before = copy.deepcopy([net.state_dict(), learner.state_dict()])
    fitting.step(images * float("nan"), labels)
    assert fitting.skipped == 1
    now = [net.state_dict(), learner.state_dict()]
    leaves: Callable[[Any], list[Any]] = torch.utils._pytree.tree_leaves
    for a, b in zip(leaves(before), leaves(now), strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


@pytest.mark.parametrize("update", UPDATES, ids=str)
def test_averaged_weights_are_sparse_too(update: MaskUpdate, splits: Splits) -> None:
    seen: list[bool] = []

    class Watched(Supervised):
        def validate(self) -> dict[str, float]:
            seen.append(fits(self.model))
            return super().validate()

    def fits(model: nn.Module) -> bool:
        return all(pattern.fits(layer_of(model, name).weight) for name, pattern in PATTERNS.items())

    net = network()
    learner = Masked(Watched(net, splits), Masking(update).start(net, PATTERNS))
    fit(learner, replace(RECIPE, average=0.9))
    assert seen == [True] * 3 and fits(net)


def test_masks_follow_a_model_into_channels_last(splits: Splits) -> None:
    results = []
    for channels_last in (False, True):
        net = network()
        learner = Masked(Supervised(net, splits), Masking().start(net, PATTERNS))
        fitting = Fitting(
            learner, replace(RECIPE, optimizer="sgd", channels_last=channels_last)
        )  # Adam magnifies noise
        fitting.step(*next(splits.train.ordered(64)))
        results.append(net)
        strides = learner.masks.dense["3"].stride(), learner.masks.masks["3"].stride()
        assert strides == (net[3].weight.stride(),) * 2
    for a, b in zip(results[0].parameters(), results[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_second_optimiser_takes_over() -> None:
    net = layer()
    masks = Masking(SRSTE()).start(net, {"": Pattern(2, 4)})
    first, second = (torch.optim.SGD(net.parameters(), 0.1) for _ in range(2))
    masks.attach(first)
    masks.attach(second)
    step(net, masks, first, torch.randn(4, 16))
    assert masks.steps == 0
    step(net, masks, second, torch.randn(4, 16))
    assert masks.steps == 1


def test_frozen_layers_are_masked_and_stay() -> None:
    net = nn.Sequential(nn.Linear(16, 8).requires_grad_(False), nn.Linear(8, 4))
    masks = Masking().start(net, {"0": Pattern(2, 4), "1": Pattern(2, 4)})
    before = net[0].weight.clone()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    masks.attach(optimizer)
    net(torch.randn(3, 16)).sum().backward()
    optimizer.step()
    assert torch.equal(net[0].weight, before) and exact(net, masks.patterns)


@pytest.mark.parametrize(
    "wrong",
    [{"interval": 0}, {"stages": 0}, {"until": 0.0}, {"until": 1.5}],
    ids=str,
)
def test_meaningless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        Masking(**wrong)
    with pytest.raises(ValueError, match=r"decay is at least 0, got -1\.0"):
        SRSTE(-1.0)


def test_masks_of_another_network_are_refused(splits: Splits) -> None:
    net, other = network(), network()
    masks = Masking().start(net, PATTERNS)
    with pytest.raises(ValueError, match="masks are of another network than the learner's model"):
        Masked(Supervised(other, splits), masks)
    with pytest.raises(ValueError, match="the optimiser does not train the weight of 3: is it of another network"):
        masks.attach(torch.optim.SGD(other.parameters(), 0.1))
    with pytest.raises(ValueError, match="there is no layer to mask: no pattern given"):
        Masking().start(net, {})
    with pytest.raises(ValueError, match="'1' is a BatchNorm2d of the model"):
        Masking().start(net, {"1": Pattern(2, 4)})


@pytest.mark.parametrize(
    ("masking", "patterns", "message"),
    [
        (Masking(Fixed()), PATTERNS, r"update SRSTE\(decay=0.0002\) there, Fixed\(\) now"),
        (Masking(stages=2), PATTERNS, "stages 1 there, 2 now"),
        (Masking(), {"3": Pattern(1, 4)}, r"layer 3 2:4 there, 1:4 now; layer 7 12:16 there, dense now"),
        (None, {}, None),
    ],
)
def test_a_checkpoint_of_other_masks_is_named(
    masking: Masking | None, patterns: dict[str, Pattern], message: str | None, splits: Splits, tmp_path: Path
) -> None:
    path, net, again = tmp_path / "sparse.pt", network(), network()
    fit(Masked(Supervised(net, splits), Masking().start(net, PATTERNS)), replace(RECIPE, epochs=1), path=path)
    if masking is None:  # and the other way round: a checkpoint that was made without masks
        path = tmp_path / "dense.pt"
        fit(Supervised(again, splits), replace(RECIPE, epochs=1), path=path)
        masking, patterns, message = Masking(), PATTERNS, "it was made without masks"
    learner = Masked(Supervised(again, splits), masking.start(again, patterns))
    with pytest.raises(ValueError, match=rf"{path.name} does not fit: .*{message}"):
        fit(learner, replace(RECIPE, epochs=1), path=path)
