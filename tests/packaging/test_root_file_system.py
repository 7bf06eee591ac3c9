# SPDX-License-Identifier: Apache-2.0
"""What is in the root file system of the image and of the managed plugin, and what is not."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.images import contents, image
from scripts.images.libraries import inside, needed
from tests.support import built
from tests.support.source import ROOT

LARGEST_MB = 125
FOR_BUILDING = re.compile(r"(cc|gcc|g\+\+|ld|as|make|pip3?|apt.*|dpkg.*|(ba|da)?sh|perl|su|login)")

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def root() -> Path:
    return built.root_file_system()


def files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def run_inside(root: Path, *command: str) -> str:
    done = subprocess.run(
        inside(root, *command), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_small_and_nothing_in_it_builds_or_changes_its_user(root: Path) -> None:
    size = sum(path.stat().st_size for path in files(root))
    assert size < LARGEST_MB * 1_000_000
    programs = {path.name for path in [*root.glob("usr/bin/*"), *root.glob("usr/sbin/*")]}
    assert programs >= contents.PROGRAMS | {"pyscsi-init", "python3"}
    assert not [name for name in programs if FOR_BUILDING.fullmatch(name)]
    privileged = stat.S_ISUID | stat.S_ISGID
    assert not [path for path in root.rglob("*") if path.lstat().st_mode & privileged]
    others_may_write = [
        path
        for path in root.rglob("*")
        if path.lstat().st_mode & stat.S_IWOTH and not path.is_symlink()
    ]
    assert others_may_write == [root / "tmp"]


def test_every_library_that_is_there_is_needed(root: Path) -> None:
    """Asking the loader finds none missing, which would raise, and none too many."""
    there = set(root.glob("usr/lib/*-linux-*/*.so*"))
    assert there <= needed(root)


def test_a_library_that_is_missing_fails_the_build(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "root"
    subprocess.run(["cp", "--archive", str(root), str(copy)], check=True, timeout=60)
    (copy / "usr/lib").joinpath(
        next(copy.glob("usr/lib/*/libext2fs.so.2")).relative_to(copy / "usr/lib")
    ).unlink()
    with pytest.raises(Exception, match=r"lacks a library.*libext2fs\.so\.2"):
        needed(copy)


def test_every_module_is_compiled_and_stays_valid(root: Path) -> None:
    """The file system may be read-only, and archives change the files' times."""
    for source in root.glob("usr/lib/python3*/**/*.py"):
        (compiled,) = source.parent.glob(f"__pycache__/{source.stem}.*.pyc")
        flags = int.from_bytes(compiled.read_bytes()[4:8], "little")
        assert flags == 0b01, compiled  # checked by no time and no hash


def test_it_says_what_it_is_made_of(root: Path) -> None:
    """Each package for scanners, its licence for everybody; nothing of who built it."""
    packages = {path.name for path in (root / "var/lib/dpkg/status.d").iterdir()}
    assert packages >= {"libc6", "e2fsprogs", "xfsprogs", "btrfs-progs", "util-linux"}
    for name in packages:
        assert f"Package: {name}\n" in (root / "var/lib/dpkg/status.d" / name).read_text()
        licence = root / "usr/share/doc" / name
        assert licence.is_symlink() or (licence / "copyright").is_file(), name
    assert not [
        link for link in root.rglob("*") if link.is_symlink() and not _leads_somewhere(root, link)
    ]
    names_of_here = [str(ROOT).encode(), sys.prefix.encode()]
    for path in files(root):
        content = path.read_bytes()
        assert not [name for name in names_of_here if name in content], path


def _leads_somewhere(root: Path, link: Path) -> bool:
    target = os.readlink(link)
    place = root / target.lstrip("/") if target.startswith("/") else link.parent / target
    return place.is_symlink() or place.exists()


def test_the_command_and_its_extras_run(root: Path) -> None:
    assert run_inside(root, "/usr/bin/pyscsi-init", "--version").startswith("pyscsi-init ")
    assert "--docker" in run_inside(root, "/usr/bin/pyscsi-init", "serve", "--help")
    for module in ("grpc.aio", "google.protobuf", "uvloop", "crc32c"):
        run_inside(root, "/usr/bin/python3", "-c", f"import {module}")


def test_the_same_files_make_the_same_image(root: Path, tmp_path: Path) -> None:
    """Copied to another place, at another time."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "--recursive", "--no-dereference", root, copy], check=True, timeout=60)
    (copy / "tmp").chmod(0o1777)
    archives = []
    for number, each in enumerate((root, copy)):
        made = image.build(each, tmp_path / f"{number}.tar", "name:tag", "1")
        archives.append((made.digest, made.archive.read_bytes()))
    assert archives[0] == archives[1]
