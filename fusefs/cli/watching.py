# SPDX-License-Identifier: Apache-2.0
"""watch: targets as they come and go at an iSNS server, until a signal.

One line for each change, written at once. At the end the registration for notifications is taken
back.
"""

from __future__ import annotations

import time

import click

from fusefs.cli import output, runner
from fusefs.cli.discovery import as_json, as_rows
from fusefs.cli.options import LoginOptions, common_options, json_lines_option, login_options
from fusefs.cli.output import Invocation
from pyscsi_init.discovery import DiscoveredTarget, TargetAdded, TargetChanged, TargetRemoved
from pyscsi_init.discovery.isns import (
    ServerFound,
    ServerLost,
    WatchEvent,
    parse_server,
    watch_isns,
)
from pyscsi_init.transport import Network

_WORDS = {
    TargetAdded: "added",
    TargetRemoved: "removed",
    TargetChanged: "changed",
    ServerLost: "server-lost",
    ServerFound: "server-found",
}
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@click.command(
    epilog="\b\nExample:\n  pyscsi-init watch --isns 192.0.2.9\n"
    "  pyscsi-init watch --isns 192.0.2.9 --json | while read -r line; do ...; done"
)
@click.option("--isns", metavar="HOST[:PORT]", required=True, help="The iSNS server [port: 3205].")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    default=60.0,
    help="How often to look, besides the notifications [60].",
)
@login_options(backend=True)
@json_lines_option
@common_options
@click.pass_obj
def watch(invocation: Invocation, isns: str, interval: float, login: LoginOptions) -> None:
    """The targets of an iSNS server as they come and go, until a signal ends it."""
    where = parse_server(isns)
    network = Network.of(login.session_settings())

    async def look() -> None:
        async with watch_isns(
            where,
            initiator_name=login.initiator_name,
            network=network,
            poll_interval=interval,
        ) as watching:
            if not watching.notifies:
                output.warn(f"{where} sends no notifications; it is asked every {interval:g} s")
            async for event in watching:
                _tell(invocation, event, str(where))

    runner.run(look, backend=login.backend)


def _tell(invocation: Invocation, event: WatchEvent, server: str) -> None:
    word = _WORDS[type(event)]
    target: DiscoveredTarget | None = getattr(event, "target", None)
    if invocation.json:
        facts: dict[str, object] = {"time": round(time.time(), 3), "event": word}
        if target is not None:
            facts |= as_json(target)
        if isinstance(event, ServerLost):
            facts["error"] = str(event.error)
        output.line(facts)
    elif target is not None:
        portals = ", ".join(portal for _, portal in as_rows(target))
        output.write(f"{_SIGNS[word]} {output.printable(target.name)}  {portals}\n")
    elif isinstance(event, ServerLost):
        output.warn(f"{event.error}; what it said last is shown still")
    else:
        output.warn(f"{server} answers again")
