# SPDX-License-Identifier: Apache-2.0
"""Persistent reservations between two nodes, and what is found out after a lost connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init import LogicalUnit
from pyscsi_init.device.services import carry_out
from pyscsi_init.errors import (
    IllegalRequest,
    OutcomeUnknown,
    ReservationConflict,
    ScsiError,
    Unsupported,
)
from pyscsi_init.scsi import (
    PersistentReserveIn,
    RegisteredKeys,
    ReservationType,
    TransportId,
)
from pyscsi_init.testing import RamDisk, Target, TargetServer
from tests.support.python_target import MEBI, PATIENCE, WAIT, make_target, url_of

pytestmark = pytest.mark.anyio

BLOCK, FAR = 512, 1 << 20
A, B = 0xA, 0xB
A_NAME, B_NAME = "iqn.2026-11.example.host:a", "iqn.2026-11.example.host:b"
A_ISID, B_ISID = bytes.fromhex("800000000a01"), bytes.fromhex("800000000b01")
WE = ReservationType.WRITE_EXCLUSIVE
WE_RO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
WE_AR = ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS
EA = ReservationType.EXCLUSIVE_ACCESS
OUT, IN = 0x5F, 0x5E
REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, IGNORE, MOVE = range(8)
RESET = 5


@asynccontextmanager
async def nodes(
    target: Target | None = None, **kw: Any
) -> AsyncIterator[tuple[Target, LogicalUnit, LogicalUnit]]:
    """Two nodes with one LUN."""
    target = target or make_target(RamDisk(4 * MEBI))
    with anyio.fail_after(6 * PATIENCE):
        async with TargetServer([target]).running() as portal:
            url = url_of(portal.address)
            a_node: dict[str, Any] = {"initiator_name": A_NAME, "isid": A_ISID}
            b_node: dict[str, Any] = {"initiator_name": B_NAME, "isid": B_ISID}
            async with (
                pyscsi_init.open_lun(url, settings=WAIT, **a_node, **kw) as a,
                pyscsi_init.open_lun(url, settings=WAIT, **b_node) as b,
            ):
                yield target, a, b


def lose(target: Target, action: int, *, done: bool, opcode: int = OUT) -> Any:
    """The connection dies under the next command with this service action."""
    return target.faults.drop(
        carry_out=done, opcodes={opcode}, when=lambda facts: facts.cdb[1] & 0x1F == action
    )


def sent(target: Target) -> int:
    return target.counters.commands[OUT]


async def keys(lun: LogicalUnit) -> set[int]:
    return set((await lun.reservations.read_keys()).keys)


async def holder(lun: LogicalUnit) -> tuple[int, int] | None:
    held = (await lun.reservations.read_reservation()).reservation
    return None if held is None else (held.key, held.reservation_type)


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


# -- what is found out after a lost connection --------------------------------------------------


@pytest.mark.conformance("SCSI-032")
@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_register_succeeds_only_if_it_was_done(done: bool) -> None:
    async with nodes() as (target, a, b):
        lose(target, REGISTER, done=done)
        if done:
            await a.reservations.register(A)
            await a.reservations.reserve(A, WE)
        else:
            with pytest.raises(OutcomeUnknown, match="not registered now"):
                await a.reservations.register(A)
        assert await keys(b) == ({A} if done else set())
        assert target.counters.task_management[RESET] == 1


@pytest.mark.conformance("SCSI-032")
async def test_a_lost_register_does_not_undo_a_fence() -> None:
    """It was done, and another node removed it before we were back: it stays removed."""
    async with nodes() as (target, a, b):
        await b.reservations.register(B)
        lost = lose(target, REGISTER, done=True)
        target.faults.refuse_logins = [(3, 1)] * 2
        async with anyio.create_task_group() as tasks:

            async def register() -> None:
                with pytest.raises(OutcomeUnknown, match="only if this node may"):
                    await a.reservations.register(A)

            tasks.start_soon(register)
            await lost.wait()
            await b.reservations.preempt(B, A, WE)
        assert await keys(b) == {B}


@pytest.mark.parametrize("shared", [True, False])
async def test_the_same_key_of_another_node_does_not_count(shared: bool) -> None:
    async with nodes() as (target, a, b):
        await b.reservations.register(A if shared else B)
        lose(target, REGISTER, done=False)
        with pytest.raises(OutcomeUnknown):
            await a.reservations.register(A)


@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_unregister_ends_unregistered(done: bool) -> None:
    async with nodes() as (target, a, b):
        await a.reservations.register(A)
        lose(target, REGISTER, done=done)
        await a.reservations.unregister(A)
        assert await keys(b) == set()


@pytest.mark.parametrize("action", ["reserve", "release"])
@pytest.mark.parametrize("done", [True, False])
async def test_reserve_and_release_are_sent_again(action: str, done: bool) -> None:
    async with nodes() as (target, a, b):
        await a.reservations.register(A)
        if action == "release":
            await a.reservations.reserve(A, WE)
        rule = lose(target, RESERVE if action == "reserve" else RELEASE, done=done)
        await getattr(a.reservations, action)(A, WE)
        assert len(rule.caught) == 1
        assert await holder(b) == ((A, WE) if action == "reserve" else None)


async def test_what_all_registrants_hold_is_not_released_twice() -> None:
    async with nodes() as (target, a, _):
        await a.reservations.register(A)
        await a.reservations.reserve(A, WE_AR)
        lose(target, RELEASE, done=True)
        with pytest.raises(OutcomeUnknown):
            await a.reservations.release(A, WE_AR)


@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_clear(done: bool) -> None:
    async with nodes() as (target, a, b):
        await a.reservations.register(A)
        await b.reservations.register(B)
        lose(target, CLEAR, done=done)
        await a.reservations.clear(A)
        assert await keys(b) == set()


async def test_a_lost_clear_among_others() -> None:
    async with nodes() as (target, a, b):
        await a.reservations.register(A)
        lost = lose(target, CLEAR, done=True)
        target.faults.refuse_logins = [(3, 1)] * 2
        async with anyio.create_task_group() as tasks:

            async def clear() -> None:
                with pytest.raises(OutcomeUnknown, match="registered now: 0x000000000000000b"):
                    await a.reservations.clear(A)

            tasks.start_soon(clear)
            await lost.wait()
            await b.reservations.register(B)


@pytest.mark.conformance("SCSI-032")
@pytest.mark.parametrize("abort", [True, False])
@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_preempt(done: bool, abort: bool) -> None:
    async with nodes() as (target, a, b):
        await a.reservations.register(A)
        await a.reservations.reserve(A, WE)
        await b.reservations.register(B)
        lose(target, PREEMPT_AND_ABORT if abort else PREEMPT, done=done)
        preempt = b.reservations.preempt_and_abort if abort else b.reservations.preempt
        if done:
            await preempt(B, A, WE)
        else:
            with pytest.raises(OutcomeUnknown, match=r"held by 0x0+a"):
                await preempt(B, A, WE)
        assert await holder(b) == ((B, WE) if done else (A, WE))


async def test_a_lost_move_is_not_known() -> None:
    async with nodes() as (target, a, b):
        await a.reservations.register(A)
        await a.reservations.reserve(A, WE)
        lose(target, MOVE, done=True)
        to_b = TransportId(initiator_name=B_NAME, isid=B_ISID)
        with pytest.raises(OutcomeUnknown):
            await a.reservations.register_and_move(A, B, to_b, 1)
        assert await holder(b) == (B, WE)


async def test_questions_are_asked_again() -> None:
    async with nodes() as (target, a, _):
        for action in PersistentReserveIn:
            lose(target, action, done=False, opcode=IN)
        assert await keys(a) == set()
        assert await holder(a) is None
        await a.reservations.report_capabilities()
        await a.reservations.read_full_status()


async def test_a_read_only_unit_is_not_reset_so_nothing_is_found_out() -> None:
    async with nodes(read_only=True) as (target, a, _):
        await a.reservations.register(A)
        for action in (REGISTER, RESERVE, CLEAR, PREEMPT):
            lose(target, action, done=True)
        with pytest.raises(OutcomeUnknown, match="died under"):
            await a.reservations.register(0xA2, old_key=A)
        with pytest.raises(OutcomeUnknown):
            await a.reservations.reserve(0xA2, WE)
        with pytest.raises(OutcomeUnknown):
            await a.reservations.preempt(0xA2, B, WE)
        with pytest.raises(OutcomeUnknown):
            await a.reservations.clear(0xA2)
        assert target.counters.task_management[RESET] == 0


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
