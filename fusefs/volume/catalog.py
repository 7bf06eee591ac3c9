# SPDX-License-Identifier: Apache-2.0
"""The volumes that somebody has defined: what they are, whether they are attached or not.

A definition is durable: it lies in the state directory, one file for each, and survives reboots. It
holds no secret, only the names of the files that do. Whether a volume is attached, and who uses it,
is not known here. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from fusefs.errors import InvalidSpec, VolumeError
from fusefs.spec import VolumeSpec, volume_dir_name
from fusefs.volume.state import remove_file, write_json
from fusefs.volume_errors import in_words
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
        self._told: set[str] = set()

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

    def is_there(self, name: str) -> bool:
        """Whether there is a definition, be it as it may."""
        return self.path(name).exists()

    def remove(self, name: str) -> bool:
        """Remove a definition; whether there was one."""
        return remove_file(self.path(name))

    def all(self) -> list[Definition]:
        """Every definition that can be read, by name; of the others see :meth:`unusable`."""
        found = [each for each in self._read_all() if isinstance(each, Definition)]
        return sorted(found, key=lambda each: each.name)

    def unusable(self) -> dict[str, str]:
        """Name and reason of every definition that newer code wrote or that is damaged: the others
        are none the worse for it. Each reason is logged once."""
        found = {}
        for each in self._read_all():
            if isinstance(each, _Unusable):
                found[each.name] = str(each)
                if str(each) not in self._told:
                    self._told.add(str(each))
                    log.warning("%s", each)
        return found

    def _read_all(self) -> list[Definition | _Unusable]:
        found: list[Definition | _Unusable] = []
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
            except _Unusable as error:
                found.append(error)
        return found


class _Unusable(VolumeError):
    """A definition that newer code wrote, or that is damaged."""

    def __init__(self, file: Path, text: str, why: Exception) -> None:
        self.name = _name_in(text) or unquote(file.stem)
        if isinstance(why, OSError):
            super().__init__(
                f"the definition of volume {self.name!r} cannot be read: {in_words(why)}"
            )
            return
        super().__init__(
            f"the definition of volume {self.name!r} in {file} cannot be used ({why})",
            remedy=f"run the version that wrote it; or `pyscsi-init forget {self.name} "
            f"--definition`, which leaves what is on the LUN, and define the volume again",
        )


def _name_in(text: str) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(text)["spec"]["name"])
    return ""


def _read(file: Path) -> Definition:
    text = ""
    try:
        text = file.read_text(encoding="utf-8")
        return Definition.from_json(json.loads(text))
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
        raise _Unusable(file, text, error) from error
