# SPDX-License-Identifier: Apache-2.0
"""The plots of a run: ratios with a line at 1, throughput and latency against depth, CPU time.

Each function makes one figure, or None where the run has nothing for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from .criteria import QEMU, Verdict, judge
from .drawing import (
    COLOURS,
    LATENCIES,
    MARKERS,
    Plot,
    colour,
    from_zero,
    legend_below,
    log_axis,
    ratio_axis,
)
from .model import OURS, WORDS, Run, size_words

MAX_CASES = 12
"""In one plot."""


def plots(run: Run, level: str | None = None) -> Iterator[Plot]:
    """The plots of a level, or those of the whole run."""
    if level is None:
        verdicts = [verdict for verdict in judge(run) if verdict.criterion.peers]
        if verdicts:
            yield Plot("criteria", "Ratios that are wanted", criteria_figure(verdicts))
        return
    if level == "many":
        yield Plot("many", "Many volumes", many_figure(run))
        return
    for name, title, maker in (
        ("ratio", "Throughput, ours / peer", ratio_figure),
        ("cpu", "CPU time per I/O", cpu_figure),
    ):
        for words, cases in _in_parts(run, level).items():
            if (figure := maker(run, level, cases)) is not None:
                part = words.replace(" ", "-")
                yield Plot(
                    "-".join(filter(None, (level, name, part))),
                    f"{title}{', ' * bool(words)}{words}",
                    figure,
                )
    yield from depth_plots(run, level)


def _in_parts(run: Run, level: str) -> dict[str, list[str]]:
    """The cases in one plot, or in one for each pattern where they are many."""
    cases = run.cases[level]
    if len(cases) <= MAX_CASES:
        return {"": list(cases)}
    parts: dict[str, list[str]] = {}
    for name, case in cases.items():
        parts.setdefault(WORDS.get(case.pattern, ""), []).append(name)
    return parts


# -- what is wanted -------------------------------------------------------------------------------


def criteria_figure(verdicts: list[Verdict]) -> Figure:
    """Each criterion: the ratio, the range of its rounds, and what is wanted."""
    titles = {
        False: "throughput, ours / peer: more is better",
        True: "CPU time per I/O, ours / peer: less is better",
    }
    groups = [
        (title, rows)
        for lower, title in titles.items()
        if (rows := [each for each in verdicts if each.criterion.lower_is_better is lower])
    ]
    figure, all_axes = plt.subplots(
        len(groups), 1, squeeze=False, layout="constrained",
        figsize=(10, 1.3 + sum(0.42 * len(rows) + 0.7 for _, rows in groups)),
        height_ratios=[len(rows) + 0.6 for _, rows in groups],
    )  # fmt: skip
    for axes, (title, rows) in zip(all_axes[:, 0], groups, strict=True):
        _criteria_axes(axes, title, rows)
    legend_below(figure, all_axes[0, 0], columns=5)
    return figure


def _criteria_axes(axes: Axes, title: str, rows: list[Verdict]) -> None:
    places = range(len(rows))
    for place, verdict in zip(places, rows, strict=True):
        missed = verdict.word == "missed"
        axes.plot(
            [verdict.lowest, verdict.highest], [place, place], color=COLOURS[OURS], linewidth=5,
            alpha=0.25, solid_capstyle="round", label="range of the rounds" if not place else None,
        )  # fmt: skip
        axes.plot(
            verdict.ratio, place, "o", color=COLOURS[OURS], markersize=8,
            markerfacecolor="white" if missed else COLOURS[OURS], markeredgewidth=1.8, zorder=4,
        )  # fmt: skip
    for filled, label in ((True, "median, met"), (False, "median, missed")):
        axes.plot(
            [], [], "o", color=COLOURS[OURS], markersize=8, markeredgewidth=1.8, label=label,
            markerfacecolor=COLOURS[OURS] if filled else "white",
        )  # fmt: skip
    at_least = [verdict.criterion.at_least for verdict in rows]
    aims = [verdict.criterion.aim for verdict in rows]
    axes.plot(
        at_least, places, "|", color="black", markersize=15, markeredgewidth=2, label="at least"
    )
    axes.plot(aims, places, "|", color="#009e73", markersize=15, markeredgewidth=2, label="aim")
    axes.set_yticks(places, [_row_label(verdict) for verdict in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    ratio_axis(axes, [*at_least, *aims, *(v for row in rows for v in (row.lowest, row.highest))])
    axes.set_title(title, loc="left")


def _row_label(verdict: Verdict) -> str:
    row = verdict.criterion
    against = verdict.peer + (f", {row.note}" if row.note else "")
    return f"{row.level}: {row.case.name}\nagainst {against}"


# -- one level ------------------------------------------------------------------------------------


Rows = list[tuple[str, dict[str, float]]]
"""Case -> subject -> value, where there is one."""


def ratio_figure(run: Run, level: str, cases: list[str]) -> Figure | None:
    """Throughput of ours by that of each peer, case by case."""
    rows: Rows = []
    for case in cases:
        rate = "tps" if run.values(level, case, OURS, "tps") else "iops"
        peers = [subject for subject in run.subjects(level, case) if subject != OURS]
        found = {peer: run.ratio(level, case, OURS, peer, rate) for peer in peers}
        rows.append((case, {peer: each for peer, each in found.items() if math.isfinite(each)}))
    rows = [row for row in rows if row[1]]
    if not rows:
        return None
    figure, axes = _row_figure(rows)
    for place, case, peer, value in _placed(axes, rows):
        axes.barh(
            place, value - 1, _BAR * 0.88, left=1, color=colour(peer), label=peer,
            hatch="///" if _corrupts(run, level, case, peer) else None, edgecolor="white",
        )  # fmt: skip
        _annotate(axes, place, value, f"{value:.2f}", right=value >= 1)
    if any(_corrupts(run, level, case, peer) for case, found in rows for peer in found):
        axes.barh(
            [0], [0], left=1, hatch="///", facecolor="#bbbbbb", edgecolor="white",
            label="this peer's writes corrupt",
        )  # fmt: skip
    ratio_axis(axes, [value for _, found in rows for value in found.values()])
    axes.set_xlabel("ours / peer: right of the line ours is faster")
    legend_below(figure, axes)
    return figure


def cpu_figure(run: Run, level: str, cases: list[str]) -> Figure | None:
    """CPU time of the initiator's processes for each I/O, case by case."""
    rows: Rows = []
    for case in cases:
        found = {
            subject: run.median(level, case, subject, "cpu_us")
            for subject in run.subjects(level, case)
        }
        rows.append((case, {each: value for each, value in found.items() if value > 0}))
    rows = [row for row in rows if row[1]]
    if not rows:
        return None
    figure, axes = _row_figure(rows)
    values = [value for _, found in rows for value in found.values()]
    left = min(values) / 1.6
    for place, _, subject, value in _placed(axes, rows):
        axes.hlines(place, left, value, color=colour(subject), linewidth=1.2, alpha=0.5)
        axes.plot(
            value, place, MARKERS.get(subject, "x"), color=colour(subject), markersize=7,
            label=subject,
        )  # fmt: skip
        _annotate(axes, place, value, f"{value:.1f}", right=True)
    axes.set_xscale("log")
    axes.set_xlim(left, max(values) * 1.6)
    log_axis(axes.xaxis)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("CPU time per I/O (pgbench: per transaction), µs; less is better")
    legend_below(figure, axes)
    return figure


