# SPDX-License-Identifier: Apache-2.0
"""A zygote of processes in the place of workers, for tests of the composition above a fake host.

They speak the real protocol (start document, ready pipe, pulse, control socket) and have no session
and no FUSE. What one does beside that is told by words in the volume's name: ``refuse`` fails like
a wrong LUN, ``die`` ends without a word, ``hang`` never becomes ready, ``away`` says that the
target is away, ``inuse`` refuses an orderly stop, ``deaf`` answers no request, ``mute`` does not
know its capacity. ``unit-N`` is the identity, ``size-N`` the capacity in bytes when it is asked
for, ``large`` has twice the usual one from the start.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping
from typing import Any

import anyio

from fusefs.errors import DeviceBusy
from fusefs.process import pulse, zygote
from fusefs.process.birth import prepare_process, read_document
from fusefs.process.control import ControlServer
from fusefs.process.inherited import Inherited
from fusefs.process.messages import StartDocument
from fusefs.process.ready import Ready
from pyscsi_init.errors import LunNotFound, NotReady

SIZE = 1 << 30


async def serve(document: StartDocument, ready: Ready, heard: int) -> None:
    name = document.spec.name
    over = anyio.Event()

    async def status(_request: Mapping[str, Any]) -> Mapping[str, Any]:
        if "deaf" in name:
            await anyio.sleep_forever()
        return {"recovering": "away" in name, "io": {"in_flight": 3 if "away" in name else 0}}

    async def refresh_capacity(_request: Mapping[str, Any]) -> Mapping[str, Any]:
        if "mute" in name:
            raise NotReady("LUN 1 is not ready", sense_key=2, asc=4, ascq=0)
        size = re.search(r"size-(\d+)", name)
        return {"size_bytes": int(size[1]) if size else SIZE}

    async def stop(request: Mapping[str, Any]) -> Mapping[str, Any]:
        if "inuse" in name and not request.get("force"):
            raise DeviceBusy(document.fuse_directory, reason="it is open")
        over.set()
        return {}

    async def on_sigterm() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                over.set()

    handlers = {"status": status, "refresh-capacity": refresh_capacity, "stop": stop}
    server = ControlServer(document.directory, handlers)
    server.open()
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve)
        group.start_soon(on_sigterm)
        ready.step("log in")
        if "refuse" in name:
            ready.failed(LunNotFound("no LUN 9"))
            over.set()
        elif "die" in name:
            os.write(2, b"out of luck\n")
            os._exit(7)
        elif "hang" not in name:
            unit = re.search(r"unit-\d+", name)
            size = 2 * SIZE if "large" in name else SIZE
            identity = {"key": unit[0], "block_size": 512, "size_bytes": size} if unit else {}
            pulse.say(heard, pulse.READY)
            ready.ok({"block_size": 512, "size_bytes": size, "identity": identity})
        await over.wait()
        group.cancel_scope.cancel()
    server.close()
    pulse.say(heard, pulse.OVER)


def main(inherited: Inherited) -> int:
    prepare_process()
    document = StartDocument.decode(read_document(inherited.document))
    ready = Ready(inherited.ready, must_be_heard=inherited.generation == 1)
    anyio.run(serve, document, ready, inherited.pulse)
    return 0


if __name__ == "__main__":
    zygote.main(main)
