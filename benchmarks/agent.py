# SPDX-License-Identifier: Apache-2.0
"""A session that stays, wherever it runs, and measures what it is asked to: ``agent.py URL``.

A line on standard input is a load as JSON, the answer is a line with what came of it. It logs in
once, so a sample has neither the start of Python nor a login in it, and whoever asks can read the
clocks of other processes around it. It needs nothing but the project, so that it runs in a
container that has nothing else.
"""

from __future__ import annotations

import json
import sys

import anyio

from fusefs.cli import runner
from fusefs.cli.measuring import Load, measure
from pyscsi_init import open_lun

NAME = "iqn.2026-11.example:bench-client"


async def serve(url: str) -> None:
    """Until the end of standard input."""
    async with open_lun(url, initiator_name=NAME) as unit:
        say({"target": unit.session.target_name})
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            measured = await measure(unit, Load(**json.loads(line)))
            say(measured.as_document())


def say(document: dict[str, object]) -> None:
    """One line to whoever asked."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    runner.run(lambda: serve(sys.argv[1]), loop="uvloop")
