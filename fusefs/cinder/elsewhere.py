# SPDX-License-Identifier: Apache-2.0
"""The calls of a connector, made in another process: one that is root's, or has real threads.

The services of OpenStack run as users of their own, and some have had their threads replaced by
eventlet, in which no event loop can run. There a call becomes a process: ``root_helper`` before it,
as with everything that such a service does as root, the arguments on its standard input, and the
answer on its standard output. A password is in no argument list and no environment.

The other end is fusefs/cinder/helper.py.
"""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusefs.errors import NotAllowed
from fusefs.process.messages import BadMessage, decode_error, decode_line

PROGRAM = (sys.executable, "-I", "-m", "fusefs.cinder.helper")
log = logging.getLogger("fusefs.cinder")


def call_elsewhere(
    root_helper: str | None,
    method: str,
    *arguments: Any,
    directories: Mapping[str, Path | str | None] | None = None,
) -> Any:
    """What a method of the connector returns, called in a process of its own. Blocks.

    Raises:
        NotAllowed: the process cannot be started, or does not answer.
        and what the method raises, as the same class.
    """
    command = [*shlex.split(root_helper or ""), *PROGRAM]
    request = {
        "method": method,
        "arguments": arguments,
        "directories": {name: str(path) for name, path in (directories or {}).items() if path},
    }
    what = f"call {method} in a process of its own"
    try:
        done = subprocess.run(  # noqa: S603  (the helper is whoever runs the service's to choose)
            command,
            input=json.dumps(request, default=str).encode(),
            capture_output=True,
            check=False,
        )
        answer = decode_line(done.stdout)
    except OSError as error:
        remedy = "see that root_helper is right, such as 'sudo nova-rootwrap ...'"
        raise NotAllowed(what, f"{command[0]}: {error.strerror}", remedy=remedy) from error
    except BadMessage:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        raise NotAllowed(
            what,
            f"it ended with status {done.returncode}: {told[-1] if told else 'it said nothing'}",
            remedy=f"have root_helper allow `{shlex.join(PROGRAM)}`",
        ) from None
    for line in done.stderr.decode(errors="replace").splitlines():
        log.warning("%s", line)
    if "error" in answer:
        raise decode_error(answer["error"], method)
    return answer.get("result")
