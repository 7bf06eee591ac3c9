# SPDX-License-Identifier: Apache-2.0
"""What is in the root file system, as tables: what is asked of Debian, and what of it is kept.

A package is taken apart, not installed: no maintainer script runs, so nothing is needed that only
such scripts use. Of the programs those are kept that the project starts or tells people to start;
what libraries they need is found out by asking the loader, see :mod:`scripts.images.libraries`.
"""

from __future__ import annotations

import re

PACKAGES = (
    *("python3", "e2fsprogs", "xfsprogs", "btrfs-progs", "util-linux", "mount"),
    "libstdc++6",  # what the wheel of protobuf is linked with
    "tgt",  # tgtadm alone: the controller makes volumes with it on a tgt that runs elsewhere
    "base-files",
)

NOT_TAKEN = re.compile(
    r"""debconf | perl-.* | dpkg | tar         # only maintainer scripts use them
      | libicu[0-9]+                           # xfs_scrub alone, which is not kept; 36 MB
      | perl | libperl.* | libgdbm.* | libconfig-general-perl | sg3-utils | libsgutils2.*
      | libibverbs1 | librdmacm1 | libnl-.* | libaio1.*    # tgt's daemon and scripts, not tgtadm
    """,
    re.VERBOSE,
)
"""Packages that others depend on for something that is not kept."""

PROGRAMS = frozenset(
    (
        # started by fusefs/host
        *("blkid", "wipefs"),
        *("mke2fs", "mkfs.ext4", "e2fsck", "fsck.ext4", "resize2fs", "tune2fs"),
        *("mkfs.xfs", "xfs_repair", "xfs_growfs"),
        *("mkfs.btrfs", "btrfs"),
        "tgtadm",
        # for whoever looks into a running container
        *("mount", "umount", "findmnt", "losetup", "lsblk", "dumpe2fs"),
    )
)
_PYTHON = re.compile(r"python3(\.\d+)?")

_KEPT_SHARES = re.compile(
    r"""usr/share/(?: xfsprogs/ | common-licenses/ | doc/[^/]+(?: /copyright )? $ )""", re.VERBOSE
)
"""The licences stay with what they are the licences of."""
_DROPPED = re.compile(
    r"""usr/(?: share | games | include | local )/
      | (?: boot | home | srv | media | mnt | opt | root )/
      | usr/lib/[^/]+-linux-[^/]+/.+/                  # what libraries load on demand
      | usr/lib/(?! python3 | [^/]+-linux-[^/]+/ | os-release )
      | etc/(?! mke2fs\.conf | host\.conf | os-release | mime\.types )
      | usr/lib/python3(?: \.\d+ )?/(?: test | idlelib | tkinter | turtledemo | ensurepip | lib2to3
        | pydoc_data | distutils | curses | dbm | sqlite3 | sitecustomize\.py )
      | usr/lib/python3\.\d+/lib-dynload/(?: nis | _dbm | _gdbm | _sqlite3 | _curses | readline
        | _tkinter | _crypt | _test | _xxtest | xxlimited | _ctypes_test | audioop | ossaudiodev )
      | .*/__pycache__/
    """,
    re.VERBOSE,
)
_PROGRAM_FOLDERS = re.compile(r"usr/s?bin/(?P<name>[^/]+)$")
_MERGED = re.compile(r"^(?:s?bin|lib(?:x?32|64)?)(?=/|$)")


def merged(name: str) -> str:
    """A path of a package as it lies in a system whose /bin, /sbin and /lib are links into /usr."""
    name = name.removeprefix("./").strip("/")
    return _MERGED.sub(lambda match: f"usr/{match[0]}", name, count=1) if name else ""


def is_kept(name: str) -> bool:
    """Whether a file of a package, by its merged path, goes into the root file system."""
    if program := _PROGRAM_FOLDERS.match(name):
        return program["name"] in PROGRAMS or _PYTHON.fullmatch(program["name"]) is not None
    return _KEPT_SHARES.match(name) is not None or _DROPPED.match(name) is None


def is_for_developers(name: str) -> bool:
    """Whether a file of a Python package only serves its own tests or its compilation."""
    parts = name.split("/")
    return not {"tests", "_tests"}.isdisjoint(parts) or parts[-1].endswith((".pyx", ".pxd"))


FILES = {
    "etc/passwd": "root:x:0:0:root:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    # Without it the C library asks the DNS first, and /etc/hosts only when that is not there.
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
"""What Debian writes by maintainer scripts."""

DIRECTORIES = (
    "dev",
    "etc",
    "mnt",
    "proc",
    "run",
    "sys",
    "tmp",
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "var/lib",
)
LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "var/run": "/run",
}

EXTRAS = ("docker", "csi", "uvloop")
"""Extras of the project that are in the image."""
