# SPDX-License-Identifier: Apache-2.0
"""The target does not come back, and what docs/howto/docker-failures.md says to do then."""

from __future__ import annotations

import pytest

from tests.e2e.docker.storage import Storage
from tests.support import images
from tests.support.dockerd import DockerEngine
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(600)]

WRITER = "while :; do date > /data/file; sync /data/file || exit 5; echo written; done"
MOUNT = ("--network=none", "--volume=data:/data", images.WORKER, "/bin/sh", "-c")


def test_the_volume_is_ended_first_and_then_the_container(
    storage: Storage, engine: DockerEngine
) -> None:
    """The other way round Docker cannot kill what waits for the disk."""
    storage.volume(engine, "data")
    engine.docker("run", "--detach", "--name=writer", *MOUNT, WRITER)
    wait_until(lambda: "written" in engine.docker("logs", "writer"), 60, "something is written")
    storage.tgt.kill()
    try:
        wait_until(
            lambda: engine.volumes()[0]["state"] == "recovering", 60, "the loss of the target"
        )
        told = engine.pyscsi_init("umount", "data", "--force", check=False)
        assert "lost are" in told
        engine.docker("rm", "--force", "writer")
        assert engine.docker("ps", "--all", "--quiet") == ""
        assert [volume["state"] for volume in engine.volumes()] == ["defined"]
    finally:
        storage.tgt.start()
    # Should it come back after all: the volume is used as before.
    engine.docker("run", "--rm", *MOUNT, "test -e /data/file")
    storage.check_all_is_gone(engine)
