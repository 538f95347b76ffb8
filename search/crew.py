"""Whoever evaluates: processes here, Ray or an executor of the user's, each given as many subnets as it works on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, TypeVar

from ofa.signals import deferred

TURN = 0.2  # seconds in which signals wait

Item = TypeVar("Item")
Found = TypeVar("Found")
Futures = set[Future[Any]]


class Spread(Protocol):
    """A map that hands items out, and gives what is found in any order: `map`, or a crew."""

    def __call__(self, function: Callable[[Item], Found], items: Sequence[Item], /) -> Iterator[Found]: ...


@dataclass(frozen=True)
class Crew:
    """Any executor of `concurrent.futures`, and how many items it works on at a time.

    Called, it is a map that gives what is found in any order.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool:
    ...     sorted(Crew(pool, 2)(abs, [-1, -2, -3]))
    [1, 2, 3]

    Raises:
        ValueError: a number below 1.
    """

    executor: Executor
    number: int
    under_way: Futures = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"a crew works on at least 1 item at a time, got {self.number}")

    def __call__(self, function: Callable[[Item], Found], items: Sequence[Item], /) -> Iterator[Found]:
        """`function` of each item as it is ready."""
        waiting = iter(items)
        return self.flow(function, lambda free: list(islice(waiting, free)))

    def flow(self, function: Callable[[Item], Found], ask: Callable[[int], Sequence[Item]]) -> Iterator[Found]:
        """`function` of what `ask` gives, called whenever some of the crew are free, until nothing is under way.

        After a failure nothing is begun, and what is under way still given. A signal is answered between turns: raised
        where a future's lock is taken, it would leave the lock held for ever.
        """
        running, failure = set[Future[Found]](), None
        while True:
            free = self.number - len(running)
            begun = ask(free) if free > 0 and failure is None else ()
            with deferred():
                running |= {self.executor.submit(function, item) for item in begun}
                if not running:
                    break
                self.under_way.update(running)
                done = self.finished(running)
                self.under_way.difference_update(done)
            running -= done
            failure = failure or next((future.exception() for future in done if future.exception()), None)
            yield from (future.result() for future in done if not future.exception())
        if failure is not None:
            raise failure

    def finished(self, given: Futures) -> Futures:
        """Those that are done after a turn at most."""
        return wait(given, TURN, FIRST_COMPLETED).done
