# SPDX-License-Identifier: Apache-2.0
"""Read data, status and residuals (RFC 7143 11.4, 11.7)."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pyscsi_init.errors import DeliveryFailure, ProtocolError
from pyscsi_init.pdu import ScsiCommand, serialize
from pyscsi_init.scsi import Action, parse_sense, sense_action
from pyscsi_init.session import Warned
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import Script

SENSE = bytes.fromhex("700003000000000a0000000011000000000000")[:18]


def started(length: int, **keys: str) -> tuple[Script, Any, ScsiCommand]:
    script = Script(**keys).log_in()
    read = script.read(length)
    return script, read, script.one(ScsiCommand)


def protocol_error(script: Script) -> bool:
    """The session is being recovered because the target broke the rules."""
    return script.lost and isinstance(script.ended().error, ProtocolError) and script.ended().again


def test_ffp_012_data_is_placed_by_its_offset() -> None:
    """RFC 7143 11.7.5, 11.7.7: DataSN runs over all sequences; empty PDUs are allowed; F ends a
    sequence."""
    script, read, command = started(65536)
    payload = os.urandom(65536)
    offset = 0
    for number, (length, final) in enumerate(
        [(8192, False), (512, True), (0, False), (40000, True), (16832, True)]
    ):
        script.send(
            script.data_in(
                command, offset, payload[offset : offset + length], data_sn=number, final=final
            )
        )
        offset += length
    assert not read.done
    script.send(script.response(command, exp_data_sn=5))
    assert read.done
    assert read.buffer == payload
    assert read.task.received == 65536


def test_ffp_013_disorder_is_an_error_where_order_was_agreed() -> None:
    """RFC 7143 13.18: with DataPDUInOrder=Yes data comes at increasing offsets, without overlap."""
    for offset in (1024, 512):
        script, read, command = started(4096)
        script.send(
            script.data_in(command, 0, bytes(1024), data_sn=0),
            script.data_in(command, offset - 1, bytes(1024), data_sn=1),
        )
        assert protocol_error(script)
        assert not read.done


@pytest.mark.parametrize(
    ("offset", "length"), [(4096, 512), (0xFFFFFFF0, 512), (0, 8192), (4095, 2)]
)
def test_ffp_014_data_beyond_the_buffer_is_refused(offset: int, length: int) -> None:
    """RFC 7143 11.7.6, 7.7: nothing is written outside of the buffer."""
    script, read, command = started(4096)
    script.send(script.data_in(command, offset, b"\xff" * length))
    assert protocol_error(script)
    assert read.buffer == bytes(4096)


def test_ffp_014_data_for_a_write_is_refused() -> None:
    script = Script().log_in()
    script.write(bytes(512))
    command = script.one(ScsiCommand)
    script.send(script.data_in(command, 0, bytes(512)))
    assert protocol_error(script)


@pytest.mark.parametrize("status", [0x00, 0x04])
def test_ffp_015_status_may_come_with_the_last_data(status: int) -> None:
    """RFC 7143 11.7.3: a status that is no exception completes the command without a response."""
    script, read, command = started(1024)
    script.send(script.data_in(command, 0, b"a" * 512))
    script.send(
        script.data_in(
            command, 512, b"b" * 512, data_sn=1, final=True, status_present=True, status=status
        )
    )
    assert read.done
    assert (read.task.status, read.buffer) == (status, b"a" * 512 + b"b" * 512)


def test_ffp_015_with_a_residual() -> None:
    script, read, command = started(255)
    script.send(
        script.data_in(
            command,
            0,
            b"i" * 36,
            final=True,
            status_present=True,
            residual_underflow=True,
            residual_count=219,
        )
    )
    assert read.done
    assert (read.task.received, read.task.residual_count) == (36, 219)


@pytest.mark.parametrize(
    "wrong",
    [
        {"final": False},
        {"final": True, "status": 0x02},
        {"final": True, "residual_overflow": True, "residual_underflow": True},
    ],
    ids=str,
)
def test_ffp_015_illegal_status_in_data(wrong: dict[str, Any]) -> None:
    """RFC 7143 11.7.3: S needs F, and CHECK CONDITION a SCSI Response."""
    script, read, command = started(512)
    script.send(script.data_in(command, 0, bytes(512), status_present=True, **wrong))
    assert protocol_error(script)
    assert not read.done


def test_ffp_016_a_hole_in_the_data_is_never_success() -> None:
    """RFC 7143 11.4.8, 7.9: status after a missing Data-In is not delivered."""
    script, read, command = started(2048)
    for number in (0, 1):
        script.send(script.data_in(command, number * 512, bytes(512), data_sn=number))
    script.send(script.data_in(command, 1536, bytes(512), data_sn=3, final=True))
    assert protocol_error(script)
    assert not read.done


def test_ffp_016_exp_data_sn_tells_of_missing_data() -> None:
    script, read, command = started(2048)
    for number in range(3):
        script.send(script.data_in(command, number * 512, bytes(512), data_sn=number))
    script.send(script.response(command, exp_data_sn=4))
    assert protocol_error(script)
    assert not read.done


@pytest.mark.parametrize("exp_data_sn", [0, 1])
def test_ffp_016_r2ts_may_be_counted_or_not(exp_data_sn: int) -> None:
    """RFC 7143 11.4.8 counts Data-In only; targets of RFC 3720 count R2Ts too."""
    script = Script(InitialR2T="Yes", ImmediateData="No").log_in()
    write = script.write(bytes(512))
    command = script.one(ScsiCommand)
    script.send(script.r2t(command, 0, 512))
    script.send(script.response(command, exp_data_sn=exp_data_sn))
    assert write.done
    assert write.error is None


def test_ffp_017_underflow_is_told() -> None:
    """RFC 7143 11.4.5: U says how much less came; also with CHECK CONDITION, also of a write."""
    script, read, command = started(255)
    script.send(script.data_in(command, 0, b"i" * 36, final=True))
    script.send(
        script.response(command, residual_underflow=True, residual_count=219, exp_data_sn=1)
    )
    assert read.done
    assert (read.task.received, read.task.residual_underflow) == (36, True)
    read = script.read(512)
    command = script.one(ScsiCommand)
    script.send(
        script.response(
            command,
            status=2,
            data=len(SENSE).to_bytes(2, "big") + SENSE,
            residual_underflow=True,
            residual_count=512,
        )
    )
    assert read.done
    assert (read.task.status, read.task.sense, read.task.residual_count) == (2, SENSE, 512)
    write = script.write(bytes(512))
    command = script.one(ScsiCommand)
    script.send(script.response(command, residual_underflow=True, residual_count=12))
    assert write.done
    assert write.task.residual_count == 12


def test_ffp_017_an_impossible_underflow_is_an_error() -> None:
    script, _, command = started(512)
    script.send(script.response(command, residual_underflow=True, residual_count=513))
    assert protocol_error(script)


def test_ffp_018_overflow_is_told_and_the_data_is_good() -> None:
    """RFC 7143 11.4.5.1: O: more data existed. O and U exclude each other; without both the count
    means nothing."""
    script, read, command = started(512)
    script.send(script.data_in(command, 0, b"d" * 512, final=True))
    script.send(script.response(command, residual_overflow=True, residual_count=100, exp_data_sn=1))
    assert read.done
    assert (read.task.residual_overflow, read.task.residual_count) == (True, 100)
    assert read.buffer == b"d" * 512
    read = script.read(0)
    script.send(script.response(script.one(ScsiCommand), residual_count=0xDEADBEEF))
    assert (read.done, read.task.residual_count) == (True, 0)
    script.read(0)
    command = script.one(ScsiCommand)
    script.send(script.response(command, residual_overflow=True, residual_underflow=True))
    assert protocol_error(script)


def test_ffp_019_good_without_all_of_the_data_is_no_success() -> None:
    """RFC 7143 11.4.5.2, 7.9: fewer bytes than expected, and no residual: data is missing."""
    script, read, command = started(1024)
    script.send(script.data_in(command, 0, bytes(512), final=True))
    script.send(script.response(command, exp_data_sn=1))
    assert protocol_error(script)
    assert not read.done


@pytest.mark.parametrize("response", [0x01, 0x80, 0xFF])
def test_ffp_020_a_response_other_than_completed_is_a_failure(response: int) -> None:
    """RFC 7143 11.4.3: status and flags mean nothing then."""
    script, read, command = started(512)
    script.send(
        script.response(command, response=response, residual_underflow=True, residual_count=9999)
    )
    assert read.done
    assert isinstance(read.error, DeliveryFailure)
    assert read.error.response == response
    assert not script.lost


def test_ffp_020_reserved_responses_are_an_error() -> None:
    script, _, command = started(512)
    script.send(script.response(command, response=0x02))
    assert protocol_error(script)


@pytest.mark.parametrize(
    ("data", "sense"),
    [
        (b"\x00\x12" + SENSE, SENSE),
        (b"\x00\x12" + SENSE + b"\1\2\3\4", SENSE),
        (b"\x00\x00", b""),
        (b"\x00\x04" + SENSE[:4], SENSE[:4]),
    ],
)
def test_ffp_021_sense_data_is_found(data: bytes, sense: bytes) -> None:
    """RFC 7143 11.4.7: SenseLength, sense data, perhaps response data."""
    script, read, command = started(512)
    script.send(script.response(command, status=2, data=data))
    assert read.done
    assert (read.task.status, read.task.sense) == (2, sense)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x13" + SENSE, b"\xff\xff"])
def test_ffp_021_sense_that_does_not_fit_is_an_error(data: bytes) -> None:
    """RFC 7143 10.2, 7.7: CHECK CONDITION without sense data is a format error."""
    script, read, command = started(512)
    script.send(script.response(command, status=2, data=data))
    assert protocol_error(script)
    assert not read.done


@pytest.mark.parametrize("code", ["0c0c", "0c0d", "4705", "1113"])
def test_ffp_022_transport_errors_are_repeated(code: str) -> None:
    """RFC 7143 11.4.7.2: conditions that iSCSI itself caused may be tried again."""
    asc, ascq = bytes.fromhex(code)
    sense = parse_sense(bytes((0x70, 0, 0x0B, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0)))
    assert sense_action(sense) is Action.RETRY


def test_data_for_an_unknown_task_is_ignored() -> None:
    """A task that was aborted may still have data on its way; it must not land anywhere."""
    script, read, command = started(512)
    command.initiator_task_tag ^= 0x10000
    script.send(script.data_in(command, 0, bytes(512)))
    script.send(script.data_in(command, 0, bytes(512), final=True, status_present=True))
    script.send(script.response(command))
    assert [isinstance(event, Warned) for event in script.events[-3:]] == [True] * 3
    assert not script.lost
    command.initiator_task_tag ^= 0x10000
    script.send(script.data_in(command, 0, b"r" * 512, final=True, status_present=True))
    assert read.done
    assert read.buffer == b"r" * 512


@pytest.mark.parametrize("step", [1, 7, 48, 49, 0])
def test_pdus_may_come_in_any_pieces(step: int) -> None:
    """TCP knows no PDUs."""
    script = Script(
        Settings(header_digest=("CRC32C",), data_digest=("CRC32C",)),
        HeaderDigest="CRC32C",
        DataDigest="CRC32C",
    ).log_in()
    reads = [script.read(511) for _ in range(3)]
    commands = script.take()
    stream = bytearray()
    for command in commands:
        for pdu in (script.data_in(command, 0, b"x" * 511), script.response(command)):
            stream += b"".join(serialize(pdu, True, True))
    script.feed(bytes(stream), step=step)
    assert all(read.done and read.buffer == b"x" * 511 for read in reads)
