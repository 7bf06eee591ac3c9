# SPDX-License-Identifier: Apache-2.0
"""A front door of kubelet and a data plane in a mount namespace of its own, as two pods have it;
and what becomes of a volume when all of that data plane is killed, as by the deletion of its pod.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.test_data_plane import DataPlaneProcess
from tests.support.csi_cluster import Cluster
from tests.support.csi_driver import Driver, Kubelet, assert_nothing_left, end_all
from tests.support.direct_io import until
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(300)]

PATIENCE_S = 60.0


def kill_all(plane: DataPlaneProcess) -> None:
    """Every process of its container at once."""
    victims = plane.processes()
    assert len(victims) >= 4, "the program, holder, zygote and worker"

    def all_dead() -> bool:
        # Also whoever was started while the others were killed.
        found = plane.processes()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    until(all_dead, PATIENCE_S)
    until(all_dead, PATIENCE_S)
    plane.process.wait(30)


def write(file: Path, text: str) -> None:
    """Until it is on the disk."""
    with file.open("w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())


@pytest.mark.parametrize(
    "block",
    [False, pytest.param(True, marks=pytest.mark.soak)],
    ids=["filesystem", "block"],
)
def test_a_data_plane_whose_pod_was_deleted(tmp_path: Path, block: bool) -> None:
    """Pods get errors and have to be started anew, which needs nothing but kubelet's own calls."""
    environment = {"PYSCSI_INIT_DATA_PLANE": "external"}
    with TgtServer() as tgt, Driver(tmp_path, environment=environment) as driver:
        cluster = Cluster(tgt, driver)
        disk = cluster.new_disk()
        volume = Kubelet(driver, "vol", disk.context, block=block)
        try:
            with DataPlaneProcess(driver, tmp_path / "plane1") as plane:
                plane.wait_ready()
                volume.stage()
                place = volume.publish("pod-1")
                if not block:
                    write(place / "file", "written before")
                assert not volume.stats("pod-1").volume_condition.abnormal
                kill_all(plane)
            until(lambda: volume.stats("pod-1").volume_condition.abnormal, PATIENCE_S)
            assert "failed" in volume.stats("pod-1").volume_condition.message
            with pytest.raises(OSError, match=r"error|Read-only|not connected"):
                write(place if block else place / "later", "lost" * 512)
            # kubelet ends the pod, whether or not there is a data plane again.
            volume.unpublish("pod-1")
            volume.unstage()
            code, text = driver.client.refusal("NodeStageVolume", volume.stage_request())
            assert (code, "pyscsi-init data-plane" in text) == ("UNAVAILABLE", True)
            with DataPlaneProcess(driver, tmp_path / "plane2") as plane:
                plane.wait_ready()
                volume.stage()
                place = volume.publish("pod-2")
                if not block:
                    assert (place / "file").read_text() == "written before"
                volume.unpublish("pod-2")
                volume.unstage()
                assert_nothing_left(driver)
            tgt.wait_sessions(0, timeout=30)
        finally:
            end_all(driver)
