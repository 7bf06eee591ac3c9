# SPDX-License-Identifier: Apache-2.0
"""One mapping of a manifest, read field by field with the types that Kubernetes wants.

YAML has two versions, and Kubernetes reads the older one: there ``yes`` is true and ``010`` is 8.
The first is taken, the second is refused, because a wrong LUN is another disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusefs.convert.report import Place

_TRUE = frozenset(("y", "Y", "yes", "Yes", "YES", "on", "On", "ON"))
_FALSE = frozenset(("n", "N", "no", "No", "NO", "off", "Off", "OFF"))


class Fields:
    """The fields of ``mapping``, which stands at ``place``."""

    def __init__(self, place: Place, mapping: object) -> None:
        if not isinstance(mapping, Mapping):
            raise place.error(mapping, "is no mapping of fields")
        self.place = place
        self.mapping = mapping

    def known(self, *names: str) -> None:
        """Refuse any other field: it would be lost without a word."""
        for name in self.mapping:
            if name not in names:
                raise self.place.at(str(name)).error(
                    None, "is no field here", f"known are {', '.join(names)}"
                )

    def value(self, name: str) -> Any:
        """As it stands; None where it is missing or null."""
        return self.mapping.get(name)

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.place.at(name).error(value, "is no string", "quote it")
        return str(value)

    def required(self, name: str) -> str:
        """A string that must be there."""
        text = self.text(name)
        if not text:
            raise self.place.at(name).error(None, "is missing")
        return text

    def texts(self, name: str) -> list[str]:
        """A list of strings."""
        value = self.value(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.place.at(name).error(value, "is no list")
        for index, each in enumerate(value):
            if not isinstance(each, str) or not each:
                raise self.place.at(name, index).error(each, "is no string", "quote it")
        return [str(each) for each in value]

    def flag(self, name: str) -> bool:
        """True or false; false where it is missing."""
        value = self.value(name)
        if value is None:
            return False
        if isinstance(value, bool):
            return value
        # A quoted scalar is a subclass of str: for Kubernetes too it is a string.
        if type(value) is str and value in _TRUE | _FALSE:
            return value in _TRUE
        raise self.place.at(name).error(value, "is neither true nor false")

    def number(self, name: str, low: int, high: int) -> int:
        """An integer that must be there."""
        value = self.value(name)
        place = self.place.at(name)
        if value is None:
            raise place.error(None, "is missing")
        if isinstance(value, bool) or not isinstance(value, int):
            raise place.error(value, "is no number", "write it without quotes")
        # The round trip remembers how many digits there were.
        if (getattr(value, "_width", None) or 0) > len(str(int(value))) and value >= 0:
            raise place.error(
                int(value), "begins with 0, which some read as octal", "write it without the 0"
            )
        if not low <= value <= high:
            raise place.error(int(value), f"is not in {low}..{high}")
        return int(value)

    def below(self, name: str) -> Fields | None:
        """A mapping in this one; None where it is missing."""
        value = self.value(name)
        return None if value is None else Fields(self.place.at(name), value)

    def shape(self, *, mappings: tuple[str, ...] = (), lists: tuple[str, ...] = ()) -> None:
        """Refuse what Kubernetes would refuse, where these fields are there."""
        for name, kind, noun in (
            *((name, Mapping, "mapping of fields") for name in mappings),
            *((name, list, "list") for name in lists),
        ):
            value = self.value(name)
            if value is not None and not isinstance(value, kind):
                raise self.place.at(name).error(value, f"is no {noun}")

    def own(self, name: str) -> None:
        """Refuse a field that a YAML merge key brings: it cannot be taken away here."""
        for each in getattr(self.mapping, "merge", ()):
            merged = each[1] if isinstance(each, tuple) else each  # it was a pair once
            if name not in merged:
                continue
            raise self.place.at(name).error(
                None, "comes from a YAML merge key (<<)", "write it out in this document"
            )


class Attributes(Fields):
    """``volumeAttributes``: every value is a string."""

    def flag(self, name: str) -> bool:
        """``"true"``, or anything else for false, as the drivers read it."""
        return self.text(name).lower() == "true"

    def number(self, name: str, low: int, high: int) -> int:
        """A number in a string."""
        text = self.required(name)
        place = self.place.at(name)
        if not (text.isascii() and text.isdigit()) or (text[0] == "0" and text != "0"):
            raise place.error(text, "is no number")
        if not low <= int(text) <= high:
            raise place.error(text, f"is not in {low}..{high}")
        return int(text)
