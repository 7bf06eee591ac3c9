# SPDX-License-Identifier: Apache-2.0
"""A PersistentVolume on its way from one node to another: two drivers, each with a state directory
and so an initiator name of its own, on one target.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.csi_cluster import Cluster, Disk
from tests.support.csi_driver import Driver, Kubelet, assert_nothing_left, end_all
from tests.support.direct_io import until
from tests.support.source import ROOT
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(300)]

PATIENCE_S = 60.0


@dataclass
class Nodes:
    """Two of them."""

    tgt: TgtServer
    first: Driver
    second: Driver
    disk: Disk

    def volume(self, driver: Driver, **attributes: str) -> Kubelet:
        return Kubelet(driver, "disk1", {**self.disk.context, **attributes}, fstype="ext4")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with TgtServer() as tgt, Driver(tmp_path / "a") as first, Driver(tmp_path / "b") as second:
        try:
            yield Nodes(tgt, first, second, Cluster(tgt, first).new_disk())
            for driver in (first, second):
                assert_nothing_left(driver)
            tgt.wait_sessions(0, timeout=30)
        finally:
            end_all(first)
            end_all(second)


def write(file: Path, text: str) -> None:
    """Until it is on the disk."""
    with file.open("w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())


def release(nodes: Nodes) -> None:
    """What an administrator does to a node that is dead."""
    url = nodes.tgt.url(nodes.disk.tid, 1)
    subprocess.run(
        [sys.executable, "-m", "fusefs.cli", "reservations", url, "--release"],
        check=True,
        capture_output=True,
        cwd=ROOT,
        timeout=60,
    )


@pytest.mark.soak
def test_a_pod_that_ended_may_start_on_another_node(nodes: Nodes) -> None:
    here, there = nodes.volume(nodes.first), nodes.volume(nodes.second)
    here.stage()
    write(here.publish("pod-1") / "file", "from the first node")
    here.unpublish("pod-1")
    here.unstage()
    there.stage()
    assert (there.publish("pod-2") / "file").read_text() == "from the first node"
    there.unpublish("pod-2")
    there.unstage()


@pytest.mark.parametrize("by", ["administrator", pytest.param("takeOver", marks=pytest.mark.soak)])
def test_a_node_that_is_gone_keeps_the_lun_until_somebody_says_so(nodes: Nodes, by: str) -> None:
    here, there = nodes.volume(nodes.first), nodes.volume(nodes.second)
    here.stage()
    place = here.publish("pod-1")
    write(place / "file", "from the first node")
    code, text = nodes.second.client.refusal("NodeStageVolume", there.stage_request())
    assert (code, "belongs to another node" in text) == ("FAILED_PRECONDITION", True)
    if by == "administrator":
        release(nodes)
    else:
        there = nodes.volume(nodes.second, takeOver="true")
    there.stage()
    taken = there.publish("pod-2")
    assert (taken / "file").read_text() == "from the first node"
    write(taken / "file", "from the second node")

    # The first node comes back: nothing of it lands, and it says why.
    with pytest.raises(OSError, match=r"error|Read-only"):
        write(place / "late", "too late")
    until(lambda: here.stats("pod-1").volume_condition.abnormal, PATIENCE_S)
    assert "failed" in here.stats("pod-1").volume_condition.message
    here.unpublish("pod-1")
    here.unstage()
    assert (taken / "file").read_text() == "from the second node"
    there.unpublish("pod-2")
    there.unstage()
    there.stage()
    place = there.publish("pod-3")
    assert (place / "file").read_text() == "from the second node"
    assert not (place / "late").exists()
    there.unpublish("pod-3")
    there.unstage()
