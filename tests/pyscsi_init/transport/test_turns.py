# SPDX-License-Identifier: Apache-2.0
"""A turn of the reactor: all that one look has found, the end of it, and when to look again."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from pyscsi_init.transport import open_reactor
from pyscsi_init.transport.reactor import Reactor
from tests.support.logs import ExpectLogs
from tests.support.python_target import until

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

Pair = tuple[socket.socket, socket.socket]


class Fault(Exception):
    """Nothing in the library raises it."""


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made = [socket.socketpair() for _ in range(4)]
    for ours, theirs in made:
        ours.setblocking(False)
        theirs.setblocking(False)
    yield made
    for ours, theirs in made:
        ours.close()
        theirs.close()


def counted(reactor: Reactor) -> list[int]:
    """How often epoll was asked, by the number of events it had."""
    looks: list[int] = []
    real = reactor._poll

    def poll(*arguments: Any) -> Any:
        found = real(*arguments)
        looks.append(len(found))
        return found

    reactor._poll = poll  # type: ignore[assignment]
    return looks


def read_all(reactor: Reactor, pairs: list[Pair], then: Callable[[int], None]) -> None:
    for number, (ours, _) in enumerate(pairs):

        def callback(number: int = number, ours: socket.socket = ours) -> None:
            ours.recv(100)
            then(number)

        reactor.add_reader(ours.fileno(), callback)


async def test_the_end_of_the_turn_comes_after_all_that_was_ready(pairs: list[Pair]) -> None:
    log: list[str] = []
    async with open_reactor() as reactor:

        def end() -> None:
            log.append("end")

        def each(number: int) -> None:
            log.append("read")
            reactor.at_end_of_turn(end)

        read_all(reactor, pairs, each)
        for _, theirs in pairs:
            theirs.send(b"x")
        await until(lambda: "end" in log)
    assert log == ["read"] * len(pairs) + ["end"]


async def test_a_callback_may_close_the_reactor(pairs: list[Pair]) -> None:
    """Nothing is called any more but what is owed to the turn that is on."""
    log: list[str] = []
    async with open_reactor() as reactor:

        def each(number: int) -> None:
            log.append("read")
            reactor.at_end_of_turn(lambda: log.append("end"))
            reactor.close()

        read_all(reactor, pairs, each)
        for _, theirs in pairs:
            theirs.send(b"x")
        await until(lambda: log)
        await anyio.sleep(0.01)
    assert log == ["read", "end"]


async def test_the_end_of_the_turn_comes_also_where_a_callback_fails(
    pairs: list[Pair], expect_logs: ExpectLogs
) -> None:
    """Others' answers must not wait for an event that may never come."""
    expect_logs("the end of a turn has failed")
    log: list[str] = []

    def fail() -> None:
        raise Fault("at the end")

    with pytest.raises(Fault, match="callback"):  # noqa: PT012
        async with open_reactor() as reactor:

            def each(number: int) -> None:
                reactor.at_end_of_turn(lambda: log.append("end"))
                reactor.at_end_of_turn(fail)
                raise Fault("callback")

            read_all(reactor, pairs, each)
            pairs[0][1].send(b"x")
            await anyio.sleep_forever()
    assert log == ["end"]


async def test_after_a_failure_the_block_still_has_its_descriptors(pairs: list[Pair]) -> None:
    """It may have to wait for answers before it can end in good order."""
    seen: list[bytes] = []
    (ours, theirs), (other, peer), *_ = pairs

    async def end_in_good_order(reactor: Reactor) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True), anyio.fail_after(5):
                theirs.send(b"answer")
                await until(lambda: seen)
                fired: list[int] = []
                reactor.call_at(reactor.now() + 0.001, lambda: fired.append(1))
                await until(lambda: fired)

    with pytest.raises(Fault, match="first"):  # noqa: PT012
        async with open_reactor() as reactor:

            def fail() -> None:
                other.recv(10)
                raise Fault("first")

            reactor.add_reader(ours.fileno(), lambda: seen.append(ours.recv(10)))
            reactor.add_reader(other.fileno(), fail)
            peer.send(b"x")
            await end_in_good_order(reactor)
    assert seen == [b"answer"]


async def test_the_other_end_hangs_up(pairs: list[Pair]) -> None:
    """Told to reader and writer, and no reason to spin once both are gone."""
    log: list[str] = []
    ours, theirs = pairs[0]
    async with open_reactor() as reactor:
        looks = counted(reactor)

        def gone(name: str, remove: Callable[[int], None]) -> None:
            log.append(name)
            remove(ours.fileno())

        reactor.add_reader(ours.fileno(), lambda: gone("reader", reactor.remove_reader))
        theirs.close()
        await until(lambda: log)
        reactor.add_writer(ours.fileno(), lambda: gone("writer", reactor.remove_writer))
        await until(lambda: len(log) == 2)
        before = len(looks)
        await anyio.sleep(0.02)
        assert len(looks) - before <= 1
    assert log == ["reader", "writer"]


