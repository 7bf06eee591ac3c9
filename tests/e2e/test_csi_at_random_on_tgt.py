# SPDX-License-Identifier: Apache-2.0
"""Calls in any order, twice, at once, with the driver killed between and mounts taken away: what
was written and flushed is there at the end, no call has an internal error, and nothing is left.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.csi_cluster import Cluster
from tests.support.csi_driver import Driver, Kubelet, Mode, end_all, failure, states
from tests.support.direct_io import until
from tests.support.filesystems import fsck_is_clean
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.soak, pytest.mark.timeout(0)]

PODS = ("pod-1", "pod-2")
NEVER = {"INTERNAL", "UNKNOWN", "INVALID_ARGUMENT", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"}
STEPS = 80


class Player:
    """One volume, and what is known to be on it."""

    def __init__(self, cluster: Cluster, chance: random.Random, number: int) -> None:
        self.cluster = cluster
        self.chance = chance
        self.disk = cluster.new_disk()
        self.volume = Kubelet(cluster.driver, f"random-{self.disk.tid}", self.disk.context)
        self.other = Kubelet(
            cluster.driver,
            self.volume.volume_id,
            self.disk.context,
            mode=Mode.SINGLE_NODE_WRITER,
            flags=["noatime"],
        )
        self.number = number
        self.flushed: dict[str, bytes] = {}

    def step(self) -> str:
        pod = self.chance.choice(PODS)
        volume = self.other if self.chance.random() < 0.1 else self.volume
        name, request = self.chance.choice(
            [
                ("NodeStageVolume", volume.stage_request()),
                ("NodeStageVolume", volume.stage_request()),
                ("NodePublishVolume", volume.publish_request(pod)),
                ("NodePublishVolume", volume.publish_request(pod)),
                ("NodePublishVolume", volume.publish_request(pod, readonly=True)),
                ("NodeUnpublishVolume", volume.unpublish_request(pod)),
                ("NodeUnstageVolume", volume.unstage_request()),
                ("NodeGetVolumeStats", volume.stats_request(pod)),
                ("NodeExpandVolume", volume.expand_request(pod, 0)),
                ("write", None),
                ("write", None),
                ("umount", None),
                ("kill the driver", None),
                ("kill the worker", None),
            ]
        )
        if name == "write":
            return self.write(pod)
        if name == "umount":
            place = self.chance.choice([self.volume.target(pod), self.volume.staging])
            done = subprocess.run(["umount", str(place)], check=False, capture_output=True)
            return f"umount {place.name} {done.returncode}"
        if name == "kill the driver":
            self.cluster.driver.kill()
            self.cluster.driver.start()
            return name
        if name == "kill the worker":
            for state in states(self.cluster.driver):
                if state["spec"]["name"] == self.volume.volume_id and state["worker"]:
                    try:
                        os.kill(state["worker"]["pid"], signal.SIGKILL)
                    except ProcessLookupError:
                        continue
            return name
        assert request is not None
        calls = [
            self.cluster.client.begin(name, request)
            for _ in range(self.chance.choice([1, 1, 1, 2]))
        ]
        if self.chance.random() < 0.1:
            calls[0].cancel()
        codes = []
        for call in calls:
            if call.cancelled():
                continue
            error = call.exception()
            code, text = ("OK", "") if error is None else failure(error)
            assert code not in NEVER or "CAP_SYS_RESOURCE" in text, (name, code, text)
            codes.append(code)
        return f"{name} {pod} {codes}"

    def write(self, pod: str) -> str:
        place = self.volume.target(pod)
        if not os.path.ismount(place):
            return "no write"
        self.number += 1
        content = f"{self.number}".encode() * 1000
        try:
            descriptor = os.open(place / f"file{self.number % 7}", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            return f"no write: {error}"
        try:
            os.pwrite(descriptor, content.ljust(8192), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.flushed[f"file{self.number % 7}"] = content.ljust(8192)
        return f"write {self.number}"

    def end(self) -> None:
        client = self.cluster.client
        for pod in PODS:
            request = self.volume.unpublish_request(pod)
            until(lambda it=request: client.code("NodeUnpublishVolume", it) == "OK", 60)  # type: ignore[misc]
        self.unstage()
        if not self.flushed:
            return
        self.volume.stage()
        for name, content in self.flushed.items():
            assert (Path(self.volume.staging) / name).read_bytes() == content, name
        self.unstage()
        fsck_is_clean("ext4", self.disk.path)

    def unstage(self) -> None:
        client, request = self.cluster.client, self.volume.unstage_request()
        until(lambda: client.code("NodeUnstageVolume", request) == "OK", 60)


@pytest.mark.parametrize("seed", range(6))
def test_calls_at_random(tmp_path: Path, seed: int) -> None:
    with TgtServer() as tgt, Driver(tmp_path) as driver:
        try:
            play(Cluster(tgt, driver), random.Random(seed))
        finally:
            end_all(driver)


def play(cluster: Cluster, chance: random.Random) -> None:
    players = [Player(cluster, chance, number * 1000) for number in range(2)]
    told: list[str] = []
    try:
        for _ in range(STEPS):
            player = chance.choice(players)
            told.append(f"{player.volume.volume_id}: {player.step()}")
        for player in players:
            player.end()
        cluster.check()
    except BaseException as error:
        error.add_note("\n".join(told))
        raise
