# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of the CSI driver between and inside its calls; then the same call again.

A first life counts the steps of each call. Then the driver is killed at each of them, another one
starts on the same directories, and the call is made again: it succeeds, the volume is what it has
to be, and nothing is there twice. ``make test`` takes a few steps of each call, ``make soak`` all.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.csi_cluster import MEBI, Cluster, Disk
from tests.support.csi_driver import Kubelet, assert_nothing_left, end_all, mounted_below, states
from tests.support.csi_killed import KilledDriver
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

POD = "pod-1"
CALLS = ("NodeStageVolume", "NodePublishVolume", "NodeUnpublishVolume", "NodeUnstageVolume")
LOOKS = ("NodeGetVolumeStats", "NodeExpandVolume")
FEW = 3


@dataclass
class Life:
    """One volume on a disk that is blank before its first stage."""

    tgt: TgtServer
    driver: KilledDriver
    disk: Disk
    block: bool
    inline: bool = False
    number: int = 0

    def begin(self) -> None:
        """A new volume, on a disk that holds nothing."""
        self.number += 1
        os.truncate(self.disk.path, 0)
        os.truncate(self.disk.path, 64 * MEBI)
        context = dict(self.disk.context)
        if self.inline:
            context["csi.storage.k8s.io/ephemeral"] = "true"
        self.volume = Kubelet(self.driver, f"vol-{self.number}", context, block=self.block)

    def request(self, method: str) -> Any:
        return {
            "NodeStageVolume": self.volume.stage_request,
            "NodePublishVolume": lambda: self.volume.publish_request(POD),
            "NodeGetVolumeStats": lambda: self.volume.stats_request(POD),
            "NodeExpandVolume": lambda: self.volume.expand_request(POD, 0),
            "NodeUnpublishVolume": lambda: self.volume.unpublish_request(POD),
            "NodeUnstageVolume": self.volume.unstage_request,
        }[method]()

    def call(self, method: str) -> None:
        self.driver.client.call(method, self.request(method))

    def check(self, method: str) -> None:
        """What must be there after this call, and nothing more."""
        place = self.volume.target(POD)
        there = method not in ("NodeUnstageVolume",) and not (
            self.inline and method == "NodeUnpublishVolume"
        )
        published = method in ("NodePublishVolume", *LOOKS)
        assert os.path.lexists(place) == published
        if published:
            assert place.is_block_device() if self.block else os.path.ismount(place)
        if not there:
            assert_nothing_left(self.driver)
            self.tgt.wait_sessions(0, timeout=30)
            return
        wanted = published + (not self.block and not self.inline)
        assert len(mounted_below(self.volume.root)) == wanted, mounted_below(self.volume.root)
        assert len(self.tgt.sessions(self.disk.tid)) == 1
        (state,) = states(self.driver)
        assert state["phase"] == ("attached" if self.block else "mounted")
        assert len(state["binds"]) == (published and not self.inline)
        assert self.loops() == 1

    def loops(self) -> int:
        found = 0
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                found += str(self.driver.base) in backing.read_text()
            except OSError:
                continue
        return found

    def advance(self, methods: tuple[str, ...], upto: str) -> None:
        """Make the calls before ``upto``."""
        for method in methods:
            if method == upto:
                return
            self.call(method)

    def finish(self, methods: tuple[str, ...], after: str) -> None:
        """Make the calls of the way back that are left."""
        back = methods[len(methods) // 2 :]
        for method in back[back.index(after) + 1 :] if after in back else back:
            self.call(method)
        self.check(methods[-1])


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TgtServer, KilledDriver]]:
    with TgtServer() as tgt, KilledDriver(tmp_path_factory.mktemp("csi")) as driver:
        yield tgt, driver


@pytest.fixture(params=["filesystem", "block", "inline"])
def life(request: pytest.FixtureRequest, ground: tuple[TgtServer, KilledDriver]) -> Iterator[Life]:
    tgt, driver = ground
    disk = Cluster(tgt, driver).new_disk()
    kind = request.param
    made = Life(tgt, driver, disk, block=kind == "block", inline=kind == "inline")
    made.number = disk.tid * 1000
    yield made
    end_all(driver)


def methods_of(life: Life) -> tuple[str, ...]:
    return CALLS[1:3] if life.inline else CALLS


def kill_at(life: Life, method: str, at: int) -> bool:
    """Make the call on a driver that dies at its step ``at``; whether it died."""
    life.driver.kill()
    life.driver.start(at)
    code, text = life.driver.client.refusal(method, life.request(method))
    if code == "OK":
        life.driver.kill()
        life.driver.start()
        return False
    assert code == "UNAVAILABLE", text
    assert life.driver.wait() == signal.SIGKILL
    life.driver.start()
    return True


def steps_of(life: Life) -> dict[str, list[str]]:
    """The steps of each call, from a life in which nobody is killed: the second one, because the
    first makes the directories of a node too."""
    found: dict[str, list[str]] = {}
    for _ in range(2):
        life.begin()
        for method in methods_of(life):
            before = len(life.driver.steps())
            life.call(method)
            found[method] = life.driver.steps()[before:]
            life.check(method)
    return found


def chosen(count: int, *, everything: bool) -> list[int]:
    """Numbers of steps, the first and the last among them."""
    if everything or count <= FEW:
        return list(range(1, count + 1))
    return sorted({1 + round(index * (count - 1) / (FEW - 1)) for index in range(FEW)})


def kill_inside(life: Life, *, everything: bool) -> None:
    steps = steps_of(life)
    methods = methods_of(life)
    assert all(len(names) > 2 for names in steps.values()), steps
    for method, names in steps.items():
        for at in chosen(len(names), everything=everything):
            life.begin()
            life.advance(methods, method)
            killed = kill_at(life, method, at)
            where = f"{method} step {at} of {len(names)}: {names[at - 1]}"
            assert killed, where
            try:
                life.call(method)
                life.check(method)
                life.finish(methods, method)
            except (AssertionError, grpc.RpcError) as error:
                error.add_note(where)
                raise


def test_killed_inside_a_call(life: Life) -> None:
    kill_inside(life, everything=False)


@pytest.mark.soak
def test_killed_inside_a_call_at_every_step(life: Life) -> None:
    kill_inside(life, everything=True)


def test_killed_between_any_two_calls(life: Life) -> None:
    """Also each call again, as from an orchestrator that got no answer."""
    life.begin()
    methods = methods_of(life)
    middle = len(methods) // 2
    for method in (*methods[:middle], *LOOKS, *methods[middle:]):
        life.call(method)
        life.driver.kill()
        life.driver.start()
        life.check(method)
        life.call(method)
        life.check(method)
