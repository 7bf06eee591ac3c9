# SPDX-License-Identifier: Apache-2.0
"""status: the volumes of this host, as the kernel and their workers show them at this moment.

Never waits for a target, changes nothing.
"""

from __future__ import annotations

from dataclasses import asdict

import click

from fusefs.cli import output, runner
from fusefs.cli.options import common_options, json_option
from fusefs.cli.output import Invocation, size_text
from fusefs.errors import NoSuchVolume
from fusefs.host import LinuxHost
from fusefs.volume.catalog import Catalog
from fusefs.volume.manager import VolumeManager
from fusefs.volume.status import VolumeStatus


@click.command(epilog="\b\nExample:\n  pyscsi-init status\n  pyscsi-init status disk1 --json")
@click.argument("name", required=False)
@json_option
@common_options
@click.pass_obj
def status(invocation: Invocation, name: str | None) -> None:
    """The volumes of this host, or one of them in full."""
    manager = VolumeManager(LinuxHost())

    async def ask() -> list[VolumeStatus]:
        if name is None:
            return await manager.status()
        try:
            return [await manager.get(name)]
        except NoSuchVolume:
            if name in {each.name for each in _defined(manager)}:
                return []
            raise

    volumes = runner.run(ask)
    present = {volume.name for volume in volumes}
    volumes += [
        volume
        for volume in _defined(manager)
        if volume.name not in present and name in (None, volume.name)
    ]
    if invocation.json:
        output.document([asdict(volume) for volume in volumes])
    elif name is not None:
        _show(volumes[0])
    elif volumes:
        rows = [
            (
                volume.name,
                volume.state,
                size_text(volume.size_bytes),
                "ro" if volume.read_only else "rw",
                volume.loop or "-",
                volume.mountpoint or volume.file or "-",
                volume.last_error or (volume.last_death if volume.state == "recovering" else ""),
            )
            for volume in volumes
        ]
        columns = ("NAME", "STATE", "SIZE", "MODE", "DEVICE", "WHERE", "LAST ERROR")
        shown = len(columns) if any(row[-1] for row in rows) else len(columns) - 1
        output.table(columns[:shown], [row[:shown] for row in rows])


def _defined(manager: VolumeManager) -> list[VolumeStatus]:
    """What is known by a definition, as a volume that is not attached."""
    catalog = Catalog(manager.directories.definitions)
    unusable = [
        VolumeStatus(name=name, state="failed", last_error=why)
        for name, why in catalog.unusable().items()
    ]
    return unusable + [
        VolumeStatus(
            name=each.name,
            url=each.spec.url,
            state="defined",
            fuse_channel=each.spec.fuse_channel,
            read_only=each.spec.read_only,
            on_disconnect=each.spec.on_disconnect,
            durability=each.spec.durability,
        )
        for each in catalog.all()
    ]


def _show(volume: VolumeStatus) -> None:
    values = asdict(volume)
    session, fence, io = values.pop("session"), values.pop("fence"), values.pop("io")
    keys = session.pop("keys", {})
    for field in ("binds", "protection_refused"):
        values[field] = ", ".join(
            bind["directory"] if isinstance(bind, dict) else str(bind) for bind in values[field]
        )
    output.fields(
        {
            title: {key: "-" if value in ("", None) else value for key, value in group.items()}
            for title, group in (
                ("volume", values),
                ("session", session),
                ("keys", keys),
                ("fence", fence),
                ("io", io),
            )
            if group
        }
    )
