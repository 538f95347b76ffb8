"""What every test shares: one thread a process, no GPU unless asked for, and small real networks."""

import os
import re
import signal

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # processes that tests start compute as this one does

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)  # --hypothesis-profile=default looks for new cases
settings.load_profile("repeatable")
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Hear Ctrl-C, and hide GPUs unless tests marked so are asked for: others compare bits of what a CPU computes."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background jobs are started
        signal.signal(signal.SIGINT, signal.default_int_handler)
    marks = config.option.markexpr
    if marks and not re.search(r"(?<!not )\bgpu\b", marks):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is remembered of pictures goes with the tests."""
    os.environ["OFA_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
