# SPDX-License-Identifier: Apache-2.0
"""upgrade: the processes under attached volumes are replaced by the installed code, in use.

A new zygote first, then worker by worker, at last the holder. What fails leaves the old process at
work.
"""

from __future__ import annotations

from dataclasses import asdict

import click

from fusefs.cli import output, runner
from fusefs.cli.exit_codes import HOST
from fusefs.cli.options import common_options, json_option
from fusefs.cli.output import Invocation
from fusefs.cli.volumes import require_root
from fusefs.errors import VolumeError
from fusefs.host import LinuxHost
from fusefs.volume.manager import VolumeManager
from fusefs.volume.replacement import UpgradeReport
from pyscsi_init.errors import IscsiError


@click.command(epilog="\b\nExample:\n  pyscsi-init upgrade disk1\n  pyscsi-init upgrade --all")
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="All volumes, and the process that holds them.")
@json_option
@common_options
@click.pass_obj
def upgrade(invocation: Invocation, name: str | None, every: bool) -> int:
    """Go on with the installed code, without an I/O error; says how long I/O paused."""
    if every == (name is not None):
        raise click.UsageError("Name one volume, or give --all.")
    require_root("replace the worker of a volume")
    manager = VolumeManager(LinuxHost())
    reports: list[UpgradeReport] = []
    problems: list[str] = []

    async def run() -> None:
        names = [name] if name is not None else [v.name for v in await manager.status()]
        for known in names:
            await manager.get(known)
        if not names:
            return
        await manager.holder.renew_zygote()
        for each in names:
            try:
                reports.append(await manager.upgrade(each))
            except (VolumeError, IscsiError) as error:
                if not every:
                    raise
                problems.append(str(error))
        if every:
            await manager.holder.renew_holder()

    runner.run(run)
    if invocation.json:
        output.document({"upgraded": [asdict(each) for each in reports], "problems": problems})
    else:
        for each in reports:
            output.write(
                f"{each.name}: worker {each.old_pid} -> {each.new_pid}, "
                f"I/O paused for {each.pause_s * 1000:.0f} ms\n"
            )
    for problem in problems:
        output.warn(problem)
    return HOST if problems else 0
