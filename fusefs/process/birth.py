# SPDX-License-Identifier: Apache-2.0
"""From a forked process to a worker that runs: its document, its event loop, its protection.

The zygote has imported this; what is done here is what must not be done before the fork.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any

import anyio

from fusefs.host import LinuxHost
from fusefs.process.bounded_log import BoundedHandler
from fusefs.process.inherited import Inherited
from fusefs.process.messages import MAX_LINE_BYTES, BadMessage, StartDocument
from fusefs.process.ready import Ready
from fusefs.process.takeover import Opener, open_volume
from fusefs.process.worker import Worker

log = logging.getLogger("fusefs.worker")


def read_document(fd: int) -> bytes:
    """The start document, up to the end of the pipe; empty if nobody wants us any more.

    Raises:
        BadMessage: it has no end.
    """
    data = bytearray()
    while chunk := os.read(fd, MAX_LINE_BYTES):
        data += chunk
        if len(data) > MAX_LINE_BYTES:
            raise BadMessage("start document without an end")
    os.close(fd)
    return bytes(data)


class _Formatter(logging.Formatter):
    """Without tracebacks: printing one opens the source files."""

    def formatException(self, ei: Any) -> str:  # noqa: N802  (logging's own name)
        return f"{ei[0].__name__}: {ei[1]}"


def prepare_process() -> None:
    """Signals, folder and log of a process that a zygote has forked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.umask(0o077)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    handler = BoundedHandler(sys.stderr.fileno())
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _loop_of(document: StartDocument) -> tuple[str, dict[str, Any]]:
    if document.spec.fuse_channel == "pyfuse3":
        return "trio", {}
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return "asyncio", {}
    return "asyncio", {"use_uvloop": True}


def main(inherited: Inherited, opener: Opener = open_volume) -> int:
    """Run a worker in this process; the exit status is 0 when the volume was served."""
    ready = Ready(inherited.ready, must_be_heard=inherited.generation == 1)
    prepare_process()
    try:
        encoded = read_document(inherited.document)
        if not encoded:
            return 0
        document = StartDocument.decode(encoded)
        os.environ["PYSCSI_INIT_STATE_DIR"] = document.state_directory
        backend, options = _loop_of(document)
        host = LinuxHost()
        # Here and not in a helper thread: PR_SET_IO_FLUSHER is for the thread that asks for it, and
        # those it starts.
        refusals = host.protect_process()

        async def run() -> None:
            worker = Worker(
                inherited,
                document,
                encoded,
                ready,
                host=host,
                refusals=refusals,
                opener=opener,
            )
            await worker.run()

        anyio.run(run, backend=backend, backend_options=options)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return _end(ready, error)
    except Exception as error:
        return _end(ready, error)
    return 0


def _end(ready: Ready, error: BaseException) -> int:
    log.error("%s: %s", type(error).__name__, error)
    ready.failed(error)
    return 1
