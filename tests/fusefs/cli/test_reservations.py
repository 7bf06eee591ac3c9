# SPDX-License-Identifier: Apache-2.0
"""reservations: shown and taken away, on the Python target and on tgt."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

import pyscsi_init
from pyscsi_init.scsi import ReservationType
from pyscsi_init.testing import RamDisk
from tests.fusefs.cli.harness import MEBI, Cli
from tests.support.python_target import TargetThread, make_target
from tests.support.tgt import TgtServer

HOST = "iqn.2026-11.example.host:a"
ISID = bytes.fromhex("800000000a01")
WE_RO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


@pytest.fixture
def url() -> Iterator[str]:
    """A LUN that is held by key 0xa."""
    with TargetThread(make_target(RamDisk(4 * MEBI))) as served:
        hold(served.url())
        yield served.url()


def hold(url: str) -> None:
    async def hold() -> None:
        async with pyscsi_init.open_lun(url, initiator_name=HOST, isid=ISID) as lun:
            await lun.reservations.register(0xA)
            await lun.reservations.reserve(0xA, WE_RO)

    anyio.run(hold)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_show(cli: Cli, url: str, backend: str) -> None:
    state = cli("reservations", url, "--json", "--backend", backend).json
    assert state["reservation"] == {"key": "0xa", "type": "write exclusive registrants only"}
    assert state["registrations"] == [
        {
            "key": "0xa",
            "initiator": f"{HOST},i,0x{ISID.hex()}",
            "target_port": 1,
            "holder": True,
        }
    ]
    plain = cli("reservations", url)
    assert "held by 0xa, write exclusive registrants only" in plain.out
    assert f"0xa  {HOST}" in plain.out


def test_preempt_then_clear(cli: Cli, url: str) -> None:
    state = cli("reservations", url, "--preempt", "0xa", "--key", "11", "--json").json
    assert state["reservation"] == {"key": "0xb", "type": "write exclusive registrants only"}
    assert [one["key"] for one in state["registrations"]] == ["0xb"]
    cli("reservations", url, "--preempt", "0xa").failed(10, "nobody is registered with the key")
    state = cli("reservations", url, "--json").json
    assert [one["key"] for one in state["registrations"]] == ["0xb"], "nothing stays behind"
    plain = cli("reservations", url, "--clear")
    assert "nobody holds it" in plain.out
    assert "KEY" not in plain.out


def test_release(cli: Cli, url: str) -> None:
    state = cli("reservations", url, "--release", "--json").json
    assert (state["reservation"], state["registrations"]) == (None, [])
    assert cli("reservations", url, "--release", "--json").json["registrations"] == []


@pytest.mark.parametrize("key", ["0", "xyz", "-1", "0x10000000000000000"])
def test_keys_that_are_none(cli: Cli, key: str) -> None:
    done = cli("reservations", "iscsi://127.0.0.1/iqn.2026-01.com.example:a/1", "--preempt", key)
    done.failed(2, "is no key")


def test_one_thing_at_a_time(cli: Cli) -> None:
    url = "iscsi://127.0.0.1/iqn.2026-01.com.example:a/1"
    cli("reservations", url, "--clear", "--release").failed(2, "one of them")


@pytest.mark.tgt
def test_on_tgt(cli: Cli, tgt: TgtServer) -> None:
    async def both() -> None:
        async with pyscsi_init.open_lun(tgt.url(1, 1)) as lun:
            await lun.reservations.register(0xA)
            await lun.reservations.reserve(0xA, WE_RO)
            shown = cli("reservations", tgt.url(1, 1), "--json").json
            assert shown["reservation"]["key"] == "0xa"
            done = cli("reservations", tgt.url(1, 1), "--preempt", "0xa", "--key", "0xb", "--json")
            assert done.json["reservation"]["key"] == "0xb"
            assert "may still be done" in done.err
            with pytest.raises(pyscsi_init.errors.ReservationConflict):
                await lun.write(1 << 20, bytes(512))
            cli("reservations", tgt.url(1, 1), "--clear")
            await lun.write(1 << 20, bytes(512))

    anyio.run(both)
