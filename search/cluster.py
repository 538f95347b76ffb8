"""Evaluations on a Ray cluster, this machine or many (Moritz et al., 2018): actors that hold the evaluation."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

import torch

from ofa.search import workers
from ofa.search.crew import Crew, Found, Item

ADDRESS = "RAY_ADDRESS"
SECONDS = 5.0  # for a cluster to answer
TRIES = 3  # of a subnet at which workers die


class Actor:
    """A process on the cluster; `kept` is where the evaluation lies, in a list so that Ray leaves it there."""

    def __init__(self, kept: list[Any], on_gpu: bool, threads: int) -> None:
        import ray

        torch.set_num_threads(threads)
        workers.hold(io.BytesIO(ray.get(kept[0])), on_gpu)

    def do(self, function: Callable[..., Found], given: tuple[Any, ...], named: dict[str, Any]) -> Found:
        return function(*given, **named)


class RayExecutor(Executor):
    """An executor of actors; a task goes to that one which has the fewest."""

    def __init__(self, actors: list[Any]) -> None:
        self._tasks = dict.fromkeys(actors, 0)

    def submit(self, fn: Callable[..., Found], /, *args: Any, **kwargs: Any) -> Future[Found]:
        actor = min(self._tasks, key=lambda one: self._tasks[one])
        self._tasks[actor] += 1
        future = Future[Found]()
        future.set_running_or_notify_cancel()

        def finish(done: Future[Found]) -> None:
            self._tasks[actor] -= 1
            error = done.exception()
            if error is None:
                future.set_result(done.result())
            else:
                future.set_exception(told(error))

        actor.do.remote(fn, args, kwargs).future().add_done_callback(finish)
        return future


def told(error: BaseException) -> BaseException:
    """An error of Ray's as it was raised, or in our words."""
    from ray.exceptions import RayActorError, RayTaskError

    if isinstance(error, RayActorError):
        text = f"workers on Ray died at {TRIES} tries of one subnet; everything finished is kept, and the same command"
        return ValueError(f"{text} goes on ({error})")
    return error.cause if isinstance(error, RayTaskError) else error


@contextmanager
def ray_workers(
    evaluate: Callable[[Item], Found], number: int | None = None, on_gpu: bool = False, threads: int = 1
) -> Iterator[tuple[Callable[[Item], Found], Crew]]:
    """Actors that evaluate for `run`: yields the evaluation that they hold, and the crew that they are.

    `with ray_workers(evaluate) as (held, crew): run(search, held, archive, crew=crew)`. The cluster is that of
    RAY_ADDRESS, or one that is started here and ends with the context. There are `number` actors, without one as many
    as fit, each with `threads` CPUs or `on_gpu` a GPU of its own. One that dies is started again, and what it had is
    evaluated again, three times in all.

    Raises:
        ValueError: Ray is not installed, no cluster answers, it is too small, or `evaluate` does not pickle.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("evaluating on Ray needs it: pip install 'ofa-lab[ray]'") from None
    content = io.BytesIO()
    workers.save(evaluate, content)
    with connected(None if number is None else number * threads):
        fits = places(ray.cluster_resources(), on_gpu, threads)
        if not 1 <= (number or fits) <= fits:
            raise ValueError(f"Ray has room for {fits} workers of {threads} threads, asked were {number or 'some'}")
        paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
        lives = {"max_restarts": -1, "max_task_retries": TRIES - 1}
        kind = ray.remote(Actor).options(num_cpus=threads, num_gpus=int(on_gpu), runtime_env=paths, **lives)
        kept = [ray.put(content.getvalue())]
        actors = [kind.remote(kept, on_gpu, threads) for _ in range(number or fits)]
        try:
            yield workers.held, Crew(RayExecutor(actors), len(actors))
        finally:
            for actor in actors:
                ray.kill(actor)


def places(resources: dict[str, float], on_gpu: bool, threads: int) -> int:
    """How many workers fit.

    >>> places({"CPU": 16.0, "GPU": 2.0}, on_gpu=True, threads=4), places({"CPU": 16.0}, on_gpu=False, threads=4)
    (2, 4)
    """
    fits = int(resources.get("CPU", 0.0) // threads)
    return min(fits, int(resources.get("GPU", 0.0))) if on_gpu else fits


@contextmanager
def connected(cpus: int | None) -> Iterator[None]:
    """A connection to Ray inside: the one that there is, that of RAY_ADDRESS, or one of its own, of `cpus`.

    Raises:
        ValueError: nobody answers there.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get(ADDRESS, "local")
    check(address)
    own: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False} if address == "local" else {}
    with own_signals():
        ray.init(address, log_to_driver=False, logging_level="error", **own)
    try:
        yield
    finally:
        ray.shutdown()


def check(address: str) -> None:
    """Refuse an address where nobody answers: Ray itself would try for minutes.

    Raises:
        ValueError: says which.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), SECONDS).close()
        except OSError as error:
            raise ValueError(f"no Ray cluster at {ADDRESS}={address}: {error}") from None


@contextmanager
def own_signals() -> Iterator[None]:
    """Who answers SIGTERM inside does so afterwards: Ray puts a handler of its own in the place."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
