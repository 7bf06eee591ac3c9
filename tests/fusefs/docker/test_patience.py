# SPDX-License-Identifier: Apache-2.0
"""Whose Mounts wait for a target that is not up yet, and for what; a real engine's are in
tests/e2e/docker/test_behaviours.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from fusefs.docker import patience
from fusefs.docker.callers import process_of
from fusefs.docker.patience import is_young_engine, patiently
from pyscsi_init.errors import AuthenticationFailed, ConnectError, LunNotFound
from tests.fusefs.docker.test_callers import Start, start

__all__ = ["start"]
pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


def failing(*errors: Exception) -> Callable[[], Awaitable[str]]:
    left = list(errors)

    async def call() -> str:
        if left:
            raise left.pop(0)
        return "mounted"

    return call


async def test_it_waits_for_what_may_come_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.01)
    call = failing(ConnectError("no"), ConnectError("no"), LunNotFound("not yet"))
    assert await patiently(call, "data") == "mounted"


async def test_it_does_not_wait_for_other_errors_nor_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = AuthenticationFailed("no", status_class=2, status_detail=1)
    with pytest.raises(AuthenticationFailed):
        await patiently(failing(refused), "data")
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.04)
    with pytest.raises(ConnectError):
        await patiently(failing(*(ConnectError(f"no {n}") for n in range(9))), "data")


def test_only_an_engine_that_has_just_started_is_waited_with(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, other = (process_of(start(name).pid) for name in ("dockerd", "podman"))
    assert is_young_engine(engine)
    assert not is_young_engine(other)
    assert not is_young_engine("")
    monkeypatch.setattr(patience, "YOUNG_SECONDS", 0.0)
    assert not is_young_engine(engine)