async def test_nobody_spins_without_need(pairs: list[Pair]) -> None:
    """With polling off there is one look per wake-up, and none while nothing comes."""
    async with open_reactor() as reactor:
        looks = counted(reactor)
        seen: list[int] = []
        read_all(reactor, pairs, seen.append)
        for count in range(1, 11):
            pairs[0][1].send(b"x")
            await until(lambda count=count: len(seen) == count)
        await anyio.sleep(0.02)
        assert len(looks) <= 12


async def test_polling_ends_soon_after_the_last_event(pairs: list[Pair]) -> None:
    async with open_reactor() as reactor:
        looks = counted(reactor)
        reactor.polling.longest = reactor.polling.window = 0.1
        seen: list[int] = []
        read_all(reactor, pairs, seen.append)
        pairs[0][1].send(b"x")
        await until(lambda: seen)
        await until(lambda: reactor.polling.slept_at > 0)
        assert len(looks) > 2, "it has not looked again"
        before = len(looks)
        await anyio.sleep(0.03)
        assert len(looks) - before <= 1


async def test_what_comes_while_polling_needs_no_wake_up(pairs: list[Pair]) -> None:
    """The answer to what a callback did is found by the same turn."""
    async with open_reactor() as reactor:
        looks = counted(reactor)
        polling = reactor.polling
        polling.slice = polling.longest = polling.window = 0.5
        turns: list[int] = []

        def each(number: int) -> None:
            turns.append(len(looks))
            if len(turns) < 10:
                pairs[0][1].send(b"x")
            else:
                polling.window = 0.0
                polling.until = 0.0

        read_all(reactor, pairs, each)
        pairs[0][1].send(b"x")
        await until(lambda: len(turns) == 10)
        assert turns[-1] - turns[0] == 9, "one look for each"
        assert polling.slept_at > 0


async def test_with_many_in_flight_it_does_not_look_again(pairs: list[Pair]) -> None:
    async with open_reactor() as reactor:
        looks = counted(reactor)
        reactor.polling.longest = reactor.polling.window = 10e-3
        reactor.polling.watch(range(5), 0.0)
        seen: list[int] = []
        read_all(reactor, pairs, seen.append)
        pairs[0][1].send(b"x")
        await until(lambda: seen)
        assert len(looks) <= 2


async def test_other_tasks_get_their_turn_while_polling_goes_on(pairs: list[Pair]) -> None:
    async with open_reactor() as reactor:
        looks = counted(reactor)
        polling = reactor.polling
        polling.longest = polling.window = 2.0
        polling.slice = 1e-5
        seen: list[int] = []
        fired: list[int] = []
        read_all(reactor, pairs, seen.append)
        pairs[0][1].send(b"x")
        await until(lambda: seen)
        polling_at = len(looks)
        turns = 0
        reactor.call_at(reactor.now() + 0.002, lambda: fired.append(1))
        while not fired or turns < 20:
            await anyio.lowlevel.checkpoint()
            turns += 1
        assert polling.slept_at == 0, "it has ended before the others had their turns"
        assert len(looks) > polling_at
        polling.until = 0.0
        await until(lambda: polling.slept_at > 0)


async def test_a_wake_up_for_nothing_is_not_learned_from(pairs: list[Pair]) -> None:
    """An event loop that knew of what a look in between has found calls for nothing."""
    async with open_reactor() as reactor:
        polling = reactor.polling
        polling.longest = 1.0
        polling.slept_at = 1e-9
        reactor.turn()
        assert polling.window == 0
        seen: list[int] = []
        read_all(reactor, pairs, seen.append)
        pairs[0][1].send(b"x")
        reactor.turn()
        assert seen == [0]
        assert polling.window > 0


async def test_a_block_may_end_while_polling_goes_on(pairs: list[Pair]) -> None:
    seen: list[int] = []
    async with open_reactor() as reactor:
        looks = counted(reactor)
        reactor.polling.longest = reactor.polling.window = 0.2
        read_all(reactor, pairs, seen.append)
        pairs[0][1].send(b"x")
        await until(lambda: seen)
    before = len(looks)
    await anyio.sleep(0.01)
    assert len(looks) == before


async def test_turns_that_go_on_do_not_multiply(pairs: list[Pair]) -> None:
    """Something is always ready, so each turn goes on; timers must not wait for ever more turns."""
    async with open_reactor() as reactor:
        turns: list[bool] = []
        real = reactor.turn

        def turn() -> bool:
            turns.append(real())
            return turns[-1]

        reactor.turn = turn  # type: ignore[method-assign]
        reactor.polling.longest = reactor.polling.window = 1.0
        read_all(reactor, pairs, lambda number: assert_sent(pairs[number][1]))
        assert_sent(pairs[0][1])
        rounds = []
        for _ in range(100):
            before = len(turns)
            await anyio.lowlevel.checkpoint()
            rounds.append(len(turns) - before)
        assert any(turns), "no turn went on"
        assert max(rounds) <= 2


def assert_sent(sock: socket.socket) -> None:
    assert sock.send(b"x") == 1
