# SPDX-License-Identifier: Apache-2.0
"""The connection cut while a LUN is opened: after every PDU of it, and after every few bytes of the
login, the first one and that of a recovery.

What tests/e2e/test_cut_everywhere.py does to a workload is done here to what comes before it. A
first login or a probe that is cut ends the opening with an error that says so, or goes on where
that is possible; a recovery goes on. In each case the next attempt finds a target that is well.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from pyscsi_init import Settings, open_lun
from pyscsi_init.errors import ConnectionLost, IscsiError, LoginError, OutcomeUnknown
from pyscsi_init.testing import RamDisk, Target, TargetServer
from pyscsi_init.transport import recovery
from tests.support import totals
from tests.support.proxy import TO_CLIENT, TO_TARGET, TcpProxy
from tests.support.python_target import INITIATOR, MEBI, PATIENCE, make_target, until, url_of

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

SETTINGS = Settings(recovery_timeout=None, default_time2wait=0, header_digest=("CRC32C",))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(recovery, "LONGEST_DELAY", 0.001)


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Target, str]]:
    target = make_target(RamDisk(MEBI))
    async with TargetServer([target]).running() as portal:
        yield target, str(portal.address)


async def open_and_read(address: str, settings: Settings = SETTINGS) -> int:
    """How many connections it lost on the way."""
    async with open_lun(url_of(address), settings=settings, initiator_name=INITIATOR) as lun:
        assert await lun.read(0, 512) == bytes(512)
        return lun.session.statistics.losses


@pytest.mark.parametrize("attribute", ["received", "sent"])
async def test_after_every_pdu_of_the_probe(attribute: str) -> None:
    async with served() as (target, address):
        async with open_lun(url_of(address), settings=SETTINGS, initiator_name=INITIATOR):
            (session,) = target.sessions
            count: int = getattr(session.connection, attribute)
        assert count > 5
        for number in range(1, count + 1):
            setattr(target.faults, f"drop_after_{attribute}", number)
            with anyio.fail_after(PATIENCE):
                # What is not safe to ask twice is not asked twice; the caller may open again.
                with contextlib.suppress(ConnectionLost, OutcomeUnknown):
                    assert await open_and_read(address) == 1, number
                assert getattr(target.faults, f"drop_after_{attribute}") is None, number
                assert await open_and_read(address) == 0, number
        totals.count("connections cut while opening", count)


@pytest.mark.parametrize("direction", [TO_TARGET, TO_CLIENT])
async def test_after_every_few_bytes_of_a_first_login(direction: str) -> None:
    async with served() as (_, address):
        host, _, port = address.rpartition(":")
        with TcpProxy((host, int(port))) as proxy:
            await open_and_read(proxy.portal)
            number, failures = 1, 0
            while True:
                proxy.cut_after(number, direction)
                with anyio.fail_after(PATIENCE):
                    try:
                        lost = await open_and_read(proxy.portal)
                    except LoginError:
                        failures += 1
                    except IscsiError:
                        break  # the login is behind us
                    else:
                        assert lost, number
                        break
                number += 13
        assert failures > 20
        totals.count("connections cut while opening", failures)


@pytest.mark.parametrize("direction", [TO_TARGET, TO_CLIENT])
async def test_after_every_few_bytes_of_a_recovery(direction: str) -> None:
    """The login, the barrier and the comparison of the unit are cut, and begin again."""
    async with served() as (_, address):
        host, _, port = address.rpartition(":")
        with TcpProxy((host, int(port))) as proxy:
            settings = replace(SETTINGS, recovery_timeout=None)
            async with open_lun(
                url_of(proxy.portal), settings=settings, initiator_name=INITIATOR
            ) as lun:
                session = lun.session
                for number in range(1, 2000, 41):
                    recoveries, connections = session.statistics.recoveries, proxy.connections
                    proxy.cut()
                    proxy.cut_after(number, direction)
                    with anyio.fail_after(PATIENCE):
                        await lun.write(0, number.to_bytes(512, "big"))
                        await until(lambda n=recoveries: session.statistics.recoveries > n)
                        assert await lun.read(0, 512) == number.to_bytes(512, "big")
                    proxy.cut_after(1 << 60, direction)
                    assert proxy.connections > connections
                    totals.count("connections cut while recovering", 2)
