# SPDX-License-Identifier: Apache-2.0
"""The CSI driver as a process of its own, and who calls it: a gRPC client on its socket, in the
directories and the order of kubelet.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import anyio
import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from fusefs.csi.wire import csi_pb2 as csi
from fusefs.host import LinuxHost
from fusefs.volume.manager import VolumeManager
from tests.support import processes
from tests.support.closing import Closing

READY_S = 60.0
CALL_S = 90.0

Mode = csi.VolumeCapability.AccessMode


class RpcFailure(Protocol):
    """What gRPC raises has these two."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str: ...


def failure(error: grpc.RpcError) -> tuple[str, str]:
    """The name of the status code, and the text."""
    found = cast("RpcFailure", error)
    return found.code().name, found.details()


class Client:
    """Calls by the name of the method; an answer is the message, an error is grpc.RpcError."""

    def __init__(self, path: Path) -> None:
        self._channel = grpc.insecure_channel(
            f"unix:{path}", options=[("grpc.enable_http_proxy", 0)]
        )
        self._methods: dict[str, Any] = {}
        for service in csi.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                self._methods[method.name] = self._channel.unary_unary(
                    f"/{service.full_name}/{method.name}",
                    request_serializer=GetMessageClass(method.input_type).SerializeToString,
                    response_deserializer=GetMessageClass(method.output_type).FromString,
                )

    def call(self, method: str, request: Message | None = None, timeout: float = CALL_S) -> Any:
        """Call and wait."""
        return self._methods[method](request or _request(method), timeout=timeout)

    def begin(self, method: str, request: Message) -> Any:
        """Call and do not wait: a future."""
        return self._methods[method].future(request, timeout=CALL_S)

    def code(self, method: str, request: Message | None = None) -> str:
        """Call; the name of the status code that comes."""
        return self.refusal(method, request)[0]

    def refusal(self, method: str, request: Message | None = None) -> tuple[str, str]:
        """Call; the status code and the text."""
        try:
            self.call(method, request)
        except grpc.RpcError as error:
            return failure(error)
        return "OK", ""

    def close(self) -> None:
        self._channel.close()


def _request(method: str) -> Message:
    return cast("Message", getattr(csi, f"{method}Request")())


