# SPDX-License-Identifier: Apache-2.0
"""One call of a connector as a program, ``python3 -I -m fusefs.cinder.helper``: the other end of
fusefs/cinder/elsewhere.py."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

from fusefs.cinder.connector import IscsiConnector
from fusefs.errors import NotAllowed, VolumeError
from fusefs.process.messages import encode_error
from pyscsi_init.errors import IscsiError

METHODS = (
    "get_connector_properties",
    "check_valid_device",
    "connect_volume",
    "disconnect_volume",
    "extend_volume",
    "get_volume_paths",
    "get_all_available_volumes",
)


def _answer(request: Mapping[str, Any]) -> Any:
    method = request["method"]
    if method not in METHODS:
        raise NotAllowed("call a method", f"{method!r} is none of them")
    connector = IscsiConnector(**request["directories"])
    return getattr(connector, method)(*request["arguments"])


def main() -> None:
    """Answer the one call on standard input."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        answer = {"result": _answer(json.loads(sys.stdin.buffer.read()))}
    except (VolumeError, IscsiError) as error:
        answer = {"error": encode_error(error)}
    print(json.dumps(answer), flush=True)  # noqa: T201  (its caller reads it)


if __name__ == "__main__":
    main()
