# SPDX-License-Identifier: Apache-2.0
"""Calls that no careful orchestrator makes, and hosts on which somebody else was at work: what is
not ours stays, what is ours is neither lost nor left behind.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import time
from pathlib import Path

import grpc
import pytest

from fusefs.csi.wire import csi_pb2 as csi
from fusefs.host.interface import QUICK_S
from fusefs.volume.teardown import FORCED_SYNC_SECONDS
from tests.support.csi_cluster import MEBI, Cluster, cluster, running_cluster
from tests.support.csi_driver import LIFE, Kubelet, Mode, failure, states
from tests.support.direct_io import until
from tests.support.filesystems import fsck_is_clean, make_filesystem
from tests.support.tgt import TgtServer

__all__ = ["cluster", "running_cluster"]

pytestmark = [pytest.mark.root, pytest.mark.tgt]


def umount(path: Path) -> None:
    subprocess.run(["umount", str(path)], check=True)


def sync(file: Path) -> None:
    subprocess.run(["sync", str(file)], check=True)


def elsewhere_of(
    request: csi.NodeUnpublishVolumeRequest, path: str
) -> csi.NodeUnpublishVolumeRequest:
    return csi.NodeUnpublishVolumeRequest(volume_id=request.volume_id, target_path=path)


def refuse_links(volume: Kubelet) -> None:
    client = volume.driver.client
    real = volume.driver.base / "real"
    real.mkdir()
    stage = volume.stage_request()
    volume.staging.rmdir()
    volume.staging.symlink_to(real)
    publish = volume.publish_request("pod-1")
    target = volume.target("pod-1")
    target.symlink_to(real)
    for method, request in (("NodeStageVolume", stage), ("NodePublishVolume", publish)):
        code, text = client.refusal(method, request)
        assert (code, "symbolic link" in text) == ("INVALID_ARGUMENT", True), (code, text)
    volume.staging.unlink()
    target.unlink()


def test_places_that_are_not_the_volumes(cluster: Cluster) -> None:
    disk = cluster.new_disk()
    volume = Kubelet(cluster.driver, f"owner-{disk.tid}", disk.context)
    # An id that is no file name; kubelet's paths are another affair.
    target = volume.target("pod-1")
    volume.target = lambda _pod: target  # type: ignore[method-assign]
    volume.volume_id = "a/../../Ünï/" + "ö" * 50
    refuse_links(volume)
    volume.stage()
    elsewhere = volume.publish_request("pod-1")
    elsewhere.staging_target_path += "-other"
    code, text = cluster.client.refusal("NodePublishVolume", elsewhere)
    assert (code, "is not staged at" in text) == ("FAILED_PRECONDITION", True), (code, text)
    place = volume.publish("pod-1")
    (place / "file").write_text("kept")
    # Another volume's id with this one's path: by mistake, or by malice.
    for name in ("nobody", "other"):
        wrong = volume.unpublish_request("pod-1")
        wrong.volume_id = name
        code, text = cluster.client.refusal("NodeUnpublishVolume", wrong)
        assert (place / "file").read_text() == "kept", (code, text)
        assert code == "FAILED_PRECONDITION", text
    wrong = volume.unpublish_request("pod-1")
    wrong.target_path = str(volume.staging)
    code, text = cluster.client.refusal("NodeUnpublishVolume", wrong)
    assert (place / "file").read_text() == "kept", (code, text)
    assert code == "FAILED_PRECONDITION", text
    assert cluster.client.code("NodeUnpublishVolume", elsewhere_of(wrong, "/")) != "OK"
    foreign = cluster.driver.base / "foreign"
    foreign.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(foreign)], check=True)
    try:
        for name in ("nobody", volume.volume_id):
            wrong.volume_id, wrong.target_path = name, str(foreign)
            code, text = cluster.client.refusal("NodeUnpublishVolume", wrong)
            assert os.path.ismount(foreign), (code, text)
            assert code == "FAILED_PRECONDITION", text
    finally:
        umount(foreign)
    volume.unpublish("pod-1")
    volume.unstage()


def test_unpublish_leaves_what_somebody_put_there(cluster: Cluster) -> None:
    directory = cluster.driver.base / "plain"
    directory.mkdir()
    (directory / "file").write_text("somebody's")
    link = cluster.driver.base / "link"
    link.symlink_to(directory)
    nobody = Kubelet(cluster.driver, "nobody", {}).unpublish_request("pod-1")
    for path in (directory, link):
        nobody.target_path = str(path)
        code, _ = cluster.client.refusal("NodeUnpublishVolume", nobody)
        assert code == "FAILED_PRECONDITION"
        assert (directory / "file").read_text() == "somebody's"
    (directory / "file").unlink()
    nobody.target_path = str(directory)
    assert cluster.client.code("NodeUnpublishVolume", nobody) == "OK"
    assert not directory.exists()


def test_ids_and_paths_that_cannot_be(cluster: Cluster) -> None:
    disk = cluster.new_disk()
    stage = Kubelet(cluster.driver, f"plain-{disk.tid}", disk.context).stage_request()
    for name in ("a\nb", "x" * 256):
        stage.volume_id = name
        assert cluster.client.code("NodeStageVolume", stage) == "INVALID_ARGUMENT"
    stage.volume_id, stage.staging_target_path = "zero", "/tmp/\0"
    assert cluster.client.code("NodeStageVolume", stage) == "INVALID_ARGUMENT"


def test_long_texts_of_errors_arrive(cluster: Cluster) -> None:
    """A status travels in a header, where a letter of another script takes nine bytes and more."""
    disk = cluster.new_disk()
    for letter in ("x", "ö", "\U0001f980"):
        context = {**disk.context, "portals": "[" + letter * 3000}
        volume = Kubelet(cluster.driver, "long", context)
        code, text = cluster.client.refusal("NodeStageVolume", volume.stage_request())
        assert (code, "attribute portals" in text) == ("INVALID_ARGUMENT", True), (code, text)


def test_no_password_in_a_portal_is_repeated(cluster: Cluster) -> None:
    disk = cluster.new_disk()
    for portal in ("iscsi://me%hush-hush-hush@127.0.0.1", "me:hush-hush-hush@127.0.0.1"):
        volume = Kubelet(cluster.driver, "talk", {**disk.context, "targetPortal": portal})
        code, text = cluster.client.refusal("NodeStageVolume", volume.stage_request())
        assert (code, "hush" in text) == ("INVALID_ARGUMENT", False), (code, text)
    assert "hush" not in cluster.driver.log.read_text()


def test_a_client_that_goes_away_in_the_middle_of_each_call(cluster: Cluster) -> None:
    disk = cluster.new_disk()
    volume = Kubelet(cluster.driver, f"gone-{disk.tid}", disk.context)
    for method in LIFE:
        request = volume.request(method, "pod-1")
        with pytest.raises(grpc.RpcError) as caught:
            cluster.client.call(method, request, timeout=0.001)
        assert failure(caught.value)[0] == "DEADLINE_EXCEEDED"
        cancelled = cluster.client.begin(method, request)
        cancelled.cancel()

        def again(method: str = method, request: object = request) -> bool:
            code, text = cluster.client.refusal(method, request)  # type: ignore[arg-type]
            assert code in ("OK", "ABORTED"), (method, text)
            return code == "OK"

        until(again, 60)
    assert "Traceback" not in cluster.driver.log.read_text()


def test_an_inline_volume_that_does_not_come(cluster: Cluster) -> None:
    disk = cluster.new_disk()
    context = {**disk.context, "lun": "7", "csi.storage.k8s.io/ephemeral": "true"}
    volume = Kubelet(cluster.driver, "csi-absent", context, mode=Mode.SINGLE_NODE_WRITER)
    code, _ = cluster.client.refusal("NodePublishVolume", volume.publish_request("pod-1"))
    assert code == "NOT_FOUND"
    assert not volume.target("pod-1").exists()
    assert states(cluster.driver) == []
    volume.unpublish("pod-1")
    volume.context = {**context, "lun": "1", "takeOver": "true"}
    code, text = cluster.client.refusal("NodePublishVolume", volume.publish_request("pod-1"))
    assert (code, "takeOver" in text) == ("INVALID_ARGUMENT", True)
    assert not volume.target("pod-1").exists()


def test_a_bind_that_somebody_unmounted(cluster: Cluster) -> None:
    disk = cluster.new_disk()
    volume = Kubelet(cluster.driver, f"unbound-{disk.tid}", disk.context)
    volume.stage()
    umount(volume.publish("pod-1"))
    answer = volume.stats("pod-1")
    assert answer.volume_condition.abnormal
    assert answer.usage[0].total <= 64 * MEBI, "the size of the disk below"
    volume.publish("pod-1")
    assert not volume.stats("pod-1").volume_condition.abnormal
    volume.unpublish("pod-1")
    volume.unstage()


GIVE_UP = {
    "ext4": ["mount", "-o", "remount,abort"],
    "xfs": ["xfs_io", "-x", "-c", "shutdown"],
}
"""Has the kernel do what it does after an error in a filesystem."""


@pytest.mark.parametrize("fstype", ["ext4", pytest.param("xfs", marks=pytest.mark.soak)])
def test_a_filesystem_that_the_kernel_gave_up(cluster: Cluster, fstype: str) -> None:
    """It says so, can be unstaged, and is checked when it is staged again."""
    disk = cluster.new_disk((64 if fstype == "ext4" else 320) * MEBI)
    volume = Kubelet(cluster.driver, f"given-up-{disk.tid}", disk.context, fstype=fstype)
    volume.stage()
    file = volume.publish("pod-1") / "file"
    file.write_text("kept")
    sync(file)
    subprocess.run([*GIVE_UP[fstype], str(volume.staging)], check=True, capture_output=True)
    condition = volume.stats("pod-1").volume_condition
    assert condition.abnormal
    assert "met an I/O error" in condition.message, condition
    volume.unpublish("pod-1")
    volume.unstage()
    assert "its end was not clean" in cluster.driver.log.read_text()
    volume.stage()
    assert (volume.publish("pod-1") / "file").read_text() == "kept"
    assert not volume.stats("pod-1").volume_condition.abnormal
    volume.unpublish("pod-1")
    volume.unstage()


@pytest.mark.soak
def test_an_end_with_a_place_unmounted_waits_until_all_is_written(cluster: Cluster) -> None:
    """The volume is well, only a place of it is gone: that is no reason to end it by force."""
    path = cluster.driver.base / "slow"
    path.touch()
    with TgtServer(fault_on=path) as tgt:
        tid = tgt.new_target("iqn.2026-11.example:slow")
        tgt.add_lun(tid, 1, path, size_bytes=64 * MEBI)
        context = {"targetPortal": tgt.portal, "iqn": tgt.targets[tid], "lun": "1"}
        volume = Kubelet(cluster.driver, "slow", context)
        volume.stage()
        place = volume.publish("pod-1")
        assert tgt.fault is not None
        (place / "file").write_bytes(b"in memory only..".ljust(4096) * 1024)
        tgt.fault.hold(0, 64 * MEBI)
        umount(place)
        unstage = cluster.client.begin("NodeUnstageVolume", volume.unstage_request())
        tgt.fault.wait_held()
        time.sleep(FORCED_SYNC_SECONDS + QUICK_S + 5)
        tgt.fault.release()
        unstage.exception()
        until(functools.partial(is_unstaged, volume), 60)
        fsck_is_clean("ext4", path)
        volume.stage()
        content = (volume.staging / "file").read_bytes()
        volume.unstage()
    assert content == b"in memory only..".ljust(4096) * 1024


@pytest.mark.soak
def test_a_silent_target_holds_up_no_other_volume(cluster: Cluster) -> None:
    with TgtServer() as silent:
        other = Cluster(silent, cluster.driver)
        held = [Kubelet(cluster.driver, f"held-{i}", other.new_disk().context) for i in range(6)]
        published = Kubelet(cluster.driver, "published", other.new_disk().context)
        published.stage()
        place = published.publish("pod-1")
        (place / "file").write_bytes(bytes(4096))
        with silent.stopped():
            calls = [cluster.client.begin("NodeStageVolume", it.stage_request()) for it in held]
            volume = Kubelet(cluster.driver, "free", cluster.new_disk().context)
            began = time.monotonic()
            volume.stage()
            volume.publish("pod-1")
            for _ in range(3):
                published.stats("pod-1")
            volume.stats("pod-1")
            volume.unpublish("pod-1")
            volume.unstage()
            assert time.monotonic() - began < 30
        for call, it in zip(calls, held, strict=True):
            call.exception()  # it may have waited until the target was back, and be staged
            until(functools.partial(is_unstaged, it), 60)
        until(lambda: not published.stats("pod-1").volume_condition.abnormal, 60)
        published.unpublish("pod-1")
        published.unstage()


def is_unstaged(volume: Kubelet) -> bool:
    return volume.driver.client.code("NodeUnstageVolume", volume.unstage_request()) == "OK"


def test_a_volume_that_has_failed_for_good_is_staged_anew(cluster: Cluster, tmp_path: Path) -> None:
    """Another disk answered in its place. When the right one is back a stage is enough, as soon as
    no pod has the volume."""
    wrong = tmp_path / "wrong"
    wrong.touch()
    os.truncate(wrong, 64 * MEBI)
    make_filesystem("ext4", wrong)
    with TgtServer() as tgt:
        disk = Cluster(tgt, cluster.driver).new_disk()
        volume = Kubelet(cluster.driver, "replaced", disk.context)
        volume.stage()
        file = volume.publish("pod-1") / "file"
        file.write_text("kept")
        sync(file)
        tgt.kill()
        with TgtServer(port=tgt.port) as other:
            tid = other.new_target(disk.context["iqn"])
            other.add_lun(tid, 1, wrong)
            until(lambda: "failed" in volume.stats("pod-1").volume_condition.message, 60)
        tgt.start()
        client = cluster.client
        code, text = client.refusal("NodePublishVolume", volume.publish_request("pod-2"))
        assert (code, "has failed" in text) == ("FAILED_PRECONDITION", True), text
        assert client.code("NodeStageVolume", volume.stage_request()) == "UNAVAILABLE"
        volume.unpublish("pod-1")
        volume.stage()
        assert (volume.publish("pod-1") / "file").read_text() == "kept"
        volume.unpublish("pod-1")
        volume.unstage()


@pytest.mark.soak
def test_a_node_that_was_rebooted(cluster: Cluster) -> None:
    """Mounts and processes are gone, and the run directory was kept: each call finds its way."""
    disk = cluster.new_disk()
    volume = Kubelet(cluster.driver, f"rebooted-{disk.tid}", disk.context)
    volume.stage()
    (volume.publish("pod-1") / "file").write_text("kept")
    umount(volume.target("pod-1"))
    umount(volume.staging)
    state = next((cluster.driver.run_dir / "volumes").glob("*/state.json"))
    values = json.loads(state.read_text())
    state.write_text(json.dumps({**values, "boot_id": "another"}))
    code, _ = cluster.client.refusal("NodePublishVolume", volume.publish_request("pod-1"))
    assert code == "FAILED_PRECONDITION"
    assert volume.stats("pod-1").volume_condition.abnormal
    volume.unpublish("pod-1")
    volume.stage()
    assert (volume.publish("pod-1") / "file").read_text() == "kept"
    assert not volume.stats("pod-1").volume_condition.abnormal
    volume.unpublish("pod-1")
    volume.unstage()
