# SPDX-License-Identifier: Apache-2.0
"""The session machine: whatever state it is in, whatever comes. Nothing leaves it as an exception,
every task hears of its end once, and its memory has a bound.

The bytes of an input are a program: each step is an intention, an answer of the target with some
fields spoilt, or bytes as they are. They are read by what they say, so small changes of the input
are small changes of the program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyscsi_init.errors import IscsiError, LocalProtocolError
from pyscsi_init.pdu import ScsiCommand
from pyscsi_init.pdu.framer import INITIAL_CAPACITY
from pyscsi_init.session import (
    ConnectionEnded,
    LoginEnded,
    Replay,
    SessionState,
    TaskManagementFunction,
)
from pyscsi_init.settings import Settings
from tests.fuzz.mutation import EDGES
from tests.fuzz.pdu_targets import EXAMPLES, wire
from tests.fuzz.target import FuzzTarget
from tests.pyscsi_init.session.scripted import MASK, Issued, Script

QUEUE_DEPTH = 6
SETTINGS = Settings(
    queue_depth=QUEUE_DEPTH,
    max_recv_data_segment_length=4096,
    header_digest=("None", "CRC32C"),
    data_digest=("None", "CRC32C"),
)
FROM_TARGET = [wire(pdu) for pdu in EXAMPLES if pdu.opcode >= 0x20]
REPLAYS = list(Replay)
FUNCTIONS = list(TaskManagementFunction)
UNCHECKED = ("Legality", "CommandNumbers", "StatusNumbers", "Tags", "Transfers", "Keys")
"""Rules that speak of an honest target and of callers that ask for what there is."""


class Program:
    """One input as it is carried out."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        digest = "CRC32C" if self.byte() & 1 else "None"
        self.script = Script(
            SETTINGS, window=4, allowed=UNCHECKED, HeaderDigest=digest, DataDigest=digest
        )
        self.issued: list[Issued] = []
        self.commands: list[ScsiCommand] = []

    def byte(self) -> int:
        at = self._at
        self._at = at + 1
        return self._data[at] if at < len(self._data) else 0

    def word(self) -> int:
        kind = self.byte()
        if kind < 2 * len(EDGES):
            return EDGES[kind >> 1]
        return int.from_bytes(bytes([self.byte(), self.byte(), self.byte(), kind]), "big")

    def run(self) -> None:
        if self.byte() & 1:
            self.script.log_in()
        else:
            self.script.connect()
        while self._at < len(self._data):
            STEPS[self.byte() % len(STEPS)](self)
            self.check()
        self.close()

    # -- steps ------------------------------------------------------------------------------------

    def read(self) -> None:
        replay = REPLAYS[self.byte() % len(REPLAYS)]
        length = (0, 512, 512, 4096, 20_000)[self.byte() % 5]
        self.issued.append(self.script.read(length, replay=replay, control=self.byte() % 8 == 1))

    def write(self) -> None:
        replay = REPLAYS[self.byte() % len(REPLAYS)]
        length = (0, 512, 4096, 20_000)[self.byte() % 4]
        self.issued.append(self.script.write(bytearray(length), replay=replay))

    def abort(self) -> None:
        tasks = [each.task for each in self.issued if hasattr(each, "task")]
        if tasks:
            self.script.machine.abort_task(tasks[self.byte() % len(tasks)], self.script.now)

    def manage(self) -> None:
        self.issued.append(self.script.manage(FUNCTIONS[self.byte() % len(FUNCTIONS)]))

    def text(self) -> None:
        self.issued.append(self.script.ask([("X-key", "v" * self.byte())]))

    def take(self) -> None:
        """The target reads what was sent, as far as it understands it."""
        if self.script.lost or self.script.machine.state is not SessionState.Q3_LOGGED_IN:
            self.script.raw()
            return
        for pdu in self.script.take():
            if isinstance(pdu, ScsiCommand):
                self.commands.append(pdu)

    def answer(self) -> None:
        """The right answer to a command, or the right one with a byte or two changed."""
        self.take()
        script = self.script
        if not self.commands or script.lost:
            return
        command = self.commands.pop(self.byte() % len(self.commands))
        length = command.expected_data_transfer_length
        if command.write and self.byte() & 1:
            pdu: Any = script.r2t(command, 0, max(1, length))
            self.commands.append(command)
        elif command.read and length <= 4096:
            pdu = script.data_in(command, 0, bytes(length), final=True, status_present=True)
        else:
            pdu = script.response(command)
        spoilt = bytearray(script.encode(pdu))
        if self.byte() & 1:
            spoilt[self.byte() % len(spoilt)] = self.byte()
        self.give(bytes(spoilt))

    def other_pdu(self) -> None:
        """Any PDU of a target with right numbers and some wrong fields."""
        header = bytearray(FROM_TARGET[self.byte() % len(FROM_TARGET)])
        script = self.script
        if self.byte() & 7:
            header[24:28] = script.stat_sn.to_bytes(4, "big")
            script.stat_sn = (script.stat_sn + 1) & MASK
        header[28:32] = script.exp_cmd_sn.to_bytes(4, "big")
        header[32:36] = script.max_cmd_sn.to_bytes(4, "big")
        if self.commands and self.byte() & 1:
            tag = self.commands[self.byte() % len(self.commands)].initiator_task_tag
            header[16:20] = tag.to_bytes(4, "big")
        for _ in range(self.byte() % 4):
            at = 4 * (self.byte() % 12)
            if at != 4:
                header[at : at + 4] = self.word().to_bytes(4, "big")
        self.give(bytes(header))

    def give(self, data: bytes) -> None:
        step = self.byte()
        self.script.feed(data, step=0 if step < 200 else step - 199)

    def junk(self) -> None:
        count = self.byte() % 64
        self.give(bytes(self.byte() for _ in range(count + 1)))

    def connect(self) -> None:
        script = self.script
        if not script.lost or script.machine.closing:
            try:
                script.connect()
            except LocalProtocolError:
                return
            raise AssertionError("two connections at once")
        self.commands.clear()
        if self.byte() & 3:
            script.log_in()
        else:
            script.connect()

    def wait(self) -> None:
        self.script.pass_time((0.1, 1.0, 5.0, 16.0, 31.0)[self.byte() % 5])

    def rare(self) -> None:
        machine, now = self.script.machine, self.script.now
        actions: tuple[Callable[[], None], ...] = (
            lambda: machine.resume(now),
            lambda: machine.resume(now),
            lambda: machine.receive_eof(now),
            lambda: machine.drop_connection("fuzz", now),
            lambda: machine.refuse(IscsiError("fuzz")),
            lambda: machine.request_logout(now),
        )
        actions[self.byte() % len(actions)]()
        self.script.settle()

    # -- what always holds ----------------------------------------------------------------------

    def check(self) -> None:
        machine = self.script.machine
        tasks = machine.tasks
        assert len(tasks.in_flight) <= QUEUE_DEPTH
        assert all(each.times <= 1 for each in self.issued)
        connection = machine.connection
        if connection is None:
            assert not tasks.in_flight
            assert machine.data_to_send() == ()
        else:
            assert connection.framer.capacity <= 2 * INITIAL_CAPACITY
            assert len(connection.outbox) <= 4096
        assert machine.state in SessionState

    def close(self) -> None:
        script = self.script
        script.machine.request_logout(script.now)
        script.pass_time(40)
        script.settle()
        assert script.lost
        assert script.machine.state is SessionState.Q1_FREE
        assert [each for each in self.issued if each.times != 1] == []
        assert all(each.error is None or isinstance(each.error, IscsiError) for each in self.issued)
        assert any(isinstance(event, ConnectionEnded | LoginEnded) for event in script.events)


