"""Errors that say nothing about the code they come from: want of memory or of files, and what a signal raised."""

from __future__ import annotations

import signal

import torch


def interrupts(problem: BaseException) -> bool:
    """Whether an error must pass through, whoever would catch it."""
    return isinstance(problem, (MemoryError, OSError, torch.OutOfMemoryError)) or signalled(problem)


def signalled(problem: BaseException) -> bool:
    """Whether the handler of a signal, such as that of a time-out, raised an exception."""
    handlers = (signal.getsignal(s) for s in signal.valid_signals())
    codes = {getattr(handler, "__code__", None) for handler in handlers}
    trace = problem.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False
