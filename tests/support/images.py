# SPDX-License-Identifier: Apache-2.0
"""Container images made of what this machine has installed, without a registry.

WORKER: a static busybox and fio, for containers that write and check what they have written.
POSTGRES: PostgreSQL of Debian's packages, started as the official image is: its data directory is
in PGDATA, and made at the first start.

An image is a tar archive for ``docker import`` or ``podman import``, made once and kept until a
file that is in it changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from .requirements import SBIN, missing, require
from .source import ROOT

CACHE = ROOT / ".cache" / "images"
WORKER = "worker:local"
POSTGRES = "postgres:local"
PASSWD = """\
root:x:0:0:root:/root:/bin/sh
postgres:x:999:999:postgres:/var/lib/postgresql:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/sh
"""
GROUP = "root:x:0:\npostgres:x:999:\nnogroup:x:65534:\n"
POSTGRES_CHANGES = (
    "ENV PATH=/usr/lib/postgresql/bin:/usr/bin:/usr/sbin:/bin",
    "ENV PGDATA=/var/lib/postgresql/data",
    'ENTRYPOINT ["/usr/bin/docker-entrypoint.sh"]',
    'CMD ["postgres"]',
)
# The directory belongs to the server's user, and it is the server's to leave root behind.
ENTRYPOINT = """\
#!/bin/sh
set -eu
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /run/postgresql
    chown postgres:postgres "$PGDATA" /run/postgresql
    chmod 0700 "$PGDATA"
    exec /usr/bin/setpriv --reuid postgres --regid postgres --clear-groups "$0" "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username=postgres --auth=trust --encoding=UTF8 --locale=C ${POSTGRES_INITDB_ARGS:-}
    echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"
    echo "host all all all trust" >> "$PGDATA/pg_hba.conf"
fi
exec "$@"
"""


def worker_archive() -> Path:
    """The archive of WORKER."""
    return _cached("worker", [require("busybox"), require("fio")], _fill_worker)


def postgres_archive() -> Path:
    """The archive of POSTGRES."""
    directory = _postgres_directory()
    programs = [require("busybox"), str(directory / "bin/postgres")]
    return _cached("postgres", programs, _fill_postgres)


def _postgres_directory() -> Path:
    found = sorted(
        (
            path
            for path in Path("/usr/lib/postgresql").glob("*")
            if (path / "bin/postgres").exists()
        ),
        key=lambda path: int(path.name),
    )
    if not found:
        missing("postgres is not installed (Debian package postgresql)")
    return found[-1]


def _cached(name: str, programs: Iterable[str], fill: Callable[[_Image], None]) -> Path:
    """One archive; whoever comes while another makes it waits for that one."""
    key = hashlib.sha256(Path(__file__).read_bytes())
    for program in programs:
        found = os.stat(program)
        key.update(f"{program} {found.st_size} {found.st_mtime_ns}\n".encode())
    archive = CACHE / f"{name}-{key.hexdigest()[:16]}.tar"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            for old in CACHE.glob(f"{name}-*.tar*"):
                old.unlink()
            part = archive.with_suffix(".tar.part")
            with tarfile.open(part, "w") as out:
                image = _Image(out)
                fill(image)
                image.libraries()
            part.rename(archive)
    return archive


def _fill_worker(image: _Image) -> None:
    image.base()
    image.program("fio")


def _fill_postgres(image: _Image) -> None:
    image.base()
    image.program("setpriv")
    image.text("usr/bin/docker-entrypoint.sh", ENTRYPOINT, 0o755)
    directory = _postgres_directory()
    # Its programs find each other, and their data, by the paths that they were built for.
    image.link("usr/lib/postgresql/bin", f"{directory.name}/bin")
    for program in sorted((directory / "bin").iterdir()):
        image.file(program, str(program), linked=True)
    for library in sorted((directory / "lib").glob("*.so")):
        if "llvm" not in library.name:  # a compiler of 100 MiB that small queries do not use
            image.file(library, str(library), linked=True)
    share = Path("/usr/share/postgresql", directory.name)
    for folder, folders, files in os.walk(share):
        folders[:] = [name for name in folders if name not in ("man", "locale")]
        for name in files:
            image.file(Path(folder, name), str(Path(folder, name)))
    for folder, _, files in os.walk("/usr/share/zoneinfo/Etc"):
        for name in files:
            image.file(Path(folder, name), str(Path(folder, name)))


class _Image:
    """One archive that is being filled; the same name is put in once."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._names: set[str] = set()
        self._linked: list[Path] = []

    def base(self) -> None:
        """Directories, users, and a shell with its commands."""
        for directory, mode in (
            *(("tmp", 0o1777), ("root", 0o700), ("run", 0o755), ("proc", 0o555), ("dev", 0o755)),
            *(("sys", 0o555), ("var/lib/postgresql", 0o755)),
        ):
            info = tarfile.TarInfo(directory)
            info.type, info.mode = tarfile.DIRTYPE, mode
            self._archive.addfile(info)
        self.link("var/run", "/run")
        self.text("etc/passwd", PASSWD)
        self.text("etc/group", GROUP)
        busybox = require("busybox")
        self.file(Path(busybox), "bin/busybox")
        applets = subprocess.run(
            [busybox, "--list"], check=True, capture_output=True, text=True, timeout=30
        ).stdout.split()
        for applet in applets:
            if applet != "busybox":
                self.link(f"bin/{applet}", "busybox")

    def program(self, name: str) -> None:
        """A program of this machine, in /usr/bin."""
        self.file(Path(require(name)), f"usr/bin/{name}", linked=True)

    def file(self, file: Path, name: str, *, linked: bool = False) -> None:
        """One file; of a ``linked`` one its shared libraries are wanted too."""
        name = name.lstrip("/")
        if name in self._names or not file.exists():
            return
        self._names.add(name)
        real = file.resolve()
        if linked:
            self._linked.append(real)
        info = tarfile.TarInfo(name)
        info.size, info.mode = real.stat().st_size, real.stat().st_mode & 0o7777
        with real.open("rb") as content:
            self._archive.addfile(info, content)

    def text(self, name: str, text: str, mode: int = 0o644) -> None:
        """A file with this content."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(text), mode
        self._archive.addfile(info, io.BytesIO(text.encode()))

    def link(self, name: str, to: str) -> None:
        """A symbolic link."""
        if name not in self._names:
            self._names.add(name)
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, to, 0o777
            self._archive.addfile(info)

    def libraries(self) -> None:
        """The shared libraries of all of it, where the loader looks for them."""
        for name in libraries_of(self._linked):
            self.file(Path(name), name)


def libraries_of(linked: Iterable[Path]) -> list[str]:
    """The shared libraries that programs and libraries need, as the loader finds them here."""
    printed = subprocess.run(
        ["ldd", *map(str, linked)],
        check=False,  # it complains of what is linked statically
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{SBIN}"},
    ).stdout
    return sorted(set(re.findall(r"(?:=> |^\s)(/\S+) \(0x", printed, re.MULTILINE)))
