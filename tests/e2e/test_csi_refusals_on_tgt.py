# SPDX-License-Identifier: Apache-2.0
"""What the Node service refuses, with which code, and that nothing has changed afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from fusefs.csi.wire import csi_pb2 as csi
from tests.support.csi_cluster import Cluster, cluster, running_cluster
from tests.support.csi_driver import Kubelet, Mode, mounted_below, states
from tests.support.filesystems import make_filesystem
from tests.support.tgt import free_port

__all__ = ["cluster", "running_cluster"]

pytestmark = [pytest.mark.root, pytest.mark.tgt]


@pytest.fixture
def published(cluster: Cluster) -> Iterator[Kubelet]:
    """A volume that one pod has; unchanged by all that is refused."""
    disk = cluster.new_disk()
    volume = Kubelet(cluster.driver, f"published-{disk.tid}", disk.context)
    volume.stage()
    volume.publish("pod-1")
    before = states(cluster.driver), mounted_below(volume.root)
    yield volume
    assert (states(cluster.driver), mounted_below(volume.root)) == before
    volume.unpublish("pod-1")
    volume.unstage()


def without(request: Any, field: str) -> Any:
    copy = type(request)()
    copy.CopyFrom(request)
    copy.ClearField(field)
    return copy


def requests(volume: Kubelet) -> dict[str, Message]:
    return {
        "NodeStageVolume": volume.stage_request(),
        "NodePublishVolume": volume.publish_request("pod-1"),
        "NodeUnpublishVolume": volume.unpublish_request("pod-1"),
        "NodeUnstageVolume": volume.unstage_request(),
        "NodeGetVolumeStats": volume.stats_request("pod-1"),
        "NodeExpandVolume": volume.expand_request("pod-1", 0),
    }


REQUIRED = {
    "NodeStageVolume": ("volume_id", "staging_target_path", "volume_capability"),
    "NodePublishVolume": ("volume_id", "target_path", "volume_capability"),
    "NodeUnpublishVolume": ("volume_id", "target_path"),
    "NodeUnstageVolume": ("volume_id", "staging_target_path"),
    "NodeGetVolumeStats": ("volume_id", "volume_path"),
    "NodeExpandVolume": ("volume_id", "volume_path"),
}


def test_every_missing_field_and_every_bad_value(published: Kubelet) -> None:
    client = published.driver.client
    for method, request in requests(published).items():
        for field in REQUIRED[method]:
            answer = client.refusal(method, without(request, field))
            assert answer == ("INVALID_ARGUMENT", f"{field} is missing"), (method, field)
            if field.endswith("_path"):
                relative = type(request)()
                relative.CopyFrom(request)
                setattr(relative, field, "here")
                code, text = client.refusal(method, relative)
                assert (code, "is not an absolute path" in text) == ("INVALID_ARGUMENT", True)
    for method in ("NodeStageVolume", "NodePublishVolume"):
        request: Any = requests(published)[method]
        for part, text in (
            ("access_mode", "volume_capability.access_mode is missing"),
            ("mount", "volume_capability.access_type is missing"),
        ):
            changed = type(request)()
            changed.CopyFrom(request)
            changed.volume_capability.ClearField(part)
            code, found = client.refusal(method, changed)
            assert (code, text in found) == ("INVALID_ARGUMENT", True), (method, part, found)
        for key in ("targetPortal", "iqn", "lun"):
            changed = type(request)()
            changed.CopyFrom(request)
            del changed.volume_context[key]
            code, found = client.refusal(method, changed)
            assert (code, f"attribute {key}: is missing" in found) == ("INVALID_ARGUMENT", True)
        changed = type(request)()
        changed.CopyFrom(request)
        changed.volume_capability.access_mode.mode = Mode.MULTI_NODE_MULTI_WRITER
        assert client.code(method, changed) == "FAILED_PRECONDITION"
    unstaged = without(published.publish_request("pod-2"), "staging_target_path")
    code, text = client.refusal("NodePublishVolume", unstaged)
    assert (code, "stage it first" in text) == ("FAILED_PRECONDITION", True)


def test_unknown_volumes_and_places(published: Kubelet) -> None:
    client = published.driver.client
    nobody = Kubelet(published.driver, "nobody", published.context)
    assert client.code("NodePublishVolume", nobody.publish_request("pod-1")) == "NOT_FOUND"
    assert not nobody.target("pod-1").exists()
    assert client.code("NodeGetVolumeStats", nobody.stats_request("pod-1")) == "NOT_FOUND"
    assert client.code("NodeExpandVolume", nobody.expand_request("pod-1", 0)) == "NOT_FOUND"
    assert client.code("NodeUnpublishVolume", nobody.unpublish_request("pod-1")) == "OK"
    assert client.code("NodeUnstageVolume", nobody.unstage_request()) == "OK"
    assert client.code("NodeGetVolumeStats", published.stats_request("pod-9")) == "NOT_FOUND"
    assert client.code("NodeExpandVolume", published.expand_request("pod-9", 0)) == "NOT_FOUND"
    # Where it is not, there is nothing to take away.
    assert client.code("NodeUnpublishVolume", published.unpublish_request("pod-9")) == "OK"
    elsewhere = published.unstage_request()
    elsewhere.staging_target_path += "-of-another"
    assert client.code("NodeUnstageVolume", elsewhere) == "OK"


def test_stage_again_with_something_else(published: Kubelet) -> None:
    client = published.driver.client
    elsewhere = published.stage_request()
    elsewhere.staging_target_path += "-other"
    Path(elsewhere.staging_target_path).mkdir()
    assert client.code("NodeStageVolume", elsewhere) == "ALREADY_EXISTS"
    for change in (
        lambda it: it.volume_capability.mount.mount_flags.append("noatime"),
        lambda it: setattr(it.volume_capability.mount, "fs_type", "xfs"),
        lambda it: it.volume_capability.block.SetInParent(),
        lambda it: it.volume_context.update(lun="2"),
        lambda it: it.volume_context.update(readOnly="true"),
    ):
        request = published.stage_request()
        change(request)
        code, text = client.refusal("NodeStageVolume", request)
        assert code == "ALREADY_EXISTS", text
    code, text = client.refusal("NodeUnstageVolume", published.unstage_request())
    assert code == "FAILED_PRECONDITION"
    assert str(published.target("pod-1")) in text


@pytest.mark.parametrize(
    ("mode", "elsewhere"),
    [
        ("SINGLE_NODE_WRITER", "FAILED_PRECONDITION"),
        ("SINGLE_NODE_SINGLE_WRITER", "FAILED_PRECONDITION"),
        ("SINGLE_NODE_READER_ONLY", "FAILED_PRECONDITION"),
        ("SINGLE_NODE_MULTI_WRITER", "OK"),
        ("MULTI_NODE_READER_ONLY", "OK"),
    ],
)
def test_the_second_publish(cluster: Cluster, mode: str, elsewhere: str) -> None:
    """The table of the specification: target the same or not, arguments the same or not."""
    disk = cluster.new_disk()
    make_filesystem("ext4", disk.path)
    volume = Kubelet(cluster.driver, f"second-{disk.tid}", disk.context, mode=Mode.Mode.Value(mode))
    client = cluster.client
    volume.stage()
    volume.publish("pod-1")
    assert client.code("NodePublishVolume", volume.publish_request("pod-1")) == "OK"
    read_only = volume.publish_request("pod-1", readonly=True)
    other_mode = volume.publish_request("pod-1")
    reader = volume.capability.access_mode.mode in (
        Mode.SINGLE_NODE_READER_ONLY,
        Mode.MULTI_NODE_READER_ONLY,
    )
    other_mode.volume_capability.access_mode.mode = (
        Mode.MULTI_NODE_READER_ONLY if mode == "SINGLE_NODE_READER_ONLY"
        else Mode.SINGLE_NODE_READER_ONLY if reader
        else Mode.SINGLE_NODE_SINGLE_WRITER if mode != "SINGLE_NODE_SINGLE_WRITER"
        else Mode.SINGLE_NODE_MULTI_WRITER
    )  # fmt: skip
    other_flags = volume.publish_request("pod-1")
    other_flags.volume_capability.mount.mount_flags.append("nodiratime")
    for request in (read_only, other_mode, other_flags):
        assert client.code("NodePublishVolume", request) == "ALREADY_EXISTS"
    assert client.code("NodePublishVolume", volume.publish_request("pod-2")) == elsewhere
    other = volume.publish_request("pod-3", readonly=True)
    assert client.code("NodePublishVolume", other) == elsewhere
    assert volume.target("pod-3").exists() == (elsewhere == "OK")
    for pod in ("pod-1", "pod-2", "pod-3"):
        volume.unpublish(pod)
    volume.unstage()


def test_a_target_that_does_not_give_the_volume(cluster: Cluster) -> None:
    disk = cluster.new_disk()
    client = cluster.client

    def refused(**context: str) -> tuple[str, str]:
        volume = Kubelet(cluster.driver, "refused", {**disk.context, **context})
        return client.refusal("NodeStageVolume", volume.stage_request())

    assert refused(lun="7")[0] == "NOT_FOUND"
    assert refused(iqn="iqn.2026-11.example:nobody")[0] == "NOT_FOUND"
    portal = f"127.0.0.1:{free_port()}"
    code, text = refused(targetPortal=portal)
    assert (code, portal in text) == ("UNAVAILABLE", True)
    code, text = refused(chapAuthSession="true")
    assert (code, "nodeStageSecretRef" in text) == ("INVALID_ARGUMENT", True)
    code, text = refused(secret='{"node.session.auth.password": "hush-hush"}')
    assert (code, "hush" in text) == ("INVALID_ARGUMENT", False)
    assert "hush" not in cluster.driver.log.read_text()
    volume = Kubelet(cluster.driver, "refused", disk.context, secrets={"password": "hush"})
    assert client.code("NodeStageVolume", volume.stage_request()) == "INVALID_ARGUMENT"


def test_what_lies_on_the_disk(cluster: Cluster) -> None:
    disk = cluster.new_disk()
    client = cluster.client
    name = f"content-{disk.tid}"
    blank = Kubelet(cluster.driver, name, {**disk.context, "formatIfBlank": "false"})
    code, text = client.refusal("NodeStageVolume", blank.stage_request())
    assert (code, "holds no filesystem" in text) == ("FAILED_PRECONDITION", True)
    with disk.path.open("r+b") as opened:
        opened.seek(4096)
        opened.write(b"somebody's data")
    volume = Kubelet(cluster.driver, name, disk.context)
    code, text = client.refusal("NodeStageVolume", volume.stage_request())
    assert code == "FAILED_PRECONDITION", text
    with disk.path.open("r+b") as opened:
        opened.seek(4096)
        assert opened.read(15) == b"somebody's data"
    make_filesystem("ext4", disk.path)
    xfs = Kubelet(cluster.driver, name, disk.context, fstype="xfs")
    code, text = client.refusal("NodeStageVolume", xfs.stage_request())
    assert (code, "holds ext4" in text) == ("FAILED_PRECONDITION", True)


def test_one_lun_under_two_ids(published: Kubelet) -> None:
    other = Kubelet(published.driver, "second-id", published.context)
    code, text = published.driver.client.refusal("NodeStageVolume", other.stage_request())
    assert code == "FAILED_PRECONDITION"
    assert published.volume_id in text


def test_a_read_only_publish_of_a_writable_device(cluster: Cluster) -> None:
    volume = Kubelet(cluster.driver, "device-ro", cluster.new_disk().context, block=True)
    volume.stage()
    request = volume.publish_request("pod-1", readonly=True)
    code, text = cluster.client.refusal("NodePublishVolume", request)
    assert (code, "attach the volume read-only" in text) == ("INVALID_ARGUMENT", True)
    assert not volume.target("pod-1").exists()
    volume.unstage()
    reader = Kubelet(
        cluster.driver, "device-ro", volume.context, block=True, mode=Mode.MULTI_NODE_READER_ONLY
    )
    reader.stage()
    device = reader.publish("pod-1", readonly=True)
    with pytest.raises(OSError, match=r"not permitted|Read-only|denied"):  # noqa: SIM117
        with device.open("r+b", buffering=0) as opened:
            opened.write(bytes(4096))
    reader.unpublish("pod-1")
    reader.unstage()


def test_identity_and_information(cluster: Cluster) -> None:
    client = cluster.client
    assert client.call("Probe").ready.value is True
    kinds = client.call("GetPluginCapabilities").capabilities
    assert [kind.volume_expansion.type for kind in kinds] == [
        csi.PluginCapability.VolumeExpansion.ONLINE
    ]
    assert client.call("NodeGetInfo").node_id == "node-1"
    names = csi.NodeServiceCapability.RPC.Type
    assert {
        names.Name(each.rpc.type) for each in client.call("NodeGetCapabilities").capabilities
    } == {
        "STAGE_UNSTAGE_VOLUME",
        "GET_VOLUME_STATS",
        "EXPAND_VOLUME",
        "VOLUME_CONDITION",
        "SINGLE_NODE_MULTI_WRITER",
    }
    assert client.code("ListVolumes") == "UNIMPLEMENTED"
