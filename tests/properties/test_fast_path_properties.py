# SPDX-License-Identifier: Apache-2.0
"""The short cut of the data path does what the plain path does: two sessions, one history.

One of the two has its short cut closed. Both are asked for the same and hear the same; whatever
leaves, completes or is counted must be the same. Then long data in every segmentation, where the
rest of a PDU is received straight into its command's buffer.
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyscsi_init.pdu import ScsiCommand, serialize
from pyscsi_init.session import TaskState, fast_path
from pyscsi_init.settings import Settings
from tests.properties.test_session_properties import ACTIONS, Chaos
from tests.pyscsi_init.session.scripted import MASK, Issued, Script


class Twins:
    """A session with the short cut, and one without; what is drawn for the first is given to the
    second."""

    def __init__(self, data: st.DataObject) -> None:
        self._drawn: list[Any] = []
        self._replayed = 0

        def draw(strategy: Any) -> Any:
            self._drawn.append(data.draw(strategy))
            return self._drawn[-1]

        def replay(_: Any) -> Any:
            self._replayed += 1
            return self._drawn[self._replayed - 1]

        self.fast = Chaos(draw)
        self.plain = Chaos(replay)
        self.plain.script.machine.fast.enabled = False

    def act(self, action: Any) -> None:
        action(self.fast)
        action(self.plain)
        assert self._replayed == len(self._drawn)
        assert facts(self.fast) == facts(self.plain)


def facts(chaos: Chaos) -> dict[str, Any]:
    """All that can be seen of a session from the outside, and its numbers."""
    script = chaos.script
    machine = script.machine
    connection = machine.connection
    tasks = machine.tasks
    return {
        "sent": b"".join(machine.data_to_send()),
        "window": repr(machine.window),
        "state": machine.state,
        "connection": connection and (connection.state, connection.exp_stat_sn),
        "in flight": [describe(task) for task in tasks.in_flight.values()],
        "waiting": [describe(task) for task in tasks.waiting],
        "control": [describe(task) for task in tasks.control],
        "last tag": tasks.last_tag,
        "unknown outcome": tasks.unknown_outcome,
        "rejects": machine.rejects,
        "events": [repr(event) for event in script.events],
        "issued": [
            (
                each.times,
                repr(each.error),
                bytes(each.buffer),
                describe(each.task) if hasattr(each, "task") else None,
            )
            for each in chaos.issued
        ],
    }


def describe(task: Any) -> tuple[Any, ...]:
    return (
        repr(task),
        task.status,
        task.sense,
        task.received,
        # Of a task that has ended the numbers of its PDUs mean nothing any more.
        None if task.state is TaskState.DONE else (task.data_sn, task.r2t_sn),
        task.attempts,
        task.residual_count,
        task.residual_overflow,
        task.residual_underflow,
    )


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_any_history_is_the_same(data: st.DataObject) -> None:
    twins = Twins(data)
    twins.fast.script.log_in()
    twins.plain.script.log_in()
    actions = st.sampled_from((*ACTIONS, *[Chaos.honest] * 8, *[Chaos.read, Chaos.write] * 6))
    for _ in range(data.draw(st.integers(1, 40))):
        twins.act(data.draw(actions))
    twins.act(Chaos.close)


def answers(script: Script, commands: list[Any], choice: random.Random) -> bytes:
    """The data of reads in PDUs of any length, mixed with each other, then GOOD."""
    pieces: list[list[tuple[Any, int, int, bool]]] = []
    for command in commands:
        length = command.expected_data_transfer_length
        offset, mine = 0, []
        while offset < length:
            size = min(length - offset, choice.choice([512, 4096, 65536, 100_000 & ~3]))
            mine.append((command, offset, size, offset + size == length))
            offset += size
        pieces.append(mine)
    stream = b""
    numbers: dict[int, int] = {}
    while pieces:
        mine = choice.choice(pieces)
        command, offset, size, last = mine.pop(0)
        if not mine:
            pieces.remove(mine)
        tag = command.initiator_task_tag
        number = numbers[tag] = numbers.get(tag, -1) + 1
        together = last and choice.random() < 0.7
        data = content(command.cmd_sn, offset, size)
        pdu = script.data_in(
            command, offset, data, data_sn=number, final=last, status_present=together
        )
        stream += b"".join(serialize(pdu))
        if last and not together:
            stream += b"".join(serialize(script.response(command, exp_data_sn=number + 1)))
    return stream


def content(number: int, offset: int, size: int) -> bytes:
    return random.Random(number * 1_000_003 + offset).randbytes(size)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    lengths=st.lists(st.sampled_from([512, 4096, 16384, 65536, 262144]), min_size=1, max_size=6),
    seed=st.integers(0, MASK),
)
def test_long_data_arrives_whole_in_any_segmentation(lengths: list[int], seed: int) -> None:
    script = Script(Settings(), window=8).log_in()
    issued: list[Issued] = [script.read(length) for length in lengths]
    commands = [pdu for pdu in script.take() if isinstance(pdu, ScsiCommand)]
    choice = random.Random(seed)
    stream = memoryview(answers(script, commands, choice))
    direct = 0
    while stream:
        buffers = script.machine.receive_buffers()
        direct += len(buffers) > 1
        total = choice.choice([1, 47, 48, 49, 5000, 70_000, 1 << 20])
        count = 0
        for buffer in buffers:
            size = min(len(buffer), total - count, len(stream))
            buffer[:size] = stream[:size]
            stream = stream[size:]
            count += size
        script.machine.bytes_received(count, script.now)
    assert not script.lost
    for each, command in zip(issued, commands, strict=True):
        assert each.done
        assert each.error is None
        expected = bytearray()
        for offset, size in sorted(placed(commands, seed, command)):
            expected[offset : offset + size] = content(command.cmd_sn, offset, size)
        assert bytes(each.buffer) == bytes(expected)


def placed(commands: list[Any], seed: int, command: Any) -> list[tuple[int, int]]:
    """Where the pieces of a command lie: drawn again from the same seed."""
    choice = random.Random(seed)
    found: list[tuple[int, int]] = []
    for each in commands:
        length = each.expected_data_transfer_length
        offset = 0
        while offset < length:
            size = min(length - offset, choice.choice([512, 4096, 65536, 100_000 & ~3]))
            if each is command:
                found.append((offset, size))
            offset += size
    return found


def test_the_rest_of_a_long_pdu_is_received_in_place() -> None:
    """So the test above is about what it says: a long Data-In goes by the buffer of its command."""
    script = Script(Settings(), window=8).log_in()
    read = script.read(65536)
    (command,) = script.take()
    pdu = script.data_in(command, 0, bytes(range(256)) * 256, final=True, status_present=True)
    stream = b"".join(serialize(pdu))
    assert len(stream) > fast_path.DIRECT_BYTES
    script.feed(stream[:100])
    direct, rest = script.machine.receive_buffers()
    assert len(direct) == len(stream) - 100
    assert len(rest) == fast_path.PEEK_BYTES
    direct[:] = stream[100:]
    script.machine.bytes_received(len(direct), script.now)
    assert read.done
    assert bytes(read.buffer) == bytes(range(256)) * 256
    assert script.machine.connection is not None
    script.machine.receive_eof(script.now)
    assert script.machine.fast.direct is None
