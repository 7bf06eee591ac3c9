# SPDX-License-Identifier: Apache-2.0
"""PDU format and framing, as they are sent and as they are read (RFC 7143 11.1, 11.2)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import (
    TARGET_PDUS,
    DataOut,
    InitiatorOpcode,
    LoginRequest,
    LogoutRequest,
    NopIn,
    NopOut,
    Pdu,
    ScsiCommand,
    ScsiResponse,
    TaskManagementRequest,
    TextRequest,
)
from pyscsi_init.session import ConnectionEnded, LoginEnded, TaskManagementFunction
from pyscsi_init.settings import Settings
from pyscsi_init.testing.scripted import Sender, raw
from tests.conformance.conversation import BOTH, DIGESTS, NARROW, converse
from tests.pyscsi_init.session.scripted import LUN_5, Script


def headers(script: Script) -> dict[str, str]:
    """The first header of each kind that the initiator sent, four bytes a word."""
    found: dict[str, str] = {}
    for entry in script.recorder.entries:
        if entry.sender is Sender.INITIATOR:
            found.setdefault(type(entry.pdu).__name__, entry.wire.header.hex(" ", 4))
    return found


def test_pdu_001_golden_headers() -> None:
    """RFC 7143 11.2.1: 48 bytes, big-endian, reserved fields zero; drawn by hand from the figures
    of 11.3 to 11.18. (SNACK, which level 0 never sends: tests/pyscsi_init/pdu/test_snack.py.)"""
    found = headers(converse(**NARROW))
    tags = " ffffffff "
    assert found["LoginRequest"].startswith("43810000 0000")
    assert found["LoginRequest"][18:] == (
        "80123456 00010000 00000001 00000000 01020304 00000000 00000000 00000000 00000000 00000000"
    )
    assert found["ScsiCommand"] == (
        "01c10000 00000000 00050000 00000000 00000002 000001fe 01020304 0a0b0c0f "
        "28000000 00000000 08000000 00000000"
    )
    assert found["DataOut"] == (
        "05800000 000001e8 00050000 00000000 00000003 00000051 00000000 0a0b0c10 "
        "00000000 00000000 00000200 00000000"
    )
    assert found["NopOut"] == (
        "40800000 00000000 00050000 00000000 ffffffff 00000077 01020306 0a0b0c11 "
        "00000000 00000000 00000000 00000000"
    )
    assert found["TaskManagementRequest"] == (
        "42850000 00000000 00050000 00000000 00000004" + tags + "01020306 0a0b0c11 "
        "00000000 00000000 00000000 00000000"
    )
    assert found["TextRequest"] == (
        "04800000 00000006 00000000 00000000 00000005" + tags + "01020306 0a0b0c13 "
        "00000000 00000000 00000000 00000000"
    )
    assert found["LogoutRequest"] == (
        "46800000 00000000 00000000 00000000 00000007 00000000 01020308 0a0b0c15 "
        "00000000 00000000 00000000 00000000"
    )


def test_pdu_001_no_lun_where_it_is_reserved() -> None:
    """RFC 7143 11.7.4: in Data-Out that no R2T asked for the LUN is reserved."""
    script = Script(ImmediateData="No", MaxRecvDataSegmentLength="512").log_in()
    script.write(bytes(2048), lun=5)
    command, *data = script.take()
    assert command.lun == LUN_5
    assert len(data) == 4
    assert {pdu.lun for pdu in data} == {bytes(8)}


@pytest.mark.parametrize("kind", TARGET_PDUS.values(), ids=lambda kind: kind.__name__)
def test_pdu_002_reserved_bits_are_ignored(kind: type[Pdu]) -> None:
    """RFC 7143 11: a session with every reserved bit of one kind of PDU set is the same session."""

    def filled(pdu: Pdu) -> Any:
        return raw(pdu, fill_reserved=True) if isinstance(pdu, kind) else pdu

    plain, odd = converse(**NARROW), converse(filled, **NARROW)
    assert odd.recorder.stream(0, Sender.TARGET) != plain.recorder.stream(0, Sender.TARGET)
    assert odd.recorder.stream(0) == plain.recorder.stream(0)
    assert [type(event) for event in odd.events] == [type(event) for event in plain.events]


def _response(script: Script) -> None:
    script.read(0)
    script.send(script.response(script.one(ScsiCommand), response=0x42))


def _management(script: Script) -> None:
    script.manage(TaskManagementFunction.LOGICAL_UNIT_RESET)
    script.send(script.managed(script.one(TaskManagementRequest), 0x20))


def _logout(script: Script) -> None:
    script.machine.request_logout(script.now)
    script.pass_time(script.settings.logout_timeout)  # for the command that is under way
    logout = script.take()[-1]
    script.send(script.logged_out(logout, 9))


def _opcode(script: Script) -> None:
    script.send(raw(script.nop_in(), octets={0: 0x27}))


@pytest.mark.parametrize("act", [_response, _management, _logout, _opcode])
def test_pdu_003_unassigned_codes_are_no_success(act: Callable[[Script], None]) -> None:
    """RFC 7143 7.13: a value that the standard does not define is a protocol error."""
    script = Script().log_in()
    waiting = script.read(512)
    script.take()
    act(script)
    assert isinstance(script.event(ConnectionEnded).error, ProtocolError)
    assert waiting.error is not None or not waiting.done, "never GOOD"


def test_pdu_004_byte_0_of_each_request() -> None:
    """RFC 7143 11.2.1.2, 11.7, 11.12: initiator opcodes only, and no I bit where there is none."""
    script = converse(**NARROW)
    first = {
        (type(entry.pdu), entry.wire.header[0])
        for entry in script.recorder.entries
        if entry.sender is Sender.INITIATOR
    }
    assert first == {
        (LoginRequest, 0x43),
        (ScsiCommand, 0x01),
        (DataOut, 0x05),
        (NopOut, 0x40),
        (TaskManagementRequest, 0x42),
        (TextRequest, 0x04),
        (LogoutRequest, 0x46),
    }


@pytest.mark.parametrize("opcode", InitiatorOpcode)
def test_pdu_004_an_echo_is_a_protocol_error(opcode: InitiatorOpcode) -> None:
    """RFC 7143 11.2.1.2: these opcodes are not a target's."""
    script = Script().log_in()
    read = script.read(0)
    command = script.one(ScsiCommand)
    script.feed(bytes((opcode,)) + command.encode()[1:])
    assert isinstance(script.ended().error, ProtocolError)
    assert not read.done


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5])
def test_pdu_005_lengths_and_padding(length: int) -> None:
    """RFC 7143 11.1, 11.2.1.6: DataSegmentLength without padding, whole words on the wire, zeros
    between; the same read back without them."""
    script = Script(InitialR2T="Yes", MaxRecvDataSegmentLength="512").log_in()
    data = bytes(range(1, length + 1))
    script.write(data)
    immediate = script.one(ScsiCommand)
    script.send(script.response(immediate))
    script.write(bytes(512) + data)
    command = script.one(ScsiCommand)
    if length:
        script.send(script.r2t(command, 512, length))
        assert script.one(DataOut).data == data
    wires = [
        entry.wire
        for entry in script.recorder.entries
        if isinstance(entry.pdu, (ScsiCommand, DataOut)) and len(entry.wire.data) < 512
    ]
    assert len(wires) == (2 if length else 1)
    for wire in wires:
        assert wire.header[5:8] == length.to_bytes(3, "big")
        assert (wire.data, wire.pad) == (data, bytes(-length % 4))
    script.send(script.response(command))
    read = script.read(length)
    command = script.one(ScsiCommand)
    if length:
        script.send(script.data_in(command, 0, data, final=True, status_present=True))
    else:
        script.send(script.response(command))
    assert read.done
    assert (read.error, bytes(read.buffer)) == (None, data)


