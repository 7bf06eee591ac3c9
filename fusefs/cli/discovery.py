# SPDX-License-Identifier: Apache-2.0
"""discover: which targets there are, asked of a portal, of a name server, or of the network.

Nothing is written. The command needs neither root nor anything of fusefs but its errors.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import click

from fusefs.cli import output, runner
from fusefs.cli.options import LoginOptions, common_options, json_option, login_options
from fusefs.cli.output import Invocation
from fusefs.cli.targets import how_to_log_in
from pyscsi_init import DiscoveredTarget
from pyscsi_init import discover as ask_portal
from pyscsi_init.errors import InvalidUrl
from pyscsi_init.names import Portal
from pyscsi_init.transport import Network

EVERYBODY = "*"
"""The value of --slp without a host."""


@click.command(
    epilog="\b\nExample:\n  pyscsi-init discover 192.0.2.7\n"
    "  pyscsi-init discover [2001:db8::7]:3261 --json\n"
    "  pyscsi-init discover --isns 192.0.2.9\n"
    "  pyscsi-init discover --slp"
)
@click.argument("portal", required=False)
@click.option("--isns", metavar="HOST[:PORT]", help="Ask this iSNS server [port: 3205].")
@click.option(
    "--slp",
    metavar="[HOST]",
    is_flag=False,
    flag_value=EVERYBODY,
    help="Ask this SLP agent; without a host all of the network, by multicast.",
)
@click.option("--scope", metavar="NAME", multiple=True, help="With --slp: where [DEFAULT].")
@click.option("--interface", metavar="ADDRESS", help="With --slp: the address to multicast from.")
@click.option(
    "--slp-wait",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 120),
    default=15.0,
    help="With --slp: how long to wait for answers [15].",
)
@login_options(backend=True)
@json_option
@common_options
@click.pass_obj
def discover(
    invocation: Invocation,
    portal: str | None,
    isns: str | None,
    slp: str | None,
    scope: tuple[str, ...],
    interface: str | None,
    slp_wait: float,
    login: LoginOptions,
) -> None:
    """The targets that there are for us, and their portals.

    They are asked of a PORTAL (host[:port]) by SendTargets, of an iSNS server, or by SLP.
    """
    if sum(way is not None for way in (portal, isns, slp)) != 1:
        raise click.UsageError("Give one of: a PORTAL, --isns HOST, --slp [HOST].")
    if portal is not None:
        what, ask = _send_targets(portal, login)
    elif isns is not None:
        what, ask = _isns(isns, login)
    else:
        what, ask = _slp(None if slp == EVERYBODY else slp, scope, interface, slp_wait, login)

    async def found() -> list[DiscoveredTarget]:
        with output.steps(invocation) as step:
            step(f"ask {what}")
            return await ask()

    targets = runner.run(found, backend=login.backend)
    if invocation.json:
        output.document([as_json(one) for one in targets])
    elif targets:
        output.table(("TARGET", "PORTAL"), [row for one in targets for row in as_rows(one)])
    else:
        output.warn(f"{what} offers no target to this initiator name")


Ask = Callable[[], Awaitable[list[DiscoveredTarget]]]


def _send_targets(portal: str, login: LoginOptions) -> tuple[str, Ask]:
    if "@" in portal or "/" in portal:
        # Not repeated: what stands before an @ may be a secret.
        raise InvalidUrl(
            "portal", None, "is host[:port], without user, scheme or target", "see --chap-user"
        )
    where = Portal.parse(portal)
    how = how_to_log_in(login)
    return str(where), lambda: ask_portal(where, **how)


def _isns(server: str, login: LoginOptions) -> tuple[str, Ask]:
    from pyscsi_init.discovery.isns import discover_isns, parse_server

    where = parse_server(server)
    name = login.initiator_name
    network = Network.of(login.session_settings())
    return (
        f"iSNS server {where}",
        lambda: discover_isns(where, initiator_name=name, network=network),
    )


def _slp(
    host: str | None,
    scopes: tuple[str, ...],
    interface: str | None,
    seconds: float,
    login: LoginOptions,
) -> tuple[str, Ask]:
    from pyscsi_init.discovery.slp import SlpSettings, discover_slp

    settings = SlpSettings(retry=min(2.0, seconds / 4), multicast_max=seconds, unicast_max=seconds)
    network = Network.of(login.session_settings())

    def ask() -> Awaitable[list[DiscoveredTarget]]:
        return discover_slp(
            host,
            scopes=scopes or ("DEFAULT",),
            interface=interface,
            settings=settings,
            network=network,
        )

    return f"SLP agent {host}" if host else "the network by SLP", ask


def as_json(target: DiscoveredTarget) -> dict[str, object]:
    """A target for programs."""
    return {
        "name": target.name,
        "alias": target.alias,
        "portals": [str(portal) for portal in target.portals],
    }


def as_rows(target: DiscoveredTarget) -> list[tuple[str, str]]:
    """A target for people: a row for each portal."""
    return [(target.name, str(portal)) for portal in target.portals] or [(target.name, "-")]
