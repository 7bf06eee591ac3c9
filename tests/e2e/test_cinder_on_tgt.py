# SPDX-License-Identifier: Apache-2.0
"""A volume as Cinder describes it: connected, written, extended, disconnected, on a real tgt."""

from __future__ import annotations

import concurrent.futures
import os
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from fusefs.cinder.connector import IscsiConnector
from fusefs.errors import (
    DeviceBusy,
    InvalidSpec,
    NameInUse,
    NoSuchVolume,
    WorkerFailed,
)
from fusefs.volume import teardown
from fusefs.volume_errors import EndedWithLoss
from pyscsi_init.errors import AuthenticationFailed, ConnectError, LunNotFound
from tests.e2e.conftest import IQN, Volumes
from tests.e2e.exported import MEBI, PASSWORD, SIZE, VOLUME_ID, Exported
from tests.support.logs import ExpectLogs
from tests.support.tgt import TgtServer, free_port
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.tgt]


@pytest.fixture
def exported(tgt: TgtServer, tmp_path: Path) -> Exported:
    return Exported(tgt, tmp_path / "disk")


@pytest.fixture
def connector(volumes: Volumes) -> IscsiConnector:
    """Its volumes end with the test."""
    return IscsiConnector(
        "sudo", use_multipath=True, run_dir=volumes.run_dir, state_dir=volumes.state_dir
    )


def write(path: str, offset: int, data: bytes, *, sync: bool = True) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        assert os.pwrite(descriptor, data, offset) == len(data)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def files_with(word: bytes, *directories: Path) -> list[Path]:
    return [
        path
        for directory in directories
        for path in directory.rglob("*")
        if path.is_file() and path.name != "block" and word in path.read_bytes()[: 1 << 20]
    ]


def test_connect_write_extend_disconnect(
    exported: Exported,
    connector: IscsiConnector,
    volumes: Volumes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    properties = exported.properties()
    assert connector.get_volume_paths(properties) == []
    with pytest.raises(NoSuchVolume):
        connector.extend_volume(properties)

    info = connector.connect_volume(properties)
    path = info["path"]
    assert info["type"] == "block"
    assert Path(path).is_block_device()
    assert info["name"] == f"cinder-{VOLUME_ID}"
    assert Path(info["file"]).stat().st_size == SIZE
    assert connector.check_valid_device(path)
    assert connector.get_volume_paths(properties) == [path]
    assert connector.get_all_available_volumes() == [path]
    found = volumes.get(info["name"])
    assert f"{exported.tgt.portal},{exported.tgt.portal6}" in found.url
    first, second = secrets.token_bytes(MEBI), secrets.token_bytes(MEBI)
    write(path, MEBI, first)

    exported.tgt.grow(exported.tid, 1, 2 * SIZE)
    assert connector.extend_volume(properties) == 2 * SIZE
    assert int(Path(f"/sys/block/{Path(path).name}/size").read_text()) * 512 == 2 * SIZE
    assert connector.extend_volume(properties) == 2 * SIZE
    write(path, 2 * SIZE - MEBI, second)

    assert files_with(PASSWORD.encode(), volumes.run_dir, volumes.state_dir) == []
    connector.disconnect_volume(properties, info)
    assert exported.tgt.sessions() == []
    assert connector.get_volume_paths(properties) == []
    with exported.disk.open("rb") as disk:
        disk.seek(MEBI)
        assert disk.read(MEBI) == first
        disk.seek(2 * SIZE - MEBI)
        assert disk.read(MEBI) == second
    assert PASSWORD not in caplog.text
    assert files_with(PASSWORD.encode(), volumes.run_dir, volumes.state_dir) == []


def test_what_is_done_is_not_done_again(
    exported: Exported, connector: IscsiConnector, volumes: Volumes
) -> None:
    """By several threads at once, from inside an event loop, and after the end."""
    properties = exported.properties()
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        infos = list(threads.map(connector.connect_volume, [properties] * 4))
    assert len({info["path"] for info in infos}) == 1

    async def from_inside() -> dict[str, Any]:
        return connector.connect_volume(properties)

    assert anyio.run(from_inside) == infos[0]
    assert len(exported.tgt.sessions()) == 1
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda info: connector.disconnect_volume(properties, info), infos))
    assert exported.tgt.sessions() == []
    connector.disconnect_volume(properties, infos[0])
    connector.disconnect_volume({"volume_id": "another"}, None)
    assert volumes.status() == []
    again = connector.connect_volume(properties)
    connector.disconnect_volume(properties, again)


def test_one_portal_is_dead(
    exported: Exported, connector: IscsiConnector, volumes: Volumes
) -> None:
    dead = f"127.0.0.1:{free_port()}"
    properties = exported.properties(dead, exported.tgt.portal)
    info = connector.connect_volume(properties)
    assert volumes.get(info["name"]).session["portal"].startswith(exported.tgt.portal)
    connector.disconnect_volume(properties, info)
    with pytest.raises(ConnectError):
        connector.connect_volume(exported.properties(dead))
    assert volumes.status() == []


