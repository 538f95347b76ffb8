"""The console program `ofa-tune`: hyper-parameters of the supernet's training."""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ofa.conf.program.arguments import prepare, stand
from ofa.conf.program.command import announce
from ofa.conf.program.ending import complaints, stoppable
from ofa.conf.program.manual import explain, wanted

NAME = "ofa-tune"


def main() -> None:
    """Entry point: the settings of `ofa`, and those of `tuning`."""
    stand()
    if wanted(sys.argv[1:]):
        explain(NAME, "tune", sys.argv[1:])
        return
    with stoppable(NAME):
        sys.argv[1:] = prepare(NAME, "tune", sys.argv[1:])
        _hydra_main()


@hydra.main(version_base="1.3", config_path="pkg://ofa.conf", config_name="tune")
def _hydra_main(config: DictConfig) -> None:
    announce(NAME, config)
    with complaints(NAME):
        from ofa.conf.program.study import tune

        tune(HydraConfig.get().overrides.task)


if __name__ == "__main__":
    main()
