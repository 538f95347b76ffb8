"""Parameters that code reads past their modules: sliced where they are kept, or frozen with the reason."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ofa
from ofa.space import Subnet

Weights = Sequence[nn.Parameter]


class Held(nn.Module):
    """Three linear layers whose weights are registered here and read through something else."""

    def __init__(self, hold: Callable[[Weights], Any], run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        weights = [nn.Parameter(torch.randn(shape) / 4) for shape in ((16, 8), (24, 16), (4, 24))]
        for name, weight in zip("abc", weights, strict=True):
            self.register_parameter(name, weight)
        self.held, self.run = hold(weights), run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.held, x)


def through(weights: Weights, x: Tensor) -> Tensor:
    for weight in weights[:-1]:
        x = F.linear(x, weight).relu()
    return F.linear(x, weights[-1])


def as_dict(weights: Weights) -> dict[str, nn.Parameter]:
    return dict(zip("abc", weights, strict=True))


def nested(weights: Weights) -> dict[str, Any]:
    return {"first": [weights[0]], "others": SimpleNamespace(second=weights[1], last=[weights[2]])}


def through_nested(held: dict[str, Any], x: Tensor) -> Tensor:
    return through((*held["first"], held["others"].second, *held["others"].last), x)


def by_default(weights: Weights) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor, held: Weights = tuple(weights)) -> Tensor:
        return through(held, x)

    return run


SERVED: dict[str, Callable[[], nn.Module]] = {
    "a list": lambda: Held(list, through),
    "a dict": lambda: Held(as_dict, lambda held, x: through(list(held.values()), x)),
    "an object": lambda: Held(lambda w: SimpleNamespace(all=list(w)), lambda held, x: through(held.all, x)),
    "containers in containers": lambda: Held(nested, through_nested),
}
NOT_SERVED: dict[str, Callable[[], nn.Module]] = {
    "a tuple": lambda: Held(tuple, through),
    "a closure": lambda: Held(lambda weights: lambda x: through(weights, x), lambda held, x: held(x)),
    "a partial": lambda: Held(lambda weights: functools.partial(through, tuple(weights)), lambda held, x: held(x)),
    "a default argument": lambda: Held(by_default, lambda held, x: held(x)),
}


def x() -> Tensor:
    return torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


def converted(model: nn.Module, proof: Any = "full") -> ofa.Supernet:
    return ofa.Supernet(model, x(), ofa.SpaceConfig(divisor=4, proof=proof)).eval()


def run(net: nn.Module) -> Tensor:
    with torch.no_grad():
        return net(x())


@pytest.mark.parametrize("proof", ["full", "off"])
@pytest.mark.parametrize("how", SERVED)
def test_what_containers_hold_is_sliced_in_them(how: str, proof: str) -> None:
    model = SERVED[how]()
    supernet = converted(model, proof)
    assert {choice.name for choice in supernet.space.choices} == {"a.width", "b.width"}
    whole, rng = run(model), np.random.default_rng(0)
    assert torch.equal(run(supernet), whole)
    subnets: list[Subnet] = [supernet.space.smallest, *(supernet.space.sample(rng) for _ in range(3))]
    for subnet in (s for s in subnets if s != supernet.space.largest):
        supernet.activate(subnet)
        net = supernet.extract()
        assert not torch.allclose(run(supernet), whole)
        assert torch.equal(run(net), run(supernet))
        assert sum(p.numel() for p in net.parameters()) == supernet.cost(subnet).params < 16 * 8 + 24 * 16 + 4 * 24
    supernet.activate(supernet.space.largest)
    assert torch.equal(run(supernet), whole)


@pytest.mark.parametrize("proof", ["full", "off"])
@pytest.mark.parametrize("how", NOT_SERVED)
def test_what_cannot_be_put_back_is_frozen_with_the_reason(how: str, proof: str) -> None:
    supernet = converted(NOT_SERVED[how](), proof)
    assert not supernet.space.choices
    (row,) = supernet.report.layers
    assert row.reason.startswith("read through "), row.reason


def test_only_what_is_read_past_its_module_is_frozen() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 24), nn.Linear(24, 4)
            self.weights = (self.c.weight,)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.b(self.a(x).relu()).relu(), self.weights[0], self.c.bias)

    supernet = converted(Half())
    assert [choice.name for choice in supernet.space.choices] == ["a.width"]
    held = {layer.name: layer.why() for layer in supernet.report.layers}
    assert held["b"] == "read through a tuple, Half.weights" and not held["a"]
