"""Evaluations in several processes: each holds the evaluation, and is sent one subnet at a time."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ofa.search.crew import Crew, Found, Item
from ofa.signals import ignore, shielded

SOCKET_BYTES = 104  # of the path of a socket, by which loaders in a worker send tensors

_held: Callable[[Any], Any]  # a worker's copy of the evaluation
_talk: Talk


@dataclass(frozen=True)
class Talk:
    """The ends that workers have of two pipes: what they tell, and whether they are asked to stop.

    No lock that a killed process might hold: short messages are written at once, and a closed pipe is the same for all.
    """

    telling: Connection
    stopping: Connection


@contextmanager
def workers(
    evaluate: Callable[[Item], Found],
    processes: int,
    devices: Sequence[str] = (),
    threads: int = 1,
    hear: Callable[[Any], object] | None = None,
) -> Iterator[tuple[Callable[[Item], Found], Crew]]:
    """Processes that evaluate for `run`: yields the evaluation that they hold, and the crew that they are.

    `with workers(evaluate, 4) as (held, crew): run(search, held, archive, map=crew)`. Each is a fresh interpreter
    with a copy of `evaluate` and `threads` torch threads. It sees one of `devices` (cuda:0, cuda:1, …), taken in turn,
    and no other GPU; what its copy holds on a GPU is there. The processes end with the context, and with this one.
    They import the script that starts them, which needs `if __name__ == "__main__":`.

    `hear` gets, in a thread, what evaluations `tell` meanwhile, short messages. When the context is left early they are
    asked to stop, which `tell` says, and waited for.

    Raises:
        ValueError: a number below 1, no such device, an `evaluate` that does not pickle; a process that died.
    """
    if processes < 1 or threads < 1:
        raise ValueError(f"workers are at least 1 process of 1 thread, got {processes} and {threads}")
    context = multiprocessing.get_context("spawn")
    places = context.SimpleQueue()
    for k in range(processes):
        places.put(visible(devices[k % len(devices)]) if devices else None)
    method = multiprocessing.get_start_method()
    (lifeline, end), (stopping, stop), (hearing, telling) = (context.Pipe(duplex=False) for _ in range(3))
    with lifeline, end, stopping, stop, hearing, telling, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "evaluate.pt"
        with path.open("wb") as file:  # torch ends the process where it opens the file itself and the disk is full
            save(evaluate, file)
        given = (path, threads, places, lifeline, method, Talk(telling, stopping))
        pool = ProcessPoolExecutor(processes, context, _begin, given)
        listener, crew = Listener(hearing, hear), Crew(pool, processes)
        reason = 'out of memory, or the script that starts workers lacks `if __name__ == "__main__":`'
        try:
            start(pool, processes)
            reason = "killed, or out of memory: fewer workers need less"
            listener.start()
            yield held, crew
        except BrokenProcessPool as error:
            raise ValueError(
                f"a worker died ({reason}); everything finished is kept, and the same command goes on"
            ) from error
        finally:
            path.unlink(missing_ok=True)
            stop.close()
            if hear is not None:
                wait(crew.under_way)  # but not for the processes: their loaders are deaf
            end.close()
            pool.shutdown(cancel_futures=True)
            if listener.is_alive():
                telling.send_bytes(b"")  # nothing to read: the end, whoever else still holds the pipe
                listener.join()
        if listener.failure is not None:
            raise listener.failure


class Listener(threading.Thread):
    """Hands on what workers tell, until the end of it; after a failure it goes on to listen, and no more."""

    def __init__(self, hearing: Connection, hear: Callable[[Any], object] | None) -> None:
        super().__init__(daemon=True)
        self.hearing, self.hear = hearing, hear
        self.failure: Exception | None = None

    def run(self) -> None:
        while True:
            try:
                message = self.hearing.recv()
            except (EOFError, OSError):
                return
            try:
                if self.hear is not None and self.failure is None:
                    self.hear(message)
            except Exception as error:  # nobody would empty the pipe, and workers would wait for ever
                self.failure = error


def visible(device: str) -> str:
    """What CUDA_VISIBLE_DEVICES must be for a process to see nothing but what this one calls `device`.

    Raises:
        ValueError: it is no cuda:<number>, or this process does not see it.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number.isdecimal():
        raise ValueError(f"devices of workers are cuda:0, cuda:1, …, got {device!r}")
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if seen is None:
        return number
    if int(number) >= len(seen.split(",")):
        raise ValueError(f"{device} is not to be seen: CUDA_VISIBLE_DEVICES={seen}")
    return seen.split(",")[int(number)]


def save(evaluate: Callable[[Any], Any], file: BinaryIO) -> None:
    """Write an evaluation with its networks and data: a process that dies early blocks who sends it large arguments.

    Raises:
        ValueError: something in it does not pickle.
    """
    try:
        torch.save(evaluate, file)
    except OSError:
        raise
    except Exception as error:  # every class has errors of its own
        raise ValueError(f"the evaluation cannot be sent to workers, only run in one process: {error}") from None


def start(pool: ProcessPoolExecutor, processes: int) -> None:
    """Start every process, so that the pool watches all of them from the first subnet on."""
    with shielded():
        begun = [pool.submit(_ready) for _ in range(processes)]
    for future in begun:
        future.result()


# ------------------------------------------------------------ in a worker


def tell(message: Any) -> bool:
    """Say something to the process that started this one; gives whether it asks to stop."""
    _talk.telling.send(message)
    return _talk.stopping.poll()


def _begin(path: Path, threads: int, places: Any, lifeline: Connection, method: str, talk: Talk) -> None:
    """Prepare a fresh process, before torch touches CUDA; what goes wrong with the copy, every evaluation says."""
    global _talk
    ignore()
    _talk = talk
    if len(str(path.parent)) < SOCKET_BYTES - len("/pymp-xxxxxxxx/listener-xxxxxxxx"):
        tempfile.tempdir = str(path.parent)  # what libraries keep in files goes with the folder
    multiprocessing.set_start_method(method, force=True)  # of what starts here, such as loaders: as in the parent
    threading.Thread(target=_end, args=(lifeline, path), daemon=True).start()
    torch.set_num_threads(threads)
    place = places.get()
    if place is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place
    hold(path, place is not None)


def hold(content: Path | BinaryIO, on_gpu: bool) -> None:
    """Take the evaluation that this process is to hold, its networks on the GPU that it sees, or where they were."""
    global _held
    try:
        _held = torch.load(content, map_location=_settled if on_gpu else None, weights_only=False)
    except Exception as error:
        _held = partial(_refuse, error)


def _end(lifeline: Connection, path: Path) -> None:
    """End once the parent closes its end or is gone; a parent that was killed has left its folder with the file."""
    lifeline.poll(None)
    for child in multiprocessing.active_children():  # loaders, which would miss what they share with this process
        child.kill()
    if path.exists():
        shutil.rmtree(path.parent, ignore_errors=True)
    os._exit(1)


def _settled(storage: Any, location: str) -> Any:
    return storage.cuda() if location.startswith("cuda") else storage


def _refuse(error: Exception, item: Any) -> Any:
    raise error


def _ready() -> None:
    """A task of nothing."""


def held(item: Any) -> Any:
    """What the evaluation here gives; an exception that would not survive the way to the parent goes as its text."""
    try:
        return _held(item)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        raise
