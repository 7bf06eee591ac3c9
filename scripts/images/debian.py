# SPDX-License-Identifier: Apache-2.0
"""Debian's packages, taken apart into a directory.

apt resolves and fetches them (so its sources, keys, proxies and pins are the machine's) as for a
machine on which nothing is installed, with lists and caches of its own only where the machine's do
not do. Nothing of the machine is changed, and root is not needed.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.images import contents
from scripts.images.failure import BuildFailed

APT_SECONDS = 600.0
_LINE = re.compile(r"'(?P<url>[^']+)' (?P<file>\S+)_(?P<version>[^_\s]+)_[^_\s]+\.deb ")


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One package that was resolved."""

    name: str
    version: str
    file: str


class Apt:
    """apt for a machine without packages."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._own_lists = False
        for name in ("archives/partial", "lists/partial", "nothing/partial"):
            (cache / name).mkdir(parents=True, exist_ok=True)
        (cache / "status").write_text("")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        options = {
            "Dir::State::status": self._cache / "status",
            "Dir::State::extended_states": self._cache / "extended_states",
            "Dir::Cache": self._cache,
            "Dir::Cache::archives": self._cache / "archives",
            # What the machine cleans after an installation is not ours.
            "DPkg::Post-Invoke::": "",
            "APT::Keep-Downloaded-Packages": "true",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Debug::NoLocking": "true",
        }
        if self._own_lists:
            options["Dir::State::lists"] = self._cache / "lists"
        command = ["apt-get", "--quiet", "--yes"]
        command += [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        return subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            timeout=APT_SECONDS,
            check=False,
        )

    def _install(self, *arguments: str) -> str:
        """``apt-get install``, again with fresh lists where the machine's are old or absent.

        Raises:
            BuildFailed: the packages cannot be had.
        """
        done = self._run("install", *arguments)
        if done.returncode and not self._own_lists:
            self._own_lists = True
            updated = self._run("update")
            done = self._run("install", *arguments) if updated.returncode == 0 else updated
        if done.returncode:
            raise BuildFailed(
                f"apt cannot get {' '.join(contents.PACKAGES)}",
                done.stderr,
                "check the package sources with `apt-get update`",
            )
        return done.stdout

    def resolve(self, names: Sequence[str]) -> list[Package]:
        """The packages and all that they depend on, without what is not taken."""
        found = []
        # What has been fetched already is not printed.
        nothing = ("-o", f"Dir::Cache::archives={self._cache / 'nothing'}")
        for line in self._install("--print-uris", *nothing, *names).splitlines():
            if match := _LINE.match(line):
                name, _, version = f"{match['file']}_{match['version']}".partition("_")
                if not contents.NOT_TAKEN.fullmatch(name):
                    file = f"{match['file']}_{match['version']}"
                    found.append(Package(name, version.replace("%3a", ":"), file))
        if not found:
            raise BuildFailed("apt names no packages", "", "is this a system with apt?")
        return sorted(found)

    def fetch(self, packages: Iterable[Package]) -> list[Path]:
        """The files of the packages, verified by apt."""
        wanted = list(packages)
        self._install("--download-only", *contents.PACKAGES)
        files = []
        for package in wanted:
            (file,) = (self._cache / "archives").glob(f"{package.file}_*.deb")
            files.append(file)
        return files


def unpack(file: Path, root: Path) -> list[str]:
    """Take a package apart into ``root``; what of it is kept."""
    kept = []
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", file], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            # apt has verified the signature of what is extracted here.
            archive.extraction_filter = lambda member, _path: member
            for member in archive:
                name = contents.merged(member.name)
                if not name or member.isdir() or not contents.is_kept(name):
                    continue  # a directory is made where a file needs it
                member.name = name
                if member.islnk():
                    member.linkname = contents.merged(member.linkname)
                member.mode &= 0o1777  # nothing in here changes its user
                member.uid, member.gid = os.geteuid(), os.getegid()
                archive.extract(member, root)
                kept.append(name)
    if process.returncode:
        raise BuildFailed(f"{file.name} cannot be read", "", "remove it and try again")
    return kept


def control(file: Path) -> str:
    """What a package says about itself."""
    done = subprocess.run(
        ["dpkg-deb", "--field", file], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout
