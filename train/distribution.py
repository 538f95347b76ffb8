"""Several processes that train one model (torchrun): who writes, who reads what, and one all-reduce a step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """Number of processes; 1 where none was launched beside this one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def part() -> tuple[int, int]:
    """(rank, world): what share of the data this process reads."""
    return (rank(), world()) if world() > 1 else (0, 1)


def rank() -> int:
    """This process' number, 0 for the one that writes; known from torchrun before they join."""
    return dist.get_rank() if world() > 1 else int(os.environ.get("RANK", "0"))


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, if it did: NCCL where `device` is CUDA, gloo elsewhere."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def averaged(tensors: Iterable[Tensor], figures: Sequence[float]) -> list[float]:
    """Replace each tensor by its mean over the processes, in one all-reduce that takes `figures` along."""
    if world() == 1:
        return list(figures)
    kept = list(tensors)
    device = kept[0].device if kept else torch.device("cpu")
    flat = torch.cat([*(t.reshape(-1).float() for t in kept), torch.tensor(figures, device=device)])
    dist.all_reduce(flat)
    flat /= world()
    position = 0
    for tensor in kept:
        tensor.copy_(flat[position : position + tensor.numel()].view_as(tensor))
        position += tensor.numel()
    means: list[float] = flat[position:].tolist()
    return means


def summed(figures: Sequence[float], device: torch.device) -> list[float]:
    """Each figure's sum over the processes."""
    if world() == 1:
        return list(figures)
    total = torch.tensor(figures, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    result: list[float] = total.tolist()
    return result


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.barrier()
