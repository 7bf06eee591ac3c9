# SPDX-License-Identifier: Apache-2.0
"""No room for the files of volumes: what is attached goes on, and what kubelet asks for meanwhile
says so and is done when there is room again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.csi_cluster import Cluster
from tests.support.csi_driver import Driver, Kubelet, end_all, mounted_below
from tests.support.small_disk import full, small_disk
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(300)]

MEBI = 1 << 20
FULL = "No space left on device"


@pytest.fixture(params=["run", pytest.param("state", marks=pytest.mark.soak)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """One of the driver's two directories, on a small disk of its own."""
    with small_disk(tmp_path / request.param) as directory:
        yield directory


def test_a_disk_that_is_full(place: Path, tmp_path: Path) -> None:
    with TgtServer() as tgt, Driver(tmp_path) as driver:
        cluster = Cluster(tgt, driver)
        first = Kubelet(driver, "first", cluster.new_disk().context)
        second = Kubelet(driver, "second", cluster.new_disk().context)
        try:
            first.stage()
            directory = first.publish("pod-1")
            with full(place):
                code, text = driver.client.refusal("NodeStageVolume", second.stage_request())
                assert FULL in text, (code, text)
                with (directory / "file").open("wb") as file:
                    file.write(bytes(4 * MEBI))
                    file.flush()
                    os.fsync(file.fileno())
                assert not first.stats("pod-1").volume_condition.abnormal
                # What is taken away is written down first, in the run directory alone.
                ended = driver.client.refusal(
                    "NodeUnpublishVolume", first.unpublish_request("pod-1")
                )
                assert FULL in ended[1] if place.name == "run" else ended == ("OK", "")
            second.stage()
            second.unstage()
            first.unpublish("pod-1")
            first.unstage()
        finally:
            end_all(driver)
        tgt.wait_sessions(0, timeout=30)
        assert [text.split()[0] for text in mounted_below(tmp_path)] == [str(place)]
        assert not list((driver.run_dir / "volumes").iterdir())