_BAR, _GAP = 1.0, 0.9
"""Height of a bar and of the space between two cases, in units of the axis."""
_INCHES = 0.235
"""Of a unit."""


def _row_figure(rows: Rows) -> tuple[Figure, Axes]:
    units = sum(len(found) * _BAR + _GAP for _, found in rows)
    return plt.subplots(figsize=(10, 1.1 + units * _INCHES), layout="constrained")


def _placed(axes: Axes, rows: Rows) -> Iterator[tuple[float, str, str, float]]:
    """Place, case, subject and value of each bar; the axis is labelled with the cases."""
    place = _GAP / 2
    ticks = []
    for case, found in rows:
        ticks.append(place + len(found) * _BAR / 2)
        for subject, value in found.items():
            yield place + _BAR / 2, case, subject, value
            place += _BAR
        place += _GAP
    axes.set_yticks(ticks, [case for case, _ in rows])
    axes.set_ylim(place - _GAP / 2, 0)


def _annotate(axes: Axes, place: float, value: float, text: str, *, right: bool) -> None:
    axes.annotate(
        text, (value, place), xytext=(6 if right else -4, 0), textcoords="offset points",
        va="center", ha="left" if right else "right", fontsize=8,
    )  # fmt: skip


def _corrupts(run: Run, level: str, name: str, subject: str) -> bool:
    """Whether the figure is one of a peer whose parallel writes are wrong."""
    case = run.cases[level][name]
    return subject == QEMU and case.writes and case.depth > 1


