#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A stream of bytes to a LUN and back, from a container that may do nothing but open connections.

    tar -C /data -c . | backup.py put iscsi://192.0.2.7/iqn.2026-01.org.example:backup/1
    backup.py get iscsi://192.0.2.7/iqn.2026-01.org.example:backup/1 | tar -C /data -x

The stream lies from the second MiB on. The first block says how long it is and what its SHA-256
is; it is cleared before anything is written and set when all the rest is on stable storage, so a
backup that was cut off is none. What comes back is compared with it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys

import anyio

import pyscsi_init
from pyscsi_init import LogicalUnit

CHUNK = 1 << 20
DEPTH = 8
"""Chunks in flight: they hide the way to the target, and are what it takes of memory, in MiB."""
KIND = "pyscsi-init example backup"


class Refused(Exception):
    """Why it was not done."""


def header_of(start: bytes) -> dict[str, object] | None:
    """What the first block says; None where it is none of ours."""
    try:
        found = json.loads(start.rstrip(b"\0"))
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("kind") == KIND else None


async def put(lun: LogicalUnit, overwrite: bool) -> None:
    """Standard input to the LUN."""
    start = await lun.read(0, CHUNK)
    if any(start) and header_of(start[: lun.block_size]) is None and not overwrite:
        raise Refused("the LUN is neither blank nor a backup; give --overwrite to write over it")
    await lun.write(0, bytes(lun.block_size), fua=True)
    digest, length, fits = hashlib.sha256(), 0, True
    room = anyio.Semaphore(DEPTH)

    async def write(offset: int, data: bytes) -> None:
        await lun.write(offset, data + bytes(-len(data) % lun.block_size))
        room.release()

    async with anyio.create_task_group() as writes:
        while data := await anyio.to_thread.run_sync(sys.stdin.buffer.read, CHUNK):
            fits = CHUNK + length + len(data) <= lun.size_bytes
            if not fits:
                break
            digest.update(data)
            await room.acquire()
            writes.start_soon(write, CHUNK + length, data)
            length += len(data)
    if not fits:
        raise Refused(f"the stream does not fit: the LUN has room for {lun.size_bytes - CHUNK}")
    await lun.flush()
    header = {"kind": KIND, "length": length, "sha256": digest.hexdigest()}
    await lun.write(0, json.dumps(header).encode().ljust(lun.block_size, b"\0"), fua=True)
    print(f"{digest.hexdigest()}  {length} bytes", file=sys.stderr)


async def get(lun: LogicalUnit) -> None:
    """The LUN to standard output."""
    header = header_of(await lun.read(0, lun.block_size))
    if header is None:
        raise Refused("there is no backup on this LUN, or it was cut off")
    length, digest = int(str(header["length"])), hashlib.sha256()

    async def read(found: list[bytes], number: int, offset: int) -> None:
        wanted = min(CHUNK, length - offset)
        data = await lun.read(CHUNK + offset, wanted + -wanted % lun.block_size)
        found[number] = data[:wanted]

    for begin in range(0, length, DEPTH * CHUNK):
        offsets = range(begin, min(begin + DEPTH * CHUNK, length), CHUNK)
        found = [b""] * len(offsets)
        async with anyio.create_task_group() as reads:
            for number, offset in enumerate(offsets):
                reads.start_soon(read, found, number, offset)
        for data in found:
            digest.update(data)
            await anyio.to_thread.run_sync(sys.stdout.buffer.write, data)
    sys.stdout.buffer.flush()
    if digest.hexdigest() != header["sha256"]:
        raise Refused("what was read is not what was written: do not use it")


async def run(options: argparse.Namespace) -> None:
    """Log in, do it, log out."""
    url = pyscsi_init.parse_url(options.url)
    chap = None
    if options.chap_secret_file:
        secret = pyscsi_init.read_secret_file(options.chap_secret_file)
        chap = pyscsi_init.Chap(user=url.user or "", secret=secret)
    async with pyscsi_init.open_lun(
        url,
        chap=chap,
        initiator_name=options.initiator_name,
        read_only=options.what == "get",
    ) as lun:
        if options.what == "put":
            await put(lun, options.overwrite)
        else:
            await get(lun)


def main() -> int:
    """The command line; 1 where it was not done."""
    parser = argparse.ArgumentParser(description="A stream of bytes to a LUN and back.")
    parser.add_argument("what", choices=("put", "get"))
    parser.add_argument("url", help="iscsi://[user@]host[:port]/target/lun")
    parser.add_argument("--initiator-name", help="as the target's access list has it")
    parser.add_argument("--chap-secret-file", help="the secret of the user in the URL")
    parser.add_argument("--overwrite", action="store_true", help="also a LUN with other data")
    options = parser.parse_args()
    try:
        anyio.run(run, options)
    except (Refused, pyscsi_init.IscsiError) as error:
        print(f"backup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
