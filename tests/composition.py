"""Composing a configuration as the console program does."""

from __future__ import annotations

from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from ofa.conf.program.arguments import relaxed


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("ofa.conf", version_base="1.3"):
        return compose("config", overrides=[relaxed(o) for o in overrides])
