# SPDX-License-Identifier: Apache-2.0
"""What a forked worker has from its birth."""

from __future__ import annotations

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
