# SPDX-License-Identifier: Apache-2.0
"""Which command does what, on which unit; and what is learnt from refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.device.identity import Identity
from pyscsi_init.device.interface import BlockRequest, Operation
from pyscsi_init.device.probe import Capacity, UnitFacts
from pyscsi_init.device.unit_commands import (
    DEFAULT_MAX_TRANSFER,
    LARGEST_DISCARD,
    LARGEST_TRANSFER,
    UnitCommands,
)
from pyscsi_init.scsi import (
    BlockLimits,
    LogicalBlockProvisioning,
    Opcode,
    StandardInquiry,
    build_sense,
    parse_cdb,
    parse_sense,
)
from pyscsi_init.settings import Settings
from tests.pyscsi_init.device.canned import inquiry_data

NOT_KNOWN = parse_sense(build_sense(5, 0x20, 0))
BAD_LIST = parse_sense(build_sense(5, 0x26, 0))
TOO_FAR = parse_sense(build_sense(5, 0x21, 0))
MEDIUM = parse_sense(build_sense(3, 0x11, 0))


def facts(
    *,
    blocks: int = 1 << 20,
    size: int = 512,
    thin: bool = False,
    zeros: bool = False,
    limits: dict[str, Any] | None = None,
    provisioning: dict[str, bool] | None = None,
    write_cache: bool | None = None,
    dpofua: bool = False,
) -> UnitFacts:
    return UnitFacts(
        identity=Identity((), "S", "V", "P", size, blocks * size),
        inquiry=StandardInquiry.parse(inquiry_data()),
        capacity=Capacity(blocks, size, size, thin, zeros),
        block_limits=None if limits is None else BlockLimits(**limits),
        characteristics=None,
        provisioning=None if provisioning is None else LogicalBlockProvisioning(**provisioning),
        write_protected=False,
        write_cache=write_cache,
        dpofua=dpofua,
    )


def commands(settings: Settings | None = None, **kw: Any) -> UnitCommands:
    return UnitCommands(facts(**kw), settings or Settings())


def request(operation: Operation, offset: int, length: int, *, fua: bool = False) -> BlockRequest:
    buffer = bytearray(length) if operation in (Operation.READ, Operation.WRITE) else None
    return BlockRequest(operation, offset, length, buffer, lambda _: None, fua=fua)


@pytest.mark.conformance("SCSI-022")
@pytest.mark.parametrize(
    ("lba", "blocks", "opcode"),
    [
        (0, 1, Opcode.READ_10),
        (0, 65535, Opcode.READ_10),
        (0, 65536, Opcode.READ_16),
        (0xFFFFFFFF, 1, Opcode.READ_10),
        (0xFFFFFFFF, 2, Opcode.READ_16),
        (0x100000000, 1, Opcode.READ_16),
    ],
)
def test_scsi_022_ten_bytes_as_far_as_they_reach(lba: int, blocks: int, opcode: int) -> None:
    unit = commands(blocks=1 << 40)
    wanted = request(Operation.READ, lba * 512, 512)
    wanted.length = blocks * 512
    cdb, data_in, data_out = unit.build(wanted)
    assert cdb[0] == opcode
    assert data_in is not None
    assert data_out is None
    decoded: Any = parse_cdb(cdb)
    assert decoded.lba == lba
    assert decoded.blocks == blocks


@pytest.mark.conformance("SCSI-022")
@pytest.mark.parametrize("dpofua", [True, False])
def test_scsi_022_fua_only_where_it_is_known(dpofua: bool) -> None:
    unit = commands(dpofua=dpofua)
    cdb, _, _ = unit.build(request(Operation.WRITE, 0, 512, fua=True))
    assert bool(cdb[1] & 0x08) is dpofua
    assert unit.carries_fua(Operation.WRITE) is dpofua
    assert not unit.carries_fua(Operation.WRITE_ZEROES)
    assert not unit.build(request(Operation.WRITE, 0, 512))[0][1] & 0x08


@pytest.mark.conformance("SCSI-017")
@pytest.mark.quirk("Q-19")
@pytest.mark.parametrize(
    ("settings", "limits", "size", "expected"),
    [
        (0, None, 512, DEFAULT_MAX_TRANSFER),
        (0, {}, 512, LARGEST_TRANSFER),
        (0, {"maximum_transfer_length": 8}, 512, 4096),
        (0, {"maximum_transfer_length": 1 << 31}, 4096, LARGEST_TRANSFER),
        (65536, {"maximum_transfer_length": 1 << 20}, 512, 65536),
        (1, None, 4096, 4096),
        (5000, None, 4096, 4096),
    ],
)
def test_scsi_017_the_largest_transfer(
    settings: int, limits: dict[str, Any] | None, size: int, expected: int
) -> None:
    unit = commands(Settings(max_transfer_bytes=settings), limits=limits, size=size)
    assert unit.limits.max_transfer_bytes == expected


ALL = {"lbpu": True, "lbpws": True, "lbpws10": True}


@pytest.mark.conformance("SCSI-018")
@pytest.mark.parametrize(
    ("thin", "provisioning", "can"),
    [
        (True, ALL, True),
        (True, None, False),
        (False, ALL, False),
        (True, {}, False),
        (True, {"lbpu": True}, True),
        (True, {"lbpws10": True}, True),
    ],
)
def test_scsi_018_discard_only_where_it_is_offered(
    thin: bool, provisioning: dict[str, bool] | None, can: bool
) -> None:
    assert commands(thin=thin, provisioning=provisioning).can_discard is can


@pytest.mark.conformance("SCSI-026")
@given(
    st.fixed_dictionaries({name: st.booleans() for name in ("lbpu", "lbpws", "lbpws10")}).filter(
        lambda known: any(known.values())
    ),
    st.integers(1, 1 << 34),
    st.sampled_from([None, {}, {"maximum_unmap_lba_count": 7, "maximum_write_same_length": 9}]),
    st.data(),
)
def test_discards_fit_their_command_whatever_is_refused(
    known: dict[str, bool], blocks: int, limits: dict[str, Any] | None, data: st.DataObject
) -> None:
    """Any range within the limits of the moment can be built; refusals end with no discard at
    all, never with an exception or for ever."""
    unit = commands(thin=True, zeros=True, provisioning=known, blocks=blocks, limits=limits)
    seen: list[int] = []
    while unit.can_discard:
        most = min(unit.limits.max_discard_bytes // 512, blocks)
        assert 1 <= most <= LARGEST_DISCARD // 512
        length = data.draw(st.integers(1, most))
        start = data.draw(st.integers(0, blocks - length))
        wanted = request(Operation.DISCARD, start * 512, length * 512)
        assert unit.takes_discard(wanted)
        cdb, data_in, data_out = unit.build(wanted)
        assert data_in is None
        assert data_out is not None
        if cdb[0] == Opcode.UNMAP:
            assert bytes(data_out)[8:20] == start.to_bytes(8, "big") + length.to_bytes(4, "big")
        else:
            decoded: Any = parse_cdb(cdb)
            assert decoded.lba == start
            assert cdb[1] & 0x08
            assert len(data_out) == 512
        if unit.discard_zeroes:
            assert cdb[0] != Opcode.UNMAP
        seen.append(cdb[0])
        assert unit.learn(Operation.DISCARD, cdb[0], NOT_KNOWN)
        assert unit.learn(Operation.DISCARD, cdb[0], NOT_KNOWN)  # one that was under way too
    assert len(seen) == len(set(seen)) <= 3


@pytest.mark.conformance("SCSI-027")
def test_scsi_027_zeros_by_what_the_unit_knows() -> None:
    unit = commands()
    wanted = request(Operation.WRITE_ZEROES, 512, 8192)
    order = []
    for _ in range(3):
        cdb, _, data = unit.build(wanted)
        order.append(cdb[0])
        assert data is not None
        assert not any(data)
        for _ in range(2):  # two of them may be refused at once: one thing to learn
            learnt = unit.learn(Operation.WRITE_ZEROES, cdb[0], NOT_KNOWN)
        assert learnt is (len(order) < 3)
    assert order == [Opcode.WRITE_SAME_10, Opcode.WRITE_SAME_16, Opcode.WRITE_10]
    assert len(data) == 8192


@pytest.mark.conformance("SCSI-027")
def test_scsi_027_beyond_ten_bytes() -> None:
    unit = commands(blocks=1 << 40)
    cdb, _, _ = unit.build(request(Operation.WRITE_ZEROES, (1 << 33) * 512, 512))
    assert cdb[0] == Opcode.WRITE_SAME_16
    assert unit.learn(Operation.WRITE_ZEROES, cdb[0], NOT_KNOWN)
    assert unit.build(request(Operation.WRITE_ZEROES, 0, 512))[0][0] == Opcode.WRITE_SAME_10
    cdb, _, _ = unit.build(request(Operation.WRITE_ZEROES, (1 << 33) * 512, 512))
    assert cdb[0] == Opcode.WRITE_16


@pytest.mark.conformance("SCSI-025")
@pytest.mark.parametrize(
    ("write_cache", "needed", "learnt"),
    [(None, True, True), (True, True, False), (False, False, True)],
)
def test_scsi_025_flushes(write_cache: bool | None, needed: bool, learnt: bool) -> None:
    """A unit that claims a cache and knows no flush loses data: that stays an error."""
    unit = commands(write_cache=write_cache)
    assert unit.flush_needed is needed
    cdb, data_in, data_out = unit.build(request(Operation.FLUSH, 0, 0))
    assert (cdb[0], data_in, data_out) == (Opcode.SYNCHRONIZE_CACHE_10, None, None)
    assert unit.learn(Operation.FLUSH, cdb[0], NOT_KNOWN) is learnt
    if learnt:
        assert not unit.flush_needed


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("sense", [TOO_FAR, MEDIUM])
def test_other_errors_teach_nothing(operation: Operation, sense: Any) -> None:
    unit = commands(thin=True, provisioning=ALL)
    cdb, _, _ = unit.build(request(operation, 0, 0 if operation is Operation.FLUSH else 512))
    assert not unit.learn(operation, cdb[0], sense)
    assert unit.can_discard


def test_reads_and_writes_have_no_other_way() -> None:
    unit = commands()
    for operation in (Operation.READ, Operation.WRITE):
        cdb, _, _ = unit.build(request(operation, 0, 512))
        assert not unit.learn(operation, cdb[0], NOT_KNOWN)


@pytest.mark.quirk("Q-20")
def test_tmo_002_times() -> None:
    settings = Settings(command_timeout=30, flush_timeout=180)
    unit = commands(settings)
    times = {operation: unit.timeout(operation) for operation in Operation}
    assert times[Operation.READ] == times[Operation.WRITE] == 30
    assert (
        times[Operation.FLUSH] == times[Operation.DISCARD] == times[Operation.WRITE_ZEROES] == 180
    )


def test_descriptions_name_the_place() -> None:
    unit = commands(size=4096)
    assert unit.describe(request(Operation.READ, 8192, 4096)) == "READ of 1 blocks at LBA 2"
    assert unit.describe(request(Operation.FLUSH, 0, 0)) == "SYNCHRONIZE CACHE"
    assert replace(facts(), dpofua=True).dpofua
    assert BAD_LIST.asc == 0x26
