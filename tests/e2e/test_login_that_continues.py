# SPDX-License-Identifier: Apache-2.0
"""A target that says nothing to the login that would continue a session (error recovery level
2)."""

from __future__ import annotations

import time
from dataclasses import replace

import anyio
import pytest

from pyscsi_init import Settings
from pyscsi_init.errors import SessionFailed
from pyscsi_init.session import SessionState
from pyscsi_init.testing import Target
from tests.support.python_target import KIBI, make_target, opened, until

pytestmark = pytest.mark.anyio

LEVEL_2 = Settings(
    default_time2wait=0,
    error_recovery_level=2,
    recovery_timeout=None,
    logout_timeout=0.5,
    login_timeout=3.0,
)


def target_of(time2retain: int) -> Target:
    return make_target(error_recovery_level=2, default_time2retain=time2retain)


async def test_enough_of_waiting_then() -> None:
    target = target_of(20)
    settings = replace(LEVEL_2, recovery_timeout=0.5)
    async with opened(target, settings) as lun:
        target.faults.silent = True
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:

                async def read() -> None:
                    with pytest.raises(SessionFailed):
                        await lun.read(0, 4 * KIBI)

                group.start_soon(read)
                await until(lambda: lun.session.tasks())
                target.drop_connections()
        assert lun.session.state is SessionState.Q4_FAILED
        target.faults.silent = False
        await until(lambda: not lun.session.recovering)
        assert len(await lun.read(0, 4 * KIBI)) == 4 * KIBI


async def test_nobody_spins_when_the_time_to_retain_is_over() -> None:
    target = target_of(1)
    async with opened(target, LEVEL_2) as lun:
        target.faults.silent = True
        async with anyio.create_task_group() as group:
            group.start_soon(lun.read, 0, 4 * KIBI)
            await until(lambda: lun.session.tasks())
            target.drop_connections()
            await until(lambda: lun.session.continuing and lun.session.connected)
            await anyio.sleep(1.1)
            before = time.process_time()
            await anyio.sleep(0.5)
            assert time.process_time() - before < 0.25
            target.faults.silent = False
            target.drop_connections()
