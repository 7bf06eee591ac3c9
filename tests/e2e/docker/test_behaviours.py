# SPDX-License-Identifier: Apache-2.0
"""What dockerd expects of a volume plugin and does not say, one test each, with a real dockerd.

Managed plugins, which are another way to be started, have tests of their own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.docker.everyday import Everyday
from tests.e2e.docker.storage import Storage
from tests.support import images
from tests.support.dockerd import PLUGIN, DockerEngine, DockerError
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(300)]


def test_1_the_scope_is_global_and_a_volume_need_not_be_created_here(docker: Everyday) -> None:
    """A cluster creates a volume once; the other nodes are only asked for it."""
    options = docker.options("elsewhere")
    with docker.client() as client:  # past dockerd
        told = {key: str(value) for key, value in options.items()}
        client.call("VolumeDriver.Create", Name="elsewhere", Opts=told)
    assert "elsewhere" in docker.engine.docker("volume", "ls", "--quiet").split()
    inspected = json.loads(docker.engine.docker("volume", "inspect", "elsewhere"))[0]
    assert inspected["Scope"] == "global"
    assert inspected["Driver"] == PLUGIN
    assert docker.run("-v", "elsewhere:/data", script="echo here > /data/x; cat /data/x") == "here"
    docker.engine.docker("volume", "rm", "elsewhere")


def test_2_get_of_an_unknown_name_is_no_such_volume(docker: Everyday) -> None:
    with pytest.raises(DockerError, match=r"(?i)no such volume"):
        docker.engine.docker("volume", "inspect", "nothing")


def test_2_a_volume_that_cannot_be_read_is_not_made_a_local_one(docker: Everyday) -> None:
    """dockerd takes each error of Get for "no such volume", and `run -v` then for a wish."""
    name = docker.volume()
    docker.run("-v", f"{name}:/data", script="echo kept > /data/x")
    file = docker.engine.directory / "state" / "volumes" / f"{name}.json"
    file.write_text((good := file.read_text()).replace('"version": 1', '"version": 2'))
    told = docker.run("-v", f"{name}:/data", script="ls /data", check=False)
    assert "run the version that wrote it" in told
    assert f"local     {name}" not in docker.engine.docker("volume", "ls")
    assert name in docker.engine.docker("volume", "ls", "--quiet").split()
    file.write_text(good)
    assert docker.run("-v", f"{name}:/data", script="cat /data/x") == "kept"
    # Which LUN it was is forgotten; that Docker knows it is not.
    docker.engine.pyscsi_init("forget", name)
    assert docker.run("-v", f"{name}:/data", script="cat /data/x") == "kept"
    docker.engine.docker("volume", "rm", name)


def test_3_a_volume_that_was_removed_past_docker_can_be_created_again(docker: Everyday) -> None:
    name = docker.volume()
    with docker.client() as client:
        client.call("VolumeDriver.Remove", Name=name)
    docker.engine.docker("volume", "rm", "--force", name)
    options = docker.options(f"{name}-again")
    docker.engine.create_volume(name, **options)
    assert docker.run("-v", f"{name}:/data", script="df /data | grep -c /data") == "1"
    docker.engine.docker("volume", "rm", name)


def test_4_create_is_repeated_and_changes_nothing(docker: Everyday) -> None:
    name = docker.volume()
    docker.engine.docker("volume", "create", "-d", PLUGIN, name)
    driver = ("--volume-driver", PLUGIN, "-v", f"{name}:/data")
    docker.run(*driver, script="echo kept > /data/x")
    assert docker.run(*driver, script="cat /data/x") == "kept"
    with docker.client() as client:
        told = {key: str(value) for key, value in docker.options(f"{name}-other").items()}
        assert "url" in client.refused("VolumeDriver.Create", Name=name, Opts=told)


def test_5_cp_mounts_again_with_the_same_id_and_each_mount_has_one_unmount(
    docker: Everyday, tmp_path: Path
) -> None:
    name = docker.volume()
    docker.calls()
    docker.start("five", "-v", f"{name}:/data", script="echo one > /data/x; exec sleep 1000")
    wait_until(lambda: docker.engine.docker("exec", "five", "cat", "/data/x"), 30, "it has written")
    for copy in range(3):
        docker.engine.docker("cp", "five:/data/x", str(tmp_path / f"x{copy}"))
        assert (tmp_path / f"x{copy}").read_text() == "one\n"
        assert docker.engine.docker("exec", "five", "cat", "/data/x") == "one\n"
    (tmp_path / "into").write_text("from outside")
    docker.engine.docker("cp", str(tmp_path / "into"), "five:/data/into")
    assert docker.engine.docker("exec", "five", "cat", "/data/into") == "from outside"
    docker.wait_sessions(name, 1)
    docker.remove("five")
    docker.wait_sessions(name, 0)
    calls = docker.calls()
    mounts = [call.id for call in calls if call.name == "Mount"]
    unmounts = [call.id for call in calls if call.name == "Unmount"]
    assert len(mounts) >= 5  # into a container the client looks first
    assert len(set(mounts)) == 1
    assert sorted(mounts) == sorted(unmounts)


def test_6_a_mount_that_fails_has_no_unmount_and_leaves_nothing(docker: Everyday) -> None:
    name = docker.volume(mkfs="false")  # blank
    docker.calls()
    told = docker.run("-v", f"{name}:/data", script="true", check=False)
    assert "blank" in told
    calls = [call.name for call in docker.calls() if call.volume == name]
    assert "Mount" in calls
    assert "Unmount" not in calls
    docker.wait_sessions(name, 0)
    inspected = json.loads(docker.engine.docker("volume", "inspect", name))[0]
    assert inspected["Status"]["users"] == {}
    docker.engine.docker("volume", "rm", name)


def test_7_a_list_asks_for_no_path(docker: Everyday) -> None:
    name = docker.volume()
    docker.calls()
    assert name in docker.engine.docker("volume", "ls", "--quiet").split()
    calls = {call.name for call in docker.calls()}
    assert "List" in calls
    assert not calls & {"Path", "Mount"}
    with docker.client() as client:
        assert client.call("VolumeDriver.Path", Name=name) == {"Mountpoint": "", "Err": ""}


def test_8_what_a_killed_dockerd_held_is_given_back(engine: DockerEngine, storage: Storage) -> None:
    """Without live-restore its containers are ended by its successor, which sends no Unmount."""
    docker = Everyday(engine, storage)
    name = docker.volume()
    docker.start("eight", "-v", f"{name}:/data")
    docker.wait_sessions(name, 1)
    engine.stop_dockerd(signal.SIGKILL)
    engine.start_dockerd()
    wait_until(
        lambda: engine.docker("ps", "--quiet") == "", 60, "its successor has ended the container"
    )
    users = json.loads(engine.docker("volume", "inspect", name))[0]["Status"]["users"]
    assert len(users) == 1
    os.kill(engine.plugin_pid, signal.SIGHUP)
    wait_until(lambda: not docker.sessions(name), 90, "the volume is given back")
    docker.remove("eight")
    engine.docker("volume", "rm", name)
    engine.check_nothing_left()


def test_8_with_live_restore_a_killed_dockerd_disturbs_nothing(
    tmp_path: Path, storage: Storage
) -> None:
    """Its successor takes the container over without a Mount, and sends the Unmount at its end."""
    with DockerEngine(tmp_path, live_restore=True) as engine:
        engine.import_image(images.worker_archive(), images.WORKER)
        docker = Everyday(engine, storage)
        name = docker.volume()
        script = "while :; do date >> /data/x; sync; sleep 0.2; done"
        docker.start("eight", "-v", f"{name}:/data", script=script)
        engine.stop_dockerd(signal.SIGKILL)
        engine.start_dockerd()
        os.kill(engine.plugin_pid, signal.SIGHUP)
        written = engine.docker("exec", "eight", "wc", "-l", "/data/x")
        # Longer than it takes to give back what is abandoned.
        time.sleep(20)
        assert engine.docker("exec", "eight", "wc", "-l", "/data/x") != written
        assert len(docker.sessions(name)) == 1
        docker.remove("eight")
        docker.wait_sessions(name, 0)
        engine.check_nothing_left()


def test_10_a_plugin_that_starts_late_is_waited_for(tmp_path: Path, storage: Storage) -> None:
    with DockerEngine(tmp_path) as engine:
        engine.import_image(images.worker_archive(), images.WORKER)
        docker = Everyday(engine, storage)
        name = docker.volume()
        engine.stop_plugin()
        command = ("run", "--rm", "--network", "none", "-v", f"{name}:/data", "worker:local")
        client = engine.start("docker", *command, "/bin/sh", "-c", "echo late > /data/x")
        time.sleep(1)
        assert client.poll() is None
        engine.start_plugin()
        assert client.wait(90) == 0
        assert docker.run("-v", f"{name}:/data", script="cat /data/x") == "late"
        docker.wait_sessions(name, 0)
        engine.check_nothing_left()


@pytest.mark.soak
def test_10_containers_that_start_at_boot_are_started_once(
    engine: DockerEngine, storage: Storage
) -> None:
    """A restart policy is for containers that ran. So their Mount waits for a target that is not up
    yet; after a power cut hosts often are before their storage is."""
    docker = Everyday(engine, storage)
    name = docker.volume()
    docker.start("ten", "--restart", "always", "-v", f"{name}:/data")
    engine.stop_dockerd()
    docker.wait_sessions(name, 0)
    storage.tgt.kill()
    engine.stop_plugin()
    engine.start_plugin("-v")
    log = engine.directory / "plugin.log"
    starting = threading.Thread(target=engine.start_dockerd)
    starting.start()
    try:
        wait_until(lambda: "has just started: it waits" in log.read_text(), 40, "it is tried again")
    finally:
        storage.tgt.start()
        starting.join()
    assert "Up" in engine.docker("ps", "--format", "{{.Status}}")
    docker.remove("ten")
    storage.check_all_is_gone(engine)


def test_11_the_path_is_a_real_directory(docker: Everyday) -> None:
    """For volume-subpath, which newer engines have."""
    name = docker.volume()
    docker.start("eleven", "-v", f"{name}:/data")
    path = json.loads(docker.engine.docker("volume", "inspect", name))[0]["Mountpoint"]
    seen = Path(f"/proc/{docker.engine.namespace.pid}/root{path}")
    assert path.startswith("/")
    assert os.path.realpath(path) == path
    assert seen.is_dir()
    assert not seen.is_symlink()
    done = subprocess.run(
        docker.engine.namespace.command("mountpoint", path), capture_output=True, check=False
    )
    assert done.returncode == 0
    docker.remove("eleven")
    docker.wait_sessions(name, 0)
