# SPDX-License-Identifier: Apache-2.0
"""A Docker Engine, our plugin and tgt, all of them a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
