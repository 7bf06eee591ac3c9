# SPDX-License-Identifier: Apache-2.0
"""In-tree manifests, converted, and mounted by the CSI driver as kubelet would have it do."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from tests.fusefs.convert.converting import Outcome, convert
from tests.support.csi_cluster import Cluster, Disk, cluster, running_cluster
from tests.support.csi_driver import Kubelet, Mode, mounted_below
from tests.support.filesystems import fsck_is_clean
from tests.support.tgt import free_port

__all__ = ["cluster", "running_cluster"]

pytestmark = [pytest.mark.root, pytest.mark.tgt]

USER, PASSWORD = "reader", "a-secret-of-16-b"
SECRET = {"node.session.auth.username": USER, "node.session.auth.password": PASSWORD}
MODES = {
    "ReadWriteOnce": Mode.SINGLE_NODE_MULTI_WRITER,
    "ReadOnlyMany": Mode.MULTI_NODE_READER_ONLY,
}
"""What kubelet makes of the first access mode, for a driver with SINGLE_NODE_MULTI_WRITER."""


def source(disk: Disk, **more: Any) -> str:
    """``iscsi:``, as a mapping on one line."""
    fields: dict[str, Any] = {**disk.context, "lun": 1, **more}
    return f"iscsi: {fields!r}".replace("True", "true")


def kubelet(cluster: Cluster, outcome: Outcome) -> Kubelet:
    """What kubelet knows of the PersistentVolume, and hands to the driver."""
    spec = outcome.only("PersistentVolume")["spec"]
    csi = outcome.csi()
    return Kubelet(
        cluster.driver,
        csi["volumeHandle"],
        csi["volumeAttributes"],
        mode=MODES[spec["accessModes"][0]],
        fstype=csi["fsType"],
        flags=spec.get("mountOptions", ()),
        secrets=SECRET if "nodeStageSecretRef" in csi else None,
    )


def test_a_persistent_volume_and_then_a_pod_that_reads(cluster: Cluster) -> None:
    """One LUN with CHAP, whose second portal is dead: blank at first, as in-tree it was formatted;
    under the longest name that there may be."""
    disk = cluster.new_disk()
    cluster.tgt.require_chap(disk.tid, USER, PASSWORD)
    more = {"portals": [f"127.0.0.1:{free_port()}"], "chapAuthSession": True}
    chap = source(disk, **more, secretRef={"name": "chap", "namespace": "vault"})
    name = "v" * 253
    given = f"""\
    apiVersion: v1
    kind: PersistentVolume
    metadata: {{name: {name}}}
    spec:
      capacity: {{storage: 1Gi}}
      accessModes: [ReadWriteOnce]
      mountOptions: [noatime]
      {chap}
    """
    volume = kubelet(cluster, convert(given))
    volume.stage()
    (volume.publish("pod") / "file").write_text("content")
    assert all("noatime" in mount for mount in mounted_below(volume.root))
    volume.unpublish("pod")
    volume.unstage()
    fsck_is_clean("ext4", disk.path)

    inline = source(disk, **more, secretRef={"name": "chap"}, readOnly=True)
    given = f"""\
    apiVersion: v1
    kind: Pod
    metadata: {{name: web, namespace: shop}}
    spec:
      containers: [{{name: main, image: busybox}}]
      volumes:
      - name: data
        {inline}
    """
    volume = kubelet(cluster, convert(textwrap.dedent(given)))
    volume.stage()
    for pod in ("one", "two"):
        path = volume.publish(pod)
        assert (path / "file").read_text() == "content"
        with pytest.raises(OSError, match="Read-only"):
            (path / "new").touch()
    for pod in ("one", "two"):
        volume.unpublish(pod)
    volume.unstage()
