# SPDX-License-Identifier: Apache-2.0
"""The holder's loop: timers by a given clock, descriptors before timers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fusefs.process.loop import Loop


class Clock:
    """Stands until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loop(clock: Clock) -> Iterator[Loop]:
    made = Loop(clock)
    yield made
    made.close()


def test_timers_are_called_in_order_once_and_when_due(loop: Loop, clock: Clock) -> None:
    called: list[str] = []
    loop.call_in(2, lambda: called.append("two"))
    loop.call_in(1, lambda: called.append("one"))
    cancelled = loop.call_in(1.5, lambda: called.append("never"))
    cancelled.cancel()
    loop.turn(0)
    assert called == []
    clock.now = 1
    loop.turn(0)
    assert called == ["one"]
    clock.now = 5
    loop.turn(0)
    loop.turn(0)
    assert called == ["one", "two"]


def test_what_is_there_to_be_read_comes_before_a_timer_that_is_due(
    loop: Loop, clock: Clock
) -> None:
    called: list[str] = []
    read_end, write_end = os.pipe()
    loop.call_in(1, lambda: called.append("timer"))
    loop.watch(read_end, lambda: called.append(os.read(read_end, 9).decode()))
    os.write(write_end, b"data")
    clock.now = 10
    loop.turn(0)
    assert called == ["data", "timer"]
    loop.unwatch(read_end)
    os.close(read_end)
    os.close(write_end)


def test_a_callback_may_unwatch_what_is_next_in_the_same_turn(loop: Loop) -> None:
    called: list[int] = []
    pipes = [os.pipe() for _ in range(2)]

    def hear(fd: int) -> None:
        called.append(fd)
        for read_end, _ in pipes:
            loop.unwatch(read_end)

    for read_end, write_end in pipes:
        loop.watch(read_end, lambda fd=read_end: hear(fd))  # type: ignore[misc]
        os.write(write_end, b"x")
    loop.turn(0)
    loop.turn(0)
    assert len(called) == 1
    for pipe in pipes:
        for fd in pipe:
            os.close(fd)
