# SPDX-License-Identifier: Apache-2.0
"""``python -m pyscsi_init.testing`` as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COMMAND = (sys.executable, "-m", "pyscsi_init.testing")
PATIENCE = 10


@contextmanager
def serving(*arguments: str, end: signal.Signals = signal.SIGTERM) -> Iterator[dict[str, Any]]:
    """The command, running; ended by a signal, on which it must exit with 0 and without a word."""
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(end)
            try:
                output, errors = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    assert (process.returncode, output, errors) == (0, "", "")
