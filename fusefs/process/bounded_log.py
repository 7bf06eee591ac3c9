# SPDX-License-Identifier: Apache-2.0
"""A log that a process may write to for years: it lies in memory, as /run does.

INVARIANT: nothing but the standard library (the holder has it too), and no file is opened after the
start (the worker may serve the one where files lie).
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections import deque

LARGEST_BYTES = 1 << 19
KEPT_LINES = 200


class BoundedHandler(logging.Handler):
    """Writes records to a descriptor. A file, which has to be open for appending, begins anew with
    the last records of this process when it has more than ``largest`` bytes.

    A record that cannot be written is lost: a full disk must not disturb a data path.
    """

    def __init__(self, descriptor: int, *, largest: int = LARGEST_BYTES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._largest = largest
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        with contextlib.suppress(Exception):
            line = self.format(record) + "\n"
            text = line
            if self._is_file and os.fstat(self._descriptor).st_size > self._largest:
                os.ftruncate(self._descriptor, 0)
                text = "".join(("(what was here before is gone)\n", *self._last, line))
            self._last.append(line)
            os.write(self._descriptor, text.encode("utf-8", "backslashreplace"))
