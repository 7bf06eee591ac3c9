# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: event loops, hypothesis profiles, and silence.

Silence is asserted: a test fails if it leaves a mount, a loop device, a FUSE connection, a network
namespace or a process behind, or if the code logged a WARNING that the test did not declare with
``expect_logs``. Parts of the machine that are missing are handled by tests/support/requirements.py.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from trio.testing import MockClock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support import cells, leaks, logs, mount_namespace, processes, requirements, totals

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=100, database=None)
settings.register_profile(
    "soak",
    deadline=None,
    max_examples=20_000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if requirements.on_ci() else "default")
)

SESSION_MARK = processes.mark_session()

gc.disable()  # until all tests are collected

# As in the processes that serve CSI (cli/serve.py): gRPC would start its threads anew in a child
# that the host layer forks (fusefs/host/apart.py), which closes what they wait on, and they abort.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# The processes of the tests stay where the tests run: whoever limits those limits these too.
os.environ.setdefault("PYSCSI_INIT_CGROUP", "off")


if "PYTEST_XDIST_WORKER" in os.environ and os.geteuid() == 0:
    # Some tests start what has a copy of all mounts (an engine, a namespace), and would keep busy
    # what the tests beside them have mounted.
    mount_namespace.unshare_mounts()


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "virtual_clock: waits take no time; only trio, and only where nothing waits for real I/O",
        "every_loop: on uvloop too",
        "one_loop: on asyncio alone, where the loop is not what is tested and time is dear",
    ):
        config.addinivalue_line("markers", line)


# -- garbage ------------------------------------------------------------------------------------


def pytest_collection_finish() -> None:
    """What was collected stays: nobody has to look through all of it again and again."""
    gc.freeze()
    gc.enable()


# -- event loops --------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each async test on asyncio and on trio; the markers above change the list."""
    if "anyio_backend" not in metafunc.fixturenames:
        return
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    if "parametrize" in marks and any(
        "anyio_backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")
    ):
        return
    loops = ["asyncio", "trio"]
    if "virtual_clock" in marks:
        loops = ["trio-virtual"]
    elif "every_loop" in marks:
        loops.append("uvloop")
    elif "one_loop" in marks:
        loops = ["asyncio"]
    metafunc.parametrize("anyio_backend", loops, indirect=True, scope="module")


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loop of an async test, as anyio's pytest plugin wants it.

    With the marker ``virtual_clock`` time stands still while anything can run and jumps to the next
    deadline when nothing can. Data that is on its way through a real socket is not seen by that
    clock: such tests would time out at once, so they use real time.
    """
    loop = getattr(request, "param", "asyncio")
    if loop == "trio-virtual":
        return "trio", {"clock": MockClock(autojump_threshold=0)}
    if loop == "uvloop":
        requirements.require_module("uvloop")
        return "asyncio", {"use_uvloop": True}
    return loop, {}


# -- what the machine must have -----------------------------------------------------------------


@pytest.fixture(autouse=True)
def _machine(request: pytest.FixtureRequest) -> None:
    """The markers ``root`` and ``tgt`` say what a test needs."""
    if request.node.get_closest_marker("root"):
        requirements.require_root()
    if request.node.get_closest_marker("tgt"):
        requirements.require("tgtd")
        requirements.require("tgtadm")


def _no_skip_on_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    """On a build machine a skipped test is a failed one, whoever skipped it."""
    if not report.skipped or hasattr(report, "wasxfail") or not requirements.on_ci():
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if requirements.KERNEL_LACKS not in reason:
        report.outcome = "failed"
        report.longrepr = f"{reason} (CI=true: nothing may be skipped)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _no_skip_on_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _no_skip_on_ci(report)
    return report


# -- silence ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def expect_logs() -> Iterator[logs.ExpectLogs]:
    """``expect_logs("text", logger=...)`` declares a warning that must come."""
    with logs.watching() as expectations:
        yield expectations
    expectations.check()


@pytest.fixture(autouse=True)
def _no_leaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the test that leaves something of the kernel's behind."""
    base = tmp_path_factory.getbasetemp()
    before = leaks.snapshot(base)
    yield
    leaks.check(before, base)


@pytest.fixture(autouse=True, scope="module")
def _no_forgotten_processes() -> Iterator[None]:
    """Fail the module that leaves a process behind, also one that was given another parent."""
    before = processes.marked_processes(SESSION_MARK)
    yield
    leaks.check_processes(before, SESSION_MARK)


_BEFORE = leaks.of_the_host()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what is still there by its pid, so that no run disturbs the next one; and where the
    machine is the run's own, fail for whatever it left on the host."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        session.config.workeroutput[totals.KEY] = dict(totals.TOTALS)  # type: ignore[attr-defined]
        return
    for pid in processes.marked_processes(SESSION_MARK) - _ancestors():
        processes.end(pid)
    left = leaks.of_the_host() - _BEFORE
    if left and requirements.on_ci():
        sys.stderr.write(f"\nleft on the host by this run: {'; '.join(sorted(left))}\n")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    """The order of the files of a parallel run."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.support import schedule  # where there is no xdist, nobody asks

    return schedule.LongFirst(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    totals.TOTALS.update(getattr(node, "workeroutput", {}).get(totals.KEY, {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many cells of each grid ran, and what was tried in all."""
    cells.summarize(terminalreporter)
    if totals.TOTALS:
        terminalreporter.section("tried in all")
        terminalreporter.write_line("\n".join(totals.lines()))


def _ancestors() -> set[int]:
    """This process's parents: a test run that was started by a test carries the same mark."""
    found: set[int] = set()
    pid = os.getpid()
    while pid > 1:
        status = Path(f"/proc/{pid}/stat").read_text()
        pid = int(status.rpartition(")")[2].split()[1])
        found.add(pid)
    return found
