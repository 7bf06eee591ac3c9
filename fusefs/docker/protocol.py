# SPDX-License-Identifier: Apache-2.0
"""What a call of the volume plugin protocol is, for those who make the answers and for the server.

The names are the protocol's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fusefs.errors import VolumeError

MEDIA_TYPE = "application/vnd.docker.plugins.v1.2+json"
DEFAULT_SOCKET = "/run/docker/plugins/pyscsi-init.sock"
"""Where engines look, and with it the driver's name."""

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One call: its name, what it does, and what becomes of it where the caller does not wait."""

    name: str
    call: Callable[[Mapping[str, Any], str], Awaitable[Answer]]
    """Given the request and the caller's process."""
    deadline_s: float
    """Shorter than the engine's, so that it hears how the call ended."""
    undo: Callable[[Mapping[str, Any]], Awaitable[None]] | None = None
    """Takes back what a call did whose caller is gone. Endpoints that have one are cancelled when
    the caller goes, or at the deadline; the others go on to their end."""
    late: Callable[[Mapping[str, Any]], Answer] | None = None
    """What is answered at the deadline, where an error would say something that is not so."""
    answered: Callable[[Mapping[str, Any]], Awaitable[None]] | None = None
    """Told when the answer has been sent."""


class Refused(VolumeError):
    """The request is none of the protocol's."""


class Gone(VolumeError):
    """The caller went away."""
