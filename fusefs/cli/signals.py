# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and SIGHUP as one exception, from the first moment of the program on.

Standard library only, so that it is in force while everything else is still being imported. The
event loop has its own way with signals (runner.py) and hands them back here when it ends.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal ended the command. ``error`` is what the cleaning up met, if anything."""

    def __init__(self, number: int, error: BaseException | None = None) -> None:
        self.number = signal.Signals(number)
        self.error = error
        super().__init__(self.number.name)

    @property
    def status(self) -> int:
        """The exit status that shells use for it."""
        return 128 + self.number

    def __str__(self) -> str:
        word = "interrupted" if self.number == signal.SIGINT else f"ended by {self.number.name}"
        if self.error is None:
            return f"{word}; what was begun has been undone"
        return f"{word}; while cleaning up: {self.error}"


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)


def heeded() -> list[signal.Signals]:
    """The signals that end us: nohup and the background jobs of simple shells ignore some."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def arm(numbers: Iterable[signal.Signals]) -> None:
    """From now on these signals raise Stopped in the main thread."""
    for number in numbers:
        signal.signal(number, _stop)


def remember(numbers: Iterable[signal.Signals], seen: list[int]) -> None:
    """From now on these signals are only put into ``seen``."""
    for number in numbers:
        signal.signal(number, lambda received, _frame: seen.append(received))


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A signal that comes during the block raises Stopped at its end."""
    numbers = [number for number in heeded() if signal.getsignal(number) is _stop]
    seen: list[int] = []
    remember(numbers, seen)
    try:
        yield
    finally:
        arm(numbers)
    if seen:
        raise Stopped(seen[0])


@contextlib.contextmanager
def stoppable(*, last: bool = False) -> Iterator[None]:
    """Signals raise Stopped wherever no event loop runs.

    With ``last`` the process ends after the block: what was done is done, and a signal that comes
    now must not change the exit status that tells it.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    arm(heeded())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if last else handler)
