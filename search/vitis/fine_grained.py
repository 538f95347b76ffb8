"""Fine-grained pruning behind the Vitis AI Optimizer's interface: N:M zeros in weights and activations.

Zhou et al., 2021 (SR-STE).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import ReferenceType, ref

import torch
from rich.table import Table
from torch import Tensor, nn

from ofa.backbone import unwrapped
from ofa.search.vitis.arguments import check_whole, is_number
from ofa.search.vitis.errors import OptimizerInvalidArgumentError
from ofa.search.vitis.names import Excludes, excluded
from ofa.search.vitis.runner import console
from ofa.slicing import duplicate
from ofa.sparsity import (
    BlockActivations,
    FineGrained,
    Pattern,
    eligible,
    input_dim,
    mask_of,
    sparsify,
    sparsify_inputs,
    sr_ste,
    weight_of,
)
from ofa.versions import version

INPUTS, OUTPUTS = 16, 8  # multiples of channels that the hardware takes
BEFORE = "_weights_before"  # the attribute of a layer that runs: what its weight was each time it was entered
CALLING = (nn.Sequential.forward, nn.ModuleList.forward)  # of modules that only call others, or nothing


class Straight(torch.autograd.Function):
    """A masked weight. What is masked gets the gradient of what it would do, and `decay` times itself (SR-STE).

    Without `decay` (None) it gets none, as in Vitis: then it never comes back.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, masked: Tensor, decay: float | None) -> Tensor:
        ctx.save_for_backward(weight, mask if decay is None else masked)
        ctx.decay = decay
        return masked.view_as(masked)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        weight, kept = ctx.saved_tensors
        if ctx.decay is None:
            return gradient * kept, None, None, None
        return sr_ste(gradient, weight, kept, ctx.decay), None, None, None


