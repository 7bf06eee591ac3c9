# SPDX-License-Identifier: Apache-2.0
"""Running a command: results, errors as themselves, and signals that undo before they end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest

from fusefs.cli import runner
from fusefs.cli.signals import SIGNALS, Stopped, stoppable

both = pytest.mark.parametrize("backend", runner.BACKENDS)


@pytest.fixture(autouse=True)
def _no_signal_is_ignored() -> Iterator[None]:
    """As under nohup: what is ignored when we start stays ignored, by design."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@both
def test_a_result_comes_back(backend: str) -> None:
    async def function() -> str:
        await anyio.lowlevel.checkpoint()
        return "result"

    with stoppable():
        assert runner.run(function, backend=backend) == "result"


@both
def test_an_error_of_a_task_group_comes_back_as_itself(backend: str) -> None:
    async def fail() -> None:
        raise LookupError("this one")

    async def function() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fail)

    with stoppable(), pytest.raises(LookupError, match="this one"):
        runner.run(function, backend=backend)


@both
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_undoes_and_ends(backend: str, number: signal.Signals) -> None:
    undone = []

    async def function() -> None:
        try:
            os.kill(os.getpid(), number)
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                undone.append(True)

    with stoppable():
        with pytest.raises(Stopped) as stopped:
            runner.run(function, backend=backend)
        # And the next loop of the same process is no worse off.
        assert signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN)
    assert undone
    assert stopped.value.status == 128 + number
    assert stopped.value.error is None


@both
def test_what_goes_wrong_while_undoing_is_told(backend: str) -> None:
    async def function() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await anyio.sleep_forever()
        finally:
            raise LookupError("the undoing failed")

    with stoppable(), pytest.raises(Stopped) as stopped:
        runner.run(function, backend=backend)
    assert "the undoing failed" in str(stopped.value)


@both
def test_a_second_signal_does_not_cut_the_undoing_short(
    backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    undone = []

    async def function() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                os.kill(os.getpid(), signal.SIGINT)
                await anyio.wait_all_tasks_blocked()
                await anyio.sleep(0.05)
                undone.append(True)

    with stoppable(), pytest.raises(Stopped):
        runner.run(function, backend=backend)
    assert undone
    assert "still cleaning up" in capsys.readouterr().err


def test_signals_outside_a_loop_raise_too_and_handlers_come_back() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.raises(Stopped), stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:

        async def function() -> int:
            os.kill(os.getpid(), signal.SIGHUP)
            await anyio.sleep(0.01)
            return 7

        with stoppable():
            signal.raise_signal(signal.SIGHUP)
            assert runner.run(function) == 7
    finally:
        signal.signal(signal.SIGHUP, before)
