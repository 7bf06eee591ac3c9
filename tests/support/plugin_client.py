# SPDX-License-Identifier: Apache-2.0
"""A client of the volume plugin protocol that says what it likes, as no engine would."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, Self

PATIENCE_S = 60.0


class PluginClient:
    """``with PluginClient(path) as client:`` then ``client.call("VolumeDriver.List")``."""

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)

    def __enter__(self) -> Self:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(self._path)
        self._file = self.socket.makefile("rb")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, name: str, body: bytes = b"", headers: str = "", method: str = "POST") -> None:
        """Send a request as it is; without ``headers`` it has a Content-Length."""
        headers = headers or f"Content-Length: {len(body)}\r\n"
        head = f"{method} /{name} HTTP/1.1\r\nHost: {self._path}\r\n{headers}\r\n"
        self.socket.sendall(head.encode() + body)

    def receive(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers in lower case, and the JSON of one answer."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip():
            key, _, value = line.decode().partition(":")
            headers[key.lower()] = value.strip()
        body = self._file.read(int(headers.get("content-length", 0)))
        try:
            return status, headers, json.loads(body)
        except ValueError:
            return status, headers, body.decode(errors="replace")

    def ask(self, name: str, **values: Any) -> tuple[int, dict[str, str], Any]:
        """One request and its answer."""
        self.send(name, json.dumps(values).encode() if values else b"")
        return self.receive()

    def call(self, name: str, **values: Any) -> Any:
        """One request that must succeed, and the JSON of its answer."""
        status, _, answer = self.ask(name, **values)
        assert status == 200, answer
        assert not answer.get("Err"), answer
        return answer

    def refused(self, name: str, **values: Any) -> str:
        """One request that must not succeed, and the reason."""
        status, _, answer = self.ask(name, **values)
        assert status == 500, answer
        assert answer["Err"], answer
        return str(answer["Err"])