@pytest.mark.parametrize("step", [0, 1, 511])
def test_pdu_006_padding_may_be_anything(step: int) -> None:
    """RFC 7143 11.1, 13.1: pad bytes count in the digest and are no data."""
    script = Script(DIGESTS, **BOTH).log_in()
    read = script.read(510)
    data = bytes(255 for _ in range(510))
    pdu = script.data_in(script.one(ScsiCommand), 0, data, final=True, status_present=True)
    script.send(raw(pdu, pad=b"\xff\xff"), step=step)
    assert read.done
    assert (read.error, bytes(read.buffer), read.task.received) == (None, data, 510)


@pytest.mark.parametrize("step", [0, 1, 50])
@pytest.mark.parametrize("kind", TARGET_PDUS.values(), ids=lambda kind: kind.__name__)
def test_pdu_007_an_ahs_where_none_belongs(kind: type[Pdu], step: int) -> None:
    """RFC 7143 11.2.1.5, 7.7: skipped, or the connection ends; what follows is never misread."""
    script = Script().log_in()
    read = script.read(512)
    command = script.one(ScsiCommand)
    pdu = kind(initiator_task_tag=command.initiator_task_tag)
    if hasattr(pdu, "stat_sn"):
        pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn = script.stat_sn, 1001, 1064
    script.send(raw(pdu, ahs=b"\x3f\x20\x01\x00"), script.nop_in(target_transfer_tag=5), step=step)
    if script.lost:
        assert isinstance(script.ended().error, ProtocolError)
        assert not read.done
    else:
        assert script.one(NopOut).target_transfer_tag == 5


