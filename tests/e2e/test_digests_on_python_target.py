# SPDX-License-Identifier: Apache-2.0
"""Bytes that arrive spoilt, in both directions: found by the digest, and the work is done anyway.

Without digests nobody can find them but TCP; so all sessions here have both (RFC 7143 11.2.3).
"""

from __future__ import annotations

import os
from typing import Any

import anyio
import pytest

from pyscsi_init import Settings
from pyscsi_init.pdu.digest import digest_bytes
from tests.support.python_target import PATIENCE, make_target, opened

pytestmark = pytest.mark.anyio

DIGESTS = Settings(
    recovery_timeout=None,
    default_time2wait=0,
    header_digest=("CRC32C",),
    data_digest=("CRC32C",),
)


@pytest.mark.parametrize("what", ["corrupt_header_digests", "corrupt_data_digests"])
@pytest.mark.parametrize("reading", [True, False])
async def test_a_wrong_digest_is_recovered_from(what: str, reading: bool) -> None:
    target = make_target()
    async with opened(target, DIGESTS) as lun:
        assert lun.session.parameters.header_digest
        data = os.urandom(100_000)
        await lun.write(777, data)
        setattr(target.faults, what, 1)
        with anyio.fail_after(PATIENCE):
            if not reading:
                await lun.write(200_000, data)
            assert await lun.read(777, len(data)) == data
            if not reading:
                assert await lun.read(200_000, len(data)) == data
        assert getattr(target.faults, what) == 0
        assert lun.session.statistics.recoveries == 1


@pytest.mark.parametrize("way", ["immediate", "unsolicited", "solicited"])
@pytest.mark.parametrize("spoilt", ["header", "data"])
async def test_what_we_send_arrives_spoilt(
    way: str, spoilt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target finds the digest wrong: it closes, rejects, or ends the command (RFC 7143 7.8);
    what was to be written is written all the same."""
    target = make_target(initial_r2t=way == "solicited", immediate_data=way == "immediate")
    honest = digest_bytes
    to_spoil = 0

    def digest(*buffers: Any) -> bytes:
        nonlocal to_spoil
        value = honest(*buffers)
        if (len(buffers) == 2) is (spoilt == "data"):
            to_spoil -= 1
            if to_spoil == 0:
                return bytes([value[0] ^ 1]) + value[1:]
        return value

    monkeypatch.setattr("pyscsi_init.connection.machine.digest_bytes", digest)
    async with opened(target, DIGESTS) as lun:
        for to_spoil in (1, 2, 3):
            data = os.urandom(20_000)
            with anyio.fail_after(PATIENCE):
                await lun.write(4096, data)
                await lun.write(200_000, data)
                await lun.write(300_000, data)
                for offset in (4096, 200_000, 300_000):
                    assert await lun.read(offset, len(data)) == data
            assert to_spoil <= 0
