# SPDX-License-Identifier: Apache-2.0
"""The command ``pyscsi-init``: arguments in, one library call, text or JSON out, an exit status.

One file a group of commands, each imported only when its command runs: ``pyscsi-init discover``
works where there is no root, no FUSE and no loop device. Nothing is decided here about targets or
volumes; what a command can do, a program can do with the same call.
"""

from __future__ import annotations

from fusefs.cli.app import main

__all__ = ["main"]
