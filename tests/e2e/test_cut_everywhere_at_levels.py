# SPDX-License-Identifier: Apache-2.0
"""The workload of test_cut_everywhere.py at error recovery levels 1 and 2.

Level 2: the connection is cut at every single PDU; the session goes on, and there is no barrier.
Level 1: every single PDU vanishes once; the connection lives on. After each run the whole disk is
compared with the model.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyscsi_init.testing import Session, Target
from pyscsi_init.transport import recovery
from tests.e2e import test_cut_everywhere as cutting

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

LOGICAL_UNIT_RESET = 5


@pytest.fixture
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Target]:
    """The targets that a test made, at the level that it asks for."""
    number: int = request.param
    made: list[Target] = []
    make = cutting.slow_and_careful_target

    def at_level(block_size: int) -> Target:
        target = make(block_size)
        target.settings.error_recovery_level = number
        target.settings.default_time2retain = 20
        target.settings.acknowledge_data = True
        target.settings.sequence_timeout = 0.05
        made.append(target)
        return target

    settings = replace(cutting.SETTINGS, error_recovery_level=number, noop_interval=0.1)
    monkeypatch.setattr(cutting, "SETTINGS", settings)
    monkeypatch.setattr(cutting, "slow_and_careful_target", at_level)
    return made


async def every_cut(made: list[Target], attribute: str, landing: float, step: int) -> None:
    before, count = await cutting.count_pdus(512, attribute.removeprefix("drop_after_"))
    assert count > 70
    for number in range(1, count + 1, step):

        def cut(target: Target, number: int = number) -> None:
            if landing:
                target.faults.delay_writes(landing)
            setattr(target.faults, attribute, before + number)

        try:
            lun = await cutting.run_once(512, cut)
        except BaseException as error:
            error.add_note(f"{attribute}: PDU {number} of {count}")
            raise
        statistics = lun.session.statistics
        assert statistics.losses == statistics.continuations == 1, number
        counters = made.pop().counters
        assert counters.connections_reinstated == 1
        assert counters.task_management[LOGICAL_UNIT_RESET] == 0


@pytest.mark.parametrize("attribute", ["drop_after_received", "drop_after_sent"])
@pytest.mark.parametrize("level", [2], indirect=True)
async def test_the_session_outlives_every_cut(level: list[Target], attribute: str) -> None:
    await every_cut(level, attribute, 0.0, 2)


@pytest.mark.parametrize("attribute", ["drop_after_received", "drop_after_sent"])
@pytest.mark.parametrize("level", [2], indirect=True)
async def test_the_session_outlives_cuts_where_writes_land_late(
    level: list[Target], attribute: str
) -> None:
    await every_cut(level, attribute, 0.002, 5)


@pytest.mark.soak
@pytest.mark.parametrize("attribute", ["drop_after_received", "drop_after_sent"])
@pytest.mark.parametrize("landing", [0.0, 0.002, 0.02])
@pytest.mark.parametrize("level", [2], indirect=True)
async def test_the_session_outlives_all_cuts(
    level: list[Target], attribute: str, landing: float
) -> None:
    await every_cut(level, attribute, landing, 1)


@pytest.mark.parametrize("life", range(2, 25, 2))
@pytest.mark.parametrize("level", [2], indirect=True)
async def test_cuts_of_the_continuation_itself(
    level: list[Target], life: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the first connections dies after a few PDUs, wherever it is then."""
    monkeypatch.setattr(recovery, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(recovery, "LONGEST_DELAY", 0.001)
    deaths = 0

    def prepare(target: Target) -> None:
        def mortal(session: Session, _: object) -> bool:
            nonlocal deaths
            if session.connection.received >= life and deaths < 12:
                deaths += 1
                session.drop()
                return True
            return False

        target.faults.on_receive = mortal

    lun = await cutting.run_once(512, prepare)
    statistics = lun.session.statistics
    assert statistics.losses == statistics.continuations > 3
    assert deaths - statistics.losses in (0, 1), "the logout may have been the last of them"


async def every_loss(direction: str, step: int) -> None:
    _, count = await cutting.count_pdus(512, direction)
    for number in range(1, count + 1, step):
        seen = 0

        def lose(target: Target, number: int = number) -> None:
            def is_lost(_: Session, __: object) -> bool:
                nonlocal seen
                seen += 1
                return seen == number

            if direction == "received":
                target.faults.on_receive = is_lost
            else:
                target.faults.on_send = lambda session, pdu: () if is_lost(session, pdu) else None

        try:
            lun = await cutting.run_once(512, lose)
        except BaseException as error:
            error.add_note(f"PDU {number} of {count} {direction}")
            raise
        assert seen >= number
        assert lun.session.statistics.losses == 0, (number, lun.session.last_error)


@pytest.mark.parametrize(("direction", "step"), [("sent", 3), ("received", 9)])
@pytest.mark.parametrize("level", [1], indirect=True)
async def test_any_pdu_may_vanish(level: list[Target], direction: str, step: int) -> None:
    await every_loss(direction, step)


@pytest.mark.soak
@pytest.mark.parametrize("direction", ["sent", "received"])
@pytest.mark.parametrize("level", [1, 2], indirect=True)
async def test_every_pdu_may_vanish(level: list[Target], direction: str) -> None:
    await every_loss(direction, 1)
