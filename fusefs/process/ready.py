# SPDX-License-Identifier: Apache-2.0
"""The worker's side of the ready pipe: how far it is, and at last how it went.

At the other end is the command that attaches, or for a successor the holder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from fusefs.process.messages import encode_error, encode_line


class Ready:
    """The ready pipe: steps, then one last word."""

    def __init__(self, fd: int, *, must_be_heard: bool = True) -> None:
        """``must_be_heard``: a listener that is gone is a reason to end."""
        self._fd = fd
        self._must_be_heard = must_be_heard

    def step(self, text: str) -> None:
        """Tell of a step. Raises BrokenPipeError when nobody listens any more."""
        self._write({"progress": text})

    def ok(self, facts: Mapping[str, Any]) -> None:
        """The volume is served. Raises BrokenPipeError as above."""
        self._last({"ok": True, "facts": dict(facts)})

    def failed(self, error: BaseException) -> None:
        """It is not, and all is undone."""
        with contextlib.suppress(BrokenPipeError):
            self._last({"ok": False, "error": encode_error(error)})

    def _write(self, document: Mapping[str, Any]) -> None:
        try:
            os.write(self._fd, encode_line(document))
        except BrokenPipeError:
            if self._must_be_heard:
                raise

    def _last(self, document: Mapping[str, Any]) -> None:
        if self._fd >= 0:
            try:
                self._write(document)
            finally:
                os.close(self._fd)
                self._fd = -1
