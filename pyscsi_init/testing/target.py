# SPDX-License-Identifier: Apache-2.0
"""A target: a name with logical units, settings, accounts, faults and the sessions logged in to it.

What a test holds in its hand. It can put logical units in and take them out, redirect logins, and
ask what has happened. It listens to nothing itself; a server (server.py) shows it on its portals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..names import check_iscsi_name
from .conditions import POWER_ON_OR_RESET, REPORTED_LUNS_DATA_HAS_CHANGED, Nexus
from .disk import Disk
from .faults import Faults
from .settings import ChapAccounts, Redirect, TargetChap, TargetSettings, chap_accounts
from .unit import LogicalUnit

if TYPE_CHECKING:
    from .session import Session


@dataclass(slots=True)
class Counters:
    """What has happened so far."""

    connections: int = 0
    logins: int = 0
    failed_logins: int = 0
    logouts: int = 0
    sessions_reinstated: int = 0
    connections_reinstated: int = 0
    rejects: int = 0
    commands: Counter[int] = field(default_factory=Counter)
    """By operation code; every command that arrived, done or not."""
    task_management: Counter[int] = field(default_factory=Counter)
    """By function."""
    pdus_received: Counter[int] = field(default_factory=Counter)
    """By opcode, full feature phase."""
    pdus_sent: Counter[int] = field(default_factory=Counter)


class Target:
    """One iSCSI target node.

    ``luns`` maps LUN to a disk, or to a :class:`LogicalUnit` that several targets share.
    ``initiators`` are the names that may log in (None: all). ``portal_group_tags`` restricts the
    portals on which the target is seen.
    """

    def __init__(
        self,
        name: str,
        *,
        luns: Mapping[int, Disk | LogicalUnit] | None = None,
        chap: ChapAccounts = None,
        settings: TargetSettings | None = None,
        initiators: Collection[str] | None = None,
        portal_group_tags: Collection[int] | None = None,
    ) -> None:
        self.name = check_iscsi_name(name)
        self.settings = settings or TargetSettings()
        self.chap: tuple[TargetChap, ...] = chap_accounts(chap)
        self.initiators = initiators
        self.portal_group_tags = portal_group_tags
        self.luns: dict[int, LogicalUnit] = {}
        self.faults = Faults()
        self.counters = Counters()
        self.sessions: list[Session] = []
        self.redirects: dict[int | None, Redirect] = {}
        """Portal group tag (None: any other) -> where a login is sent."""
        for lun, disk in (luns or {}).items():
            self._put(lun, disk)

    def _put(self, lun: int, disk: Disk | LogicalUnit) -> LogicalUnit:
        unit = disk if isinstance(disk, LogicalUnit) else LogicalUnit(disk)
        unit.abort_nexus.append(self._abort_nexus)
        unit.announce_capacity_change = self.settings.unit_attention_on_capacity_change
        self.luns[lun] = unit
        return unit

    def add_lun(self, lun: int, disk: Disk | LogicalUnit, *, announce: bool = True) -> LogicalUnit:
        """Put a logical unit in; the other units tell that the list has changed."""
        unit = self._put(lun, disk)
        for session in self.sessions:
            unit.attach(session.nexus)
        if announce:
            self._luns_changed(unit)
        return unit

    def remove_lun(self, lun: int, *, announce: bool = True) -> LogicalUnit:
        """Take a logical unit away: commands for its LUN find none (5/25/00)."""
        unit = self.luns.pop(lun)
        unit.abort_nexus.remove(self._abort_nexus)
        for session in self.sessions:
            unit.detach(session.nexus)
        if announce:
            self._luns_changed(unit)
        return unit

    def _luns_changed(self, but: LogicalUnit) -> None:
        for unit in self.luns.values():
            if unit is not but:
                unit.attention(REPORTED_LUNS_DATA_HAS_CHANGED)

    def redirect_to(
        self, address: object, *, permanent: bool = False, portal_group_tag: int | None = None
    ) -> None:
        """Answer logins with a redirect to ``address``, on one portal group or on all."""
        self.redirects[portal_group_tag] = Redirect(str(address), permanent)

    def drop_connections(self) -> None:
        """Close all connections of this target at once, without a word."""
        for session in list(self.sessions):
            session.drop()

    def close(self) -> None:
        """Close the disks."""
        for unit in self.luns.values():
            unit.disk.close()

    # What sessions do

    def begin_session(self, session: Session) -> None:
        """A session has reached full feature phase."""
        self.sessions.append(session)
        for unit in self.luns.values():
            unit.attach(session.nexus)
            if self.settings.unit_attention_on_login:
                unit.attention_for(session.nexus, POWER_ON_OR_RESET)

    def end_session(self, session: Session) -> None:
        """A session has ended."""
        if session in self.sessions:
            self.sessions.remove(session)
            if all(other.nexus != session.nexus for other in self.sessions):
                for unit in self.luns.values():
                    unit.detach(session.nexus)

    def _abort_nexus(self, unit: LogicalUnit, nexus: Nexus) -> None:
        for session in self.sessions:
            if session.nexus == nexus:
                session.abort_tasks(lambda task: task.unit is unit)
