# SPDX-License-Identifier: Apache-2.0
"""The DaemonSets of deploy/kubernetes at work: their pods, as the manifests have them, in a Docker
Engine that is the node, with kubelet's calls on the driver's socket and pods that use the volumes.

Kubelet itself and the sidecars are not here.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fusefs.csi.wire import csi_pb2 as csi
from scripts.images.image import Image
from tests.support import built, images, requirements
from tests.support.closing import Closing
from tests.support.csi_driver import Client, Kubelet
from tests.support.dockerd import DockerEngine, DockerError
from tests.support.filesystems import fsck_is_clean
from tests.support.pods import Pod
from tests.support.source import ROOT
from tests.support.tgt import TgtServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(900)]

yaml = pytest.importorskip("yaml", reason="the Python module yaml is not installed")

DRIVER = "iscsi.pyscsi-init.io"
KUBELET = Path("/var/lib/kubelet")
SOCKET = KUBELET / "plugins" / DRIVER / "csi.sock"
MEBI = 1 << 20
PATIENCE_S = 90.0

WRITER = """\
set -eu
while [ ! -e /control/stop ]; do
    fio --name=round --filename=/data/file --rw=randwrite --bs=4k --size=512k --loops=2 \\
        --ioengine=libaio --iodepth=4 --direct=1 --fsync=32 --rate_iops=200 \\
        --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0 \\
        > /tmp/out 2>&1 || { cat /tmp/out; exit 3; }
    grep -q 'read: IOPS=.*(1024KiB/' /tmp/out || { cat /tmp/out; echo 'nothing verified'; exit 4; }
    echo round >> /control/rounds
done
"""


class Node(Closing):
    """A node of a cluster: its own /run and /var/lib, kubelet's directories, and our pods."""

    def __init__(self, engine: DockerEngine, objects: Mapping[str, Any], image: str) -> None:
        self._engine = engine
        self._objects = objects
        self._image = image
        self._is_there = False

    def begin(self) -> None:
        engine = self._engine
        var_lib = engine.directory / "var-lib"
        var_lib.mkdir(exist_ok=True)
        engine.run("mount", "--bind", str(var_lib), "/var/lib")
        # With a peer group of its own, as a disk of its own has it.
        engine.run("mount", "--make-private", "/var/lib")
        engine.run("mount", "--make-shared", "/var/lib")
        self._is_there = True
        for name in ("pods", "plugins", "plugins_registry"):
            (var_lib / "kubelet" / name).mkdir(parents=True, exist_ok=True)
        self._inside = Path(f"/proc/{engine.namespace.pid}/root")
        self.client = Client(self.seen(SOCKET))

    def seen(self, path: Path) -> Path:
        """A path of the node, from here."""
        return Path(f"{self._inside}{path}")

    def data_plane(self, name: str) -> Pod:
        workload = self._objects["pyscsi-init-data-plane"]
        return Pod(self._engine, workload, "data-plane", name, image=self._image)

    def front_door(self) -> Pod:
        return Pod(
            self._engine,
            self._objects["pyscsi-init-node"],
            "driver",
            "front-door",
            image=self._image,
            fields={"spec.nodeName": "node-1"},
        )

    def controller(self) -> Pod:
        workload = self._objects["pyscsi-init-controller"]
        # The engine has no bridge, and here the host's network has the target.
        return Pod(
            self._engine, workload, "driver", "controller", image=self._image, network="host"
        )

    def await_driver(self) -> None:
        """Wait until it answers; the client is another one then."""
        self.client.close()
        self.client = client_of(self.seen(SOCKET))

    def volume(self, name: str, context: Mapping[str, str], **options: Any) -> Volume:
        return Volume(self, name, context, root=KUBELET, **options)

    def close(self) -> None:
        self.client.close()
        if self._is_there:
            self._engine.run("umount", "/var/lib")
            self._is_there = False


