# SPDX-License-Identifier: Apache-2.0
"""resize: a volume takes over the size that its LUN was given at the target.

Needs root. What grew, and from what to what, is the output; nothing is ever made smaller.
"""

from __future__ import annotations

from dataclasses import asdict

import click

from fusefs.cli import output, runner
from fusefs.cli.options import common_options, json_option
from fusefs.cli.output import Invocation, size_text
from fusefs.cli.volumes import require_root
from fusefs.host import LinuxHost
from fusefs.volume.manager import VolumeManager
from fusefs.volume.resize import ResizeReport


@click.command(epilog="\b\nExample:\n  pyscsi-init resize disk1")
@click.argument("name")
@json_option
@common_options
@click.pass_obj
def resize(invocation: Invocation, name: str) -> None:
    """Grow a volume, and the file system that is mounted, to the size of its LUN by now."""
    require_root("resize a volume")

    async def grow() -> ResizeReport:
        with output.steps(invocation) as step:
            return await VolumeManager(LinuxHost()).resize(name, step)

    report = runner.run(grow)
    if invocation.json:
        output.document({**asdict(report), "grown": report.grown})
        return
    if report.note:
        output.warn(f"{report.name}: {report.note}")
    device = _change(report.loop, report.old_size_bytes, report.size_bytes)
    if report.mountpoint:
        device += ", " + _change(
            f"{report.fstype} on {report.mountpoint}",
            report.old_filesystem_bytes,
            report.filesystem_bytes,
        )
    output.write(f"{report.name}: {'' if report.grown else 'nothing has grown: '}{device}\n")


def _change(what: str, old: int, new: int) -> str:
    """``/dev/loop0 64 MiB -> 128 MiB``."""
    return f"{what} {size_text(old)}" + (f" -> {size_text(new)}" if new != old else "")
