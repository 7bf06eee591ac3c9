# SPDX-License-Identifier: Apache-2.0
"""What a forked worker has from its birth."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Inherited:
    """Descriptors, which are the worker's own, and which in the row of workers it is."""

    name: str
    generation: int
    document: int
    """A pipe that holds the start document, or ends without it: then there is nothing to do."""
    ready: int
    fuse: int
    slots: int
    """-1 where the channel has none."""
    pulse: int
    log: int


def document_pipe(document: bytes) -> int:
    """A pipe that holds a document, closed at the other end; the caller's to close. A pipe takes a
    whole document without a reader (MAX_LINE_BYTES)."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(write_end, document)
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    return read_end
