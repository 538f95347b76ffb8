"""Once-for-all pruning behind the Vitis AI Optimizer's interface: an elastic network, its subnets, and their search."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from ofa import SearchSpace, SpaceConfig, Supernet
from ofa.backbone import unwrapped
from ofa.persistence import weights_digest
from ofa.search import Archive, Constraint, Evolution
from ofa.search.objectives import Objective
from ofa.search.problem import Problem
from ofa.search.vitis.bins import MILLION, best_of_bins
from ofa.search.vitis.candidates import Function, Scorer
from ofa.search.vitis.files import FOLDER, read_json, write_json
from ofa.search.vitis.groups import find_groups, open_groups, open_space
from ofa.search.vitis.loading import unwrapped_weights
from ofa.search.vitis.names import Excludes, excluded
from ofa.search.vitis.runner import check_divisor, console, evaluate, metric_of, progress
from ofa.search.vitis.settings import Setting, Settings, layer_of
from ofa.search.vitis.sparse_and_slim import original
from ofa.slicing import Measure


class OFAPruner:
    """An elastic network (`ofa_model`), subnets drawn from it, and an evolutionary search among them.

    `seed` decides the random subnets: processes that draw equally often draw the same ones.

    Raises:
        ValueError: `model` is the sparse result of a pruning.
        TypeError: `model` is no `nn.Module`.
    """

    def __init__(self, model: nn.Module, inputs: Any, *, seed: int = 0) -> None:
        self.model, self.inputs = original(model), inputs
        self.rng = np.random.default_rng(seed)
        self._settings: Settings | None = None
        self.space = SearchSpace(())

    def ofa_model(
        self,
        expand_ratio: Sequence[float] = (0.5, 0.75, 1),
        channel_divisble: int = 8,
        excludes: Excludes = None,
        auto_add_excludes: bool = True,
        save_search_space: bool = False,
        *,
        channel_divisible: int | None = None,
        importance: str | Measure | None = None,
        linear: bool = False,
    ) -> Supernet:
        """The network made elastic, in widths of `expand_ratio` and in kernels above 3×3; it is trained as it is.

        Where depthwise convolutions are in the majority only layers with a kernel and their expansions are elastic;
        elsewhere groups with a 1×1 convolution have the upper half of the widths. With `auto_add_excludes` the first
        and last convolutions stay. The largest subnet is the network itself, bit for bit; narrower ones keep leading
        channels, which are the more important ones where `importance` (l1, l2, …) sorts them before.
        Linear layers keep their outputs, unless `linear`. `save_search_space` writes `searchspace.config`.

        Raises:
            ValueError: an exclude matches nothing, nothing can be made elastic, or `expand_ratio` is no list of
                fractions.
        """
        ratios = fractions(expand_ratio)
        divisor = channel_divisble if channel_divisible is None else channel_divisible
        check_divisor(divisor)
        config = SpaceConfig(
            ratios,
            depth=False,
            divisor=divisor,
            policy="auto",
            keep_ends=auto_add_excludes,
        )
        with progress("converting") as tell:
            supernet = Supernet(self.model, self.inputs, config, tell)
        stay = set(excluded(self.model, excludes))
        stay |= {name for name, module in self.model.named_modules() if isinstance(module, nn.Linear) and not linear}
        widths = [group.name for group in open_groups(find_groups(supernet), stay, with_group_conv=True)]
        kernels = [c.name for c in supernet.space.choices if c.kind == "kernel" and layer_of(c) not in stay]
        if not widths and not kernels:
            raise ValueError(f"nothing of {type(self.model).__name__} can be made elastic:\n{supernet.report}")
        if importance is not None:
            supernet.sort(importance)
        self.space = open_space(supernet.space, [*widths, *kernels])
        self._settings = Settings(supernet, self.space)
        if save_search_space:
            self.save_search_space("searchspace.config")
        return supernet

    # ------------------------------------------------------------ subnets

    def sample_subnet(self, model: nn.Module, kind: Literal["max", "min", "random"]) -> tuple[nn.Module, Setting]:
        """Let the elastic `model` run the largest, the smallest or a random subnet, and give both."""
        if kind not in ("max", "min", "random"):
            raise ValueError(f"kind is max, min or random, got {kind!r}")
        chosen = {"max": self.space.largest, "min": self.space.smallest}
        subnet = chosen[kind] if kind in chosen else self.space.sample(self.rng)
        elastic(model).activate(subnet)
        return model, self.settings.of(subnet, self.space)

    def sample_random_subnet_within_range(
        self, model: nn.Module, min_macs: float, max_macs: float
    ) -> tuple[float, Setting]:
        """MACs (in M) and setting of a random subnet between two numbers of MACs (in M), which `model` then runs.

        Raises:
            ValueError: no subnet has so many MACs; says what the space offers.
        """
        supernet = elastic(model)
        problem = self._problem(supernet, ["macs"], min_macs, max_macs)
        pool = problem.pool(self.rng, 1)
        subnet = self.space.decode(pool[self.rng.integers(len(pool))])
        supernet.activate(subnet)
        return supernet.cost(subnet).macs / MILLION, self.settings.of(subnet, self.space)

    def sample_random_subnet_mutate_and_reset(
        self, dynamic_subnet_setting: Sequence[Any], prob: float = 0.1
    ) -> Setting:
        """A setting in which each group of layers has, with this probability, another width and other kernels.

        Raises:
            ValueError: the setting is not of this space.
        """
        subnet = self.settings.subnet(dynamic_subnet_setting)
        changed: dict[str, int | str] = {}
        for group in self.settings.groups:
            if self.rng.random() < prob:
                choices = {c.name for layer in group for c in (layer.width, layer.kernel) if c is not None}
                changed |= {name: self._another(name, subnet[name]) for name in sorted(choices)}
        return self.settings.of(subnet.replace(**changed), self.space)

    def _another(self, choice: str, option: int | str) -> int | str:
        """A random other option of a choice, if there is one."""
        others = [other for other in self.space[choice].options if other != option]
        return others[self.rng.integers(len(others))] if others else option

    def sample_random_subnet_crossover_and_reset(
        self, cfg1: Sequence[Any], cfg2: Sequence[Any], p: float = 0.5
    ) -> Setting:
        """A setting that has each width and each kernel from the first one with this probability, else the second's.

        Raises:
            ValueError: one of them is not of this space.
        """
        first, second = self.settings.subnet(cfg1), self.settings.subnet(cfg2)
        taken = {name: first[name] for name in first if self.rng.random() < p}
        return self.settings.of(second.replace(**taken), self.space)

    def check_dynamic_subnet_setting(self, dynamic_subnet_setting: Sequence[Any]) -> bool:
        """Whether a setting has layers, widths and kernels of this space, equal in a group; prints what differs."""
        try:
            self.settings.subnet(dynamic_subnet_setting)
        except ValueError as error:
            console.print(str(error), markup=False)
            return False
        return True

    def get_config_list(self, excludes: Excludes = None) -> Setting:
        """The candidate widths and kernels of every layer, as `save_search_space` writes them, without the excludes.

        Raises:
            ValueError: an exclude matches nothing.
        """
        stay = set(excluded(self.model, excludes))
        groups = self.settings.of(None, self.space)
        return [group for group in groups if not stay & {str(entry["dynamic_conv_module_name"]) for entry in group}]

    @staticmethod
    def load_dynamic_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> nn.Module:
        """Load weights that Vitis' own elastic network was trained to (`conv1.conv.weight`, `bn1.bn.weight`).

        Raises:
            ValueError: they are of another network; names what lacks.
        """
        network = elastic(model).model
        try:
            network.load_state_dict(unwrapped_weights(network, state_dict))
        except RuntimeError as error:
            raise ValueError(f"the weights are of another network: {str(error).splitlines()[-1].strip()}") from None
        return model

    def _problem(
        self, supernet: Supernet, objectives: Sequence[Objective | str], min_macs: float, max_macs: float
    ) -> Problem:
        """The space with exact costs, and the subnets between two numbers of MACs (in M)."""
        if not 0 <= min_macs <= max_macs or not max_macs > 0:
            raise ValueError(f"min_macs and max_macs are million MACs in this order, got {min_macs} and {max_macs}")
        band = Constraint("macs", max_macs * MILLION, min_macs * MILLION or None, absolute=True)
        whole, part = supernet.space, self.space
        return Problem.parse(part, objectives, lambda g: supernet.costs(whole.lifted(g, part)), [band])

    def get_static_subnet(
        self, dynamic_subnet: nn.Module, dynamic_subnet_setting: Sequence[Any] | None = None
    ) -> tuple[nn.Module, list[dict[str, Any]], float, float]:
        """A subnet (the active one without a setting) as a plain network, its layers, its MACs and parameters in M.

        Raises:
            ValueError: the setting is not of this space.
        """
        supernet = elastic(dynamic_subnet)
        subnet = supernet.active if dynamic_subnet_setting is None else self.settings.subnet(dynamic_subnet_setting)
        network, cost = supernet.extract(subnet), supernet.cost(subnet)
        return network, layers(network), cost.macs / MILLION, cost.params / MILLION

    @staticmethod
    def reset_bn_running_stats_for_calibration(model: nn.Module) -> None:
        """Let batch norms average anew over all batches that are run from now on, also in evaluation mode."""
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training, module.momentum = True, None
                module.reset_running_stats()

    # ------------------------------------------------------------ files

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            raise ValueError("there is no elastic network yet: call ofa_model() first")
        return self._settings

    def save_search_space(self, path: str | Path) -> None:
        """Write the candidate widths and kernels of every layer, to be edited and given to `reset_search_space`."""
        write_json(path, self.settings.of(None, self.space))

    def reset_search_space(self, searchspace: Sequence[Any]) -> None:
        """Draw and search only among the candidates of this list, a part of what `save_search_space` writes.

        Raises:
            ValueError: a layer or a candidate that the elastic network does not have.
        """
        self.space = self.settings.part(searchspace)

    @staticmethod
    def save_subnet_config(setting_config: Any, file_name: str | Path) -> None:
        """Write a setting, or the result of a search, as JSON."""
        write_json(file_name, setting_config)

    @staticmethod
    def load_subnet_config(file_name: str | Path) -> Any:
        """Read what `save_subnet_config`, or Vitis', wrote.

        Raises:
            ValueError: it cannot be read; a pickle is not read.
        """
        return read_json(file_name)

    # ------------------------------------------------------------ search

    def run_evolutionary_search(
        self,
        model: nn.Module,
        calibration_fn: Function | None,
        calib_args: tuple[Any, ...],
        eval_fn: Function,
        eval_args: tuple[Any, ...],
        evaluation_metric: str,
        min_or_max_metric: Literal["min", "max"],
        min_macs: float,
        max_macs: float,
        macs_step: float = 10,
        parent_popu_size: int = 16,
        iteration: int = 10,
        mutate_size: int = 8,
        mutate_prob: float = 0.2,
        crossover_size: int = 4,
        *,
        seed: int = 0,
        gpus: Sequence[Any] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """The best subnet of every `macs_step` between two numbers of MACs (all in M), by the bin's MACs as a string.

        NSGA-II (the metric against MACs) with as many evaluations as Vitis makes: the parents, and mutants and
        crossovers of all iterations but the first. Each candidate is calibrated and scored once, as a plain network;
        results are in `.vai/` before they count, and the same call goes on after a kill. Several `gpus` are as many
        processes.

        Raises:
            ValueError: no subnet has so many MACs; says at once what the space offers.
        """
        supernet, metric = elastic(model), metric_of(min_or_max_metric)
        if not macs_step > 0:
            raise ValueError(f"macs_step, the width of a bin in million MACs, is above 0, got {macs_step}")
        children = max(mutate_size + crossover_size, 1)
        evaluations = parent_popu_size + max(iteration - 1, 0) * children
        engine = Evolution(parent_popu_size, evaluations, crossover_size / children, mutate_prob)
        part = self.space
        search = engine.start(self._problem(supernet, [metric, "macs"], min_macs, max_macs), seed)
        here = str(next(supernet.parameters()).device)
        scorer = Scorer(supernet, metric, eval_fn, tuple(eval_args), calibration_fn, tuple(calib_args), device=here)
        name = str(evaluation_metric)
        with Archive(self._archive(supernet, name), f"{name}, {min_or_max_metric}") as archive:
            evaluate(search, scorer, archive, "search", gpus)
        return best_of_bins(search, metric, name, macs_step, lambda subnet: self.settings.of(subnet, part))

    def _archive(self, supernet: Supernet, metric: str) -> Path:
        """The file of what is known of these weights in this space."""
        words = json.dumps([supernet.digest, weights_digest(supernet.model), str(metric)])
        return (
            FOLDER / f"{type(self.model).__name__}_{hashlib.sha256(words.encode()).hexdigest()[:12]}.evolution.sqlite"
        )


def fractions(ratios: Any) -> tuple[float, ...]:
    """Widths as fractions.

    Raises:
        ValueError: it is no list of numbers.
    """
    try:
        return tuple(float(ratio) for ratio in ratios)
    except (TypeError, ValueError):
        raise ValueError(f"expand_ratio is a list of fractions such as [0.5, 0.75, 1], got {ratios!r}") from None


def elastic(model: nn.Module) -> Supernet:
    """The supernet inside what a script calls its model.

    Raises:
        TypeError: there is none.
    """
    found = unwrapped(model)
    if not isinstance(found, Supernet):
        raise TypeError(f"this needs the elastic network that ofa_model() gives, got {type(found).__name__}")
    return found


def layers(network: nn.Module) -> list[dict[str, Any]]:
    """The convolutions, linear layers and batch norms of a network with their sizes, after an entry with its name."""
    sizes = ("in_channels", "out_channels", "in_features", "out_features", "num_features", "kernel_size", "stride",
             "padding", "dilation", "groups")  # fmt: skip
    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)
    rows: list[dict[str, Any]] = [{"net_id": f"net_params_{sum(p.numel() for p in network.parameters())}"}]
    for name, module in network.named_modules():
        if isinstance(module, kinds):
            found = {size: getattr(module, size) for size in sizes if hasattr(module, size)}
            rows.append({"module_name": name, "module_type": type(module).__name__, **found})
    return rows
