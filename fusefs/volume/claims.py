# SPDX-License-Identifier: Apache-2.0
"""What a provisioner handed out, on disk: one file for each name.

    <directory>/                 0700
      lock                       held while it is decided who gets what
      claims/<encoded>.json      one claim
      claims/<encoded>.lock      held while the unit of that name is worked on; goes with the claim
      quarantine/<digest>.json   a unit that was released and is kept from everybody

A claim is written whole or not at all and is on stable storage before anybody hears of it, so it
survives SIGKILL and power loss at any step. A file that cannot be read stops everything: without
it nobody can say which units are free.

INVARIANT: the lock of a name is taken before the lock of the directory, never after it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio

from fusefs.errors import VolumeError
from fusefs.spec import volume_dir_name
from fusefs.volume.hostcalls import host_call
from fusefs.volume.locks import file_lock, remove_free_lock
from fusefs.volume.paths import make_private_directory
from fusefs.volume.provision import (
    ClaimConflict,
    NoSuchClaim,
    ProvisionedLun,
    Provisioner,
    SizeRange,
)
from fusefs.volume.state import clear_unfinished, remove_file, write_json
from pyscsi_init.errors import IscsiError
from pyscsi_init.url import parse_url

_VERSION = 1
_ID = re.compile(r"[0-9a-f]{24}-[0-9a-f]{8}")
LOCK_SECONDS = 60.0
"""What a decision may take, with a target that answers slowly."""

MAKING, READY, RELEASING = "making", "ready", "releasing"
"""Nobody knows of it yet; handed out; given back, and the old data may still be there."""


class ClaimUnreadable(VolumeError):
    """A file of claims says nothing, so nobody knows which units are free."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"what {path} claims cannot be read ({problem})",
            remedy="restore the file; without it two volumes could get one unit",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A unit and who has it."""

    claim_id: str
    name: str
    phase: str
    url: str
    key: str
    """The unit, whatever its address."""
    size_bytes: int
    parameters: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> tuple[str, int | None]:
        """Target name and LUN: one unit, whatever the portal."""
        return address_of(self.url)

    def lun(self) -> ProvisionedLun:
        """As it is told to whoever asked."""
        return ProvisionedLun(
            claim_id=self.claim_id,
            name=self.name,
            url=parse_url(self.url),
            size_bytes=self.size_bytes,
            parameters=dict(self.parameters),
            labels=dict(self.labels),
        )

    def check(
        self, size: SizeRange, parameters: Mapping[str, str], labels: Mapping[str, str]
    ) -> None:
        """Whether a second request of the name asks for this.

        Raises:
            ClaimConflict: it asks for something else.
        """
        if not size.admits(self.size_bytes):
            raise ClaimConflict(self.name, f"has {self.size_bytes} bytes, not {size}")
        for what, mine, other in (
            ("parameters", self.parameters, parameters),
            ("attributes", self.labels, labels),
        ):
            if dict(mine) != dict(other):
                names = sorted(k for k in {*mine, *other} if mine.get(k) != other.get(k))
                raise ClaimConflict(self.name, f"has other {what} ({', '.join(names)})")


def address_of(url: str) -> tuple[str, int | None]:
    """Target name and LUN of a URL."""
    parsed = parse_url(url)
    return parsed.target, parsed.lun


def new_claim_id(name: str) -> str:
    """Of the name, to be found by it, and of chance: a name that comes again is another claim, and
    a deletion of the old one that is repeated late does not touch it."""
    return f"{_digest(name)}-{secrets.token_hex(4)}"


class Claims:
    """The claims of one provisioner. Its methods block; the locks do not."""

    def __init__(self, directory: Path, *, lock_timeout_s: float = LOCK_SECONDS) -> None:
        """Nothing is touched before the first call."""
        self._directory = directory
        self._claims = directory / "claims"
        self._quarantine = directory / "quarantine"
        self._lock_timeout_s = lock_timeout_s

    @property
    def directory(self) -> Path:
        """Where they lie."""
        return self._directory

    def prepare(self) -> None:
        """Make the directories.

        Raises:
            ConfigurationError: one cannot be made, or belongs to somebody else.
        """
        for directory in (self._directory, self._claims, self._quarantine):
            make_private_directory(directory)

    @asynccontextmanager
    async def deciding(self) -> AsyncIterator[None]:
        """Be the only one who gives units away.

        Raises:
            OperationInProgress: somebody else was all the time.
        """
        await host_call(self.prepare)
        async with file_lock(self._directory / "lock", "pool", self._lock_timeout_s):
            await host_call(self._tidy)
            yield

    @asynccontextmanager
    async def working_on(self, claim_id: str) -> AsyncIterator[None]:
        """Be the only one who works on the unit of a claim, and of its name.

        Raises:
            NoSuchClaim: no claim is called so.
            OperationInProgress: somebody else does.
        """
        if not _ID.fullmatch(claim_id):
            raise NoSuchClaim(claim_id)
        await host_call(self.prepare)
        async with file_lock(self._lock_of(claim_id), claim_id, 0):
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await host_call(functools.partial(self._remove_lock_of_none, claim_id))

    def _lock_of(self, claim_id: str) -> Path:
        return self._claims / f"{claim_id.partition('-')[0]}.lock"

    def _tidy(self) -> None:
        """Remove what those who were killed left: half-written files, and locks of claims that have
        ended."""
        for directory in (self._claims, self._quarantine):
            clear_unfinished(directory)
        for lock in self._claims.glob("*.lock"):
            if not lock.with_suffix(".json").exists():
                remove_free_lock(lock)

    def _remove_lock_of_none(self, claim_id: str) -> None:
        """Without its claim nobody asks for the lock again; we hold it."""
        with contextlib.suppress(ClaimUnreadable):
            if self.find(claim_id) is None:
                self._lock_of(claim_id).unlink(missing_ok=True)

    def find(self, claim_id: str) -> Claim | None:
        """The claim of this id; None where there is none."""
        if not _ID.fullmatch(claim_id):
            return None
        claim = _read(self._claims / f"{claim_id.partition('-')[0]}.json")
        return claim if claim is not None and claim.claim_id == claim_id else None

    def of_name(self, name: str) -> Claim | None:
        """The claim of a name."""
        return _read(self._claims / f"{_digest(name)}.json")

    def all(self) -> list[Claim]:
        """Every claim, in order of the ids."""
        if not self._claims.is_dir():
            return []
        found = [_read(path) for path in self._claims.glob("*.json")]
        return sorted((claim for claim in found if claim), key=lambda claim: claim.claim_id)

    def write(self, claim: Claim) -> Claim:
        """Make it so, for good."""
        document = {"version": _VERSION, **_document(claim)}
        write_json(self._claims / f"{_digest(claim.name)}.json", document)
        return claim

    def remove(self, claim: Claim) -> None:
        """End it, for good."""
        remove_file(self._claims / f"{_digest(claim.name)}.json")

    def put_into_quarantine(self, claim: Claim) -> Path:
        """Keep its unit from everybody until somebody removes the file that is returned."""
        path = self._quarantine / f"{volume_dir_name(claim.name)[:80]}.{claim.claim_id}.json"
        write_json(path, {"version": _VERSION, **_document(claim)})
        return path

    def quarantined(self) -> list[Claim]:
        """Units that nobody gets."""
        if not self._quarantine.is_dir():
            return []
        found = [_read(path) for path in sorted(self._quarantine.glob("*.json"))]
        return [claim for claim in found if claim]


class ClaimingProvisioner(Provisioner):
    """What every provisioner with claims on disk answers in the same way."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims

    async def get(self, claim_id: str) -> ProvisionedLun:
        """See :class:`Provisioner`."""
        return (await self._handed_out(claim_id)).lun()

    async def list(self) -> Sequence[ProvisionedLun]:
        """See :class:`Provisioner`."""
        return [claim.lun() for claim in await host_call(self._claims.all) if claim.phase == READY]

    async def _handed_out(self, claim_id: str) -> Claim:
        claim = await host_call(functools.partial(self._claims.find, claim_id))
        if claim is None or claim.phase != READY:
            raise NoSuchClaim(claim_id)
        return claim

    async def _write(self, claim: Claim, **changes: Any) -> Claim:
        changed = replace(claim, **changes)
        return await host_call(functools.partial(self._claims.write, changed))


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _document(claim: Claim) -> dict[str, Any]:
    return {
        "claim_id": claim.claim_id,
        "name": claim.name,
        "phase": claim.phase,
        "url": claim.url,
        "key": claim.key,
        "size_bytes": claim.size_bytes,
        "parameters": dict(claim.parameters),
        "labels": dict(claim.labels),
    }


def _read(path: Path) -> Claim | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        problem = _problem(values)
        if not problem:
            return _claim(values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IscsiError) as error:
        raise ClaimUnreadable(path, repr(error)) from error
    raise ClaimUnreadable(path, problem)


def _problem(values: Mapping[str, Any]) -> str:
    if values["version"] != _VERSION:
        return f"version {values['version']!r}"
    if values["phase"] not in (MAKING, READY, RELEASING):
        return f"phase {values['phase']!r}"
    return ""


def _claim(values: Mapping[str, Any]) -> Claim:
    return Claim(
        claim_id=str(values["claim_id"]),
        name=str(values["name"]),
        phase=str(values["phase"]),
        url=str(parse_url(values["url"])),
        key=str(values["key"]),
        size_bytes=int(values["size_bytes"]),
        parameters={str(k): str(v) for k, v in values["parameters"].items()},
        labels={str(k): str(v) for k, v in values["labels"].items()},
    )
