# SPDX-License-Identifier: Apache-2.0
"""Where new volumes come from: the one interface to whoever has LUNs to give.

A provisioner hands out logical units by name and takes them back. What it handed out it knows for
good: its *claims* are on disk before a unit is named to anybody, so that after a crash at any step
the same call with the same name ends in the same unit, and no unit is ever somebody's twice.

It does not know who asks. It never attaches anything; a unit is described, and the node that uses
it logs in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fusefs.errors import InvalidSpec, VolumeError
from pyscsi_init.secret import Chap
from pyscsi_init.url import IscsiUrl


class ClaimConflict(VolumeError):
    """The name has a unit already, and it is not what is asked for now."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(
            f"volume {name!r} exists and {reason}", remedy="choose another name, or delete it first"
        )


class NoSuchClaim(VolumeError):
    """The provisioner handed out no unit under this id."""

    def __init__(self, claim_id: str) -> None:
        self.claim_id = claim_id
        super().__init__(f"there is no provisioned volume {claim_id!r}", remedy="list the volumes")


class SizeNotPossible(VolumeError):
    """No unit of this size can be had, whatever is deleted: the range itself is the problem."""


class NoSpaceLeft(VolumeError):
    """There is no unit, or no room for one, at this moment."""


class ClaimInUse(VolumeError):
    """The unit is used, so it cannot be taken back or changed."""


class LunLost(VolumeError):
    """The unit was handed out, and what was on it is not there any more."""


@dataclass(frozen=True, slots=True)
class SizeRange:
    """Bytes: at least ``required``, at most ``limit``; 0 says nothing."""

    required: int = 0
    limit: int = 0

    def __post_init__(self) -> None:
        for what, value in (("required bytes", self.required), ("limit bytes", self.limit)):
            if value < 0:
                raise InvalidSpec(what, value, "is negative", remedy="give 0 for no limit")
        if self.limit and self.required > self.limit:
            raise InvalidSpec(
                "required bytes",
                self.required,
                f"is more than the limit of {self.limit}",
                remedy="raise the limit, or ask for less",
            )

    def admits(self, size: int) -> bool:
        """Whether a unit of ``size`` bytes will do."""
        return size >= self.required and not (self.limit and size > self.limit)

    def __str__(self) -> str:
        limit = f"at most {self.limit} bytes" if self.limit else ""
        required = f"at least {self.required} bytes" if self.required else ""
        return " and ".join(part for part in (required, limit) if part) or "any size"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionedLun:
    """A unit that was handed out."""

    claim_id: str
    """What :meth:`Provisioner.delete` and the others take: stable, unique in its provisioner, of
    letters, digits, ``-``, ``_``, ``.`` and ``:``, at most 100 of them."""
    name: str
    """What it was asked for as."""
    url: IscsiUrl
    """All portals, target name and LUN; no user."""
    size_bytes: int
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What it was made with, as far as it matters to a second request of the name."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """As they were given; whoever asked for the unit finds here what it is to be used with."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What could be handed out now, bytes."""

    available: int
    largest: int | None = None
    """The largest unit that could be had; None where nobody can say."""
    smallest: int | None = None


class Provisioner(ABC):
    """Hands out logical units. Any call may be made again, also at the same time, also by another
    process: each claim is made and given up under a lock of the implementation's own.

    ``parameters`` are a StorageClass's, without those that belong to the volume itself.
    ``credentials`` are for the session that a provisioner may need to look at a unit or to wipe it.
    """

    name: str
    """What the StorageClass parameter ``provisioner`` says."""

    @abstractmethod
    async def create(
        self,
        name: str,
        size: SizeRange,
        parameters: Mapping[str, str],
        labels: Mapping[str, str],
        credentials: Chap | None = None,
    ) -> ProvisionedLun:
        """A unit for ``name``: the one it has, or a new one. It holds nothing of its former user.

        ``labels`` are kept with the claim and mean nothing to the provisioner.

        The claim is durable before this returns, and before anything is made that would be lost
        without it.

        Raises:
            InvalidSpec: a parameter that is unknown, missing, or cannot work.
            ClaimConflict: the name has a unit of a size outside ``size``, or of other parameters or
                labels.
            SizeNotPossible: no unit of such a size can exist here.
            NoSpaceLeft: none is free.
            LunLost: the name has a unit whose data is gone.
            IscsiError, HostError: the target or the host failed; calling again goes on.

        Cancellation: the claim exists or it does not; calling again ends in the same unit.
        """

    @abstractmethod
    async def delete(self, claim_id: str, credentials: Chap | None = None) -> None:
        """Take a unit back. One that nobody has is no error.

        The claim ends last, when the old data can reach nobody any more: until then nobody else
        gets the unit.

        Raises:
            ClaimInUse: somebody is logged in to it.
            IscsiError, HostError: the target or the host failed; calling again goes on.

        Cancellation: calling again goes on.
        """

    @abstractmethod
    async def get(self, claim_id: str) -> ProvisionedLun:
        """One unit that was handed out. Asks no target.

        Raises:
            NoSuchClaim: nobody has it.
        """

    @abstractmethod
    async def list(self) -> Sequence[ProvisionedLun]:
        """Every unit that was handed out, in order of ``claim_id``. Asks no target."""

    @abstractmethod
    async def capacity(self, parameters: Mapping[str, str]) -> Capacity:
        """What could be handed out with these parameters.

        Raises:
            InvalidSpec: a parameter that is unknown, missing, or cannot work.
        """

    @abstractmethod
    async def expand(
        self, claim_id: str, size: SizeRange, credentials: Chap | None = None
    ) -> ProvisionedLun:
        """Make a unit at least ``size.required`` bytes large; one that is so already is left alone.

        Raises:
            NoSuchClaim: nobody has it.
            SizeNotPossible: it cannot become that large, or it would pass the limit, or units of
                this provisioner never grow.
            IscsiError, HostError: the target or the host failed; calling again goes on.

        Cancellation: calling again goes on.
        """
