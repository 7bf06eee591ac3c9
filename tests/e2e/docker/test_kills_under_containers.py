# SPDX-License-Identifier: Apache-2.0
"""The plugin and dockerd are killed while containers write: the writers do not notice, users are
counted as before, and the last container to go takes everything with it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.docker.storage import Storage
from tests.e2e.docker.writers import Writers
from tests.support import images
from tests.support.dockerd import DockerEngine
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(600)]

TEARDOWN_S = 60.0
KILLS = int(os.environ.get("PYSCSI_INIT_SOAK_PLUGIN_KILLS") or 30)


def attached(engine: DockerEngine) -> set[str]:
    """The names of the volumes that are mounted for containers."""
    return {volume["name"] for volume in engine.volumes() if volume["state"] == "mounted"}


def users(engine: DockerEngine, volume: str) -> list[int]:
    """How often each user of a volume is counted, as Docker shows it."""
    told = json.loads(engine.docker("volume", "inspect", volume))[0]["Status"]
    return sorted(told["users"].values())


def ten_writers(engine: DockerEngine, storage: Storage) -> Writers:
    """Ten containers on nine volumes: the first two share one."""
    writers = Writers(engine)
    writers.start("shared", "writer-one", options=storage.mount_options(storage.lun("shared")))
    writers.start("shared", "writer-two")
    for number in range(8):
        name = f"own{number}"
        writers.start(name, options=storage.mount_options(storage.lun(name)))
    return writers


def end_one_by_one(engine: DockerEngine, storage: Storage, writers: Writers) -> None:
    """A shared volume stays until its second user goes; then everything is gone."""
    everything = attached(engine)
    assert users(engine, "shared") == [1, 1]
    writers.finish("writer-one")
    assert users(engine, "shared") == [1]
    assert attached(engine) == everything
    assert {nexus.tid for nexus in storage.tgt.sessions()} == set(storage.tgt.targets)
    writers.finish("writer-two")
    wait_until(lambda: "shared" not in attached(engine), TEARDOWN_S, "the shared volume is gone")
    assert attached(engine) == everything - {"shared"}
    writers.finish()
    storage.check_all_is_gone(engine)
    engine.docker("volume", "rm", *everything)
    assert engine.docker("volume", "ls", "--quiet").split() == []


@pytest.mark.parametrize("kills", [1, pytest.param(KILLS, marks=pytest.mark.soak)])
def test_ten_writers_do_not_notice_the_death_of_the_plugin(
    engine: DockerEngine, storage: Storage, kills: int
) -> None:
    writers = ten_writers(engine, storage)
    for _ in range(kills):
        engine.stop_plugin(signal.SIGKILL)
        writers.more_rounds()  # without any plugin
        engine.start_plugin()
    writers.more_rounds()
    end_one_by_one(engine, storage, writers)


def test_containers_that_end_while_there_is_no_plugin(tmp_path: Path, storage: Storage) -> None:
    """dockerd's calls wait in the socket, which somebody else holds for the plugin, as systemd
    does: when the plugin is back, it takes down what has no user any more, and only that."""
    with DockerEngine(tmp_path, hold_socket=True) as engine:
        engine.import_image(images.worker_archive(), images.WORKER)
        writers = Writers(engine)
        writers.start("goes", options=storage.mount_options(storage.lun("goes")))
        writers.start("shared", "writer-one", options=storage.mount_options(storage.lun("shared")))
        writers.start("shared", "writer-two")
        writers.more_rounds()
        engine.stop_plugin(signal.SIGKILL)
        ending = [engine.start("docker", "rm", "-f", name) for name in writers.names[:2]]
        wait_until(lambda: not any(map(writers.lives, writers.names[:2])), TEARDOWN_S, "they die")
        assert writers.lives("writer-two")
        engine.start_plugin()
        assert [each.wait(TEARDOWN_S) for each in ending] == [0, 0]
        del writers.names[:2]
        wait_until(lambda: attached(engine) == {"shared"}, TEARDOWN_S, "only one is attached")
        assert users(engine, "shared") == [1]
        writers.more_rounds()
        writers.finish()
        storage.check_all_is_gone(engine)


@pytest.mark.parametrize(
    ("live_restore", "how"),
    [
        (True, signal.SIGKILL),
        (False, signal.SIGKILL),
        pytest.param(True, signal.SIGTERM, marks=pytest.mark.soak),
        pytest.param(False, signal.SIGTERM, marks=pytest.mark.soak),
    ],
)
def test_dockerd_is_killed_and_started_again(
    tmp_path: Path, storage: Storage, live_restore: bool, how: signal.Signals
) -> None:
    with DockerEngine(tmp_path, live_restore=live_restore) as engine:
        engine.import_image(images.worker_archive(), images.WORKER)
        writers = Writers(engine)
        writers.start(storage.volume(engine, "shared"), "writer-one")
        writers.start("shared", "writer-two")
        writers.start(storage.volume(engine, "own"))
        writers.more_rounds()
        engine.restart_dockerd(how)
        if live_restore:
            writers.more_rounds()  # they were there all the time
            end_one_by_one(engine, storage, writers)
            return
        # dockerd ended them, or found them dead: their volumes are free, and used again.
        writers.remove()
        storage.check_all_is_gone(engine)
        writers.start("shared", "writer-three")
        writers.more_rounds()
        writers.finish()
        storage.check_all_is_gone(engine)
