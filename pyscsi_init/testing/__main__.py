# SPDX-License-Identifier: Apache-2.0
"""``python -m pyscsi_init.testing``: serve targets from the command line until SIGTERM or SIGINT.

When it listens, it prints one line of JSON with the portals and targets, so that a script can start
it on port 0 and read where it is. Secrets come from files, never from arguments.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio

from ..errors import ConfigurationError
from . import Disk, FileDisk, Listener, RamDisk, Target, TargetChap, TargetServer, TargetSettings

DEFAULT_TARGET = "iqn.2024-01.example.pyscsi-init:testing"
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
EXIT_USAGE = 2


def parse_size(text: str) -> int:
    """``64M``, ``1g``, ``4096``: bytes.

    Raises:
        ConfigurationError: no size.
    """
    match = re.fullmatch(r"(\d+)([kmgt]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise ConfigurationError("size", text, "is no size", "write e.g. 64M or 1G")
    return int(match[1]) * UNITS[match[2]]


def make_disk(text: str, *, block_size: int, read_only: bool, thin: bool) -> Disk:
    """``ram:64M``, a path, or ``path:64M`` which creates the file.

    Raises:
        ConfigurationError: it cannot be made.
    """
    if text.startswith("ram:"):
        return RamDisk(parse_size(text[4:]), block_size=block_size, read_only=read_only, thin=thin)
    path, _, size = text.rpartition(":")
    if path and re.fullmatch(r"\d+[kmgtKMGT]?(?:i?[bB])?", size) and not Path(text).exists():
        return FileDisk(
            path, parse_size(size), block_size=block_size, read_only=read_only, thin=thin
        )
    return FileDisk(text, block_size=block_size, read_only=read_only, thin=thin)


def read_secret(path: str) -> bytes:
    """The secret in a file; one newline at its end is not part of it.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    try:
        return Path(path).read_bytes().removesuffix(b"\n").removesuffix(b"\r")
    except OSError as error:
        raise ConfigurationError(
            "secret file", path, f"cannot be read ({error.strerror})"
        ) from error


class Add(argparse.Action):
    """Options that begin a target, or belong to the target that was begun last."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        targets: list[tuple[str, list[str]]] = list(getattr(namespace, "targets", None) or [])
        if option_string == "--target":
            targets.append((str(values), []))
        else:
            if not targets:
                targets.append((DEFAULT_TARGET, []))
            targets[-1][1].append(str(values))
        namespace.targets = targets


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pyscsi_init.testing",
        description="Serve iSCSI targets for tests and demonstrations until SIGTERM or SIGINT.",
        epilog="Example: --target iqn.2024-01.example:disk --lun 0=ram:64M --lun 1=/tmp/disk.img",
    )
    parser.add_argument(
        "--target", action=Add, metavar="IQN", help="begin a target; --lun options after it are its"
    )
    parser.add_argument(
        "--lun",
        action=Add,
        metavar="N=WHAT",
        help="a logical unit: N=ram:64M, N=FILE, or N=FILE:64M to create the file",
    )
    parser.add_argument("--host", action="append", help="address to listen on (may be repeated)")
    parser.add_argument("--port", type=int, default=0, help="0 (default): any free port")
    parser.add_argument("--block-size", type=int, default=512)
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--thin", action="store_true", help="thin provisioning: UNMAP works")
    parser.add_argument("--chap-user", help="demand CHAP with this name")
    parser.add_argument("--chap-secret-file", metavar="FILE")
    parser.add_argument("--mutual-user", default="", help="the name that the target proves")
    parser.add_argument("--mutual-secret-file", metavar="FILE")
    parser.add_argument("--unit-attention-on-login", action="store_true")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    return parser


def make_server(options: argparse.Namespace) -> TargetServer:
    """The server that the options describe.

    Raises:
        ConfigurationError: they do not fit together.
    """
    chap = None
    if options.chap_user:
        if not options.chap_secret_file:
            raise ConfigurationError("--chap-user", options.chap_user, "needs --chap-secret-file")
        mutual = options.mutual_secret_file
        chap = TargetChap(
            user=options.chap_user,
            secret=read_secret(options.chap_secret_file),
            mutual_user=options.mutual_user,
            mutual_secret=read_secret(mutual) if mutual else None,
        )
    targets = []
    for name, texts in getattr(options, "targets", None) or [(DEFAULT_TARGET, ["0=ram:64M"])]:
        luns = {}
        for text in texts or ["0=ram:64M"]:
            number, _, what = text.partition("=")
            if not number.isdecimal() or not what:
                raise ConfigurationError("--lun", text, "is not of the form N=FILE or N=ram:64M")
            luns[int(number)] = make_disk(
                what,
                block_size=options.block_size,
                read_only=options.read_only,
                thin=options.thin,
            )
        settings = TargetSettings(unit_attention_on_login=options.unit_attention_on_login)
        targets.append(Target(name, luns=luns, chap=chap, settings=settings))
    hosts = options.host or ["127.0.0.1"]
    portals = [Listener(host, options.port, tag) for tag, host in enumerate(hosts, 1)]
    return TargetServer(targets, portals=portals, discovery_chap=None)


async def serve(server: TargetServer) -> None:
    """Serve until a signal comes."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with server.running() as portal:
            ready = {
                "portal": portal.address,
                "portals": [one.address for one in server.portals],
                "targets": {name: sorted(target.luns) for name, target in server.targets.items()},
            }
            sys.stdout.write(json.dumps(ready) + "\n")
            sys.stdout.flush()
            async for _ in signals:
                break
    for target in server.targets.values():
        target.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        server = make_server(options)
        anyio.run(serve, server, backend=options.backend)
    except ConfigurationError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
