# SPDX-License-Identifier: Apache-2.0
"""Target port groups of the target in Python: what is answered in which state, and who is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyscsi_init.testing import LogicalUnit, Nexus
from pyscsi_init.testing.conditions import Result

Run = Callable[..., Result]

RTPG, EXTENDED = "a3 0a 00 00 00 00 00 00 10 00 00 00", "a3 2a 00 00 00 00 00 00 10 00 00 00"
OTHER = Nexus("iqn.2024-01.example.host:other", b"\x80\0\0\0\0\x03", "iqn.2024-01.example:t", 2)
INQUIRY, TUR, READ, MODE_SENSE = (
    "12 00 00 00 60",
    "00",
    "28 00 00 00 00 00 00 00 01",
    "1a 00 3f 00 ff",
)
REQUEST_SENSE, REPORT_LUNS = "03 00 00 00 12", "a0 00 00 00 00 00 00 00 01 00"
READ_KEYS = "5e 00 00 00 00 00 00 10 00"


def code(result: Result) -> tuple[int, int, int]:
    assert result.status == 2, result
    return result.sense[2], result.sense[12], result.sense[13]


def stpg(*pairs: tuple[int, int]) -> tuple[bytes, bytes]:
    data = bytes(4) + b"".join(bytes((state, 0, 0, group)) for group, state in pairs)
    return bytes((0xA4, 0x0A, 0, 0, 0, 0, 0, 0, 0, len(data), 0, 0)), data


def test_a_unit_without_groups_has_one(run: Run) -> None:
    assert run(INQUIRY).data[5] & 0x30 == 0
    assert bytes(run(RTPG).data) == bytes.fromhex("0000000c 00 8f 0001 00 00 00 01 0000 0001")
    assert code(run(*stpg((1, 2)))) == (5, 0x24, 0)


def test_both_headers(run: Run, unit: LogicalUnit) -> None:
    unit.access_states = {1: 0, 2: 2}
    unit.explicit_access_states = True
    assert run(INQUIRY).data[5] & 0x30 == 0x30
    groups = "00 8f 0001 00 01 00 01 0000 0001" + "02 8f 0002 00 01 00 01 0000 0002"
    assert bytes(run(RTPG).data) == bytes.fromhex("00000018" + groups)
    assert bytes(run(EXTENDED).data) == bytes.fromhex("0000001c 10000000" + groups)
    assert len(run("a3 0a 00 00 00 00 00 00 00 06 00 00").data) == 6


@pytest.mark.parametrize(
    ("state", "sense", "answered"),
    [
        (0, None, {INQUIRY, TUR, READ, MODE_SENSE, REQUEST_SENSE, REPORT_LUNS, READ_KEYS, RTPG}),
        (1, None, {INQUIRY, TUR, READ, MODE_SENSE, REQUEST_SENSE, REPORT_LUNS, READ_KEYS, RTPG}),
        (2, 0x0B, {INQUIRY, MODE_SENSE, REQUEST_SENSE, REPORT_LUNS, READ_KEYS, RTPG}),
        (3, 0x0C, {INQUIRY, REQUEST_SENSE, REPORT_LUNS, RTPG}),
        (0xF, 0x0A, {INQUIRY, REQUEST_SENSE, REPORT_LUNS, RTPG}),
    ],
)
def test_what_is_answered(
    run: Run, unit: LogicalUnit, state: int, sense: int | None, answered: set[str]
) -> None:
    unit.access_states = {1: state}
    for cdb in (INQUIRY, TUR, READ, MODE_SENSE, REQUEST_SENSE, REPORT_LUNS, READ_KEYS, RTPG):
        result = run(cdb)
        if cdb in answered:
            assert result.status == 0, cdb
        else:
            assert code(result) == (2, 4, sense), cdb


def test_the_other_port_is_not_concerned(run: Run, unit: LogicalUnit) -> None:
    unit.access_states = {1: 3, 2: 0}
    assert run(READ, nexus=OTHER).status == 0
    assert code(run(READ)) == (2, 4, 0x0C)


def test_others_are_told_of_a_change(run: Run, unit: LogicalUnit, alice: Nexus, bob: Nexus) -> None:
    unit.access_states = {1: 0, 2: 0}
    unit.explicit_access_states = True
    assert run(*stpg((2, 1)), nexus=alice).status == 0
    assert code(run(TUR, nexus=bob)) == (6, 0x2A, 6)
    assert run(TUR, nexus=alice).status == 0
    assert run(*stpg((2, 1)), nexus=alice).status == 0
    assert run(TUR, nexus=bob).status == 0, "nothing has changed"
    unit.set_access_state(1, 1)
    assert code(run(TUR, nexus=alice)) == (6, 0x2A, 6)


def test_a_list_is_done_whole_or_not_at_all(run: Run, unit: LogicalUnit) -> None:
    unit.access_states = {1: 0, 2: 0}
    unit.explicit_access_states = True
    for pairs in (((2, 1), (7, 1)), ((2, 1), (1, 4))):
        assert code(run(*stpg(*pairs))) == (5, 0x26, 0)
        assert unit.access_states == {1: 0, 2: 0}
    cdb, data = stpg((2, 1))
    assert code(run(cdb, data[:-1])) == (5, 0x1A, 0)


TRANSPORT_ID = (
    b"\x45\0"
    + (0x3C).to_bytes(2, "big")
    + (b"iqn.2024-01.example.host:other,i,0x800000000003".ljust(60, b"\0"))
)


def out(action: int, key: int, new: int, tail: bytes) -> tuple[bytes, bytes]:
    data = key.to_bytes(8, "big") + new.to_bytes(8, "big") + tail
    return bytes((0x5F, action, 1, 0, 0, 0, 0, 0, len(data), 0)), data


def move(
    new: int, port: int, transport_id: bytes, flags: int = 0, key: int = 0xA
) -> tuple[bytes, bytes]:
    tail = bytes((0, flags)) + port.to_bytes(2, "big") + len(transport_id).to_bytes(4, "big")
    return out(7, key, new, tail + transport_id)


def test_register_and_move(run: Run, unit: LogicalUnit, alice: Nexus, bob: Nexus) -> None:
    other = Nexus(OTHER.initiator_name, OTHER.isid, OTHER.target_name, 1)
    assert run(*move(0xC, 1, TRANSPORT_ID)).status == 0x18, "not registered"
    run(*out(0, 0, 0xA, bytes(8)))
    assert run(*move(0xC, 1, TRANSPORT_ID)).status == 0x18, "not the holder"
    run(*out(1, 0xA, 0, bytes(8)))
    assert run(*move(0xC, 1, TRANSPORT_ID, key=0xB)).status == 0x18
    for bad in (
        move(0, 1, TRANSPORT_ID),
        move(0xC, 9, TRANSPORT_ID),
        move(0xC, 1, TRANSPORT_ID, flags=1),
        move(0xC, 1, b"\x06" + TRANSPORT_ID[1:]),
        move(0xC, 1, TRANSPORT_ID.replace(b"0x8", b"0xz")),
    ):
        assert code(run(*bad)) == (5, 0x26, 0)
    assert code(run(*move(0xC, 1, TRANSPORT_ID[:-1])))[0] == 5
    assert run(*move(0xC, 1, TRANSPORT_ID, flags=2)).status == 0
    assert unit.reservations.keys == {other: 0xC}
    assert (unit.reservations.holder, unit.reservations.type) == (other, 1)


def test_specified_initiator_ports(run: Run, unit: LogicalUnit, alice: Nexus) -> None:
    flags = bytes((0, 0, 0, 0, 0x08, 0, 0, 0))
    length = len(TRANSPORT_ID).to_bytes(4, "big")
    assert run(*out(0, 0, 0xA, flags + length + TRANSPORT_ID)).status == 0
    assert set(unit.reservations.keys.values()) == {0xA}
    assert len(unit.reservations.keys) == 2
    assert run(*out(0, 0xA, 0xB, flags + length + TRANSPORT_ID)).status == 0x18, "there already"
    assert code(run(*out(6, 0, 0xB, flags + length + TRANSPORT_ID))) == (5, 0x26, 0)
    assert code(run(*out(0, 0xA, 0xB, flags + bytes(4) + TRANSPORT_ID))) == (5, 0x1A, 0)
    assert code(run(*out(0, 0xA, 0xB, bytes(8) + length))) == (5, 0x1A, 0)
