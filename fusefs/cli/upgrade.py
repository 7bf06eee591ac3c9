# SPDX-License-Identifier: Apache-2.0
"""upgrade: the processes under attached volumes are replaced by the installed code, in use.

A new zygote first, then worker by worker, at last the holder. What fails leaves the old process at
work.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import click

from fusefs.cli import output, runner
from fusefs.cli.exit_codes import HOST
from fusefs.cli.options import LoginOptions, common_options, json_option, secret_options
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
@secret_options
@json_option
@common_options
@click.pass_obj
def upgrade(invocation: Invocation, name: str | None, every: bool, login: LoginOptions) -> int:
    """Go on with the installed code, without an I/O error; says how long I/O paused.

    Secrets are read again from the files that a volume names, or here from other ones.
    """
    if every == (name is not None):
        raise click.UsageError("Name one volume, or give --all.")
    if every and login.chap_secret_file is not None:
        raise click.UsageError("A secret is that of one volume: name it.")
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
                chap = None
                if login.chap_secret_file is not None:
                    spec = await manager.spec_of(each)
                    user = login.chap_user or spec.chap_user or None
                    chap = replace(login, chap_user=user).credentials(spec.address)
                reports.append(await manager.upgrade(each, chap))
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