class SparseWeight:
    """Hooks of a layer: its zeros follow the weight's magnitudes, and are found anew once it has changed.

    Writes through `weight.data` are not seen. While the layer runs, its attribute `weight` is the sparse one; entered
    twice (by `Inside`, and when it is called), it has the outer one back in between.
    """

    def __init__(self, pattern: Pattern, decay: float | None) -> None:
        self.pattern, self.decay = pattern, decay
        self._cache: tuple[ReferenceType[Tensor], tuple[int, int, int], Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle has no mask: its weight is another tensor."""
        return {**self.__dict__, "_cache": None}

    def attach(self, layer: nn.Module) -> None:
        layer.register_forward_pre_hook(self.enter)
        layer.register_forward_hook(self.leave, always_call=True)

    def enter(self, layer: nn.Module, inputs: Any) -> None:
        before = layer.__dict__.setdefault(BEFORE, [])
        before.append(layer.weight)
        if len(before) > 1 and not torch.is_grad_enabled():  # sparse already, and no graph to be made again
            return
        layer.__dict__["weight"] = Straight.apply(before[0], *self.masked(layer), self.decay)

    def masked(self, layer: nn.Module) -> tuple[Tensor, Tensor]:
        """The mask, and the weight under it; no tensors of inference mode, so that a training can use them later.

        Kept for the same tensor alone: another (`torch.func.functional_call`, a replica) may follow it in its memory.
        """
        given, found = layer.__dict__[BEFORE][0], self._cache
        if torch.compiler.is_compiling():
            return self._made(layer, given.detach())
        with torch.inference_mode(False), torch.no_grad():
            weight = given.detach()
            if given.is_inference():  # it does not count its changes
                return self._made(layer, weight)
            if found is None or found[0]() is not given or found[1] != version(weight):
                found = self._cache = ref(given), version(weight), *self._made(layer, weight, self._free(weight))
        return found[2], found[3]

    def _made(self, layer: nn.Module, weight: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mask = mask_of(layer, self.pattern, weight, out=out)
        return mask, weight * mask

    def _free(self, weight: Tensor) -> Tensor | None:
        """A mask to write over: the one of before, unless it belongs to another kind of weight or to a pass."""
        old = None if self._cache is None or self.decay is None else self._cache[2]
        self._cache = None
        return old if old is not None and kind(old) == kind(weight) else None

    def leave(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        before = layer.__dict__.get(BEFORE)
        if not before:  # another hook failed before this one was entered
            return
        weight = before.pop()
        layer.__dict__.pop("weight", None)
        if before or "weight" not in layer._parameters:
            layer.__dict__["weight"] = weight
        if not before:
            del layer.__dict__[BEFORE]


def kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device


@dataclass(frozen=True)
class Inside:
    """Hooks of a module for a layer in it, of which it may use the weight without calling it: `F.linear(x, weight)`."""

    layer: str

    def attach(self, module: nn.Module) -> None:
        module.register_forward_pre_hook(self.enter)
        module.register_forward_hook(self.leave, always_call=True)

    def enter(self, module: nn.Module, inputs: Any) -> None:
        layer = module.get_submodule(self.layer)
        for hook in hooks_of(layer):
            hook.enter(layer, inputs)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        layer = module.get_submodule(self.layer)
        for hook in hooks_of(layer):
            hook.leave(layer, inputs, output)


class SparsePruner:
    """N:M sparsity of a network's convolutions and linear layers; `skipped` says which take none, and why.

    `inputs` are not needed, and taken for the sake of scripts.

    Raises:
        TypeError: `model` is no `nn.Module`.
    """

    def __init__(self, model: nn.Module, inputs: Any = None) -> None:
        self.model, self.inputs = unwrapped(model), inputs
        self.skipped: dict[str, str] = {}

    def sparse_model(
        self,
        w_sparsity: float = 0.5,
        a_sparsity: float = 0,
        block_size: int = 16,
        excludes: Excludes = None,
        *,
        decay: float | None = 2e-4,
        strict: bool = True,
    ) -> nn.Module:
        """A copy of the network, of its own layers and weights' names, that trains and computes with N:M zeros.

        Of every `block_size` weights along the input channels a share of `w_sparsity` is zero, the smallest of now in
        each forward pass; of activations, one of `a_sparsity`. Weights may be 0, 0.5 or 0.75 sparse, activations 0.5
        beside 0.75; nothing sparse is the network itself. Weights that are zero now learn on by SR-STE with `decay`;
        None gives them no gradient. `strict=False` allows other sparsities, and activations beside any sparse weights.

        Raises:
            ValueError: another combination, an exclude matches nothing, no layer takes the pattern, or the network is
                sparse already.
        """
        if any(hooks_of(module) for module in self.model.modules()):
            name = type(self.model).__name__
            raise ValueError(f"this {name} is sparse already, from sparse_model(): call export_sparse_model() first")
        for share, value in {"w_sparsity": w_sparsity, "a_sparsity": a_sparsity}.items():
            if not is_number(value):
                raise OptimizerInvalidArgumentError(f"{share} is a number, got {value!r}")
        check_whole("block_size", block_size, 1)
        if decay is not None and not (is_number(decay) and decay >= 0):
            raise OptimizerInvalidArgumentError(f"decay is at least 0, or None for no gradient, got {decay!r}")
        settings = FineGrained(float(w_sparsity), float(a_sparsity), block_size, strict)
        pattern = settings.weight_pattern
        if pattern is None and settings.activation_pattern is not None:
            raise ValueError(f"sparse activations want sparse weights, got {w_sparsity:g} and {a_sparsity:g}")
        if pattern is None:
            return self.model
        taking, reasons = eligible(self.model, pattern, excluded(self.model, excludes))
        unaligned = {name: unfit(self.model.get_submodule(name)) for name in taking}
        self.skipped = reasons | {name: reason for name, reason in unaligned.items() if reason}
        taken = [name for name in taking if name not in self.skipped]
        self._show(len(taken))
        if not taken:
            raise ValueError(f"no layer of {type(self.model).__name__} takes {pattern}: {self.skipped}")
        network = duplicate(self.model)
        for name in taken:
            SparseWeight(pattern, decay).attach(network.get_submodule(name))
        for module, layer in users(network, taken):
            Inside(layer).attach(module)
        if settings.activation_pattern is not None:
            sparsify_inputs(network, dict.fromkeys(taken, settings.activation_pattern))
        return network

    @staticmethod
    def export_sparse_model(model: nn.Module) -> nn.Module:
        """A plain copy of what `sparse_model` gave, with the zeros in its weights; zeros of activations are not kept.

        Raises:
            ValueError: no layer of it is sparse.
        """
        network = duplicate(unwrapped(model))
        patterns = {name: hook.pattern for name, module in network.named_modules() for hook in hooks_of(module)}
        if not patterns:
            raise ValueError(f"no layer of this {type(network).__name__} is sparse: it is not from sparse_model()")
        sparsify(network, patterns)
        for name, module in network.named_modules():
            remove_hooks(module, (SparseWeight, BlockActivations, Inside) if name in patterns else (Inside,))
        return network

    def _show(self, taken: int) -> None:
        table = Table("layer", "stays dense because", title=f"{taken} layers are sparse, {len(self.skipped)} are not")
        for name, reason in self.skipped.items():
            table.add_row(name, reason)
        console.print(table)


def unfit(layer: nn.Module) -> str:
    """Why the hardware does not take a layer; empty if it does."""
    weight = weight_of(layer)
    inputs, outputs = weight.shape[input_dim(layer)], weight.shape[1 - input_dim(layer)]
    if inputs % INPUTS:
        return f"{inputs} input channels, no multiple of {INPUTS}"
    return f"{outputs} output channels, no multiple of {OUTPUTS}" if outputs % OUTPUTS else ""


def hooks_of(module: nn.Module) -> list[SparseWeight]:
    """The hooks that make a layer's weight sparse."""
    owners = [getattr(hook, "__self__", None) for hook in module._forward_pre_hooks.values()]
    return [owner for owner in owners if isinstance(owner, SparseWeight)]


def users(model: nn.Module, names: Iterable[str]) -> list[tuple[nn.Module, str]]:
    """Modules with code that may use a layer's weight, the nearest around each layer, with the layer's name in them."""
    modules = dict(model.named_modules(remove_duplicate=False))
    layers, found = {modules[name] for name in names}, dict[tuple[nn.Module, nn.Module], str]()
    for name in (n for n, module in modules.items() if module in layers):
        around = name
        while around:
            around = around.rpartition(".")[0]
            if type(modules[around]).forward not in CALLING:
                found.setdefault((modules[around], modules[name]), name.removeprefix(f"{around}."))
                break
    return [(module, local) for (module, _), local in found.items()]


def remove_hooks(module: nn.Module, kinds: tuple[type, ...]) -> None:
    """Take off what `sparse_model` put on; a user's own hooks stay."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", hook), kinds):
                del hooks[key]
                for marks in (module._forward_hooks_always_called, module._forward_pre_hooks_with_kwargs):
                    marks.pop(key, None)
