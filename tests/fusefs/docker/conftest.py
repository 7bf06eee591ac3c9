# SPDX-License-Identifier: Apache-2.0
"""The plugin, and a tgt with disks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fusefs.docker.disks import Disks
from tests.support.plugin import Plugin


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    """Disks of a tgt; at the end nobody is logged in."""
    with Disks(tmp_path_factory.mktemp("disks")) as made:
        yield made
        made.tgt.wait_sessions(0, timeout=20)


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    """The plugin, in directories of its own."""
    with Plugin(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def _one_plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plugin]:
    with Plugin(tmp_path_factory.mktemp("plugin")) as running:
        yield running


@pytest.fixture
def shared(_one_plugin: Plugin) -> Iterator[Plugin]:
    """A plugin that the tests of a module share, because a start takes its time; without volumes.

    For tests that do not end it.
    """
    yield _one_plugin
    for volume in _one_plugin.call("List")["Volumes"]:
        for user, count in _one_plugin.status(volume["Name"])["users"].items():
            for _ in range(count):
                _one_plugin.call("Unmount", Name=volume["Name"], ID=user)
        _one_plugin.call("Remove", Name=volume["Name"])