STEPS = (
    Program.read, Program.write, Program.read, Program.write, Program.answer, Program.answer,
    Program.answer, Program.answer, Program.other_pdu, Program.other_pdu, Program.other_pdu,
    Program.take, Program.abort, Program.manage, Program.text, Program.wait, Program.junk,
    Program.connect, Program.connect, Program.rare,
)  # fmt: skip


def session(data: bytes) -> None:
    Program(data).run()


def login(data: bytes) -> None:
    """Bytes instead of a login response, in pieces; the first byte says how large."""
    script = Script(SETTINGS)
    script.connect()
    issued = script.read(512)
    script.feed(data[1:], step=data[0] if data else 0)
    script.raw()
    script.machine.request_logout(script.now)
    script.pass_time(20)
    assert issued.done


def _login_seeds() -> list[bytes]:
    script = Script(SETTINGS)
    script.connect()
    (request,) = script.take()
    answer = wire(script.login_answer(request))
    return [b"\0" + answer, b"\7" + answer + answer, *(b"\0" + each for each in FROM_TARGET)]


TARGETS = [
    FuzzTarget(
        "session machine",
        session,
        [bytes([0, 1, *range(20)] * 8), bytes([0, 1, 0, 1, 1, 4, 0, 0, 1, 9, 9] * 12),
         bytes([1, 1, 1, 0, 1, 4, 0, 1, 0, 3, 255] * 12), bytes([0, 0, 8, 3, 1, 2, 16, 40] * 12)],
        (),
        weight=3,
        longest=600,
    ),
    FuzzTarget("session in login", login, _login_seeds(), (), weight=2),
]  # fmt: skip