# -- against depth --------------------------------------------------------------------------------


def depth_plots(run: Run, level: str) -> Iterator[Plot]:
    """For each pattern and size with several depths: throughput, latency and CPU time."""
    groups: dict[tuple[str, int, str], list[int]] = {}
    for case in run.cases[level].values():
        if case.block_size:
            key = case.pattern, case.block_size, case.kind
            groups.setdefault(key, []).append(case.depth)
    for (pattern, size, kind), depths in groups.items():
        if len(depths) > 1:
            title = f"{size_words(size)} {WORDS[pattern]} against depth"
            name = f"{level}-depth-{pattern}-{size >> 10}k{'-' + kind if kind else ''}"
            yield Plot(name, title, depth_figure(run, level, pattern, size, kind))


def depth_figure(run: Run, level: str, pattern: str, size: int, kind: str) -> Figure:
    """Three panels over the requests in flight."""
    cases = sorted(
        (
            case
            for case in run.cases[level].values()
            if (case.pattern, case.block_size, case.kind) == (pattern, size, kind)
        ),
        key=lambda case: case.depth,
    )
    depths = [case.depth for case in cases]
    figure, (rate, latency, cpu) = plt.subplots(1, 3, figsize=(12.5, 4.2), layout="constrained")

    def line(axes: Axes, subject: str, value: str, style: str, label: str) -> bool:
        values = [run.median(level, case.name, subject, value) for case in cases]
        if not any(map(math.isfinite, values)):
            return False
        axes.plot(
            depths, values, style, color=colour(subject), marker=MARKERS.get(subject, "x"),
            markersize=5, label=label,
        )  # fmt: skip
        return True

    for subject in run.subjects(level):
        value = "iops" if size < 65536 else "mib_s"
        line(rate, subject, value, "-", subject)
        line(cpu, subject, "cpu_us", "-", subject)
        for name, percent, style in LATENCIES:
            line(latency, subject, name, style, f"{subject} {percent}")
    for axes in (rate, latency, cpu):
        axes.set_xscale("log", base=2)
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("requests in flight")
    rate.set_title("throughput, " + ("IOPS" if size < 65536 else "MiB/s"), loc="left")
    cpu.set_title("CPU time per I/O, µs", loc="left")
    latency.set_title("latency, µs: p50 —  p99 - -  p99.9 ···", loc="left")
    for axes in (rate, cpu):
        from_zero(axes)
    if latency.lines:
        latency.set_yscale("log")
        log_axis(latency.yaxis)
    legend_below(figure, rate)
    return figure


# -- many volumes ---------------------------------------------------------------------------------


def many_figure(run: Run) -> Figure:
    """What volumes cost, against how many there are."""
    level = "many"
    cases = list(run.cases[level])
    counts = [int(case.rsplit(", ", 1)[1].split()[0]) for case in cases]
    panels = (
        ("time to attach one (command), s", ("attach_s", "attach_max_s"), ("median", "longest")),
        ("memory of a worker, MiB", ("pss_mib", "private_mib"), ("proportional share", "private")),
        ("4 KiB random read, all together, IOPS", ("iops",), ("",)),
    )
    figure, all_axes = plt.subplots(1, 3, figsize=(12.5, 3.8), layout="constrained")
    for axes, (title, names, labels) in zip(all_axes, panels, strict=True):
        for name, label, style in zip(names, labels, ("-o", "--s"), strict=False):
            values = [run.median(level, case, OURS, name) for case in cases]
            axes.plot(counts, values, style, color=COLOURS[OURS], label=label)
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.xaxis.set_minor_locator(NullLocator())
        from_zero(axes)
        axes.set_xlabel("volumes")
        axes.set_title(title, loc="left")
        if labels[0]:
            axes.legend(loc="lower right")
    return figure
