# SPDX-License-Identifier: Apache-2.0
"""forget: which LUN a volume was that is not attached, and on request the volume itself.

What is on the LUN stays. The way out when another LUN in the place of the first one is meant.
"""

from __future__ import annotations

import functools

import click

from fusefs.cli import output, runner
from fusefs.cli.options import common_options, json_option
from fusefs.cli.output import Invocation
from fusefs.cli.volumes import require_root
from fusefs.errors import NoSuchVolume
from fusefs.host import LinuxHost
from fusefs.volume.known import KnownVolumes
from fusefs.volume.manager import VolumeManager


@click.command(epilog="\b\nExample:\n  pyscsi-init forget disk1")
@click.argument("name")
@click.option(
    "--definition",
    is_flag=True,
    help="Also what a front door defined. Docker then makes an empty local volume of the name.",
)
@json_option
@common_options
@click.pass_obj
def forget(invocation: Invocation, name: str, definition: bool) -> None:
    """Forget which LUN a volume was that is not attached."""
    require_root("forget a volume")
    known = KnownVolumes(VolumeManager(LinuxHost()))
    if not runner.run(functools.partial(known.forget, name, definition=definition)):
        raise NoSuchVolume(name)
    if invocation.json:
        output.document({"name": name, "forgotten": True})