@pytest.mark.parametrize("down", ["the portal", "the target", "the unit"])
def test_a_target_for_each_portal(
    exported: Exported, connector: IscsiConnector, expect_logs: ExpectLogs, down: str
) -> None:
    """By the first it is not to be had, so it is had by the other, and stays there."""
    first = f"127.0.0.1:{free_port()}" if down == "the portal" else exported.tgt.portal
    if down == "the unit":
        exported.tgt.new_target(f"{IQN}.a")
    properties = exported.properties(first, exported.tgt.portal)
    properties |= {"target_iqn": f"{IQN}.a", "target_iqns": [f"{IQN}.a", IQN]}
    expect_logs("trying its next target", logger="fusefs.cinder")
    info = connector.connect_volume(properties)
    assert connector.connect_volume(properties) == info
    assert len(exported.tgt.sessions()) == 1
    connector.disconnect_volume(properties, info)


def test_read_only(exported: Exported, connector: IscsiConnector) -> None:
    properties = exported.properties(access_mode="ro")
    info = connector.connect_volume(properties)
    assert Path(f"/sys/block/{Path(info['path']).name}/ro").read_text().strip() == "1"
    with pytest.raises(OSError, match=r"not permitted|Read-only|Permission"):
        write(info["path"], 0, b"x" * 4096)
    connector.disconnect_volume(properties, info)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"auth_password": "another-secret-16"}, AuthenticationFailed),
        ({"auth_method": None}, AuthenticationFailed),
        ({"encrypted": True}, InvalidSpec),
        ({"target_lun": 7, "target_luns": [7, 7]}, LunNotFound),
    ],
)
def test_what_cannot_be_connected_leaves_nothing(
    exported: Exported,
    connector: IscsiConnector,
    volumes: Volumes,
    changes: dict[str, Any],
    error: type[Exception],
) -> None:
    with pytest.raises(error) as caught:
        connector.connect_volume(exported.properties(**changes))
    assert "another-secret-16" not in str(caught.value)
    assert volumes.status() == []
    assert exported.tgt.sessions() == []


