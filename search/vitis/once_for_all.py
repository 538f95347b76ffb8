"""Once-for-all pruning behind the Vitis AI Optimizer's interface: an elastic network, its subnets, and their search."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from ofa import SearchSpace, SpaceConfig, Supernet
from ofa.persistence import weights_digest
from ofa.search import Archive, Constraint, Evolution
from ofa.search.problem import Problem
from ofa.search.vitis.arguments import (
    check_call,
    check_evolution,
    check_flag,
    check_fraction,
    check_metric,
    check_range,
    check_whole,
    numbers_of,
    ratios_of,
)
from ofa.search.vitis.bins import MILLION, best_of_bins
from ofa.search.vitis.candidates import Function, Scorer
from ofa.search.vitis.children import crossover, mutant
from ofa.search.vitis.errors import OptimizerInvalidArgumentError
from ofa.search.vitis.files import FOLDER, read_json, write_json
from ofa.search.vitis.groups import open_space, part_costs
from ofa.search.vitis.layers import layers
from ofa.search.vitis.names import Excludes, excluded, module_of
from ofa.search.vitis.opening import Opening, chosen_by, elastic
from ofa.search.vitis.runner import evaluate, metric_of, progress, say
from ofa.search.vitis.settings import ACTIVE, Setting, Settings, entries
from ofa.search.vitis.sparse_and_slim import original
from ofa.slicing import Measure, importance_of


class OFAPruner:
    """An elastic network (`ofa_model`), subnets drawn from it, and an evolutionary search among them.

    `seed` decides the random subnets: processes that draw equally often draw the same ones.

    Raises:
        ValueError: `model` is the sparse result of a pruning.
        TypeError: `model` is no `nn.Module`.
    """

    def __init__(self, model: nn.Module, inputs: Any, *, seed: int = 0) -> None:
        check_whole("seed", seed, 0)
        self.model, self.inputs = original(model), inputs
        self.rng = np.random.default_rng(seed)
        self._settings: Settings | None = None
        self._opening: Opening | None = None
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
        and last convolutions stay, and what has their channels. What linear layers alone make stays, too, unless with
        `linear`. The largest subnet is the network itself, bit for bit; narrower ones keep leading channels, which are
        the more important ones where `importance` (l1, l2, …) sorts them before. `save_search_space` writes
        `searchspace.config`.

        Raises:
            ValueError: an argument makes no sense, an exclude matches nothing, or nothing can be made elastic.
        """
        flags = {"auto_add_excludes": auto_add_excludes, "save_search_space": save_search_space, "linear": linear}
        for name, flag in flags.items():
            check_flag(name, flag)
        divisor = channel_divisble if channel_divisible is None else channel_divisible
        check_whole("channel_divisible", divisor, 1)
        importance_of("l1" if importance is None else importance)  # refuses what is none
        ratios, stay = ratios_of(expand_ratio), excluded(self.model, excludes)
        config = SpaceConfig(ratios, depth=False, divisor=divisor, policy="auto", keep_ends=auto_add_excludes)
        with progress("converting") as tell:
            supernet = Supernet(self.model, self.inputs, config, tell)
        opening = Opening.of(supernet)
        names = opening.choices(supernet.space, stay, auto_add_excludes, linear)
        if not names:
            why = opening.closed(stay, auto_add_excludes, linear) or f":\n{supernet.report}"
            raise OptimizerInvalidArgumentError(f"nothing of {type(self.model).__name__} can be made elastic{why}")
        if importance is not None:
            supernet.sort(importance)
        self._opening, self.space = opening, open_space(supernet.space, names)
        self._settings = Settings(supernet, self.space)
        if save_search_space:
            self.save_search_space("searchspace.config")
        return supernet

    def get_config_list(self, excludes: Excludes = None, auto_add_excludes: bool = True) -> Setting:
        """The candidates of groups without an excluded layer, or the first or last convolution, of all that there are.

        `reset_search_space` takes it.

        Raises:
            ValueError: an exclude matches nothing, or there is no elastic network yet.
        """
        settings, stay = self.settings, excluded(self.model, excludes)
        assert self._opening is not None  # there are settings
        names = self._opening.choices(settings.space, stay, auto_add_excludes, linear=True)
        part = open_space(settings.space, names)
        free = {choice.name for choice in part.choices if len(choice.options) > 1}
        rows = zip(settings.of(None, part), settings.groups, strict=True)
        return [entry for entry, layers in rows if not free.isdisjoint(chosen_by(layers))]

    # ------------------------------------------------------------ subnets

    def sample_subnet(self, model: nn.Module, kind: Literal["max", "min", "random"]) -> tuple[nn.Module, Setting]:
        """Let the elastic `model` run the largest, the smallest or a random subnet, and give both."""
        supernet, settings = self._elastic(model), self.settings
        if kind not in ("max", "min", "random"):
            raise OptimizerInvalidArgumentError(f"kind is max, min or random, got {kind!r}")
        chosen = {"max": self.space.largest, "min": self.space.smallest}
        subnet = chosen[kind] if kind in chosen else self.space.sample(self.rng)
        supernet.activate(subnet)
        return model, settings.of(subnet, self.space)

    def sample_random_subnet_within_range(
        self, model: nn.Module, min_macs: float, max_macs: float
    ) -> tuple[float, Setting]:
        """Let the elastic `model` run a random subnet between two numbers of MACs (in M), and give its MACs and it.

        Raises:
            ValueError: no subnet has so many MACs; says what the space offers.
        """
        supernet, settings = self._elastic(model), self.settings
        pool = self._problem(supernet, ["macs"], min_macs, max_macs).pool(self.rng, 1)
        subnet = self.space.decode(pool[self.rng.integers(len(pool))])
        supernet.activate(subnet)
        return supernet.cost(subnet).macs / MILLION, settings.of(subnet, self.space)

    def sample_random_subnet_mutate_and_reset(
        self, dynamic_subnet_setting: Sequence[Any], prob: float = 0.1
    ) -> Setting:
        """A setting in which each group of layers has, with this probability, another width and other kernels.

        Raises:
            ValueError: it is no setting of this network, or `prob` is no probability.
        """
        check_fraction("prob", prob)
        parent = self.settings.subnet(dynamic_subnet_setting)
        return self.settings.of(mutant(self.settings, self.space, parent, prob, self.rng), self.space)

    def sample_random_subnet_crossover_and_reset(
        self, cfg1: Sequence[Any], cfg2: Sequence[Any], p: float = 0.5
    ) -> Setting:
        """A setting that has each width and each kernel of the first one with this probability, else of the second.

        Raises:
            ValueError: one is no setting of this network, or `p` is no probability.
        """
        check_fraction("p", p)
        first, second = self.settings.subnet(cfg1), self.settings.subnet(cfg2)
        return self.settings.of(crossover(first, second, p, self.rng), self.space)

    def check_dynamic_subnet_setting(self, dynamic_subnet_setting: Sequence[Any]) -> bool:
        """Whether a setting says offered widths and kernels of this network's layers, equal widths in a group.

        What is wrong is printed.
        """
        settings = self.settings
        try:
            settings.subnet(dynamic_subnet_setting)
            for entry in entries(dynamic_subnet_setting):
                for key in ACTIVE:
                    if entry.get(key) == -1:
                        raise ValueError(f"{entry['dynamic_conv_module_name']}: {key} is not said")
        except ValueError as error:
            say(str(error))
            return False
        return True

    def get_static_subnet(
        self, dynamic_subnet: nn.Module, dynamic_subnet_setting: Sequence[Any] | None = None
    ) -> tuple[nn.Module, list[dict[str, Any]], float, float]:
        """A subnet (the active one without a setting) as a plain network, its layers, its MACs and parameters in M.

        Raises:
            ValueError: the setting is not of this space.
        """
        supernet = self._elastic(dynamic_subnet)
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

        Layers that are not in the list stay whole.

        Raises:
            ValueError: a layer or a candidate that the elastic network does not have.
        """
        part, named = self.settings.part(searchspace), module_names(searchspace)
        layers = [layer for group in self.settings.groups for layer in group if layer.name in named]
        self.space = open_space(part, chosen_by(layers))

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
            ValueError: no subnet has so many MACs (says at once what the space offers), or no score is a finite number.
        """
        supernet, settings, part, name = self._elastic(model), self.settings, self.space, str(evaluation_metric)
        check_metric(name, min_or_max_metric)
        check_whole("seed", seed, 0)
        sizes = {"parent_popu_size": parent_popu_size, "iteration": iteration,
                 "mutate_size": mutate_size, "crossover_size": crossover_size}  # fmt: skip
        check_evolution(sizes, macs_step, mutate_prob)
        check_call(eval_fn, eval_args, ("eval_fn", "eval_args"), "gives its score")
        check_call(calibration_fn or len, calib_args, ("calibration_fn", "calib_args"), "calibrates it")
        numbers_of(gpus)  # refuses what is no list of them
        metric = metric_of(min_or_max_metric)
        children = mutate_size + crossover_size
        evaluations = parent_popu_size + (iteration - 1) * children
        engine = Evolution(parent_popu_size, evaluations, crossover_size / max(children, 1), mutate_prob)
        search = engine.start(self._problem(supernet, [metric, "macs"], min_macs, max_macs), seed)
        here = str(next(supernet.parameters()).device)
        scorer = Scorer(supernet, metric, eval_fn, tuple(eval_args), calibration_fn, tuple(calib_args), device=here)
        path = self._archive(supernet, name)
        with Archive(path, f"{name}, {min_or_max_metric}") as archive:
            evaluate(search, scorer, archive, "search", gpus)
        say(f"wrote {path}")
        return best_of_bins(search, metric, name, macs_step, lambda subnet: settings.of(subnet, part))

    def _elastic(self, model: nn.Module) -> Supernet:
        """The elastic network of the last `ofa_model()`, also a copy of it or one with other weights.

        Raises:
            TypeError: it is no elastic network.
            ValueError: it has other choices, or there is none yet.
        """
        supernet, _ = elastic(model), self.settings  # which refuses where there is none
        assert self._opening is not None
        if supernet.space != self._opening.space:
            raise OptimizerInvalidArgumentError(
                f"this elastic {type(supernet.model).__name__} is not of the last ofa_model() of this"
                f" {type(self.model).__name__}'s pruner: its layers have other candidates"
            )
        return supernet

    def _problem(self, supernet: Supernet, objectives: Sequence[str], min_macs: float, max_macs: float) -> Problem:
        """Subnets between two numbers of MACs (in M)."""
        check_range(min_macs, max_macs)
        lower, upper = min_macs * MILLION or None, max_macs * MILLION if max_macs < math.inf else None
        band = [Constraint("macs", upper, lower, absolute=True)] if lower or upper else []
        return Problem.parse(self.space, objectives, part_costs(supernet, self.space), band)

    def _archive(self, supernet: Supernet, metric: str) -> Path:
        """The file of what is known of these weights in this space."""
        words = json.dumps([supernet.digest, weights_digest(supernet.model), str(metric)])
        return (
            FOLDER / f"{type(self.model).__name__}_{hashlib.sha256(words.encode()).hexdigest()[:12]}.evolution.sqlite"
        )


def module_names(setting: Sequence[Any]) -> set[str]:
    """The layers in a list."""
    return {module_of(str(entry["dynamic_conv_module_name"])) for entry in entries(setting)}
