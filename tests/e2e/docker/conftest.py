# SPDX-License-Identifier: Apache-2.0
"""A Docker Engine, our plugin and tgt, all of them a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.docker.everyday import Everyday
from tests.e2e.docker.storage import Storage
from tests.support import images
from tests.support.dockerd import DockerEngine
from tests.support.tgt import TgtServer


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    """A tgt without a LUN yet."""
    with TgtServer() as tgt:
        yield Storage(tgt, tmp_path)


@pytest.fixture
def engine(tmp_path: Path, storage: Storage) -> Iterator[DockerEngine]:
    """An engine with the image WORKER. It goes before its storage does."""
    with DockerEngine(tmp_path) as started:
        started.import_image(images.worker_archive(), images.WORKER)
        yield started


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everyday]:
    """An engine and a tgt that a module shares, because they take their time to start. For tests
    that end neither engine nor plugin. The plugin tells each call in its log."""
    directory = tmp_path_factory.mktemp("docker")
    with TgtServer() as tgt, DockerEngine(directory, plugin=False) as started:
        started.start_plugin("-vv")
        started.import_image(images.worker_archive(), images.WORKER)
        yield Everyday(started, Storage(tgt, directory))
        started.remove_containers()
        started.check_nothing_left()
        tgt.wait_sessions(0, timeout=30)