def test_a_volume_in_use_stays(
    exported: Exported,
    connector: IscsiConnector,
    expect_logs: ExpectLogs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Errors are ignored where the end is forced, and nowhere else: who is told that a volume is
    gone takes it away from this host."""
    # Who has it open here does not go away by waiting.
    monkeypatch.setattr(teardown, "NAMESPACE_PATIENCE_S", 0)
    properties = exported.properties()
    info = connector.connect_volume(properties)
    with Path(info["path"]).open("rb"):
        for ignore_errors in (False, True):
            with pytest.raises(DeviceBusy) as caught:
                connector.disconnect_volume(properties, info, ignore_errors=ignore_errors)
            assert caught.value.pids == (os.getpid(),)
    write(info["path"], 0, b"still there")
    with Path(info["path"]).open("rb"):
        expect_logs("is ended by force, because .* is busy", logger="fusefs.cinder")
        connector.disconnect_volume(properties, info, force=True)
    assert connector.get_volume_paths(properties) == []


def test_force_loses_nothing_that_can_be_written(
    exported: Exported, connector: IscsiConnector
) -> None:
    properties = exported.properties()
    info = connector.connect_volume(properties)
    data = secrets.token_bytes(4 * MEBI)
    write(info["path"], 0, data, sync=False)
    connector.disconnect_volume(properties, info, force=True)
    with exported.disk.open("rb") as disk:
        assert disk.read(len(data)) == data


def test_two_hosts_have_it_at_once(
    exported: Exported,
    connector: IscsiConnector,
    volumes: Volumes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While an instance moves from one to the other: who may have a volume is Cinder's to say."""
    other = Volumes(tmp_path / "other")
    second = IscsiConnector(run_dir=other.run_dir, state_dir=other.state_dir)
    monkeypatch.setenv("PYSCSI_INIT_STATE_DIR", str(tmp_path / "name1"))
    properties = exported.properties()
    info = connector.connect_volume(properties)
    try:
        monkeypatch.setenv("PYSCSI_INIT_STATE_DIR", str(tmp_path / "name2"))
        there = second.connect_volume(properties)
        assert len({nexus.initiator for nexus in exported.tgt.sessions()}) == 2
        write(info["path"], 0, b"from the first")
        write(there["path"], 4096, b"from the second")
        connector.disconnect_volume(properties, info)
        write(there["path"], 8192, b"alone now")
        second.disconnect_volume(properties, there)
    finally:
        other.end_all()
    assert volumes.status() == []


def test_portals_in_another_order(exported: Exported, connector: IscsiConnector) -> None:
    """Arrays name them as they like, and the same volume again is the same volume."""
    ways = (exported.tgt.portal, exported.tgt.portal6)
    properties = exported.properties(*ways)
    info = connector.connect_volume(properties)
    assert connector.connect_volume(exported.properties(*reversed(ways))) == info
    assert connector.connect_volume(exported.properties(ways[1])) == info
    with pytest.raises(NameInUse, match="read_only"):
        connector.connect_volume(exported.properties(access_mode="ro"))
    assert len(exported.tgt.sessions()) == 1
    connector.disconnect_volume(exported.properties(ways[1]), info)


def test_a_volume_that_was_moved_to_another_unit(
    exported: Exported, connector: IscsiConnector, volumes: Volumes, tmp_path: Path
) -> None:
    """Cinder migrates it, and its id stays: what it was before is not held against it."""
    properties = exported.properties()
    connector.disconnect_volume(properties, connector.connect_volume(properties))
    assert not list((volumes.state_dir / "identities").glob("*"))
    exported.tgt.add_lun(exported.tid, 2, tmp_path / "moved", size_bytes=SIZE // 2)
    moved = exported.properties(target_lun=2, target_luns=[2, 2])
    info = connector.connect_volume(moved)
    assert Path(info["file"]).stat().st_size == SIZE // 2
    # Not even where nobody could say good-bye to the old one.
    connector.disconnect_volume(moved, info, force=True)
    connector.disconnect_volume(properties, connector.connect_volume(properties))


def test_all_of_connection_info_will_do(exported: Exported, connector: IscsiConnector) -> None:
    whole = {"driver_volume_type": "iscsi", "data": exported.properties()}
    info = connector.connect_volume(whole)
    assert connector.get_volume_paths(whole) == [info["path"]]
    connector.disconnect_volume(whole, None)
    assert exported.tgt.sessions() == []


def test_without_an_id_it_is_a_volume_of_cinder_too(
    exported: Exported, connector: IscsiConnector
) -> None:
    """Not every driver of Cinder tells it."""
    properties = exported.properties()
    del properties["volume_id"]
    info = connector.connect_volume(properties)
    assert connector.get_all_available_volumes() == [info["path"]]
    connector.disconnect_volume(properties, info)


def test_extended_under_load(exported: Exported, connector: IscsiConnector) -> None:
    properties = exported.properties()
    info = connector.connect_volume(properties)
    block = secrets.token_bytes(MEBI)
    end = threading.Event()

    def load() -> int:
        rounds = 0
        while not end.is_set():
            write(info["path"], rounds % 8 * MEBI, block)
            rounds += 1
        return rounds

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        rounds = thread.submit(load)
        try:
            for size in (2 * SIZE, 3 * SIZE):
                exported.tgt.grow(exported.tid, 1, size)
                assert connector.extend_volume(properties) == size
        finally:
            end.set()
        assert rounds.result() > 0
    connector.disconnect_volume(properties, info)
    with exported.disk.open("rb") as disk:
        assert disk.read(MEBI) == block


def test_the_target_is_gone_for_good(
    exported: Exported, connector: IscsiConnector, volumes: Volumes, expect_logs: ExpectLogs
) -> None:
    """In order nothing can be done; by force it ends soon, and what is lost is told."""
    properties = exported.properties()
    info = connector.connect_volume(properties)
    write(info["path"], 0, b"x" * 4096, sync=False)
    exported.tgt.kill()
    try:
        wait_until(
            lambda: volumes.get(info["name"]).state == "recovering", 60, "the loss of the target"
        )
        with pytest.raises(WorkerFailed, match="its target is away"):
            connector.disconnect_volume(properties, info)
        assert connector.get_volume_paths(properties) == [info["path"]]
        expect_logs("is ended by force", logger="fusefs.cinder")
        begin = time.monotonic()
        with pytest.raises(EndedWithLoss, match="is gone, but not in order"):
            connector.disconnect_volume(properties, info, force=True)
        assert time.monotonic() - begin < 30
    finally:
        exported.tgt.start()
    assert connector.get_volume_paths(properties) == []
    connector.disconnect_volume(properties, info, force=True)


def test_another_unit_stands_where_it_was(
    exported: Exported, connector: IscsiConnector, volumes: Volumes
) -> None:
    """Nothing can be saved then, so it ends without force; but not without a word."""
    properties = exported.properties()
    info = connector.connect_volume(properties)
    exported.tgt.set_lun_params(exported.tid, 1, scsi_id="another", scsi_sn="another")
    exported.tgt.restart()
    wait_until(lambda: volumes.get(info["name"]).failed, 60, "the other unit is found")
    with pytest.raises(EndedWithLoss, match="had not reached the target"):
        connector.disconnect_volume(properties, info)
    connector.disconnect_volume(properties, info)
    assert volumes.status() == []
