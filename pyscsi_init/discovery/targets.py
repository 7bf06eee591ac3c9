# SPDX-License-Identifier: Apache-2.0
"""What every way of discovery finds, and how two findings differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..names import Portal
from ..url import IscsiUrl


@dataclass(frozen=True, slots=True)
class DiscoveredTarget:
    """A target's name and its portals, in the order of the answer and without repetitions.

    ``portals`` is empty where a name server knows the target and no way to it. ``alias`` is what
    people call it, where that was told.
    """

    name: str
    portals: tuple[Portal, ...]
    alias: str = ""

    def url(self, lun: int | None = None, *, user: str | None = None) -> IscsiUrl:
        """The URL of the target, or of one of its LUNs, for :func:`pyscsi_init.open_lun`; ``user``
        is the CHAP name."""
        return IscsiUrl(user, self.portals, self.name, lun)

    @property
    def portal_groups(self) -> dict[int | None, tuple[Portal, ...]]:
        """The portals by their portal group tag; None for those whose tag was not told.

        Portals of one group are ways into the same session, those of different
        groups are not.
        """
        groups: dict[int | None, tuple[Portal, ...]] = {}
        for portal in self.portals:
            groups[portal.tag] = (*groups.get(portal.tag, ()), portal)
        return groups


@dataclass(frozen=True, slots=True)
class TargetAdded:
    """A target that was not there before."""

    target: DiscoveredTarget


@dataclass(frozen=True, slots=True)
class TargetRemoved:
    """A target that is there no more, as it was last seen."""

    target: DiscoveredTarget


@dataclass(frozen=True, slots=True)
class TargetChanged:
    """A target whose portals or alias are others than before."""

    target: DiscoveredTarget
    before: DiscoveredTarget


TargetChange = TargetAdded | TargetRemoved | TargetChanged


class Inventory:
    """The targets that are known."""

    def __init__(self) -> None:
        self._known: dict[str, DiscoveredTarget] = {}

    @property
    def targets(self) -> list[DiscoveredTarget]:
        """All of them, in the order in which they came."""
        return list(self._known.values())

    def update(self, targets: Iterable[DiscoveredTarget]) -> list[TargetChange]:
        """Take over a new finding, and tell how it differs: what went, what changed, what came."""
        new = {target.name: target for target in targets}
        changes: list[TargetChange] = [
            TargetRemoved(target) for name, target in self._known.items() if name not in new
        ]
        for name, target in new.items():
            before = self._known.get(name)
            if before is None:
                changes.append(TargetAdded(target))
            elif not _same(before, target):
                changes.append(TargetChanged(target, before))
        self._known = new
        return changes


def _same(one: DiscoveredTarget, other: DiscoveredTarget) -> bool:
    # Servers do not promise an order of the portals.
    return one.alias == other.alias and frozenset(one.portals) == frozenset(other.portals)
