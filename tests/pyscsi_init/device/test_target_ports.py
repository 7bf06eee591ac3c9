# SPDX-License-Identifier: Apache-2.0
"""Target port groups: a unit behind two portal groups, and states that change under I/O."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

import pyscsi_init
from pyscsi_init import LogicalUnit, TargetPort
from pyscsi_init.errors import DeviceBusy, NotReady, OutcomeUnknown, ScsiError, Unsupported
from pyscsi_init.scsi import AccessState
from pyscsi_init.testing import Listener, RamDisk, Target, TargetServer
from tests.support.python_target import MEBI, PATIENCE, WAIT, make_target, url_of

pytestmark = pytest.mark.anyio

OPTIMIZED, NON_OPTIMIZED = AccessState.ACTIVE_OPTIMIZED, AccessState.ACTIVE_NON_OPTIMIZED
STANDBY, UNAVAILABLE = AccessState.STANDBY, AccessState.UNAVAILABLE
TRANSITIONING = AccessState.TRANSITIONING
MAINTENANCE_IN, MAINTENANCE_OUT, READ_10 = 0xA3, 0xA4, 0x28
NAMES = ("iqn.2026-11.example.host:a", "iqn.2026-11.example.host:b")


@asynccontextmanager
async def two_ports(
    *, explicit: bool = True
) -> AsyncIterator[tuple[Target, LogicalUnit, LogicalUnit]]:
    """The same LUN through two ports: group 1 optimized, group 2 not."""
    target = make_target(RamDisk(4 * MEBI))
    unit = target.luns[0]
    unit.access_states = {1: OPTIMIZED, 2: NON_OPTIMIZED}
    unit.explicit_access_states = explicit
    server = TargetServer([target], portals=[Listener(tag=1), Listener(tag=2)])
    with anyio.fail_after(6 * PATIENCE):
        async with server.running():
            urls = [url_of(str(portal.address)) for portal in server.portals]
            async with (
                pyscsi_init.open_lun(urls[0], initiator_name=NAMES[0], settings=WAIT) as one,
                pyscsi_init.open_lun(urls[1], initiator_name=NAMES[1], settings=WAIT) as two,
            ):
                yield target, one, two


@pytest.mark.conformance("SCSI-030")
async def test_the_groups_and_the_own_port() -> None:
    async with two_ports() as (_, one, two):
        assert one.inquiry.tpgs == 0b11
        report = await one.report_target_port_groups()
        assert {g.group: (g.state, g.ports) for g in report.groups} == {
            1: (OPTIMIZED, (1,)),
            2: (NON_OPTIMIZED, (2,)),
        }
        assert await one.target_port() == TargetPort(1, 1)
        assert await two.target_port() == TargetPort(2, 2)
        assert (await one.access_state(), await two.access_state()) == (OPTIMIZED, NON_OPTIMIZED)


@pytest.mark.conformance("SCSI-030")
async def test_states_are_set_and_others_are_told() -> None:
    async with two_ports() as (_, one, two):
        await two.set_target_port_groups({1: STANDBY, 2: OPTIMIZED})
        assert await two.access_state() == OPTIMIZED
        assert await one.access_state() == STANDBY  # after 2A/06 was taken
        with pytest.raises(NotReady, match="02/04/0B"):
            await one.read(0, 512)
        assert len(await two.read(0, 512)) == 512
        await one.set_target_port_groups({1: OPTIMIZED})
        assert len(await one.read(0, 512)) == 512


@pytest.mark.conformance("SCSI-010")
@pytest.mark.conformance("SCSI-030")
@pytest.mark.parametrize("state", [STANDBY, UNAVAILABLE])
async def test_a_port_that_does_not_serve_is_no_medium_error(state: int) -> None:
    async with two_ports() as (target, one, _):
        target.luns[0].set_access_state(1, state)
        with pytest.raises(NotReady) as caught:
            await one.read(0, 512)
        assert (caught.value.asc, caught.value.ascq) == (4, 0x0B if state == STANDBY else 0x0C)
        assert await one.access_state() == state


@pytest.mark.conformance("SCSI-030")
@pytest.mark.quirk("Q-22")
@pytest.mark.parametrize("busy", [True, False])
async def test_a_transition_is_waited_for(busy: bool) -> None:
    """04/0A, or BUSY as tcmu-runner says it."""
    async with two_ports() as (target, one, _):
        unit = target.luns[0]
        if busy:
            rule = target.faults.status(0x08, times=5, opcodes={READ_10})
        else:
            unit.set_access_state(1, TRANSITIONING)
            rule = target.faults.check_condition(2, 4, 0x0A, times=5, opcodes={READ_10})

        async def end_it() -> None:
            await rule.wait(5)
            unit.set_access_state(1, OPTIMIZED)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end_it)
            assert len(await one.read(0, 512)) == 512


@pytest.mark.conformance("SCSI-030")
@pytest.mark.parametrize("busy", [True, False])
async def test_a_transition_that_never_ends_is_an_error(
    busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyscsi_init.device.scsi_block.MAX_DELAYED_RETRIES", 3)
    async with two_ports() as (target, one, _):
        if busy:
            target.faults.status(0x08, times=99, opcodes={READ_10})
        else:
            target.luns[0].set_access_state(1, TRANSITIONING)
        with pytest.raises(DeviceBusy if busy else NotReady):
            await one.read(0, 512)


@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_set_is_looked_at(done: bool) -> None:
    async with two_ports() as (target, one, _):
        target.faults.drop(carry_out=done, opcodes={MAINTENANCE_OUT})
        if done:
            await one.set_target_port_groups({2: OPTIMIZED})
        else:
            with pytest.raises(OutcomeUnknown, match="2: 1h"):
                await one.set_target_port_groups({2: OPTIMIZED})
        assert target.counters.commands[MAINTENANCE_OUT] == 1


async def test_questions_are_asked_again_after_a_loss() -> None:
    async with two_ports() as (target, one, _):
        target.faults.drop(opcodes={MAINTENANCE_IN})
        assert len((await one.report_target_port_groups()).groups) == 2


async def test_what_the_unit_refuses() -> None:
    async with two_ports(explicit=False) as (target, one, _):
        assert one.inquiry.tpgs == 0b01
        with pytest.raises(Unsupported, match="TPGS"):
            await one.set_target_port_groups({1: STANDBY})
        target.faults.check_condition(5, 0x24, 0, opcodes={MAINTENANCE_IN})
        with pytest.raises(Unsupported, match="REPORT TARGET PORT GROUPS"):
            await one.report_target_port_groups()
    async with two_ports() as (_, one, _two):
        with pytest.raises(ScsiError, match="26/00"):
            await one.set_target_port_groups({7: OPTIMIZED})


async def test_more_groups_than_the_first_answer_holds() -> None:
    async with two_ports() as (target, one, _):
        target.luns[0].access_states.update(dict.fromkeys(range(10, 1010), STANDBY))
        assert len((await one.report_target_port_groups()).groups) == 1002


async def test_registrations_are_of_a_port_each() -> None:
    """An initiator behind two ports registers with each (SPC-4 5.12.7.2)."""
    target = make_target(RamDisk(4 * MEBI))
    isid = bytes.fromhex("800000000a01")
    server = TargetServer([target], portals=[Listener(tag=1), Listener(tag=2)])
    async with server.running():
        urls = [url_of(str(portal.address)) for portal in server.portals]
        async with (
            pyscsi_init.open_lun(urls[0], initiator_name=NAMES[0], isid=isid) as one,
            pyscsi_init.open_lun(urls[1], initiator_name=NAMES[0], isid=isid) as two,
        ):
            await one.reservations.register(1)
            await two.reservations.register(1)
            status = await one.reservations.read_full_status()
            assert {r.relative_target_port for r in status.registrations} == {1, 2}
            assert {r.transport_id.initiator_name for r in status.registrations} == {NAMES[0]}
