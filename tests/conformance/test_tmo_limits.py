# SPDX-License-Identifier: Apache-2.0
"""What a hostile target can make of a session: typed errors, and an end (RFC 7143 6.1, 7.10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import IscsiError, ProtocolError
from pyscsi_init.pdu import (
    ScsiCommand,
    TaskManagementRequest,
    TextRequest,
    serialize,
)
from pyscsi_init.session import TaskManagementFunction
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import Script

ASKED = {"InitialR2T": "Yes", "ImmediateData": "No"}
LONG = Settings(noop_interval=0, max_recv_data_segment_length=65536)
SENSE = bytes.fromhex("0012 70000b000000000a000000004705000000000000".replace(" ", ""))
LAST = {"final": True, "status_present": True}
KINDS = ("octet", "octet", "octet", "insert", "delete", "cut")
MUTATION = st.tuples(st.sampled_from(KINDS), st.integers(0, 2**20), st.integers(0, 255))


def outstanding(script: Script) -> tuple[list[Any], list[Callable[[], Any]]]:
    """A session that waits for everything, and each PDU with which a target could go on."""
    issued = [script.read(1024), script.read(1024), script.write(bytes(2048))]
    issued.append(script.manage(TaskManagementFunction.CLEAR_ACA))
    issued.append(script.ask([("X-a", "1")]))
    read, other, write, request, text = script.take()
    assert isinstance(request, TaskManagementRequest)
    assert isinstance(text, TextRequest)
    made: list[Callable[[], Any]] = [
        lambda: script.data_in(read, 0, bytes(512)),
        lambda: script.data_in(read, 512, bytes(512), data_sn=1, **LAST),
        lambda: script.r2t(write, 0, 1024),
        lambda: script.nop_in(target_transfer_tag=7),
        lambda: script.response(other, status=2, data=SENSE),
        lambda: script.async_message(0, data=SENSE),
        lambda: script.async_message(4),
        lambda: script.managed(request),
        lambda: script.text(text, [("X-a", "2")]),
        lambda: script.reject(write, 4),
        lambda: script.async_message(1, parameter3=1),
        lambda: script.async_message(3),
    ]
    return issued, made


def mutated(wire: bytes, mutations: list[tuple[str, int, int]]) -> bytes:
    """The bytes with some changed; the header is hit as often as the rest."""
    data = bytearray(wire)
    for what, place, value in mutations:
        position = place % min(len(data), 48 if place & 1 else len(data)) if data else 0
        if what == "octet" and data:
            data[position] = value
        elif what == "insert":
            data[position:position] = bytes((value,)) * (1 + value % 8)
        elif what == "delete":
            del data[position : position + 1 + value % 8]
        elif what == "cut":
            del data[max(position, 1) :]
    return bytes(data)


@given(
    order=st.permutations(range(10)),
    wrong=st.dictionaries(
        st.integers(0, 11), st.lists(MUTATION, min_size=1, max_size=3), min_size=1, max_size=3
    ),
    step=st.sampled_from((0, 1, 48, 100)),
)
def test_tmo_004_honest_pdus_that_were_damaged(
    order: list[int], wrong: dict[int, list[tuple[str, int, int]]], step: int
) -> None:
    """Every PDU that a target may send, damaged in its fields, its lengths and its data: nothing is
    raised, nothing is kept, and who waits hears once, in bounded time."""
    script = Script(**ASKED, allowed=("StatusNumbers", "Transfers", "Tags", "CommandNumbers"))
    script.log_in()
    issued, made = outstanding(script)
    for number in (*order, 10, 11):
        wire = b"".join(serialize(made[number]()))
        script.feed(mutated(wire, wrong.get(number, [])), step=step)
        assert len(script.raw()) <= 1 << 20
        if script.machine.connection is not None:
            assert script.machine.connection.framer.capacity <= 1 << 21
    script.pass_time(200)
    assert script.lost, "silence after nonsense ends too"
    script.machine.request_logout(script.now)
    script.pass_time(20)
    assert [each.times for each in issued] == [1] * len(issued)
    assert all(each.error is None or isinstance(each.error, IscsiError) for each in issued)


@pytest.mark.parametrize("length", [65537, 1 << 20, (1 << 24) - 1])
def test_tmo_004_a_pdu_longer_than_was_agreed(length: int) -> None:
    """RFC 7143 13.12: its length alone ends the connection; no memory is made for it."""
    script = Script(LONG).log_in()
    script.read(65536)
    command = script.one(ScsiCommand)
    header = bytearray(script.data_in(command, 0, b"").encode())
    header[5:8] = length.to_bytes(3, "big")
    before = script.machine.connection.framer.capacity  # type: ignore[union-attr]
    connection = script.machine.connection
    script.feed(bytes(header) + bytes(100))
    assert isinstance(script.ended().error, ProtocolError)
    assert connection is not None
    assert connection.framer.capacity <= max(before, 2 * 65536 + 4096)


@pytest.mark.parametrize("event", [0, 4, 100, 250])
def test_tmo_004_a_flood_of_asynchronous_messages(event: int) -> None:
    """RFC 7143 11.9: 2,000 of them leave nothing behind but what the application was told."""
    script = Script().log_in()
    read = script.read(0)
    command = script.one(ScsiCommand)
    for _ in range(20):
        if script.lost:
            break
        script.send(*(script.async_message(event, data=SENSE) for _ in range(100)))
        assert len(script.machine.events) == 0
        assert len(script.raw()) <= 100 * 48
        script.events.clear()
    assert len(script.machine.tasks.requests) <= 1
    if not script.lost:
        script.send(script.response(command))
        assert read.done


def test_tmo_004_a_flood_of_pings_that_reads_no_answer() -> None:
    """RFC 7143 11.19: the answers are kept for a while, not for ever."""
    script = Script().log_in()
    for number in range(3000):
        if script.lost:
            break
        script.send(script.nop_in(target_transfer_tag=number))
    assert isinstance(script.ended().error, ProtocolError)
    assert number <= 1100


def test_tmo_004_a_text_without_end() -> None:
    """RFC 7143 6.1, 11.11: pieces with the C bit for ever end in an error."""
    script = Script(LONG).log_in()
    asked = script.ask([("SendTargets", "All")])
    received = 0
    piece = b"TargetName=iqn.2026-11.example:" + b"d" * 60000 + b"\0"
    while not (asked.done or script.lost):
        request = script.one(TextRequest)
        script.send(script.text(request, piece, final=False, continue_=True, target_transfer_tag=5))
        received += len(piece)
        assert received < 1 << 26
    assert isinstance(asked.error, IscsiError) or script.lost
