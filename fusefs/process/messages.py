# SPDX-License-Identifier: Apache-2.0
"""What a worker is told at its start, what it answers, and how an error crosses the process border.

Three documents, each one JSON object on one line:

- *start*, on the worker's standard input: the spec, the CHAP credentials, the ISID, the paths. The
  only place where a secret is put in bytes; it goes through a pipe and is nowhere else.
- *progress* and *ready*, on the worker's descriptor 3: steps as they are done, then ``ok`` with the
  facts of the volume or the error that ended the attempt.
- request and reply of the control socket.

Errors travel as class name, text and typed fields, and come out as the same class, so that a caller
catches ``AuthenticationFailed`` whether the login ran in this process or in another.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyscsi_init.errors
from fusefs import errors, volume_errors
from fusefs.errors import ProcessUser, VolumeError, WorkerFailed
from fusefs.spec import VolumeSpec
from pyscsi_init.errors import IscsiError
from pyscsi_init.secret import Chap, Secret

START_VERSION = 1
MAX_LINE_BYTES = 65536
"""Largest document; also what a pipe takes without a reader, so writing the start never blocks."""

_SCALARS = (str, int, float, bool, type(None))


class BadMessage(Exception):
    """A line that is not a document of this protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartDocument:
    """All that a worker needs to know."""

    spec: VolumeSpec
    chap: Chap | None
    isid: bytes
    directory: str
    """The volume's directory: control socket in it."""
    fuse_directory: str
    state_directory: str
    """Where the initiator name of this host is kept when nobody gave one."""
    deadline_s: float
    """Everything up to ``ready`` is done within this, or undone."""

    def encode(self) -> bytes:
        """The line for the pipe. Holds the secrets."""
        return encode_line(
            {
                "version": START_VERSION,
                "spec": self.spec.to_json(),
                "chap": encode_chap(self.chap),
                "isid": self.isid.hex(),
                "directory": self.directory,
                "fuse_directory": self.fuse_directory,
                "state_directory": self.state_directory,
                "deadline_s": self.deadline_s,
            }
        )

    @classmethod
    def decode(cls, line: bytes) -> StartDocument:
        """Read a start line. Its errors name fields, never values.

        Raises:
            BadMessage: it is none.
            ConfigurationError: the spec in it cannot be.
        """
        values = decode_line(line)
        if values.get("version") != START_VERSION:
            raise BadMessage("start document of another version")
        try:
            return cls(
                spec=VolumeSpec.from_json(values["spec"]),
                chap=_decode_chap(values["chap"]),
                isid=bytes.fromhex(values["isid"]),
                directory=str(values["directory"]),
                fuse_directory=str(values["fuse_directory"]),
                state_directory=str(values["state_directory"]),
                deadline_s=float(values["deadline_s"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadMessage(f"start document: {type(error).__name__}") from None

    def __repr__(self) -> str:
        return f"<StartDocument of {self.spec.name!r}>"


def encode_chap(chap: Chap | None) -> dict[str, Any] | None:
    """Credentials as they stand in a start document."""
    if chap is None:
        return None
    mutual = chap.mutual_secret
    return {
        "user": chap.user,
        "secret": base64.b64encode(chap.secret.reveal()).decode(),
        "mutual_user": chap.mutual_user,
        "mutual_secret": None if mutual is None else base64.b64encode(mutual.reveal()).decode(),
        "algorithms": list(chap.algorithms),
        "allow_short_secret": chap.allow_short_secret,
    }


def _decode_chap(values: Any) -> Chap | None:
    if values is None:
        return None
    mutual = values["mutual_secret"]
    return Chap(
        user=values["user"],
        secret=Secret(base64.b64decode(values["secret"])),
        mutual_user=values["mutual_user"],
        mutual_secret=None if mutual is None else Secret(base64.b64decode(mutual)),
        algorithms=tuple(values["algorithms"]),
        allow_short_secret=values["allow_short_secret"],
    )


def encode_line(document: Mapping[str, Any]) -> bytes:
    """One JSON object as one line.

    Raises:
        ValueError: it is longer than a line may be.
    """
    line = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a document of {len(line)} bytes, at most {MAX_LINE_BYTES} are allowed")
    return line


def decode_line(line: bytes) -> dict[str, Any]:
    """The JSON object of one line.

    Raises:
        BadMessage: the line is no JSON object. The line itself is not quoted: it may hold secrets.
    """
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise BadMessage("the line is no JSON") from None
    if not isinstance(document, dict):
        raise BadMessage("the line is no JSON object")
    return document


def encode_error(error: BaseException) -> dict[str, Any]:
    """An error as JSON: class, text, and the fields that are plain values."""
    fields: dict[str, Any] = {}
    for name, value in vars(error).items():
        if name.startswith("_"):
            continue
        if isinstance(value, _SCALARS):
            fields[name] = value
        elif isinstance(value, (tuple, list)):
            if all(isinstance(item, _SCALARS) for item in value):
                fields[name] = list(value)
            elif all(isinstance(item, ProcessUser) for item in value):
                fields[name] = [{"pid": u.pid, "name": u.name, "how": u.how} for u in value]
    return {"class": type(error).__name__, "message": str(error), "fields": fields}


def decode_error(values: Any, name: str) -> IscsiError | VolumeError:
    """The error that :func:`encode_error` described, from the worker of volume ``name``.

    A class that is not ours becomes WorkerFailed.
    """
    if not isinstance(values, dict):
        return WorkerFailed(name, "it ended with an error that it could not describe")
    message = str(values.get("message", ""))
    class_name = str(values.get("class", ""))
    places = (errors, volume_errors, pyscsi_init.errors)
    found = next((each for place in places if (each := getattr(place, class_name, None))), None)
    if not (isinstance(found, type) and issubclass(found, (IscsiError, VolumeError))):
        return WorkerFailed(name, f"{class_name}: {message}" if message else class_name)
    # The constructors make the text from the fields; here the text is there already.
    error = found.__new__(found)
    Exception.__init__(error, message)
    fields = values.get("fields")
    for field_name, value in fields.items() if isinstance(fields, dict) else ():
        if str(field_name).isidentifier() and not str(field_name).startswith("_"):
            setattr(error, field_name, _decode_field(value))
    return error


def _decode_field(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return tuple(ProcessUser(**item) if isinstance(item, dict) else item for item in value)
