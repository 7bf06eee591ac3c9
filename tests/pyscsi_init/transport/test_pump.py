# SPDX-License-Identifier: Apache-2.0
"""Bytes between a real socket and a session machine; the test plays the target at the other end."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from pyscsi_init.pdu import LoginRequest, Pdu, ScsiCommand
from pyscsi_init.session import ConnectionEnded, LoginEnded
from pyscsi_init.settings import Settings
from pyscsi_init.transport import open_reactor
from pyscsi_init.transport.pump import MAX_READS, Pump
from tests.pyscsi_init.session.scripted import Script, data_of
from tests.support.python_target import until

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]


class Wire(Script):
    """A script whose bytes go through a socket pair, small enough to be full soon."""

    sock: socket.socket
    peer: socket.socket
    pump: Pump

    def settle(self) -> None:
        while True:
            self.pump.flush()
            event = self.machine.next_event()
            if event is None:
                return
            self.events.append(event)
            if isinstance(event, (LoginEnded, ConnectionEnded)):
                self.pump.close()

    def read_peer(self, at_most: int = 1 << 20) -> bytes:
        """What has come out at the other end."""
        try:
            return self.peer.recv(at_most)
        except BlockingIOError:
            return b""

    async def pdus(self, count: int, at_most: int = 1 << 20) -> list[object]:
        """``count`` PDUs, read from the other end in pieces of ``at_most`` bytes."""
        found: list[object] = []

        def enough() -> bool:
            while data := self.read_peer(at_most):
                found.extend(self.decode(data))
            return len(found) >= count

        await until(enough)
        assert len(found) == count
        return found

    in_turn = False

    def answer(self, *pdus: Pdu) -> None:
        """PDUs of the target, onto the wire."""
        self.peer.sendall(self.encode(*pdus))


@asynccontextmanager
async def wired(settings: Settings | None = None, **keys: str) -> AsyncIterator[Wire]:
    script = Wire(settings, **keys)
    script.sock, script.peer = socket.socketpair()
    for sock in (script.sock, script.peer):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    try:
        async with open_reactor() as reactor:
            script.now = reactor.now()
            script.machine.connect(script.now)
            script.pump = Pump(reactor, script.sock, script.machine, script)
            script.settle()
            while not script.events:
                (request,) = await script.pdus(1)
                assert isinstance(request, LoginRequest)
                script.answer(script.login_answer(request))
                if request.next_stage == 3:
                    await until(lambda: script.events)
            yield script
            script.pump.close()
            script.pump.close()
    finally:
        script.sock.close()
        script.peer.close()


@pytest.mark.parametrize("at_most", [1, 700, 5000, 1 << 20])
async def test_partial_writes_never_tear_a_pdu(at_most: int) -> None:
    """The socket takes a part at a time; at the other end every PDU is whole and in order."""
    async with wired(MaxRecvDataSegmentLength="8192", FirstBurstLength="65536") as script:
        size = 20_000 if at_most == 1 else 65536
        payloads = [os.urandom(size) for _ in range(3)]
        writes = [script.write(payload) for payload in payloads]
        script.settle()
        pieces = -(-(size - 8192) // 8192)
        pdus = await script.pdus(3 * (1 + pieces), at_most)
        for number, payload in enumerate(payloads):
            command, *data = pdus[number * (1 + pieces) : (number + 1) * (1 + pieces)]
            assert isinstance(command, ScsiCommand)
            assert command.data + data_of(data) == payload
            script.answer(script.response(command))
        await until(lambda: all(write.done for write in writes))


async def test_cancelling_under_a_half_sent_pdu() -> None:
    """What was begun is finished; the abort comes behind it."""
    async with wired() as script:
        payload = os.urandom(65536)
        write = script.write(payload)
        script.settle()  # the socket buffer is full now
        assert script.machine.data_to_send()
        script.machine.abort_task(write.task, script.now)
        script.settle()
        pdus = await script.pdus(9)
        assert [type(pdu).__name__ for pdu in pdus] == [
            "ScsiCommand",
            *["DataOut"] * 7,
            "TaskManagementRequest",
        ]
        script.answer(script.managed(pdus[-1]))  # type: ignore[arg-type]
        await until(lambda: write.done)


async def test_ffp_025_it_reads_while_it_cannot_write() -> None:
    """RFC 7143 4.2.5.1: back-pressure one way must not stop the other; else both sides wait."""
    async with wired() as script:
        write = script.write(os.urandom(65536))
        script.settle()
        assert script.machine.data_to_send()
        for _ in range(20):
            script.answer(script.nop_in())
        script.answer(script.nop_in(exp_cmd_sn=1001, max_cmd_sn=1777))
        await until(lambda: script.machine.window.max_cmd_sn == 1777)
        pdus = await script.pdus(8)
        script.answer(script.response(pdus[0]))  # type: ignore[arg-type]
        await until(lambda: write.done)


async def test_a_busy_connection_gives_others_their_turn() -> None:
    """So many reads a wake-up, then the loop goes round."""
    async with wired(Settings(noop_interval=0)) as script:
        turns: list[int] = []
        original = script.machine.bytes_received

        def counted(count: int, now: float) -> None:
            turns[-1] += 1
            original(count, now)

        script.machine.bytes_received = counted  # type: ignore[method-assign]
        buffers = script.machine.receive_buffers
        script.machine.receive_buffers = lambda: (buffers()[0][:48],)  # type: ignore[method-assign]
        settle = script.settle

        def settled() -> None:
            turns.append(0)
            settle()

        script.settle = settled  # type: ignore[method-assign]
        turns.append(0)
        script.answer(*(script.nop_in() for _ in range(100)))
        await until(lambda: sum(turns) >= 100)
        assert max(turns) == MAX_READS


@pytest.mark.parametrize("how", ["closed", "reset", "closed under a write"])
async def test_the_end_of_the_connection_is_told_once(how: str) -> None:
    async with wired() as script:
        read = script.read(512)
        if how == "closed under a write":
            script.write(os.urandom(65536))
        script.settle()
        if how == "reset":
            script.read_peer(10)
        script.peer.close()
        await until(lambda: script.lost)
        script.settle()
        assert [type(event) for event in script.events].count(ConnectionEnded) == 1
        assert script.pump.closed
        assert not read.done
        await anyio.sleep(0.01)


async def test_the_end_in_the_login_phase() -> None:
    script = Wire()
    script.sock, script.peer = socket.socketpair()
    script.sock.setblocking(False)
    async with open_reactor() as reactor:
        script.machine.connect(reactor.now())
        script.pump = Pump(reactor, script.sock, script.machine, script)
        script.settle()
        script.peer.close()
        await until(lambda: script.events)
        assert isinstance(script.events[-1], LoginEnded)
        assert script.pump.closed
