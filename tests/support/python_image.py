# SPDX-License-Identifier: Apache-2.0
"""A container image with Python and this project in it, made of what this machine has.

No registry is asked: the interpreter, its standard library, the distributions that the project
depends on and the shared libraries of all of them are copied from here, the shell is a static
busybox. What comes out is a tar archive for ``docker import``. It is what ``pip install
pyscsi-init`` in a ``python:slim`` image gives, and no smaller.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from .bridge import BridgedDocker
from .images import libraries_of
from .requirements import SBIN, require
from .source import ROOT

IMAGE = "pyscsi-init"
LEFT_OUT = frozenset(
    ("test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "pydoc_data")
)
"""Parts of the standard library that no program here imports."""
VOLUME_PROGRAMS = (
    *("mkfs.ext4", "e2fsck", "blkid", "wipefs"),
    *("mount", "umount"),
)
"""What a container needs beside Python to mount an ext4 volume for itself."""
COMMAND = "#!/usr/bin/python3\nimport sys\n\nfrom fusefs.cli import main\n\nsys.exit(main())\n"
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"


def write_archive(path: Path, *, programs: Sequence[str] = ()) -> None:
    """Write the image's files to a tar archive; ``programs`` of this machine are in it too."""
    with tarfile.open(path, "w") as archive:
        _Image(archive).fill(programs)


def import_image(engine: BridgedDocker, *, programs: Sequence[str] = ()) -> str:
    """Make the image in an engine, and return its name."""
    archive = engine.directory / "image.tar"
    write_archive(archive, programs=programs)
    engine.import_image(archive, IMAGE, f"ENV PATH=/usr/local/bin:{SBIN}:/usr/bin:/bin")
    archive.unlink()
    return IMAGE


class _Image:
    """One archive that is being filled; the same file is put in once."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._names: set[str] = set()
        self._linked: list[Path] = []
        """Files whose shared libraries are wanted."""

    def fill(self, programs: Sequence[str]) -> None:
        """Everything."""
        for directory, mode in (("tmp", 0o1777), ("root", 0o700), ("proc", 0o555), ("dev", 0o755)):
            self._directory(directory, mode)
        self._text("etc/passwd", PASSWD)
        self._text("etc/group", GROUP)
        self._text("usr/local/bin/pyscsi-init", COMMAND, 0o755)
        own = [self._program(name) for name in programs]
        site = self._python()
        for name in ("pyscsi_init", "fusefs"):
            self._tree(ROOT / name, site / name)
        self._distributions(site)
        self._busybox(besides={name.rpartition("/")[2] for name in own})
        self._libraries()

    def _python(self) -> Path:
        """The interpreter; returns where it looks for installed packages."""
        interpreter = Path(sys.executable).resolve()
        asked = (
            "import json, site, sysconfig; "
            "print(json.dumps([sysconfig.get_path('stdlib'), site.getsitepackages()[0]]))"
        )
        stdlib, site = json.loads(
            subprocess.run(
                [interpreter, "-I", "-c", asked], check=True, capture_output=True, timeout=30
            ).stdout
        )
        self._file(interpreter, str(interpreter))
        self._linked.append(interpreter)
        if str(interpreter) != "/usr/bin/python3":
            self._link("usr/bin/python3", str(interpreter))
        self._tree(Path(stdlib), Path(stdlib))
        return Path(site)

    def _distributions(self, site: Path) -> None:
        """What the project needs, and what that needs."""
        waiting, done = ["pyscsi-init", "uvloop"], set()
        while waiting:
            name = waiting.pop().lower().replace("_", "-")
            if name in done:
                continue
            done.add(name)
            distribution = importlib.metadata.distribution(name)
            for text in distribution.requires or ():
                wanted = Requirement(text)
                if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                    waiting.append(wanted.name)
            for entry in distribution.files or ():
                if entry.parts[0] == ".." or entry.suffix == ".pth":
                    continue
                file = Path(str(distribution.locate_file(entry)))
                if file.is_file():
                    self._put(file, site / entry)
            self._compiled(distribution, site)

    def _compiled(self, distribution: importlib.metadata.Distribution, site: Path) -> None:
        """What this interpreter has compiled of it, which saves a second at each start."""
        folders = {entry.parent for entry in distribution.files or () if entry.suffix == ".py"}
        for folder in folders:
            if folder.parts and folder.parts[0] == "..":
                continue
            cache = Path(str(distribution.locate_file(folder))) / "__pycache__"
            if folder.parts and cache.is_dir():
                for file in cache.glob(f"*.{sys.implementation.cache_tag}.pyc"):
                    self._put(file, site / folder / "__pycache__" / file.name)

    def _busybox(self, besides: Iterable[str]) -> None:
        busybox = require("busybox")
        self._file(Path(busybox), "bin/busybox")
        # Its own shell would take its own programs before those in PATH.
        self._linked.append(shell := Path(require("dash")))
        self._file(shell, "bin/sh")
        applets = subprocess.run(
            [busybox, "--list"], check=True, capture_output=True, text=True, timeout=30
        ).stdout.split()
        for applet in sorted({*applets} - {*besides, "busybox", "sh"}):
            self._link(f"bin/{applet}", "busybox")

    def _program(self, name: str) -> str:
        path = Path(require(name))
        self._linked.append(path)
        self._file(path, f"usr/sbin/{name}")
        return f"usr/sbin/{name}"

    def _libraries(self) -> None:
        """The shared libraries of all of it, at the paths where the loader looks for them."""
        for name in libraries_of(self._linked):
            self._file(Path(name), name)

    def _tree(self, source: Path, goal: Path) -> None:
        for folder, folders, files in os.walk(source):
            here = Path(folder)
            folders[:] = [
                name
                for name in folders
                if name not in LEFT_OUT and not name.startswith(("config-", "dist-packages"))
            ]
            for name in files:
                self._put(here / name, goal / here.relative_to(source) / name)

    def _put(self, file: Path, goal: Path) -> None:
        if file.suffix == ".so":
            self._linked.append(file)
        self._file(file, str(goal))

    def _file(self, file: Path, name: str) -> None:
        name = name.lstrip("/")
        if name in self._names or not file.exists():
            return
        self._names.add(name)
        info = self._archive.gettarinfo(file.resolve(), name)
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        if info.islnk():  # its other name may not be in the archive
            info.type, info.linkname, info.size = tarfile.REGTYPE, "", file.stat().st_size
        with file.open("rb") as content:
            self._archive.addfile(info, content)

    def _text(self, name: str, text: str, mode: int = 0o644) -> None:
        data = text.encode()
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), mode
        self._archive.addfile(info, io.BytesIO(data))

    def _link(self, name: str, to: str) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, to
        self._archive.addfile(info)

    def _directory(self, name: str, mode: int) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, mode
        self._archive.addfile(info)
