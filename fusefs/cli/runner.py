# SPDX-License-Identifier: Apache-2.0
"""From a coroutine to its result: the event loop, signals, and errors as themselves.

Ctrl-C, SIGTERM and SIGHUP cancel the scope of what runs, so that everything that was begun is
undone by the same code that undoes it after an error; only then :class:`Stopped` ends the command.
A second signal changes nothing: half an undoing is worse than a slow one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import anyio.abc

from fusefs.cli.signals import Stopped, arm, heeded, remember
from pyscsi_init.errors import ConfigurationError

T = TypeVar("T")

BACKENDS = ("asyncio", "trio")
LOOPS = ("uvloop", "asyncio", "trio")
"""The event loops by their own names, for whoever compares them; ``asyncio`` as a backend means
uvloop where it is installed."""


def run(
    function: Callable[[], Awaitable[T]], *, backend: str = "asyncio", loop: str | None = None
) -> T:
    """Run a coroutine function to its end, on a backend or on just this one of LOOPS.

    Raises:
        ConfigurationError: uvloop was asked for by name and is not installed.
        Stopped: a signal came; the function was cancelled and has ended.
        Exception: what the function raised, never in a group.
    """
    options: dict[str, Any] = {}
    has_uvloop = importlib.util.find_spec("uvloop") is not None
    if loop == "uvloop" and not has_uvloop:
        raise ConfigurationError(
            "--loop", loop, "is not installed", "pip install 'pyscsi-init[uvloop]', or another loop"
        )
    if loop is not None:
        backend = "trio" if loop == "trio" else "asyncio"
    if backend == "asyncio" and has_uvloop and loop != "asyncio":
        options["use_uvloop"] = True
    command = _Command(function)
    numbers = heeded()
    try:
        anyio.run(command.run, numbers, backend=backend, backend_options=options)
    finally:
        arm(numbers)
    error = command.error
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if command.stopped_by is not None and not command.results:
        raise Stopped(command.stopped_by, error)
    if error is not None:
        raise error
    result: T = command.results[0]
    return result


class _Command:
    """One run, and how it ended."""

    def __init__(self, function: Callable[[], Awaitable[Any]]) -> None:
        self._function = function
        self.results: list[Any] = []
        self.error: BaseException | None = None
        self.stopped_by: signal.Signals | None = None

    async def run(self, numbers: list[signal.Signals]) -> None:
        try:
            await self._run(numbers)
        finally:
            # Here the event loop gave the signals back, to the system's default: the end of the
            # process, in which its own end would be cut short.
            remember(numbers, [])

    async def _run(self, numbers: list[signal.Signals]) -> None:
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                if numbers:
                    await group.start(self._watch, numbers, scope)
                try:
                    self.results.append(await self._function())
                except Exception as error:
                    self.error = error
                except BaseExceptionGroup as group_error:
                    # Cancellation may travel with errors of the cleaning up.
                    _, errors = group_error.split(anyio.get_cancelled_exc_class())
                    self.error = errors
                    if errors is None:
                        raise
            group.cancel_scope.cancel()

    async def _watch(
        self,
        numbers: list[signal.Signals],
        scope: anyio.CancelScope,
        *,
        task_status: anyio.abc.TaskStatus[None],
    ) -> None:
        with anyio.open_signal_receiver(*numbers) as signals:
            task_status.started()
            async for number in signals:
                if self.stopped_by is None:
                    self.stopped_by = number
                    scope.cancel()
                else:
                    with contextlib.suppress(OSError):
                        sys.stderr.write("pyscsi-init: still cleaning up\n")
                        sys.stderr.flush()
