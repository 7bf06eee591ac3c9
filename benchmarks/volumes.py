# SPDX-License-Identifier: Apache-2.0
"""Ours at the levels above the library: volumes by the command, as a user has them."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .level import Context
from .processes import Failed, run


def command(context: Context, *arguments: str) -> Any:
    """Run ``pyscsi-init`` and return its JSON document.

    Raises:
        Failed: it ended with an error.
    """
    line = [sys.executable, "-m", "fusefs.cli", *arguments, "--json"]
    return json.loads(run(line, seconds=120, env=context.environment()))


@contextlib.contextmanager
def attached(context: Context, url: str, name: str) -> Iterator[dict[str, Any]]:
    """The status of a volume that is attached for the block: ``loop``, ``worker_pid``."""
    with _removed(context, "detach", name):
        context.step(f"attach {name}")
        # The peers write to the same LUN in their turn.
        yield command(context, "attach", url, "--name", name, "--fencing=off")


@contextlib.contextmanager
def mounted(context: Context, url: str, name: str, directory: Path) -> Iterator[dict[str, Any]]:
    """The status of a volume that is mounted for the block, formatted as ext4 for it."""
    directory.mkdir(parents=True)
    with _removed(context, "umount", name):
        context.step(f"format and mount {name}")
        yield command(
            context, "mount", url, str(directory), "--name", name, "--fencing=off", "--fstype=ext4",
            "--format-if-blank",
        )  # fmt: skip


@contextlib.contextmanager
def _removed(context: Context, how: str, name: str) -> Iterator[None]:
    """Take the volume down at the end; by force where it will not go, which is noted."""
    try:
        yield
    finally:
        volumes = context.directory / "run" / "volumes"
        if volumes.exists() and (volumes / name).exists():
            context.step(f"{how} {name}")
            try:
                command(context, how, name)
            except Failed as error:
                context.notes.append(f"{how} {name}: {error}")
                with contextlib.suppress(Failed):  # what then is left, is found and told
                    command(context, how, name, "--force")
