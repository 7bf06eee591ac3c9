# SPDX-License-Identifier: Apache-2.0
"""Descriptor callbacks and timers, the same on asyncio, uvloop and trio."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest
import sniffio
import trio

from pyscsi_init.transport import open_reactor
from pyscsi_init.transport.reactor import Reactor
from tests.support.python_target import until

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

Pair = tuple[socket.socket, socket.socket]


class Fault(Exception):
    """Nothing in the library raises it."""


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def tasks() -> int:
    """How many tasks the loop has."""
    if sniffio.current_async_library() == "trio":
        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


async def test_a_reader_is_called_while_there_is_something_to_read(pair: Pair) -> None:
    ours, theirs = pair
    seen = bytearray()
    async with open_reactor() as reactor:
        reactor.add_reader(ours.fileno(), lambda: seen.extend(ours.recv(1)))
        theirs.send(b"abc")
        await until(lambda: seen == b"abc")
        reactor.remove_reader(ours.fileno())
        theirs.send(b"d")
        await anyio.sleep(0.02)
        assert seen == b"abc"
        reactor.remove_reader(ours.fileno())  # unknown by now, and ignored


async def test_a_callback_may_remove_its_own_reader_and_close(pair: Pair) -> None:
    ours, theirs = pair
    calls = []

    async with open_reactor() as reactor:

        def once() -> None:
            calls.append(ours.recv(100))
            reactor.remove_reader(ours.fileno())
            ours.close()

        reactor.add_reader(ours.fileno(), once)
        theirs.send(b"x")
        await until(lambda: calls)
        await anyio.sleep(0.02)
        assert calls == [b"x"]


async def test_one_callback_may_remove_the_others(pair: Pair) -> None:
    """Two descriptors are readable in one turn; the first one's callback closes the second."""
    ours, theirs = pair
    other, peer = socket.socketpair()
    calls: list[str] = []
    async with open_reactor() as reactor:
        for name, here, there in (("one", ours, other), ("two", other, ours)):

            def callback(name: str = name, here: socket.socket = here, gone=there) -> None:  # type: ignore[no-untyped-def]
                calls.append(name)
                here.recv(10)
                reactor.remove_reader(gone.fileno())
                gone.close()

            reactor.add_reader(here.fileno(), callback)
        theirs.send(b"1")
        peer.send(b"2")
        await until(lambda: calls)
        await anyio.sleep(0.02)
        assert len(calls) == 1
    peer.close()
    other.close()


async def test_a_descriptor_number_may_be_used_again_at_once(pair: Pair) -> None:
    ours, theirs = pair
    seen: list[bytes] = []
    async with open_reactor() as reactor:
        number = ours.fileno()
        reactor.add_reader(number, lambda: seen.append(b"old"))
        reactor.remove_reader(number)
        ours.close()
        fresh, peer = socket.socketpair()
        if fresh.fileno() != number:
            os.dup2(fresh.fileno(), number)
        reactor.add_reader(number, lambda: seen.append(os.read(number, 10)))
        peer.send(b"new")
        await until(lambda: seen)
        assert seen == [b"new"]
        reactor.remove_reader(number)
        if fresh.fileno() != number:
            os.close(number)
        fresh.close()
        peer.close()
    del theirs


async def test_a_writer_is_called_when_there_is_room(pair: Pair) -> None:
    ours, theirs = pair
    while True:
        try:
            ours.send(bytes(65536))
        except BlockingIOError:
            break
    calls: list[int] = []
    async with open_reactor() as reactor:

        def room() -> None:
            calls.append(1)
            reactor.remove_writer(ours.fileno())

        reactor.add_writer(ours.fileno(), room)
        await anyio.sleep(0.02)
        assert calls == []
        while True:
            try:
                theirs.recv(1 << 20)
            except BlockingIOError:
                break
        await until(lambda: calls)
        assert calls == [1]


async def test_timers_come_in_time_and_in_order() -> None:
    fired: list[str] = []
    async with open_reactor() as reactor:
        now = reactor.now()
        reactor.call_at(now + 0.03, lambda: fired.append("late"))
        reactor.call_at(now + 0.01, lambda: fired.append("early"))
        never = reactor.call_at(now + 0.02, lambda: fired.append("never"))
        never.cancel()
        reactor.call_at(now - 5, lambda: fired.append("past"))
        reactor.call_soon(lambda: fired.append("soon"))
        await until(lambda: len(fired) == 4)
        # A turn that comes late finds all of them due.
        assert sorted(fired) == ["early", "late", "past", "soon"]
        assert fired.index("early") < fired.index("late")
        assert reactor.now() >= now + 0.029  # uvloop's clock counts whole milliseconds
        never.cancel()


