# SPDX-License-Identifier: Apache-2.0
"""examples/compose as it is, on an engine with a bridge: up, down, and up again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.docker.storage import Storage
from tests.support import images
from tests.support.compose import Compose
from tests.support.dockerd import DockerEngine, DockerError
from tests.support.netns import NetworkNamespace
from tests.support.source import ROOT
from tests.support.tgt import TgtServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(900)]

EXAMPLE = ROOT / "examples/compose/compose.yaml"
MEBI = 1 << 20
WORK_S = 240.0
ROWS = "select count(*) from pgbench_history"


@pytest.fixture
def network() -> Iterator[NetworkNamespace]:
    """Where the bridge is, and the target."""
    with NetworkNamespace("compose") as namespace:
        yield namespace


def rows(compose: Compose) -> int:
    """How many transactions the writer has committed; 0 while there is no answer yet."""
    try:
        return int(compose.exec("database", "psql", "-qAt", "-U", "postgres", "-c", ROWS))
    except DockerError:
        return 0


def test_the_example(tmp_path: Path, network: NetworkNamespace) -> None:
    with network.entered():
        tgt = TgtServer()
        tgt.start()
    with contextlib.closing(tgt), DockerEngine(tmp_path, network=network) as engine:
        storage = Storage(tgt, tmp_path)
        target = storage.lun("data", 512 * MEBI)
        engine.import_image(images.postgres_archive(), images.POSTGRES, images.POSTGRES_CHANGES)
        compose = Compose(
            *(engine, EXAMPLE, "example"),
            PORTAL=tgt.portal,
            TARGET=target,
            POSTGRES_IMAGE=images.POSTGRES,
        )
        compose("up", "--detach")
        wait_until(lambda: rows(compose) > 100, WORK_S, "the writer has written")
        compose("stop", "writer")
        before = rows(compose)
        compose("down")
        storage.check_all_is_gone(engine)
        assert engine.docker("volume", "ls", "--quiet").split() == ["example_data"]
        compose("up", "--detach")
        wait_until(lambda: rows(compose) > before, WORK_S, "the writer goes on")
        compose("down", "--volumes")
        storage.check_all_is_gone(engine)
        assert engine.docker("volume", "ls", "--quiet").split() == []
