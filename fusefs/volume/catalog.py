# SPDX-License-Identifier: Apache-2.0
"""The volumes that somebody has defined: what they are, whether they are attached or not.

A definition is durable: it lies in the state directory, one file for each, and survives reboots. It
holds no secret, only the names of the files that do. Whether a volume is attached, and who uses it,
is not known here. Everything here blocks.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fusefs.errors import InvalidSpec, VolumeError
from fusefs.spec import VolumeSpec, volume_dir_name
from fusefs.volume.state import write_json
from pyscsi_init.errors import ConfigurationError

log = logging.getLogger("fusefs.volume")

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A volume that is known by name. ``created_at`` is RFC 3339 in UTC; ``owner`` is the front
    door that defined it."""

    spec: VolumeSpec
    created_at: str
    owner: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))

    @property
    def name(self) -> str:
        return self.spec.name

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` takes back."""
        return {
            "version": _VERSION,
            "spec": self.spec.to_json(),
            "created_at": self.created_at,
            "owner": self.owner,
            "labels": dict(self.labels),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Definition:
        """Read what :meth:`to_json` made.

        Raises:
            ValueError, KeyError, TypeError, ConfigurationError, InvalidSpec: it is none.
        """
        if values["version"] != _VERSION:
            raise ValueError(f"version {values['version']!r}, this program reads {_VERSION}")
        return cls(
            spec=VolumeSpec.from_json(values["spec"]),
            created_at=str(values["created_at"]),
            owner=str(values["owner"]),
            labels={str(key): str(value) for key, value in values["labels"].items()},
        )


def now_text() -> str:
    """This moment, as RFC 3339 has it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Catalog:
    """The definitions below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, name: str) -> Path:
        """Where the definition of ``name`` lies, or would."""
        return self._directory / f"{volume_dir_name(name)}.json"

    def load(self, name: str) -> Definition | None:
        """One definition; None where there is none.

        Raises:
            VolumeError: there is one and it cannot be used.
        """
        try:
            return _read(self.path(name))
        except FileNotFoundError:
            return None

    def save(self, definition: Definition) -> None:
        """Write one definition, whole or not at all."""
        write_json(self.path(definition.name), definition.to_json())

    def remove(self, name: str) -> None:
        """Remove a definition; one that is not there is no error."""
        self.path(name).unlink(missing_ok=True)

    def all(self) -> list[Definition]:
        """Every definition that can be read, by name; a damaged one is told of and left out,
        because the others are none the worse for it."""
        found = []
        try:
            files = sorted(self._directory.glob("*.json"))
        except OSError:
            return []
        for file in files:
            if file.name.startswith("."):
                continue
            try:
                found.append(_read(file))
            except FileNotFoundError:
                continue
            except VolumeError as error:
                log.warning("%s", error)
        return sorted(found, key=lambda each: each.name)


def _read(file: Path) -> Definition:
    try:
        return Definition.from_json(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ConfigurationError,
        InvalidSpec,
    ) as error:
        raise VolumeError(
            f"the definition of a volume in {file} cannot be used ({error})",
            remedy="remove the file and define the volume again",
        ) from error
