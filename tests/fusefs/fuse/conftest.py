# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests with real mounts: a server over each channel and event loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fuse_server import FuseServer
from tests.support.mounted_file import SIZE, Serve
from tests.support.requirements import require_module

NATIVE = [("native", "asyncio"), ("native", "trio"), ("native", "uvloop")]
ALL = [*NATIVE, ("pyfuse3", "trio")]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(params=ALL, ids="-".join)
def any_channel(
    request: pytest.FixtureRequest, serving: contextlib.ExitStack, tmp_path: Path
) -> Serve:
    """Serve over each channel and loop in turn; the arguments are FuseServer's."""
    kind, loop = request.param
    for module in {kind, loop} & {"pyfuse3", "uvloop"}:
        require_module(module)

    def serve(**options: Any) -> FuseServer:
        return serving.enter_context(
            FuseServer(tmp_path, kind=kind, loop=loop, **{"size": SIZE, **options})
        )

    return serve


@pytest.fixture
def native(serving: contextlib.ExitStack, tmp_path: Path) -> Serve:
    """Serve over the native channel on asyncio."""

    def serve(**options: Any) -> FuseServer:
        return serving.enter_context(FuseServer(tmp_path, **{"size": SIZE, **options}))

    return serve
