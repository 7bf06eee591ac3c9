# SPDX-License-Identifier: Apache-2.0
"""A target and the CSI driver of one node, for all tests of a module; each test has a disk of its
own, and leaves neither a mount nor a session.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.csi_driver import Client, Driver, assert_nothing_left
from tests.support.tgt import TgtServer

MEBI = 1 << 20
_NUMBERS = itertools.count(1)


@dataclass
class Disk:
    """A target with one LUN, and its attributes."""

    tid: int
    path: Path
    context: dict[str, str]


class Cluster:
    """One target process, one driver."""

    def __init__(self, tgt: TgtServer, driver: Driver) -> None:
        self.tgt = tgt
        self.driver = driver

    @property
    def client(self) -> Client:
        return self.driver.client

    def new_disk(self, size_bytes: int = 64 * MEBI) -> Disk:
        """A blank LUN 1 of a new target."""
        number = next(_NUMBERS)
        iqn = f"iqn.2026-11.example:disk{number}"
        tid = self.tgt.new_target(iqn)
        path = self.driver.base / f"disk{number}"
        self.tgt.add_lun(tid, 1, path, size_bytes=size_bytes)
        return Disk(tid, path, {"targetPortal": self.tgt.portal, "iqn": iqn, "lun": "1"})

    def check(self) -> None:
        """Nothing is left of any volume."""
        assert_nothing_left(self.driver)
        self.tgt.wait_sessions(0, timeout=20)


@pytest.fixture(scope="module")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """What the tests of a module share."""
    with TgtServer() as tgt, Driver(tmp_path_factory.mktemp("csi")) as driver:
        yield Cluster(tgt, driver)


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """For one test, which must leave nothing."""
    yield running_cluster
    running_cluster.check()