async def test_timers_end_with_the_block() -> None:
    fired: list[int] = []
    before = tasks()
    async with open_reactor() as reactor:
        reactor.call_at(reactor.now() + 0.01, lambda: fired.append(1))
        reactor.call_at(reactor.now() + 3600, lambda: fired.append(2))
        reactor.spawn(anyio.sleep_forever)
    await anyio.sleep(0.03)
    assert fired == []
    assert tasks() == before


async def test_work_for_the_end_of_the_turn_is_done_once(pair: Pair) -> None:
    ours, theirs = pair
    log: list[str] = []

    def later() -> None:
        log.append("later")

    async with open_reactor() as reactor:

        def callback() -> None:
            ours.recv(100)
            for _ in range(3):
                reactor.at_end_of_turn(later)
                log.append("now")

        reactor.add_reader(ours.fileno(), callback)
        theirs.send(b"x")
        await until(lambda: "later" in log)
        assert log == ["now"] * 3 + ["later"]
        reactor.at_end_of_turn(later)  # outside of a turn: at once
        assert log[-2:] == ["later", "later"]


async def test_the_end_of_a_turn_may_ask_for_more(pair: Pair) -> None:
    ours, theirs = pair
    log: list[int] = []
    async with open_reactor() as reactor:

        def more() -> None:
            log.append(len(log))
            if len(log) < 5:
                reactor.at_end_of_turn(more)

        def callback() -> None:
            ours.recv(100)
            reactor.at_end_of_turn(more)

        reactor.add_reader(ours.fileno(), callback)
        theirs.send(b"x")
        await until(lambda: len(log) == 5)


async def start(how: str, reactor: Reactor, pair: Pair) -> None:
    """Have the reactor run something that fails."""

    def fail() -> None:
        raise Fault(how)

    async def failing() -> None:
        await anyio.lowlevel.checkpoint()
        raise Fault(how)

    ours, theirs = pair
    if how == "reader":
        reactor.add_reader(ours.fileno(), fail)
        theirs.send(b"x")
    elif how == "writer":
        reactor.add_writer(ours.fileno(), fail)
    elif how == "timer":
        reactor.call_at(reactor.now() + 0.001, fail)
    elif how == "soon":
        reactor.call_soon(fail)
    elif how == "end of turn":
        reactor.call_soon(lambda: reactor.at_end_of_turn(fail))
    else:
        reactor.spawn(failing)


@pytest.mark.parametrize("how", ["reader", "writer", "timer", "soon", "end of turn", "task"])
async def test_what_a_callback_raises_ends_the_block_bare(how: str, pair: Pair) -> None:
    before = tasks()
    with pytest.raises(Fault, match=how):  # noqa: PT012
        async with open_reactor() as reactor:
            await start(how, reactor, pair)
            await anyio.sleep_forever()
    assert tasks() == before


async def test_what_the_block_raises_is_not_wrapped(pair: Pair) -> None:
    with pytest.raises(Fault):  # noqa: PT012
        async with open_reactor() as reactor:
            reactor.add_reader(pair[0].fileno(), lambda: None)
            reactor.spawn(anyio.sleep_forever)
            raise Fault


async def test_a_group_of_the_block_stays_a_group() -> None:
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with open_reactor(), anyio.create_task_group() as group:

            async def fail() -> None:
                raise Fault

            group.start_soon(fail)
            group.start_soon(anyio.sleep_forever)
    assert [type(error) for error in caught.value.exceptions] == [Fault]


async def test_cancellation_passes_through(pair: Pair) -> None:
    before = tasks()
    with anyio.CancelScope() as scope:
        async with open_reactor() as reactor:
            reactor.add_reader(pair[0].fileno(), lambda: None)
            reactor.call_at(reactor.now() + 3600, lambda: None)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert tasks() == before


async def test_a_time_limit_around_it_works() -> None:
    with pytest.raises(TimeoutError):  # noqa: PT012
        with anyio.fail_after(0.01):
            async with open_reactor():
                await anyio.sleep_forever()
