# SPDX-License-Identifier: Apache-2.0
"""Persistent reservations between two nodes."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init.device.services import carry_out
from pyscsi_init.errors import (
    IllegalRequest,
    ReservationConflict,
    ScsiError,
    Unsupported,
)
from pyscsi_init.scsi import (
    RegisteredKeys,
    ReservationType,
    TransportId,
)
from pyscsi_init.testing import RamDisk, TargetServer
from tests.pyscsi_init.device.two_nodes import (
    A_NAME,
    B_ISID,
    B_NAME,
    BLOCK,
    EA,
    FAR,
    IN,
    OUT,
    WE,
    WE_RO,
    A,
    B,
    holder,
    keys,
    nodes,
)
from tests.support.python_target import MEBI, PATIENCE, WAIT, make_target, url_of

pytestmark = pytest.mark.anyio


@pytest.mark.conformance("SCSI-029")
async def test_a_reservation_keeps_others_out_until_it_is_taken_over() -> None:
    async with nodes() as (_, a, b):
        await a.reservations.register(A)
        await a.reservations.reserve(A, WE_RO)
        await a.reservations.reserve(A, WE_RO)
        assert (await keys(b), await holder(b)) == ({A}, (A, WE_RO))
        await a.write(FAR, b"a" * BLOCK)
        with pytest.raises(ReservationConflict):
            await b.write(FAR, b"b" * BLOCK)
        assert await b.read(FAR, 1) == b"a"
        await b.reservations.register(B)
        await b.write(FAR, b"b" * BLOCK)
        await b.reservations.preempt_and_abort(B, A, WE_RO)
        assert (await keys(b), await holder(b)) == ({B}, (B, WE_RO))
        with pytest.raises(ReservationConflict):  # after 2A/05 was taken
            await a.write(FAR, b"a" * BLOCK)
        with pytest.raises(ReservationConflict, match="removed its registration"):
            await a.reservations.release(A, WE_RO)
        with pytest.raises(IllegalRequest):
            await b.reservations.release(B, WE)
        await b.reservations.release(B, WE_RO)
        await a.write(FAR, b"a" * BLOCK)
        await b.reservations.unregister(B)
        assert await keys(a) == set()


@pytest.mark.conformance("SCSI-005")
@pytest.mark.conformance("SCSI-029")
@pytest.mark.parametrize("how", ["clear", "preempt", "release"])
async def test_who_relied_on_a_reservation_is_told(how: str) -> None:
    """2A/03 after CLEAR (nothing keeps us from writing then), 2A/05 after PREEMPT, 2A/04 after the
    holder let go of what all registrants may use."""
    async with nodes() as (_, a, b):
        told: list[str] = []
        a.reservations_lost.append(lambda: told.append("a"))
        await a.reservations.register(A)
        await b.reservations.register(B)
        await (b if how == "release" else a).reservations.reserve(
            B if how == "release" else A, WE_RO
        )
        await a.write(FAR, bytes(BLOCK))
        if how == "clear":
            await b.reservations.clear(B)
        elif how == "preempt":
            await b.reservations.preempt(B, A, WE_RO)
        else:
            await b.reservations.release(B, WE_RO)
        assert told == []
        if how == "preempt":
            with pytest.raises(ReservationConflict):
                await a.write(FAR, bytes(BLOCK))
        else:
            await a.write(FAR, bytes(BLOCK))
        assert told == ["a"]


@pytest.mark.conformance("SCSI-029")
async def test_the_other_actions() -> None:
    async with nodes() as (_, a, b):
        await a.reservations.register(A)
        await a.reservations.register(0xA2, old_key=A)
        with pytest.raises(ReservationConflict, match=r"registered with another key than 0x0+a;"):
            await a.reservations.register(A, old_key=A)
        await a.reservations.register_and_ignore_existing_key(A)
        await a.reservations.reserve(A, EA)
        to_b = TransportId(initiator_name=B_NAME, isid=B_ISID)
        with pytest.raises(ReservationConflict):
            await b.reservations.register_and_move(B, B, to_b, 1)
        with pytest.raises(ReservationConflict, match="another initiator holds"):
            await b.reservations.reserve(B, EA)
        await a.reservations.register_and_move(A, B, to_b, 1, unregister=True)
        (only,) = (await a.reservations.read_full_status()).registrations
        assert (only.key, only.holder, only.reservation_type) == (B, True, EA)
        assert (only.transport_id, only.relative_target_port) == (to_b, 1)
        await b.write(FAR, bytes(BLOCK))
        with pytest.raises(ReservationConflict):
            await a.read(FAR, BLOCK)
        await b.reservations.clear(B)
        assert (await keys(a), await holder(a)) == (set(), None)
        assert await a.read(FAR, 1) == b"\0"
        await a.reservations.register(A, transport_ids=[to_b])
        assert await keys(b) == {A}
        assert len((await b.reservations.read_full_status()).registrations) == 2
        capabilities = await a.reservations.report_capabilities()
        assert capabilities.specify_initiator_ports
        assert all(capabilities.supports(kind) for kind in ReservationType)


@pytest.mark.conformance("SCSI-029")
async def test_a_long_list_of_keys_is_fetched_whole() -> None:
    target = make_target(RamDisk(4 * MEBI))
    many = RegisteredKeys(generation=1, keys=tuple(range(1, 1001)))
    async with nodes(target) as (_, a, _b):
        target.luns[0].reservations.read = lambda _: many.build()  # type: ignore[method-assign]
        before = target.counters.commands[IN]
        assert await a.reservations.read_keys() == many
        assert target.counters.commands[IN] - before == 2
        too_many = RegisteredKeys(generation=1, keys=tuple(range(1, 10_001)))
        target.luns[0].reservations.read = lambda _: too_many.build()  # type: ignore[method-assign]
        cut = await a.reservations.read_keys()
        assert cut.truncated
        assert len(cut.keys) == (65535 - 8) // 8


async def test_a_unit_without_reservations_says_so() -> None:
    target = make_target()
    async with nodes(target) as (_, a, _b):
        target.faults.check_condition(5, 0x20, 0, opcodes={IN, OUT}, times=2)
        with pytest.raises(Unsupported, match="PERSISTENT RESERVE IN READ KEYS"):
            await a.reservations.read_keys()
        with pytest.raises(Unsupported, match="PERSISTENT RESERVE OUT REGISTER"):
            await a.reservations.register(A)


# -- units that are reserved for others ---------------------------------------------------------


@pytest.mark.conformance("SCSI-008")
async def test_a_unit_reserved_for_another_alone_can_be_opened_and_taken_over() -> None:
    target = make_target(RamDisk(4 * MEBI))
    with anyio.fail_after(6 * PATIENCE):
        async with TargetServer([target]).running() as portal:
            url = url_of(portal.address)
            async with pyscsi_init.open_lun(url, initiator_name=A_NAME, settings=WAIT) as a:
                await a.reservations.register(A)
                await a.reservations.reserve(A, EA)
                async with pyscsi_init.open_lun(url, initiator_name=B_NAME, settings=WAIT) as b:
                    for attempt in (b.read(0, BLOCK), b.write(FAR, bytes(BLOCK)), b.flush()):
                        with pytest.raises(ReservationConflict):
                            await attempt
                    assert await holder(b) == (A, EA)
                    await b.reservations.register(B)
                    await b.reservations.preempt_and_abort(B, A, EA)
                    await b.write(0, b"b" * BLOCK)
                    target.drop_connections()
                    assert await b.read(0, 1) == b"b"


@pytest.mark.conformance("SCSI-008")
async def test_io_of_a_fenced_node_fails_after_a_loss_and_does_not_wait() -> None:
    """Reserved for another alone while we were away: the barrier cannot read, and need not."""
    async with nodes() as (target, a, b):
        target.faults.refuse_logins = [(3, 1)] * 2
        held = target.faults.hold(opcodes={0x2A})
        async with anyio.create_task_group() as tasks:

            async def write() -> None:
                with pytest.raises(ReservationConflict):
                    await a.write(FAR, b"a" * BLOCK)

            tasks.start_soon(write)
            await held.wait()
            held.cancel()
            target.sessions[0].drop()
            await b.reservations.register(B)
            await b.reservations.reserve(B, EA)
            held.release()
        with pytest.raises(ReservationConflict):
            await a.read(FAR, BLOCK)


async def test_a_sequence_that_raises_is_closed() -> None:
    """What a step sequence raises comes through, and its generator is ended."""
    async with nodes() as (_, a, _b):
        ended: list[bool] = []

        def steps() -> Any:
            try:
                yield from a.reservations._steps.keys()
                raise ScsiError("no", status=1)
            finally:
                ended.append(True)

        with pytest.raises(ScsiError, match="no"):
            await carry_out(a.unit, steps())
        assert ended == [True]
