# SPDX-License-Identifier: Apache-2.0
"""Every endpoint of the protocol, over the real socket of a real plugin with a real tgt behind it.

The test is the engine: it keeps to the protocol's words and looks at the answers as they are sent.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fusefs.docker.disks import Disks, OneDisk
from tests.support import processes
from tests.support.plugin import Plugin
from tests.support.plugin_client import PluginClient
from tests.support.tgt import free_port

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(300)]

ID = "a" * 64
OTHER = "b" * 64
MEDIA_TYPE = "application/vnd.docker.plugins.v1.2+json"


@pytest.fixture
def disk(disks: Disks) -> OneDisk:
    return disks.new()


def created(plugin: Plugin, disk: OneDisk, name: str = "data", **options: str) -> None:
    plugin.call("Create", Name=name, Opts={**disk.formatted, **options})


def mounted(plugin: Plugin, name: str = "data", id_: str = ID) -> Path:
    return Path(plugin.call("Mount", Name=name, ID=id_)["Mountpoint"])


def unmounted(plugin: Plugin, name: str = "data", id_: str = ID) -> None:
    plugin.call("Unmount", Name=name, ID=id_)


def is_mounted(path: Path) -> bool:
    return path.exists() and path.is_mount()


def test_activate_and_capabilities(shared: Plugin) -> None:
    with shared.client() as client:
        for name, shape in (
            ("Plugin.Activate", {"Implements": ["VolumeDriver"]}),
            ("VolumeDriver.Capabilities", {"Capabilities": {"Scope": "global"}}),
        ):
            status, headers, answer = client.ask(name)
            assert (status, headers["content-type"], answer) == (200, MEDIA_TYPE, shape)


def test_the_life_of_a_volume(shared: Plugin, disk: OneDisk) -> None:
    """Every endpoint once, in the order and with the shapes that engines expect."""
    assert shared.call("List") == {"Volumes": [], "Err": ""}
    assert shared.call("Create", Name="data", Opts=disk.formatted) == {"Err": ""}
    assert shared.call("Path", Name="data") == {"Mountpoint": "", "Err": ""}
    (listed,) = shared.call("List")["Volumes"]
    assert (listed["Name"], listed["Mountpoint"]) == ("data", "")
    volume = shared.call("Get", Name="data")["Volume"]
    assert set(volume) == {"Name", "Mountpoint", "CreatedAt", "Status"}
    assert time.strptime(volume["CreatedAt"], "%Y-%m-%dT%H:%M:%SZ")
    assert volume["Status"]["state"] == "defined"
    assert disk.sessions() == []

    answer = shared.call("Mount", Name="data", ID=ID)
    assert set(answer) == {"Mountpoint", "Err"}
    path = Path(answer["Mountpoint"])
    assert path.is_mount()
    (path / "file").write_text("kept")
    disk.wait_sessions(1)
    assert shared.call("Path", Name="data")["Mountpoint"] == str(path)
    assert shared.call("Get", Name="data")["Volume"]["Mountpoint"] == str(path)

    assert shared.call("Unmount", Name="data", ID=ID) == {"Err": ""}
    assert not is_mounted(path)
    disk.wait_sessions(0)
    assert (mounted(shared) / "file").read_text() == "kept"
    unmounted(shared)
    assert shared.call("Remove", Name="data") == {"Err": ""}
    assert shared.call("List")["Volumes"] == []
    assert shared.files() == []


def test_status_tells_session_paths_io_users_and_deaths(shared: Plugin, disk: OneDisk) -> None:
    port = free_port()  # nobody listens there
    created(shared, disk, portal=f"{disk.tgt.portal},127.0.0.1:{port}")
    path = mounted(shared)
    (path / "file").write_bytes(bytes(100_000))
    status = shared.status("data")
    assert status["state"] == "mounted"
    session = status["session"]
    assert session["target"] == disk.options["target"]
    assert session["portal"].startswith(disk.tgt.portal)
    assert session["state"] == "Q3_LOGGED_IN"
    assert status["paths"] == [
        {"portal": disk.tgt.portal, "state": "active"},
        {"portal": f"127.0.0.1:{port}", "state": "standby"},
    ]
    assert status["io"]["writes"] > 0
    assert status["users"] == {ID: 1}
    assert (status["recoveries"], status["restarts"], status["last_error"]) == (0, 0, "")
    assert status["fstype"] == "ext4"
    worker = shared.workers()["data"]
    processes.end(worker)
    wait_until(lambda: shared.status("data")["restarts"] == 1)
    unmounted(shared)
    shared.call("Remove", Name="data")


def wait_until(condition: Any, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_create_again_and_otherwise(shared: Plugin, disk: OneDisk) -> None:
    created(shared, disk)
    created(shared, disk)
    shared.call("Create", Name="data", Opts={})
    shared.call("Create", Name="data", Opts=None)
    told = shared.refused(
        "Create", Name="data", Opts={**disk.formatted, "readonly": "", "mkfs": "no"}
    )
    assert "'data'" in told
    assert "read_only" in told
    assert "option portal: is missing" in shared.refused("Create", Name="other", Opts={})
    shared.call("Remove", Name="data")


def test_a_volume_of_newer_code_does_not_vanish(shared: Plugin, disk: OneDisk) -> None:
    created(shared, disk)
    file = shared.state_dir / "volumes" / "data.json"
    file.write_text((good := file.read_text()).replace('"version": 1', '"version": 2'))
    assert shared.call("List")["Volumes"] == [{"Name": "data"}]
    # An error of Get would mean to dockerd that there is none, and `docker run` made a local one.
    status = shared.status("data")
    assert (status["state"], "version 2, this" in status["last_error"]) == ("failed", True)
    for call in ("Mount", "Remove"):
        assert "run the version that wrote it" in shared.refused(call, Name="data", ID=ID)
    file.write_text(good)
    shared.call("Remove", Name="data")


@pytest.mark.parametrize("name", ["Get", "Path", "Mount"])
def test_an_unknown_volume_is_an_error(shared: Plugin, name: str) -> None:
    assert "'nothing'" in shared.refused(name, Name="nothing", ID=ID)


@pytest.mark.parametrize("name", ["Remove", "Unmount"])
def test_what_is_not_there_is_given_back_gladly(shared: Plugin, name: str) -> None:
    shared.call(name, Name="nothing", ID=ID)


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("Create", {}, "no Name"),
        ("Create", {"Name": 7}, "no Name"),
        ("Create", {"Name": "data", "Opts": ["a"]}, "Opts is no JSON object"),
        ("Mount", {"Name": "data"}, "no ID"),
        ("Unmount", {"ID": ID}, "no Name"),
    ],
)
def test_a_request_that_lacks_something_is_refused(
    shared: Plugin, name: str, values: dict[str, Any], why: str
) -> None:
    assert why in shared.refused(name, **values)


def test_users_are_counted_not_listed(shared: Plugin, disk: OneDisk) -> None:
    created(shared, disk)
    path = mounted(shared)
    assert mounted(shared) == path
    assert mounted(shared, id_=OTHER) == path
    assert shared.status("data")["users"] == {ID: 2, OTHER: 1}
    unmounted(shared)
    unmounted(shared)
    assert is_mounted(path)
    assert "in use" in shared.refused("Remove", Name="data")
    unmounted(shared)  # one too many: it is nobody's
    assert is_mounted(path)
    unmounted(shared, id_=OTHER)
    assert not is_mounted(path)
    shared.call("Remove", Name="data")


def test_two_first_mounts_at_once(shared: Plugin, disk: OneDisk) -> None:
    created(shared, disk)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda id_=id_: found.append(mounted(shared, id_=id_)))
        for id_ in (ID, OTHER, ID)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert len(found) == 3
    assert len(set(found)) == 1
    disk.wait_sessions(1)
    assert shared.status("data")["users"] == {ID: 2, OTHER: 1}
    for id_ in (ID, OTHER, ID):
        unmounted(shared, id_=id_)
    disk.wait_sessions(0)


def test_a_mount_that_fails_leaves_nothing(shared: Plugin, disk: OneDisk) -> None:
    shared.call("Create", Name="data", Opts=disk.options)  # blank, and not to be formatted
    told = shared.refused("Mount", Name="data", ID=ID)
    assert "nothing" in told or "blank" in told.lower()
    disk.wait_sessions(0)
    assert shared.status("data")["users"] == {}
    assert shared.files() == []
    shared.call("Remove", Name="data")


def test_a_mount_whose_caller_goes_is_undone(shared: Plugin, disks: Disks) -> None:
    disk = disks.new(size_bytes=1 << 30)
    created(shared, disk)
    with disk.tgt.stopped():
        client = PluginClient(shared.socket)
        with client:
            client.send("VolumeDriver.Mount", b'{"Name": "data", "ID": "%s"}' % ID.encode())
            wait_until(lambda: (shared.run_dir / "docker" / "data.json").exists())
        wait_until(lambda: shared.files() == [])
    assert shared.status("data")["users"] == {}
    disk.wait_sessions(0)
    mounted(shared)
    assert shared.status("data")["users"] == {ID: 1}
    unmounted(shared)


def test_sigterm_leaves_volumes_and_counts_as_they_are(plugin: Plugin, disk: OneDisk) -> None:
    created(plugin, disk)
    path = mounted(plugin)
    mounted(plugin)
    worker = plugin.workers()["data"]
    assert plugin.stop(signal.SIGTERM) == 0
    assert not plugin.socket.exists()
    (path / "file").write_text("while nobody serves")
    plugin.start()
    assert plugin.workers() == {"data": worker}
    assert plugin.status("data")["users"] == {ID: 2}
    unmounted(plugin)
    assert (path / "file").read_text() == "while nobody serves"
    unmounted(plugin)
    assert not is_mounted(path)


def test_sigkill_leaves_volumes_and_counts_as_they_are(plugin: Plugin, disk: OneDisk) -> None:
    created(plugin, disk)
    path = mounted(plugin)
    mounted(plugin, id_=OTHER)
    worker = plugin.workers()["data"]
    plugin.stop(signal.SIGKILL)
    assert plugin.socket.exists()
    (path / "file").write_text("while nobody serves")
    plugin.start()  # in place of the socket that was left
    assert plugin.workers() == {"data": worker}
    unmounted(plugin)
    assert (path / "file").read_text() == "while nobody serves"
    unmounted(plugin, id_=OTHER)
    assert not is_mounted(path)
    disk.wait_sessions(0)


def test_a_mount_that_is_asked_again_after_we_died_counts_once(
    plugin: Plugin, disk: OneDisk
) -> None:
    """An engine whose connection breaks asks again with the same ID."""
    created(plugin, disk)
    with plugin.client() as client:
        with disk.tgt.stopped():
            client.send("VolumeDriver.Mount", b'{"Name": "data", "ID": "%s"}' % ID.encode())
            wait_until(lambda: (plugin.run_dir / "docker" / "data.json").exists())
            plugin.stop(signal.SIGKILL)
        plugin.start()
    path = mounted(plugin)
    assert plugin.status("data")["users"] == {ID: 1}
    mounted(plugin)  # and one more, as `docker cp` makes it
    assert plugin.status("data")["users"] == {ID: 2}
    unmounted(plugin)
    assert is_mounted(path)
    unmounted(plugin)
    assert not is_mounted(path)
    disk.wait_sessions(0)


def test_a_mount_that_was_counted_and_not_answered_counts_once(
    plugin: Plugin, disk: OneDisk
) -> None:
    """The plugin dies between counting and answering: what is on disk is what that leaves."""
    created(plugin, disk)
    path = mounted(plugin)
    notes = plugin.run_dir / "docker" / "data.json"
    wait_until(lambda: '"answered": true' in notes.read_text())
    plugin.stop(signal.SIGKILL)
    notes.write_text(notes.read_text().replace('"answered": true', '"answered": false'))
    plugin.start()
    assert mounted(plugin) == path
    assert plugin.status("data")["users"] == {ID: 1}
    unmounted(plugin)
    assert not is_mounted(path)


def test_a_read_only_volume_is_read_only(shared: Plugin, disk: OneDisk) -> None:
    created(shared, disk)
    (mounted(shared) / "file").write_text("kept")
    unmounted(shared)
    shared.call("Create", Name="copy", Opts={**disk.options, "readonly": "true"})
    path = mounted(shared, "copy")
    assert (path / "file").read_text() == "kept"
    with pytest.raises(OSError, match="Read-only"):
        (path / "file").write_text("changed")
    unmounted(shared, "copy")


def test_errors_that_end_a_filesystem_are_told(shared: Plugin, disk: OneDisk) -> None:
    """Here a LUN that somebody makes read-only at the target: of it the session knows nothing."""
    created(shared, disk)
    path = mounted(shared)
    disk.tgt.set_lun_params(disk.tid, 1, readonly=1)
    write = ["dd", "if=/dev/zero", f"of={path}/file", "bs=4k", "count=1", "conv=fsync"]

    def has_failed() -> bool:
        assert subprocess.run(write, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode
        return bool(shared.status("data")["state"] == "failed")

    wait_until(has_failed)
    told = shared.status("data")["last_error"]
    assert "DATA PROTECT, write protected" in told
    assert "writes nothing any more" in told
    assert told in shared.refused("Mount", Name="data", ID=OTHER)
    disk.tgt.set_lun_params(disk.tid, 1, readonly=0)
    unmounted(shared)
    (mounted(shared) / "file").write_text("again")
    assert shared.status("data")["state"] == "mounted"
    unmounted(shared)


def test_a_volume_that_could_not_be_taken_down_goes_when_it_can(
    plugin: Plugin, disk: OneDisk
) -> None:
    created(plugin, disk)
    path = mounted(plugin)
    with (path / "open").open("w"):
        told = plugin.refused("Unmount", Name="data", ID=ID)
        assert str(path) in told
        assert plugin.status("data")["users"] == {}
    plugin_reload(plugin)
    wait_until(lambda: plugin.files() == [])
    disk.wait_sessions(0)


def plugin_reload(plugin: Plugin) -> None:
    import os

    os.kill(plugin.pid, signal.SIGHUP)