def _stream(script: Script) -> tuple[bytes, list[int], list[Any]]:
    """200 PDUs of several kinds with digests and padding, where to cut them, and the reads."""
    reads = [script.read(1020) for _ in range(50)]
    stream, cuts = b"", [0]
    for number, command in enumerate(script.take()):
        half = bytes((number,)) * 510
        for pdu in (
            script.nop_in(),
            script.data_in(command, 0, half),
            script.data_in(command, 510, half, data_sn=1),
            script.response(command, exp_data_sn=2),
        ):
            encoded = script.encode(pdu)
            start = len(stream)
            stream += encoded
            places = (1, 47, 48, 50, 52, 300, 561, 562, 563, 564, 566)
            cuts += [start + place for place in places if place < len(encoded)]
            cuts.append(len(stream))
    return stream, cuts, reads


def _machine() -> Script:
    return Script(DIGESTS, **BOTH).log_in()


def test_pdu_013_any_segmentation_is_the_same() -> None:
    """RFC 7143 11.2: TCP is a stream of bytes: 200 PDUs whole, by single bytes, and cut inside BHS,
    header digest, data, padding and data digest."""
    for how in ("whole", "bytes", "inside"):
        script = _machine()
        stream, cuts, reads = _stream(script)
        if how == "inside":
            for start, end in pairwise(cuts):
                script.feed(stream[start:end])
        else:
            script.feed(stream, step=1 if how == "bytes" else 0)
        assert len(reads) == 50
        for number, read in enumerate(reads):
            assert read.done
            assert (read.error, bytes(read.buffer)) == (None, bytes((number,)) * 1020)
        script.read(0)
        assert script.one(ScsiCommand).exp_stat_sn == script.stat_sn


@pytest.mark.parametrize("extra", [4, 16777215 - 512])
def test_pdu_014_longer_than_we_declared(extra: int) -> None:
    """RFC 7143 13.12, 7.7: refused by its header, before anything is allocated for it."""
    script = Script(Settings(max_recv_data_segment_length=512)).log_in()
    read = script.read(4096)
    command = script.one(ScsiCommand)
    connection = script.machine.connection
    assert connection is not None
    before = connection.framer.capacity
    pdu = script.data_in(command, 0, b"")
    script.send(raw(pdu, data_segment_length=512 + extra))
    assert isinstance(script.ended().error, ProtocolError)
    assert connection.framer.capacity == before
    assert not read.done


@pytest.mark.parametrize("length", [8196, 16777215])
def test_pdu_014_longer_than_the_login_phase_allows(length: int) -> None:
    """RFC 7143 13.12: 8192 bytes, whatever is declared in it."""
    script = Script()
    script.connect()
    connection = script.machine.connection
    assert connection is not None
    before = connection.framer.capacity
    answer = script.login_answer(script.one(LoginRequest), [])
    script.send(raw(answer, data_segment_length=length))
    assert isinstance(script.event(LoginEnded).error, ProtocolError)
    assert connection.framer.capacity == before


def test_pdu_014_as_long_as_we_declared() -> None:
    script = Script(Settings(max_recv_data_segment_length=512)).log_in()
    read = script.read(512)
    script.send(
        script.data_in(script.one(ScsiCommand), 0, bytes(512), final=True, status_present=True)
    )
    assert read.done
    assert read.error is None


def test_every_kind_of_pdu_was_in_the_conversation() -> None:
    """What the tests above rest on."""
    script = converse(**NARROW)
    kinds = {type(entry.pdu) for entry in script.recorder.entries}
    assert set(TARGET_PDUS.values()) <= kinds
    assert {NopIn, ScsiResponse} <= kinds
