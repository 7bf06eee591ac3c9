# SPDX-License-Identifier: Apache-2.0
"""The life of volumes through the CSI socket, on a real tgt."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import grpc
import pytest

from fusefs.csi.wire import csi_pb2 as csi
from fusefs.host.process import CAP_SYS_RESOURCE, has_capability
from tests.support.csi_cluster import MEBI, Cluster, cluster, running_cluster
from tests.support.csi_driver import LIFE, Kubelet, Mode, failure, mounted_below, states
from tests.support.direct_io import until
from tests.support.filesystems import fsck_is_clean
from tests.support.tgt import TgtServer

__all__ = ["cluster", "running_cluster"]

pytestmark = [pytest.mark.root, pytest.mark.tgt]

USER, PASSWORD = "reader", "a-secret-of-16-b"
TARGET_USER, TARGET_PASSWORD = "the-target", "another-secret-16"


def test_a_filesystem_from_stage_to_unstage_every_call_twice(cluster: Cluster) -> None:
    disk = cluster.new_disk()
    volume = Kubelet(cluster.driver, "vol-1", disk.context, fstype="ext4", flags=["noatime"])
    for _ in range(2):
        volume.stage()
    assert len(cluster.tgt.sessions(disk.tid)) == 1
    for _ in range(2):
        one = volume.publish("pod-1")
    other = volume.publish("pod-2")
    (one / "file").write_text("seen by both")
    assert (other / "file").read_text() == "seen by both"
    mounts = mounted_below(volume.root)
    assert len(mounts) == 3
    assert all("noatime" in mount for mount in mounts)
    for _ in range(2):
        volume.unpublish("pod-1")
    volume.unpublish("pod-2")
    for _ in range(2):
        volume.unstage()
    assert cluster.tgt.sessions(disk.tid) == []
    fsck_is_clean("ext4", disk.path)


def test_a_block_device_from_stage_to_unstage_every_call_twice(cluster: Cluster) -> None:
    disk = cluster.new_disk()
    volume = Kubelet(cluster.driver, "vol-b", disk.context, block=True)
    for _ in range(2):
        volume.stage()
    for _ in range(2):
        device = volume.publish("pod-1")
    other = volume.publish("pod-2")
    assert device.is_block_device()
    assert device.stat().st_rdev == other.stat().st_rdev
    with device.open("r+b", buffering=0) as opened:
        assert opened.seek(0, os.SEEK_END) == 64 * MEBI
        opened.seek(0)
        opened.write(b"raw" + bytes(4093))
        os.fsync(opened.fileno())
    with disk.path.open("rb") as backing:
        assert backing.read(3) == b"raw"
    usage = volume.stats("pod-1").usage
    assert [(each.unit, each.total) for each in usage] == [(csi.VolumeUsage.BYTES, 64 * MEBI)]
    for _ in range(2):
        volume.unpublish("pod-1")
    volume.unpublish("pod-2")
    for _ in range(2):
        volume.unstage()
    assert cluster.tgt.sessions(disk.tid) == []


def test_kubelet_pins_a_block_device_with_a_loop_device_of_its_own(cluster: Cluster) -> None:
    disk = cluster.new_disk()
    volume = Kubelet(cluster.driver, "vol-pinned", disk.context, block=True)
    volume.stage()
    device = volume.publish("pod-1")
    losetup = ["losetup", "--find", "--show", str(device)]
    pin = subprocess.run(losetup, capture_output=True, text=True, check=True).stdout.strip()
    try:
        with Path(pin).open("r+b", buffering=0) as opened:
            opened.write(b"through both" + bytes(4084))
            os.fsync(opened.fileno())
        with disk.path.open("rb") as backing:
            assert backing.read(12) == b"through both"
    finally:
        subprocess.run(["losetup", "--detach", pin], check=True)
    volume.unpublish("pod-1")
    volume.unstage()


@pytest.mark.parametrize(
    ("mode", "flags", "attributes"),
    [
        (Mode.MULTI_NODE_READER_ONLY, [], {}),
        (Mode.SINGLE_NODE_MULTI_WRITER, ["ro"], {}),
        (Mode.SINGLE_NODE_MULTI_WRITER, [], {"readOnly": "true"}),
    ],
    ids=["mode", "mount-flag", "attribute"],
)
def test_read_only_all_the_way(
    cluster: Cluster, mode: int, flags: list[str], attributes: dict[str, str]
) -> None:
    disk = cluster.new_disk()
    name = f"vol-ro-{disk.tid}"
    maker = Kubelet(cluster.driver, name, disk.context)
    maker.stage()
    (maker.publish("pod-1") / "file").write_text("before")
    maker.unpublish("pod-1")
    maker.unstage()
    before = disk.path.read_bytes()
    volume = Kubelet(cluster.driver, name, {**disk.context, **attributes}, mode=mode, flags=flags)
    volume.stage()
    (state,) = states(cluster.driver)
    assert state["spec"]["read_only"]
    loop = Path(f"/sys/block/{Path(state['loop']['path']).name}")
    assert (loop / "ro").read_text().strip() == "1"
    place = volume.publish("pod-1", readonly=True)
    assert (place / "file").read_text() == "before"
    with pytest.raises(OSError, match="Read-only"):
        (place / "other").write_text("x")
    for mount in mounted_below(volume.root):
        assert re.search(r" ro[, ]| ro$", mount), mount
    volume.unpublish("pod-1")
    volume.unstage()
    assert disk.path.read_bytes() == before


def test_a_read_only_publish_of_a_writable_volume(cluster: Cluster) -> None:
    disk = cluster.new_disk()
    volume = Kubelet(cluster.driver, "vol-rp", disk.context)
    volume.stage()
    writer, reader = volume.publish("writer"), volume.publish("reader", readonly=True)
    (writer / "file").write_text("news")
    assert (reader / "file").read_text() == "news"
    with pytest.raises(OSError, match="Read-only"):
        (reader / "file").write_text("x")
    volume.unpublish("writer")
    volume.unpublish("reader")
    volume.unstage()


def test_an_inline_volume_needs_no_stage(cluster: Cluster) -> None:
    disk = cluster.new_disk()
    cluster.tgt.require_chap(disk.tid, "author", PASSWORD)
    context = {**disk.context, "csi.storage.k8s.io/ephemeral": "true"}
    volume = Kubelet(cluster.driver, "csi-0123", context, mode=Mode.SINGLE_NODE_WRITER)
    request = volume.publish_request("pod-1")
    request.staging_target_path = ""
    assert cluster.client.code("NodePublishVolume", request) == "UNAUTHENTICATED"
    request.secrets.update(
        {"node.session.auth.username": "author", "node.session.auth.password": PASSWORD}
    )
    for _ in range(2):
        cluster.client.call("NodePublishVolume", request)
    place = Path(request.target_path)
    (place / "file").write_text("gone with the pod")
    (mounted,) = mounted_below(volume.root)
    assert {"nosuid", "nodev"} <= set(mounted.split()[-1].split(","))
    assert not volume.stats("pod-1").volume_condition.abnormal
    assert cluster.client.code("NodeStageVolume", volume.stage_request()) == "INVALID_ARGUMENT"
    for _ in range(2):
        volume.unpublish("pod-1")
    assert not list(cluster.driver.state_dir.rglob("*csi-0123*"))
    assert cluster.tgt.sessions(disk.tid) == []
    request.volume_context["takeOver"] = "true"
    assert cluster.client.code("NodePublishVolume", request) == "INVALID_ARGUMENT"
    del request.volume_context["takeOver"]
    request.volume_capability.mount.fs_type = "vfat"
    code, text = cluster.client.refusal("NodePublishVolume", request)
    assert (code, "one of ext4, xfs, btrfs" in text) == ("INVALID_ARGUMENT", True)


def test_chap_from_the_secrets_and_nothing_of_it_anywhere(cluster: Cluster) -> None:
    disk = cluster.new_disk()
    cluster.tgt.require_chap(disk.tid, USER, PASSWORD)
    cluster.tgt.require_chap(disk.tid, TARGET_USER, TARGET_PASSWORD, outgoing=True)
    secrets = {
        "node.session.auth.username": USER,
        "node.session.auth.password": PASSWORD,
        "node.session.auth.username_in": TARGET_USER,
        "node.session.auth.password_in": TARGET_PASSWORD,
        "discovery.sendtargets.auth.username": "",
    }
    context = {**disk.context, "chapAuthSession": "true"}
    wrong = {**secrets, "node.session.auth.password": "wrong-but-16-long"}
    request = Kubelet(cluster.driver, "vol-chap", context, secrets=wrong).stage_request()
    code, text = cluster.client.refusal("NodeStageVolume", request)
    assert code == "UNAUTHENTICATED"
    volume = Kubelet(cluster.driver, "vol-chap", context, secrets=secrets)
    volume.stage()
    volume.publish("pod-1")
    # The secret outlives the worker: the holder has it in its memory.
    (state,) = states(cluster.driver)
    os.kill(state["worker"]["pid"], signal.SIGKILL)
    until(lambda: not volume.stats("pod-1").volume_condition.abnormal, 30)
    until(lambda: len(cluster.tgt.sessions(disk.tid)) == 1, 30)
    for directory in (cluster.driver.run_dir, cluster.driver.state_dir):
        for path in directory.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert PASSWORD.encode() not in content
                assert TARGET_PASSWORD.encode() not in content
    log = cluster.driver.log.read_text()
    for secret in (PASSWORD, TARGET_PASSWORD, "wrong-but-16-long"):
        assert secret not in log + text
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes()
        except OSError:
            continue
        assert PASSWORD.encode() not in line or b"tgtadm" in line
    volume.unpublish("pod-1")
    volume.unstage()


@pytest.mark.parametrize("block", [False, True], ids=["filesystem", "block"])
def test_each_call_at_the_same_time_as_itself(cluster: Cluster, block: bool) -> None:
    """One does it, the other is ABORTED, or finds it done; once more it is done anyway."""
    disk = cluster.new_disk()
    volume = Kubelet(cluster.driver, f"vol-twice-{block}", disk.context, block=block)
    for method in LIFE:
        request = volume.request(method, "pod-1")
        calls = [cluster.client.begin(method, request) for _ in range(4)]
        codes = []
        for call in calls:
            try:
                call.result()
                codes.append("OK")
            except grpc.RpcError as error:
                codes.append(failure(error)[0])
        assert set(codes) <= {"OK", "ABORTED"}, (method, codes)
        assert "OK" in codes, (method, codes)
        if method in ("NodeStageVolume", "NodeUnstageVolume"):
            assert "ABORTED" in codes, (method, codes)
        if method == "NodeGetVolumeStats":
            assert set(codes) == {"OK"}
        assert len(cluster.tgt.sessions(disk.tid)) <= 1
        cluster.client.call(method, request)


@pytest.mark.parametrize("fstype", ["xfs", "ext4", ""], ids=["xfs", "ext4", "block"])
def test_a_published_volume_grows(cluster: Cluster, fstype: str) -> None:
    size = (320 if fstype == "xfs" else 64) * MEBI
    disk = cluster.new_disk(size)
    volume = Kubelet(
        cluster.driver, f"vol-grow-{fstype}", disk.context, fstype=fstype, block=not fstype
    )
    volume.stage()
    place = volume.publish("pod-1")
    request = volume.expand_request("pod-1", 2 * size)
    code, text = cluster.client.refusal("NodeExpandVolume", request)
    assert code == "OUT_OF_RANGE"
    assert "grow the LUN at its target" in text
    before = volume.stats("pod-1").usage[0].total
    cluster.tgt.grow(disk.tid, 1, 2 * size)
    if fstype == "ext4" and not has_capability(CAP_SYS_RESOURCE):
        code, text = cluster.client.refusal("NodeExpandVolume", request)
        assert code == "FAILED_PRECONDITION"
        assert "CAP_SYS_RESOURCE" in text
    else:
        for _ in range(2):
            answer = cluster.client.call("NodeExpandVolume", request)
            assert answer.capacity_bytes == 2 * size
        after = volume.stats("pod-1").usage[0].total
        assert after > before + 0.9 * size
        if fstype:
            found = os.statvfs(place)
            assert found.f_blocks * found.f_frsize == after
        too_small = volume.expand_request("pod-1", size)
        too_small.capacity_range.limit_bytes = size
        assert cluster.client.code("NodeExpandVolume", too_small) == "OUT_OF_RANGE"
    volume.unpublish("pod-1")
    volume.unstage()


def test_condition_follows_the_session(cluster: Cluster) -> None:
    with TgtServer() as tgt:
        disk = Cluster(tgt, cluster.driver).new_disk()
        condition_follows(tgt, cluster, Kubelet(cluster.driver, "vol-cond", disk.context))


def condition_follows(tgt: TgtServer, cluster: Cluster, volume: Kubelet) -> None:
    volume.stage()
    place = volume.publish("pod-1")
    healthy = volume.stats("pod-1")
    found = os.statvfs(place)
    by_unit = {each.unit: each for each in healthy.usage}
    assert by_unit[csi.VolumeUsage.BYTES].total == found.f_blocks * found.f_frsize
    assert by_unit[csi.VolumeUsage.INODES].total == found.f_files
    assert by_unit[csi.VolumeUsage.INODES].available == found.f_ffree
    assert not healthy.volume_condition.abnormal
    assert tgt.portal in healthy.volume_condition.message
    tgt.kill()
    until(lambda: volume.stats("pod-1").volume_condition.abnormal, 60)
    began = time.monotonic()
    away = volume.stats("pod-1")
    assert time.monotonic() - began < 15
    assert "away" in away.volume_condition.message
    assert "on_disconnect=wait" in away.volume_condition.message
    assert away.usage[0].total > 0
    code, text = cluster.client.refusal(
        "NodeExpandVolume", volume.expand_request("pod-1", 64 * MEBI)
    )
    assert (code, "target is away" in text) == ("UNAVAILABLE", True)
    tgt.start()
    until(lambda: not volume.stats("pod-1").volume_condition.abnormal, 60)
    volume.unpublish("pod-1")
    volume.unstage()
