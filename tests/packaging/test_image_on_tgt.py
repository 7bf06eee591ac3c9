# SPDX-License-Identifier: Apache-2.0
"""The controller of deploy/kubernetes with its component for tgt, in a container of the image with
the rights that the manifest gives it and no other: it makes, grows and removes a LUN on a real tgt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusefs.csi.wire import csi_pb2 as csi
from fusefs.host.tgtadm import TgtAdmin
from tests.support import built, kustomize
from tests.support.csi_driver import Client, Mode
from tests.support.dockerd import DockerEngine
from tests.support.tgt import TgtServer
from tests.support.waiting import wait_until

MEBI = 1 << 20
START_S = 60.0
CONTROL = "control-1"
"""What tgtd of the test calls its socket; that of a node is socket.0."""

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(900)]


def rendered(directory: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The objects of an overlay with the component, by kind and name."""
    yaml = pytest.importorskip("yaml", reason="the Python module yaml is not installed")
    directory.mkdir()
    overlay = kustomize.overlay(directory, "tgt")
    text = kustomize.render(overlay, directory / "all.yaml").read_text()
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}


def rights(container: dict[str, Any]) -> list[str]:
    """Its security context as options of `docker run`."""
    context = dict(container["securityContext"])
    # What the engine has without being asked for it.
    assert context.pop("seccompProfile", {"type": "RuntimeDefault"}) == {"type": "RuntimeDefault"}
    assert context == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsUser": 0,
        "capabilities": {"drop": ["ALL"]},
    }
    bare = ("--cap-drop=ALL", "--read-only", "--user=0", "--security-opt=no-new-privileges")
    return [*bare, "--network=none"]


def places(container: dict[str, Any], pod: dict[str, Any], host: dict[str, Path]) -> list[str]:
    """Its volumes as options of `docker run`: ``host`` stands in for directories of the node."""
    on_node = {each["name"] for each in pod["volumes"] if "hostPath" in each}
    assert on_node <= set(host)
    return [
        f"--volume={host[name]}:{path}" if name in host else f"--tmpfs={path}"
        for name, path in ((m["name"], m["mountPath"]) for m in container["volumeMounts"])
    ]


def test_the_controller_makes_volumes_on_a_tgt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = rendered(tmp_path / "overlay")
    pod = objects["Deployment", "pyscsi-init-controller"]["spec"]["template"]["spec"]
    (container,) = (each for each in pod["containers"] if each["name"] == "driver")
    host = {name: tmp_path / name for name in ("socket", "state", "backing")}
    for path in host.values():
        path.mkdir()
    image = built.image_archive(tmp_path)
    with TgtServer() as tgt, DockerEngine(tmp_path, plugin=False) as engine:
        host |= {"tgtd": tgt.directory, "tgt-volumes": host["backing"]}
        ((name, value),) = ((each["name"], each["value"]) for each in container["env"])
        options = [*rights(container), *places(container, pod, host)]
        options += [f"--env={name}={Path(value).with_name(CONTROL)}"]
        # One path for the controller and for tgtd.
        options += [f"--volume={host['backing']}:{host['backing']}"]
        parameters = {
            **objects["StorageClass", "iscsi-tgt"]["parameters"],
            "targetPortal": tgt.portal,
            "tgtControlPort": "1",
            "tgtDirectory": str(host["backing"]),
        }
        engine.docker("load", "--input", str(image.archive))
        engine.docker("run", "--detach", "--name=driver", *options, image.name, *container["args"])
        socket = host["socket"] / "csi.sock"
        client = Client(socket)
        try:
            wait_until(socket.exists, START_S, "the driver's socket")
            monkeypatch.setenv(name, str(tgt.directory / CONTROL))
            from_create_to_delete(client, TgtAdmin(1), host["backing"], parameters)
        finally:
            client.close()
            engine.docker("rm", "--force", "--volumes", "driver")


def from_create_to_delete(
    client: Client, tgt: TgtAdmin, backing: Path, parameters: dict[str, str]
) -> None:
    """One volume, which is there for initiators meanwhile and gone afterwards."""
    capability = csi.VolumeCapability(
        mount=csi.VolumeCapability.MountVolume(fs_type="ext4"),
        access_mode=csi.VolumeCapability.AccessMode(mode=Mode.SINGLE_NODE_WRITER),
    )
    create = csi.CreateVolumeRequest(
        name="pvc-1",
        parameters=parameters,
        capacity_range=csi.CapacityRange(required_bytes=64 * MEBI),
        volume_capabilities=[capability],
    )
    volume = client.call("CreateVolume", create).volume
    (file,) = backing.iterdir()
    assert file.stat().st_size == volume.capacity_bytes == 64 * MEBI
    (target,) = tgt.targets()
    assert target.name == volume.volume_context["iqn"]
    assert target.units == {int(volume.volume_context["lun"]): str(file)}
    expand = csi.ControllerExpandVolumeRequest(
        volume_id=volume.volume_id, capacity_range=csi.CapacityRange(required_bytes=96 * MEBI)
    )
    assert client.call("ControllerExpandVolume", expand).capacity_bytes == 96 * MEBI
    assert file.stat().st_size == 96 * MEBI
    delete = csi.DeleteVolumeRequest(volume_id=volume.volume_id)
    assert client.refusal("DeleteVolume", delete) == ("OK", "")
    assert not list(backing.iterdir())
    assert not tgt.targets()