def client_of(path: Path) -> Client:
    """For a socket that may not be there yet; whoever listens there answers."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        client = Client(path)
        if client.code("Probe") == "OK":
            return client
        client.close()  # a channel that once found nobody waits longer and longer
        assert time.monotonic() < deadline, f"nobody answers at {path}"
        time.sleep(0.05)


class Volume(Kubelet):
    """As kubelet has it on a node whose directories are seen from here under another name."""

    def __init__(self, node: Node, *arguments: Any, **options: Any) -> None:
        super().__init__(node, *arguments, **options)
        self._node = node

    def make_directory(self, path: Path) -> None:
        super().make_directory(self._node.seen(path))

    def unpublish(self, pod: str) -> None:
        self.driver.client.call("NodeUnpublishVolume", self.unpublish_request(pod))
        assert not self._node.seen(self.target(pod)).exists()

    def unstage(self) -> None:
        self.driver.client.call("NodeUnstageVolume", self.unstage_request())
        assert self._node.seen(self.staging).is_dir()


class Writer:
    """A pod that writes and verifies on a volume, round after round, until it is told to end."""

    def __init__(self, engine: DockerEngine, directory: Path) -> None:
        self._engine = engine
        self._control = engine.directory / "control"
        self._control.mkdir()
        engine.docker(
            *("run", "--detach", "--name=writer", "--network=none"),
            f"--mount=type=bind,source={directory},destination=/data,bind-propagation=rslave",
            f"--mount=type=bind,source={self._control},destination=/control",
            *(images.WORKER, "/bin/sh", "-c", WRITER),
        )

    @property
    def rounds(self) -> int:
        file = self._control / "rounds"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def one_more(self) -> None:
        """Wait for a round that began from now on, and is verified."""
        goal = self.rounds + 2
        wait_until(lambda: self.rounds >= goal or not self._runs(), PATIENCE_S, "a round more")
        assert self._runs(), self._engine.docker("logs", "writer", check=False)

    def _runs(self) -> bool:
        state = self._engine.docker("inspect", "--format", "{{.State.Running}}", "writer")
        return state.strip() == "true"

    def end(self) -> None:
        (self._control / "stop").touch()
        status = self._engine.docker("wait", "writer").strip()
        assert status == "0", self._engine.docker("logs", "writer", check=False)
        self._engine.docker("rm", "writer")


def run_in_pod(engine: DockerEngine, directory: Path, script: str) -> str:
    """What a script prints in a pod that has the volume at /data."""
    return engine.docker(
        *("run", "--rm", "--network=none"),
        f"--mount=type=bind,source={directory},destination=/data,bind-propagation=rslave",
        *(images.WORKER, "/bin/sh", "-c", script),
    )


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What `kubectl apply -k` would make, by name."""
    kubectl = requirements.require("kubectl", "kubernetes-client")
    done = subprocess.run(
        [kubectl, "kustomize", str(ROOT / "deploy/kubernetes")],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    workloads = ("DaemonSet", "Deployment")
    found = [each for each in yaml.safe_load_all(done.stdout) if each["kind"] in workloads]
    return {each["metadata"]["name"]: each for each in found}


@pytest.fixture(scope="module")
def tgt() -> Iterator[TgtServer]:
    with TgtServer() as server:
        yield server


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return built.image_archive(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def engine(
    tmp_path_factory: pytest.TempPathFactory, tgt: TgtServer, image: Image
) -> Iterator[DockerEngine]:
    with DockerEngine(tmp_path_factory.mktemp("node"), plugin=False) as running:
        running.import_image(images.worker_archive(), images.WORKER)
        running.docker("load", "--input", str(image.archive))
        yield running


@pytest.fixture
def node(engine: DockerEngine, objects: Mapping[str, Any], image: Image) -> Iterator[Node]:
    with Node(engine, objects, image.name) as made:
        yield made
    engine.check_nothing_left()


def new_volume(node: Node, tgt: TgtServer, tmp_path: Path) -> tuple[Volume, Path]:
    iqn = f"iqn.2026-11.example:{tmp_path.name.replace('_', '-')}"
    disk = tmp_path / "disk"
    tgt.add_lun(tgt.new_target(iqn), 1, disk, size_bytes=64 * MEBI)
    context = {"targetPortal": tgt.portal, "iqn": iqn, "lun": "1"}
    return node.volume(tmp_path.name, context, fstype="ext4"), disk


def test_the_pods_of_a_node(
    node: Node, engine: DockerEngine, tgt: TgtServer, tmp_path: Path
) -> None:
    """A pod writes while the front door is killed and comes back, and while the data plane is
    updated as a DaemonSet with maxSurge does it; then everything is taken down."""
    first, second = node.data_plane("plane-1"), node.data_plane("plane-2")
    volume, disk = new_volume(node, tgt, tmp_path)
    with first:
        with node.front_door() as front_door:
            node.await_driver()
            assert node.client.call("GetPluginInfo").name == DRIVER
            assert node.client.call("NodeGetInfo").node_id == "node-1"
            volume.stage()
            writer = Writer(engine, volume.publish("pod-a"))
            writer.one_more()
            front_door.kill()
            writer.one_more()
        with node.front_door():
            node.await_driver()
            with second:  # the surge
                first.close()  # only now the old one is deleted
                writer.one_more()
                assert len(tgt.sessions()) == 1
                # Another pod of the node, published by the front door that has seen none of it.
                path = volume.publish("pod-b")
                assert "file" in run_in_pod(engine, path, "ls /data")
                assert not volume.stats("pod-b").volume_condition.abnormal
                writer.end()
                for pod in ("pod-a", "pod-b"):
                    volume.unpublish(pod)
                volume.unstage()
                tgt.wait_sessions(0)
    fsck_is_clean("ext4", disk)


@pytest.mark.parametrize("end", [Pod.kill, Pod.close], ids=["killed", "deleted"])
def test_a_data_plane_that_ends_alone(
    node: Node, engine: DockerEngine, tgt: TgtServer, tmp_path: Path, end: Callable[[Pod], None]
) -> None:
    """Its processes end, and no other one has taken over: its volumes are lost. Their I/O fails,
    kubelet is told, and the next pod has the volume with all that had been written out."""
    volume, disk = new_volume(node, tgt, tmp_path)
    with node.front_door():
        with node.data_plane("plane-1") as plane:
            node.await_driver()
            volume.stage()
            path = volume.publish("pod-a")
            run_in_pod(engine, path, "echo written > /data/file; sync /data/file")
            end(plane)
        with node.data_plane("plane-2"):
            condition = volume.stats("pod-a").volume_condition
            assert condition.abnormal, condition
            assert condition.message
            with pytest.raises(DockerError, match=r"error|Read-only"):
                run_in_pod(engine, path, "echo more > /data/other; sync /data/other")
            volume.unpublish("pod-a")
            volume.unstage()
            volume.stage()
            path = volume.publish("pod-b")
            assert run_in_pod(engine, path, "cat /data/file") == "written\n"
            volume.unpublish("pod-b")
            volume.unstage()
            tgt.wait_sessions(0)
    fsck_is_clean("ext4", disk)


def test_a_claim_has_a_volume_made_for_it(
    node: Node, engine: DockerEngine, tgt: TgtServer, tmp_path: Path
) -> None:
    """The controller, without any right, lends a LUN of a pool; the node uses it; when it is given
    back nothing of it can be read any more."""
    iqn = "iqn.2026-11.example:pool"
    disk = tmp_path / "disk"
    tid = tgt.new_target(iqn)
    tgt.add_lun(tid, 1, disk, size_bytes=64 * MEBI)
    wanted = csi.CreateVolumeRequest(
        name="pvc-1",
        parameters={"provisioner": "pool", "pool": tgt.url(tid)},
        capacity_range=csi.CapacityRange(required_bytes=32 * MEBI),
        volume_capabilities=[node.volume("", {}, fstype="ext4").capability],
    )
    with node.data_plane("plane"), node.front_door(), node.controller() as controller:
        client = client_of(Path(f"/proc/{controller.pid}/root/csi/csi.sock"))
        made = client.call("CreateVolume", wanted).volume
        node.await_driver()
        volume = node.volume(made.volume_id, made.volume_context, fstype="ext4")
        volume.stage()
        path = volume.publish("pod")
        assert (
            run_in_pod(engine, path, "echo words >/data/f; sync /data/f; cat /data/f") == "words\n"
        )
        volume.unpublish("pod")
        volume.unstage()
        assert any(disk.read_bytes())
        client.call("DeleteVolume", csi.DeleteVolumeRequest(volume_id=made.volume_id))
        client.close()
    assert not any(disk.read_bytes())
    tgt.wait_sessions(0)
