# SPDX-License-Identifier: Apache-2.0
"""How plots look: colours of subjects, axes, legends.

Colours belong to subjects and are the same everywhere; they are told apart by people who do not see
red and green, too. What is plotted is in plots.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from .criteria import LIBISCSI, NBDFUSE, QEMU, QEMU_SERIAL
from .model import OURS

COLOURS = {
    OURS: "#0072b2",
    LIBISCSI: "#d55e00",
    QEMU: "#d55e00",
    QEMU_SERIAL: "#e69f00",
    NBDFUSE: "#009e73",
    "pyfuse3": "#cc79a7",
}
MARKERS = {OURS: "o", LIBISCSI: "s", QEMU: "s", QEMU_SERIAL: "^", NBDFUSE: "D", "pyfuse3": "v"}
LATENCIES = (("p50_us", "p50", "-"), ("p99_us", "p99", "--"), ("p999_us", "p99.9", ":"))
GREY = "#777777"
RATIO_TICKS = (0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 50)

plt.rcParams.update(
    {
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e3e3e3",
        "legend.frameon": False,
        "svg.hashsalt": "benchmarks",
    }
)


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure, with a name for a file and a title for people."""

    name: str
    title: str
    figure: Figure


def colour(subject: str) -> str:
    """Of a subject."""
    return COLOURS.get(subject, GREY)


def plain(value: float, _position: object = None) -> str:
    """An axis label without powers: 0.5, 20, 1.5k."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def log_axis(axis: Any, *, subs: tuple[float, ...] = (1, 2, 5)) -> None:
    axis.set_major_locator(LogLocator(base=10, subs=subs))
    axis.set_major_formatter(FuncFormatter(plain))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def ratio_axis(axes: Axes, values: list[float]) -> None:
    """A logarithmic axis of ratios that has 1 on it, marked."""
    axes.set_xscale("log")
    low, high = min([*values, 0.8]), max([*values, 1.25])
    room = (high / low) ** 0.12  # for the figures at the ends of the bars
    low, high = low / room, high * room
    axes.set_xlim(low, high)
    ticks = [tick for tick in RATIO_TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(1, color="black", linewidth=1.2, zorder=1)
    axes.grid(axis="y", visible=False)


def from_zero(axes: Axes) -> None:
    """An axis of amounts: from 0 to a little above the largest."""
    values = [
        float(value)
        for line in axes.lines
        for value in np.asarray(line.get_ydata())
        if math.isfinite(value)
    ]
    axes.set_ylim(0, 1.08 * max(values, default=1.0))
    axes.yaxis.set_major_formatter(FuncFormatter(plain))


def legend_below(figure: Figure, axes: Axes, columns: int = 4) -> None:
    # One entry for each name, however many marks have it.
    handles = {
        label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center",
        ncols=min(columns, len(handles)),
    )  # fmt: skip
