# SPDX-License-Identifier: Apache-2.0
"""Reservations, compare and write, verify, extents and port groups on tgt and on LIO."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

import pyscsi_init
from pyscsi_init import LogicalUnit, Settings
from pyscsi_init.errors import (
    Miscompare,
    NotReady,
    OutcomeUnknown,
    ReservationConflict,
    Unsupported,
)
from pyscsi_init.scsi import AccessState, ReservationType, TransportId
from tests.support.lio import LioServer
from tests.support.proxy import TO_CLIENT, TO_TARGET, TcpProxy
from tests.support.tgt import TgtServer

pytestmark = pytest.mark.anyio

IQN = "iqn.2026-11.example:disk"
MEBI = 1 << 20
FAR = 1 << 20
BLOCK = 512
WAIT = Settings(recovery_timeout=None, default_time2wait=0)
A, B = 0xA, 0xB
A_NAME, B_NAME = "iqn.2026-11.example.host:a", "iqn.2026-11.example.host:b"
A_ISID, B_ISID = bytes.fromhex("800000000a01"), bytes.fromhex("800000000b01")
WE_RO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
EA = ReservationType.EXCLUSIVE_ACCESS


@asynccontextmanager
async def nodes(url: str, second_url: str = "") -> AsyncIterator[tuple[LogicalUnit, LogicalUnit]]:
    with anyio.fail_after(60):
        async with (
            pyscsi_init.open_lun(url, initiator_name=A_NAME, isid=A_ISID, settings=WAIT) as a,
            pyscsi_init.open_lun(
                second_url or url, initiator_name=B_NAME, isid=B_ISID, settings=WAIT
            ) as b,
        ):
            yield a, b


async def fence(a: LogicalUnit, b: LogicalUnit, *, abort: bool = True) -> None:
    """Node b takes the unit over from node a, and gives it back."""
    await a.reservations.register(A)
    await b.reservations.register(B)
    await a.reservations.reserve(A, WE_RO)
    held = (await b.reservations.read_reservation()).reservation
    assert held is not None
    assert (held.key, held.reservation_type) == (A, WE_RO)
    assert set((await b.reservations.read_keys()).keys) == {A, B}
    await a.write(FAR, b"a" * BLOCK)
    with pytest.raises(ReservationConflict):
        await b.reservations.reserve(B, EA)
    preempt = b.reservations.preempt_and_abort if abort else b.reservations.preempt
    await preempt(B, A, WE_RO)
    with pytest.raises(ReservationConflict):
        await a.write(FAR, b"a" * BLOCK)
    await b.write(FAR, b"b" * BLOCK)
    with pytest.raises(ReservationConflict):
        await a.reservations.reserve(A, WE_RO)
    await a.reservations.register_and_ignore_existing_key(A)
    await a.write(FAR, b"a" * BLOCK)
    await b.reservations.release(B, WE_RO)
    assert (await b.reservations.read_reservation()).reservation is None
    await b.reservations.clear(B)
    assert (await a.reservations.read_keys()).keys == ()


async def verify(lun: LogicalUnit) -> None:
    data = os.urandom(2 * MEBI)
    await lun.write(FAR, data)
    await lun.verify(0, 4 * MEBI)
    await lun.compare(FAR, data)
    wrong = bytearray(data)
    wrong[MEBI + 7] ^= 1
    with pytest.raises(Miscompare) as caught:
        await lun.compare(FAR, wrong)
    assert caught.value.offset == MEBI + 7


# -- tgt ----------------------------------------------------------------------------------------


@pytest.fixture
def tgt(tmp_path: Path) -> Iterator[TgtServer]:
    with TgtServer() as server:
        tid = server.new_target(IQN)
        server.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI, thin=True)
        yield server


@pytest.mark.tgt
@pytest.mark.conformance("SCSI-029")
async def test_fencing_on_tgt(tgt: TgtServer) -> None:
    async with nodes(tgt.url(1, 1)) as (a, b):
        await fence(a, b, abort=False)
        await a.reservations.register(A)
        with pytest.raises(Unsupported, match="PREEMPT AND ABORT"):
            await a.reservations.preempt_and_abort(A, A, WE_RO)
        capabilities = await a.reservations.report_capabilities()
        assert capabilities.supports(WE_RO) in (True, None)


@pytest.mark.tgt
@pytest.mark.conformance("SCSI-032")
async def test_tgt_forgets_who_was_registered_with_the_session(tgt: TgtServer) -> None:
    """tgt's registrations are those of a session, not of an I_T nexus: after every loss this node
    is not registered, and is told so."""
    with TcpProxy((tgt.address, tgt.port)) as proxy:
        async with nodes(f"iscsi://{proxy.portal}/{IQN}/1", tgt.url(1, 1)) as (a, _):
            proxy.cut_after(1, TO_CLIENT)
            with pytest.raises(OutcomeUnknown, match="not registered now"):
                await a.reservations.register(A)
            await a.reservations.register(B)
            proxy.cut()
            await a.read(FAR, BLOCK)
            with pytest.raises(ReservationConflict):
                await a.reservations.register(A, old_key=B)
            await a.reservations.register(A)
            assert A in (await a.reservations.read_keys()).keys


async def lost_register(proxy: TcpProxy, a: LogicalUnit, b: LogicalUnit) -> None:
    """The answer is lost, then the command: only the first one was done."""
    proxy.cut_after(1, TO_CLIENT)
    await a.reservations.register(A)
    assert (await b.reservations.read_keys()).keys == (A,)
    proxy.cut_after(1, TO_CLIENT)
    await a.reservations.reserve(A, EA)
    proxy.cut_after(1, TO_CLIENT)
    await a.reservations.unregister(A)
    assert (await b.reservations.read_keys()).keys == ()
    proxy.cut_after(1, TO_TARGET)
    with pytest.raises(OutcomeUnknown, match="not registered now"):
        await a.reservations.register(A)
    assert (await b.reservations.read_keys()).keys == ()
    assert a.session.statistics.recoveries == 4


@pytest.mark.tgt
async def test_tgt_claims_compare_and_write_and_refuses_it(tgt: TgtServer) -> None:
    async with pyscsi_init.open_lun(tgt.url(1, 1)) as lun:
        assert lun.max_compare_and_write_bytes > 0
        with pytest.raises(Unsupported, match="COMPARE AND WRITE"):
            await lun.compare_and_write(FAR, bytes(BLOCK), b"n" * BLOCK)
        assert await lun.read(FAR, BLOCK) == bytes(BLOCK)


@pytest.mark.tgt
async def test_verify_on_tgt(tgt: TgtServer) -> None:
    async with pyscsi_init.open_lun(tgt.url(1, 1)) as lun:
        await verify(lun)
        data = os.urandom(MEBI)
        await lun.write_and_verify(FAR, data)
        assert await lun.read(FAR, MEBI) == data


@pytest.mark.tgt
async def test_extents_on_tgt(tgt: TgtServer) -> None:
    async with pyscsi_init.open_lun(tgt.url(1, 1)) as lun:
        await lun.write(FAR, b"x" * MEBI)
        found = await lun.extents(0, lun.size_bytes)
        assert [(e.offset, e.length, e.deallocated) for e in found] == [
            (0, FAR, True),
            (FAR, MEBI, False),
            (FAR + MEBI, 14 * MEBI, True),
        ]


@pytest.mark.tgt
async def test_what_tgt_says_of_its_ports(tgt: TgtServer) -> None:
    async with pyscsi_init.open_lun(tgt.url(1, 1)) as lun:
        with pytest.raises(Unsupported, match="REPORT TARGET PORT GROUPS"):
            await lun.report_target_port_groups()
        assert await lun.supports(0x5F, 0) is True
        assert await lun.supports(0x48, 1) in (False, None)


# -- LIO ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lio() -> Iterator[LioServer]:
    with LioServer() as server:
        yield server


@pytest.mark.root
@pytest.mark.one_loop
@pytest.mark.conformance("SCSI-029")
@pytest.mark.conformance("SCSI-032")
async def test_reservations_on_lio(lio: LioServer) -> None:
    tid = lio.new_disk(16 * MEBI)
    name = lio.targets[tid]
    with lio.proxy() as first, lio.proxy() as second:
        async with nodes(
            f"iscsi://{first.portal}/{name}/0", f"iscsi://{second.portal}/{name}/0"
        ) as (a, b):
            await fence(a, b)
            await lost_register(first, a, b)
            await a.reservations.register(A)
            await b.reservations.register(B)
            await a.reservations.reserve(A, EA)
            full = (await b.reservations.read_full_status()).registrations
            ports = {r.transport_id.text: (r.key, r.holder) for r in full}
            a_port = TransportId(initiator_name=A_NAME, isid=A_ISID)
            b_port = TransportId(initiator_name=B_NAME, isid=B_ISID)
            assert ports == {a_port.text: (A, True), b_port.text: (B, False)}
            with pytest.raises(ReservationConflict):
                await b.read(FAR, BLOCK)
            await a.reservations.register_and_move(
                A, B, b_port, full[0].relative_target_port, unregister=True
            )
            held = (await b.reservations.read_reservation()).reservation
            assert held is not None
            assert (held.key, held.reservation_type) == (B, EA)
            await b.write(FAR, b"b" * BLOCK)
            second.cut_after(1, TO_CLIENT)
            await b.reservations.clear(B)
            assert (await a.reservations.read_keys()).keys == ()


@pytest.mark.root
@pytest.mark.one_loop
@pytest.mark.conformance("SCSI-028")
async def test_compare_and_write_on_lio(lio: LioServer) -> None:
    tid = lio.new_disk(16 * MEBI)
    with lio.proxy() as proxy:
        url = f"iscsi://{proxy.portal}/{lio.targets[tid]}/0"
        async with pyscsi_init.open_lun(url, settings=WAIT) as lun:
            await lun.compare_and_write(FAR, bytes(BLOCK), b"n" * BLOCK)
            assert await lun.read(FAR, BLOCK) == b"n" * BLOCK
            with pytest.raises(Miscompare) as caught:
                await lun.compare_and_write(FAR, b"n" * 77 + bytes(BLOCK - 77), bytes(BLOCK))
            assert caught.value.offset == 77
            for direction, stored in ((TO_CLIENT, b"2"), (TO_TARGET, b"2")):
                proxy.cut_after(1, direction)
                old, new = (b"n", b"2") if direction == TO_CLIENT else (b"2", b"3")
                with pytest.raises(OutcomeUnknown, match="read the blocks"):
                    await lun.compare_and_write(FAR, old * BLOCK, new * BLOCK)
                assert await lun.read(FAR, BLOCK) == stored * BLOCK


@pytest.mark.root
@pytest.mark.one_loop
@pytest.mark.conformance("SCSI-030")
async def test_target_port_groups_on_lio(lio: LioServer) -> None:
    tid = lio.new_disk(16 * MEBI)
    with lio.namespace.entered():
        async with pyscsi_init.open_lun(lio.url(tid)) as lun:
            port = await lun.target_port()
            assert port.group is not None
            assert await lun.access_state() == AccessState.ACTIVE_OPTIMIZED
            await lun.set_target_port_groups({port.group: AccessState.ACTIVE_NON_OPTIMIZED})
            assert await lun.access_state() == AccessState.ACTIVE_NON_OPTIMIZED
            assert len(await lun.read(0, BLOCK)) == BLOCK
            await lun.set_target_port_groups({port.group: AccessState.STANDBY})
            with pytest.raises(NotReady, match="04/0B"):
                await lun.read(0, BLOCK)
            await lun.set_target_port_groups({port.group: AccessState.ACTIVE_OPTIMIZED})
            assert len(await lun.read(0, BLOCK)) == BLOCK


@pytest.mark.root
@pytest.mark.one_loop
async def test_verify_on_lio(lio: LioServer) -> None:
    tid = lio.new_disk(16 * MEBI)
    with lio.namespace.entered():
        async with pyscsi_init.open_lun(lio.url(tid)) as lun:
            await lun.verify(0, 4 * MEBI)
            data = os.urandom(2 * MEBI)
            await lun.write_and_verify(FAR, data)
            assert await lun.read(FAR, len(data)) == data
            await lun.compare(FAR, data)
            with pytest.raises(Unsupported, match="GET LBA STATUS"):
                await lun.extents(0, MEBI)