class Driver(Closing):
    """``with Driver(directory) as driver:`` runs `pyscsi-init serve --csi`."""

    def __init__(
        self,
        base: Path,
        *,
        command: Sequence[str] = (sys.executable, "-m", "fusefs.cli"),
        part: str = "--node",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.base = base
        self.socket = base / "csi.sock"
        self.run_dir = base / "run"
        self.state_dir = base / "state"
        self.log = base / "driver.log"
        self._command = [
            *command, "serve", "--csi", f"unix://{self.socket}", "--node-id", "node-1", part, "-vv",
        ]  # fmt: skip
        self._environment = processes.environment(
            PYSCSI_INIT_RUN_DIR=str(self.run_dir),
            PYSCSI_INIT_STATE_DIR=str(self.state_dir),
            **(environment or {}),
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.client = Client(self.socket)

    def begin(self) -> None:
        self.start()

    def start(self) -> None:
        """Start it and wait until it takes calls."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        self.await_answers()

    def _died(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def await_answers(self) -> None:
        """Wait until it takes calls; the client is another one then."""
        deadline = time.monotonic() + READY_S
        while not self._answers():
            assert not self._died(), self.log.read_text()[-2000:]
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.02)
        # A channel that once found nobody waits longer and longer before it looks again.
        self.client.close()
        self.client = Client(self.socket)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
            return True

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        if self._process is not None:
            processes.end(self._process.pid)
            self._process.wait()
            self._process = None

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for an end that comes by itself."""
        assert self._process is not None
        status = self._process.wait(timeout)
        self._process = None
        return status

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(60)
        self._process = None
        return status

    def close(self) -> None:
        if self._process is not None:
            self.stop()
        self.client.close()


class Called(Protocol):
    """A driver, wherever it runs."""

    @property
    def client(self) -> Client: ...


LIFE = (
    *("NodeStageVolume", "NodePublishVolume", "NodeExpandVolume"),
    *("NodeGetVolumeStats", "NodeUnpublishVolume", "NodeUnstageVolume"),
)
"""The calls of a node, each at a time when it can be made."""


class Kubelet:
    """The paths and the calls of kubelet for one volume of a PersistentVolume."""

    def __init__(
        self,
        driver: Called,
        volume_id: str,
        context: Mapping[str, str],
        *,
        block: bool = False,
        mode: int = Mode.SINGLE_NODE_MULTI_WRITER,
        fstype: str = "",
        flags: Sequence[str] = (),
        secrets: Mapping[str, str] | None = None,
        root: Path | None = None,
    ) -> None:
        """``root``: kubelet's directory, where it is not beside the driver's."""
        if root is None:
            assert isinstance(driver, Driver)
            root = driver.base / "kubelet"
        self.driver = driver
        self.volume_id = volume_id
        self.context = dict(context)
        self.block = block
        self.secrets = dict(secrets or {})
        self.capability = csi.VolumeCapability(
            access_mode=csi.VolumeCapability.AccessMode(mode=cast("Any", mode))
        )
        if block:
            self.capability.block.SetInParent()
        else:
            self.capability.mount.fs_type = fstype
            self.capability.mount.mount_flags.extend(flags)
        self.root = root
        plugins = self.root / "plugins/kubernetes.io/csi"
        if block:
            self.staging = plugins / "volumeDevices/staging" / volume_id
        else:
            digest = hashlib.sha256(volume_id.encode()).hexdigest()
            self.staging = plugins / "iscsi.pyscsi-init.io" / digest / "globalmount"

    def target(self, pod: str) -> Path:
        """Where a pod finds it; kubelet makes the parent."""
        if self.block:
            parent = self.root / "plugins/kubernetes.io/csi/volumeDevices/publish" / self.volume_id
            path = parent / pod
        else:
            path = self.root / "pods" / pod / "volumes/kubernetes.io~csi" / self.volume_id / "mount"
        self.make_directory(path.parent)
        return path

    def make_directory(self, path: Path) -> None:
        """What kubelet makes before it calls."""
        path.mkdir(mode=0o750, parents=True, exist_ok=True)

    # -- requests ---------------------------------------------------------------------------------

    def request(self, method: str, pod: str) -> Message:
        """That of one of ``LIFE``."""
        return {
            "NodeStageVolume": self.stage_request,
            "NodePublishVolume": lambda: self.publish_request(pod),
            "NodeGetVolumeStats": lambda: self.stats_request(pod),
            "NodeExpandVolume": lambda: self.expand_request(pod, 0),
            "NodeUnpublishVolume": lambda: self.unpublish_request(pod),
            "NodeUnstageVolume": self.unstage_request,
        }[method]()

    def stage_request(self) -> csi.NodeStageVolumeRequest:
        self.make_directory(self.staging)
        return csi.NodeStageVolumeRequest(
            volume_id=self.volume_id,
            staging_target_path=str(self.staging),
            volume_capability=self.capability,
            volume_context=self.context,
            secrets=self.secrets,
        )

    def publish_request(self, pod: str, *, readonly: bool = False) -> csi.NodePublishVolumeRequest:
        return csi.NodePublishVolumeRequest(
            volume_id=self.volume_id,
            staging_target_path=str(self.staging),
            target_path=str(self.target(pod)),
            volume_capability=self.capability,
            volume_context={**self.context, "csi.storage.k8s.io/pod.name": pod},
            readonly=readonly,
        )

    def unpublish_request(self, pod: str) -> csi.NodeUnpublishVolumeRequest:
        return csi.NodeUnpublishVolumeRequest(
            volume_id=self.volume_id, target_path=str(self.target(pod))
        )

    def unstage_request(self) -> csi.NodeUnstageVolumeRequest:
        return csi.NodeUnstageVolumeRequest(
            volume_id=self.volume_id, staging_target_path=str(self.staging)
        )

    def stats_request(self, pod: str) -> csi.NodeGetVolumeStatsRequest:
        return csi.NodeGetVolumeStatsRequest(
            volume_id=self.volume_id,
            volume_path=str(self.target(pod)),
            staging_target_path=str(self.staging),
        )

    def expand_request(self, pod: str, size: int) -> csi.NodeExpandVolumeRequest:
        return csi.NodeExpandVolumeRequest(
            volume_id=self.volume_id,
            volume_path=str(self.target(pod)),
            staging_target_path=str(self.staging),
            volume_capability=self.capability,
            capacity_range=csi.CapacityRange(required_bytes=size),
        )

    # -- calls ------------------------------------------------------------------------------------

    def stage(self) -> None:
        self.driver.client.call("NodeStageVolume", self.stage_request())

    def publish(self, pod: str, *, readonly: bool = False) -> Path:
        request = self.publish_request(pod, readonly=readonly)
        self.driver.client.call("NodePublishVolume", request)
        return Path(request.target_path)

    def unpublish(self, pod: str) -> None:
        self.driver.client.call("NodeUnpublishVolume", self.unpublish_request(pod))
        assert not self.target(pod).exists()

    def unstage(self) -> None:
        self.driver.client.call("NodeUnstageVolume", self.unstage_request())
        assert self.staging.is_dir()

    def stats(self, pod: str) -> csi.NodeGetVolumeStatsResponse:
        answer = self.driver.client.call("NodeGetVolumeStats", self.stats_request(pod))
        return cast("csi.NodeGetVolumeStatsResponse", answer)


def mounted_below(directory: Path) -> list[str]:
    """Each mount below a directory, as ``mountpoint type options``."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found = []
    for line in lines:
        fields = line.split()
        rest = fields[fields.index("-") + 1 :]
        if fields[4].startswith(f"{directory}/"):
            found.append(f"{fields[4]} {rest[0]} {fields[5]}")
    return found


def assert_nothing_left(driver: Driver) -> None:
    """No mount, no loop device, no file of a volume; the staging paths are kubelet's."""
    assert mounted_below(driver.base) == []
    volumes = driver.run_dir / "volumes"
    assert not volumes.exists() or os.listdir(volumes) == []
    for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            assert str(driver.base) not in loop.read_text()
        except FileNotFoundError:
            continue


def end_all(driver: Driver) -> None:
    """What a failed test left behind goes, so that it does not fail the next one."""

    async def end() -> None:
        manager = VolumeManager(LinuxHost(), driver.run_dir, driver.state_dir)
        for volume in await manager.status():
            await manager.ensure_gone(volume.name, force=True)

    anyio.run(end)


def states(driver: Driver) -> list[dict[str, Any]]:
    """The state files of the driver's volumes."""
    return [
        json.loads(path.read_text()) for path in (driver.run_dir / "volumes").glob("*/state.json")
    ]
