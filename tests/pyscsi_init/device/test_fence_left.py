# SPDX-License-Identifier: Apache-2.0
"""A registration that stays at the target when its unit is closed is told in the log."""

from __future__ import annotations

import logging

import pytest

from pyscsi_init.errors import SessionFailed
from tests.pyscsi_init.device.test_fence import A_KEY, scene
from tests.pyscsi_init.device.two_nodes import A_ISID, A_NAME
from tests.support.logs import ExpectLogs

pytestmark = pytest.mark.anyio


async def test_what_stays_registered_is_told(
    expect_logs: ExpectLogs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pyscsi_init.device")
    told = f"the key 0x{A_KEY:016x} of this node stays registered"
    async with scene() as made:
        async with made.open(A_NAME) as a:
            a.keep_fence()
        assert told not in caplog.text
        async with made.open(A_NAME):
            pass
        assert f"{told} (it was registered before)" in caplog.text
        expect_logs(r"stays registered \(the session has failed", logger="pyscsi_init.device")
        expect_logs(logger="pyscsi_init.session", at_least=0)
        async with made.open(A_NAME, isid=A_ISID) as a:
            a.session.fail(SessionFailed("the end"))
        assert list(made.table.keys.values()) == [A_KEY]
