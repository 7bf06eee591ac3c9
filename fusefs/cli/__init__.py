# SPDX-License-Identifier: Apache-2.0
"""The command ``pyscsi-init``: arguments in, one library call, text or JSON out, an exit status.

One file a group of commands, each imported only when its command runs: ``pyscsi-init discover``
works where there is no root, no FUSE and no loop device. Nothing is decided here about targets or
volumes; what a command can do, a program can do with the same call.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fusefs.cli.signals import Stopped, stoppable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    try:
        with stoppable(last=arguments is None):
            # The import takes a good part of a second, in which a signal may come already.
            from fusefs.cli.app import run_command

            return run_command(arguments)
    except Stopped as stopped:
        sys.stderr.write(f"pyscsi-init: {stopped}\n")
        return stopped.status
