# SPDX-License-Identifier: Apache-2.0
"""The face without await: threads, forks, interruptions, and the ends of programs."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

import pyscsi_init
from pyscsi_init import blocking
from pyscsi_init.errors import ConfigurationError, Miscompare, SessionFailed
from pyscsi_init.testing import RamDisk, Target
from tests.support import processes
from tests.support.python_target import MEBI, TargetThread, make_target

BLOCK = 4096


@pytest.fixture
def target() -> Target:
    return make_target(RamDisk(16 * MEBI, thin=True))


@pytest.fixture
def served(target: Target) -> Iterator[TargetThread]:
    with TargetThread(target) as thread:
        yield thread


def sessions(served: TargetThread) -> int:
    return served.call(lambda: len(served.target.sessions))


def program(served: TargetThread, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program on the LUN, with all warnings, and with an end after which it hangs."""
    head = (
        "import gc, os, signal, sys, threading, time\n"
        "from pyscsi_init import blocking\n"
        "from pyscsi_init.errors import IscsiError\n"
        "URL = sys.argv[1]\n"
        "signal.alarm(60)  # also of a child\n"
    )
    return subprocess.run(
        [sys.executable, "-W", "always", *options, "-c", head + text, served.url()],
        capture_output=True,
        text=True,
        timeout=90,
        env=processes.environment(),
        check=False,
    )


@pytest.mark.parametrize("backend", blocking.BACKENDS)
def test_everything_that_it_has(served: TargetThread, backend: str) -> None:
    name = "iqn.2026-11.example:blocking"
    with blocking.open_lun(served.url(), backend=backend, initiator_name=name) as lun:
        assert (lun.size_bytes, lun.block_size, lun.read_only) == (16 * MEBI, 512, False)
        assert lun.physical_block_size >= 512
        assert lun.limits.optimal_transfer_bytes > 0
        assert lun.can_discard
        assert "LUN 0 of" in repr(lun)
        lun.write(0, b"a" * BLOCK, fua=True)
        buffer = bytearray(BLOCK)
        lun.read_into(0, buffer)
        assert buffer == b"a" * BLOCK == lun.read(0, BLOCK)
        lun.compare_and_write(0, b"a" * 512, b"b" * 512)
        with pytest.raises(Miscompare):
            lun.compare_and_write(0, b"a" * 512, b"b" * 512)
        lun.write_zeroes(0, 512, fua=True)
        assert lun.read(0, 513) == bytes(512) + b"a"
        lun.flush()
        lun.verify(0, BLOCK)
        assert sum(part.length for part in lun.extents(0, BLOCK)) == BLOCK
        assert lun.execute(bytes(6), seconds=5).status == 0
        assert lun.call(lambda unit: unit.reservations.read_keys()).keys == ()
        assert lun.call(lambda unit: unit.session.report_luns()) == (bytes(8),)
    portal = served.address
    assert len(blocking.discover(portal, backend=backend, initiator_name=name)) == 1


def test_a_backend_that_there_is_not(served: TargetThread) -> None:
    with pytest.raises(ConfigurationError, match="asyncio, trio"):
        blocking.open_lun(served.url(), backend="curio").__enter__()


def test_the_block_ends_under_calls_of_other_threads(served: TargetThread) -> None:
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            while True:
                lun.write(number * BLOCK, bytes([number]) * BLOCK)
                began.release()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    began = threading.Semaphore(0)
    with blocking.open_lun(served.url()) as lun:
        for thread in threads:
            thread.start()
        for _ in range(50):
            assert began.acquire(timeout=30)
    for thread in threads:
        thread.join(30)
    assert [type(error) for error in errors] == [SessionFailed] * 8
    with pytest.raises(SessionFailed, match="is closed: use it inside"):
        lun.read(0, 512)
    assert isinstance(errors[0], pyscsi_init.IscsiError)


FORKS = """
with blocking.open_lun(URL) as lun:
    lun.write(0, b"x" * 512)
    first = os.fork()
    if not first:
        try:
            lun.read(0, 512)
        except IscsiError as error:
            print("child:", error)
        with blocking.open_lun(URL) as own:
            print("child:", own.read(0, 4))
        sys.exit(7)  # out of the block, through all that collects garbage
    second = os.fork()
    assert not second or lun.read(0, 4) == b"xxxx"
if not second:
    sys.exit(8)
for child in (first, second):
    print("parent:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child(served: TargetThread) -> None:
    """It is told, opens its own, and ends by sys.exit inside the block or behind it."""
    ended = program(served, FORKS)
    assert ended.returncode == 0, ended.stderr
    assert "cannot be used in its child" in ended.stdout
    assert "child: b'xxxx'" in ended.stdout
    assert "parent: 7\nparent: 8\n" in ended.stdout
    assert sessions(served) == 0
    assert "ResourceWarning" not in ended.stderr


@pytest.mark.parametrize("backend", blocking.BACKENDS)
def test_the_interpreter_ends_with_an_open_lun(served: TargetThread, backend: str) -> None:
    """It hung: the block's end waited for a thread that ran no more."""
    text = f"block = blocking.open_lun(URL, backend={backend!r})\n"
    ended = program(served, text + "print(len(block.__enter__().read(0, 512)))\n")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "512\n"
    assert "ResourceWarning: <BlockingLogicalUnit LUN 0 of" in ended.stderr
    assert "is still open" in ended.stderr
    assert sessions(served) == 0  # logged out, not dropped


def test_a_lun_without_its_block_is_closed_with_the_garbage(served: TargetThread) -> None:
    text = """
lun = blocking.open_lun(URL).__enter__()
gc.collect()
try:
    lun.read(0, 512)
except IscsiError as error:
    print(error)
print(threading.active_count())
"""
    ended = program(served, text)
    assert ended.returncode == 0, ended.stderr
    assert "is closed: use it inside the `with` block" in ended.stdout
    assert ended.stdout.endswith("\n1\n")
    assert sessions(served) == 0


def test_ctrl_c_cancels_the_call(served: TargetThread, target: Target) -> None:
    """KeyboardInterrupt comes at once although the target is silent; the read does not go on."""
    text = """
with blocking.open_lun(URL) as lun:
    signal.signal(signal.SIGUSR1, signal.default_int_handler)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    try:
        lun.read(0, 512)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        deadline = time.monotonic() + 10
        while lun._unit.session.tasks() and time.monotonic() < deadline:
            time.sleep(0.01)
        print(lun._unit.session.tasks(), lun.read(512, 4))
"""
    rule = served.call(lambda: target.faults.never_answer(opcodes={0x28}, lba=0, skip=1))
    ended = program(served, text)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "interrupted\n[] b'\\x00\\x00\\x00\\x00'\n"
    assert rule.caught
