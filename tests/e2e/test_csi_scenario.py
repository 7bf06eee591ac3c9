# SPDX-License-Identifier: Apache-2.0
"""Two pods of two containers each on one node: a LUN with ext4, read-only, and a LUN of the same
target with xfs, read-write, both at /mnt/iscsipd; in the directories and the order of kubelet.

The mount table is printed as it is while the pods run, and the session of a volume is gone after
its last unstage.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fusefs.host import Bind, LinuxHost
from tests.support.csi_cluster import MEBI, Cluster, cluster, running_cluster
from tests.support.csi_driver import Kubelet, Mode, mounted_below
from tests.support.filesystems import fsck_is_clean, make_filesystem

__all__ = ["cluster", "running_cluster"]

pytestmark = [pytest.mark.root, pytest.mark.tgt]

PODS = ("0b1e8c7a", "5f3d2e91")
MOUNT_PATH = "/mnt/iscsipd"


def in_container(base: Path, volume: Path, script: str) -> tuple[str, str]:
    """Run a script in a container of the pod; what it printed, and what it complained of."""
    container = LinuxHost().start_container(
        ["sh", "-c", script], rootfs=str(base / "root"), binds=[Bind(str(volume), MOUNT_PATH)]
    )
    stdout, stderr = container.process.communicate(timeout=60)
    container.stop()
    return stdout.decode(), stderr.decode()


def test_one_pod_with_two_containers_twice(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = cluster.new_disk()
    other = disk.path.with_suffix(".xfs")
    make_filesystem("ext4", disk.path)
    cluster.tgt.add_lun(disk.tid, 2, other, size_bytes=320 * MEBI)
    fixed = Kubelet(
        cluster.driver,
        "iscsipd-ro",
        {**disk.context, "lun": "1"},
        fstype="ext4",
        mode=Mode.MULTI_NODE_READER_ONLY,
    )
    written = Kubelet(cluster.driver, "iscsipd-rw", {**disk.context, "lun": "2"}, fstype="xfs")
    for volume in (fixed, written):
        volume.stage()
    places = {pod: (fixed.publish(pod, readonly=True), written.publish(pod)) for pod in PODS}
    table = mounted_below(cluster.driver.base / "kubelet")
    with capsys.disabled():
        lines = [line.removeprefix(str(cluster.driver.base)) for line in table]
        sys.stdout.write("\n".join(["", *lines, ""]))
    assert len(table) == 6
    assert sum(" ext4 ro" in line for line in table) == 3
    assert sum(" xfs rw" in line for line in table) == 3
    assert len(cluster.tgt.sessions(disk.tid)) == 2

    for pod, (ext4, xfs) in places.items():
        _, complaint = in_container(tmp_path, ext4, f"echo {pod} > {MOUNT_PATH}/file")
        assert "Read-only" in complaint
        assert in_container(tmp_path, xfs, f"echo {pod} >> {MOUNT_PATH}/file") == ("", "")
    told, _ = in_container(tmp_path, places[PODS[0]][1], f"cat {MOUNT_PATH}/file")
    assert told.split() == list(PODS)

    for pod in PODS:
        for volume in (fixed, written):
            assert len(cluster.tgt.sessions(disk.tid)) == 2
            volume.unpublish(pod)
    fixed.unstage()
    assert len(cluster.tgt.sessions(disk.tid)) == 1
    written.unstage()
    assert cluster.tgt.sessions(disk.tid) == []
    fsck_is_clean("ext4", disk.path)
    fsck_is_clean("xfs", other)
