"""Plots of results as PNG files. The colours are distinguishable for colour-blind readers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from linguarec.evaluation.intervals import Interval
from linguarec.files import writing_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), without its yellow, which is too faint on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", ":")
_GREY = "#6b7280"
_INSIDE = 4  # entries of a legend that find a place among the lines; a longer one stands beside them
MOST_LINES = len(_COLOURS)  # systems that a plot can tell apart

Parts = Sequence[tuple[str, Interval]]


def plot_by_slice(path: Path, title: str, group: str, metric: str, systems: Mapping[str, Mapping[str, Parts]]) -> None:
    """A metric over the parts of one group of slices, one line per system, with 95 % intervals; the number of users below.

    Several protocols stand one below the other, with the same vertical scale.

    Args:
        path: PNG file to write.
        title: title of the plot.
        group: name of the group of slices; the label of the horizontal axis.
        metric: name of the metric; the label of the vertical axis.
        systems: protocol -> name of each system -> (name of a part, its interval), the same parts in the same order for all.
    """
    parts = next(iter(next(iter(systems.values())).values()))
    labels = [f"{name}\n{interval.count:,} users" for name, interval in parts]
    _plot_intervals(path, title, group, metric, labels, systems)


def plot_by_share(path: Path, title: str, metric: str, systems: Mapping[str, Parts]) -> None:
    """A metric over the fraction of users that train, one line per way of training, with 95 % intervals.

    Args:
        path: PNG file to write.
        title: title of the plot.
        metric: name of the metric; the label of the vertical axis.
        systems: name of each way -> (fraction as text, its interval), the same fractions in the same order for all.
    """
    labels = [name for name, _ in next(iter(systems.values()))]
    _plot_intervals(path, title, "share of the users who train", metric, labels, {"": systems})


def _plot_intervals(
    path: Path,
    title: str,
    horizontal: str,
    metric: str,
    labels: Sequence[str],
    panels: Mapping[str, Mapping[str, Parts]],
) -> None:
    figure, every = _canvases(title, horizontal, metric, 1.0 + 3.2 * len(panels), len(panels))
    names = list(dict.fromkeys(name for systems in panels.values() for name in systems))
    width = min(0.12, 0.8 / max(1, len(names)))
    for axes, (panel, systems) in zip(every, panels.items(), strict=True):
        for system, parts in systems.items():
            number = names.index(system)
            shift = (number - (len(names) - 1) / 2) * width  # side by side: the intervals do not cover each other
            means = [interval.mean for _, interval in parts]
            below = [max(0.0, interval.mean - interval.low) for _, interval in parts]
            above = [max(0.0, interval.high - interval.mean) for _, interval in parts]
            axes.errorbar(
                [place + shift for place in range(len(parts))],
                means,
                yerr=[below, above],
                label=system,
                color=_COLOURS[number % len(_COLOURS)],
                marker=_MARKERS[number % len(_MARKERS)],
                linewidth=1.4,
                markersize=5,
                capsize=2.5,
                elinewidth=1,
            )
        if len(panels) > 1:
            axes.set_ylabel(f"{metric}, {panel}", color=_GREY)
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.5, len(labels) - 0.5)
    every[0].set_ylim(bottom=0)  # of all panels, whose scale is settled now
    _legend(every[0], len(names))
    _save(figure, path)


def plot_learning_curves(
    path: Path,
    title: str,
    metric: str,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    horizontal: str = "epoch",
) -> None:
    """A metric over the epochs (or minutes), one line per run, its best value marked.

    Args:
        path: PNG file to write.
        title: title of the plot.
        metric: label of the vertical axis.
        curves: name of each run -> (epochs, values).
        horizontal: label of the horizontal axis.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _canvas(title, horizontal, metric)
    for number, (run, (epochs, values)) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        style = _LINES[number // len(_COLOURS) % len(_LINES)]  # as the colours begin again
        axes.plot(epochs, values, label=run, color=colour, linestyle=style, linewidth=1.5)
        if values:
            best = max(range(len(values)), key=lambda index: values[index])
            axes.plot(epochs[best], values[best], color=colour, marker=_MARKERS[number % len(_MARKERS)], markersize=6)
    if {float(epoch) for epochs, _ in curves.values() for epoch in epochs} == {0.0}:
        axes.set_xlim(-1, 1)  # else the ticks about a single epoch are fractions of it
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    _legend(axes, len(curves))
    _save(figure, path)


def plot_systems(
    path: Path,
    title: str,
    metric: str,
    systems: Mapping[str, Mapping[str, Interval]],
    published: Mapping[str, float],
) -> None:
    """One row per system: its mean under each protocol with the 95 % interval, and a hollow mark for a published value.

    Args:
        path: PNG file to write.
        title: title of the plot.
        metric: label of the horizontal axis.
        systems: protocol -> name of each system -> its interval, top to bottom; the first protocol has all systems.
        published: published values of the first protocol, for some of the systems.
    """
    names = list(next(iter(systems.values())))
    figure, axes = _canvas(title, metric, "", height=1.6 + (0.28 + 0.16 * len(systems)) * len(names))
    shown = [name for name in names if name in published]
    for number, (protocol, of) in enumerate(systems.items()):
        shift = (number - (len(systems) - 1) / 2) * 0.24
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        rows = [names.index(name) + shift for name in of]
        axes.hlines(rows, [each.low for each in of.values()], [each.high for each in of.values()], colour, linewidth=2)
        means = [each.mean for each in of.values()]
        axes.plot(means, rows, marker, color=colour, markersize=6, label=protocol, clip_on=False)
        for row, each in zip(rows, of.values(), strict=True):
            where = (max(each.high, each.mean), row)
            axes.annotate(
                f"{each.mean:.4f}", where, xytext=(5, 0), textcoords="offset points", va="center", fontsize=7.5
            )
    if shown:
        shift = -(len(systems) - 1) / 2 * 0.24
        axes.plot(
            [published[name] for name in shown],
            [names.index(name) + shift for name in shown],
            marker="D",
            markerfacecolor="white",
            color=_GREY,
            linestyle="none",
            markersize=6,
            label="published",
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)
    _legend(axes, len(systems) + bool(shown))
    _save(figure, path)


@dataclass(frozen=True)
class ParallelAxis:
    """One vertical axis of parallel coordinates; `ticks`: (height from 0 to 1, text)."""

    name: str
    ticks: Sequence[tuple[float, str]]


def plot_parallel_coordinates(
    path: Path,
    title: str,
    axes: Sequence[ParallelAxis],
    lines: Sequence[Sequence[float]],
    ended: Sequence[Sequence[float]],
) -> None:
    """A line for each trial over its settings to its value; the higher the value, the darker, and the best one in a colour.

    Args:
        path: PNG file to write.
        title: title of the plot.
        axes: of the settings, and last that of the value.
        lines: of each completed trial, its heights on all axes, from 0 to 1.
        ended: of each pruned trial, which has no value: its heights on all axes but the last.
    """
    figure, drawn = _canvas(title, "", "", height=4.6)
    places = range(len(axes))
    for heights in ended:
        drawn.plot(places[:-1], heights, color="#c5cad1", linewidth=0.8, linestyle=":")
    best = max(lines, key=lambda heights: heights[-1], default=None)
    for heights in sorted(lines, key=lambda heights: heights[-1]):
        of_best = heights is best
        shade = 0.78 - 0.55 * heights[-1]
        drawn.plot(
            places,
            heights,
            color=_COLOURS[1] if of_best else (shade, shade, shade),
            linewidth=2.4 if of_best else 1.1,
            zorder=3 if of_best else 2,
        )
    for place, axis in enumerate(axes):
        drawn.axvline(place, color=_GREY, linewidth=0.8, zorder=1)
        for height, text in axis.ticks:
            drawn.annotate(
                text,
                (place, height),
                xytext=(3, 2),
                textcoords="offset points",
                fontsize=7.5,
                color="#1d2430",
                zorder=4,
            )
    drawn.set_xticks(places, [axis.name.replace(".", ".\n") for axis in axes])
    drawn.tick_params(axis="x", labelsize=8)
    drawn.set_yticks([])
    drawn.set_xlim(-0.1, len(axes) - 0.6)
    drawn.set_ylim(-0.04, 1.08)
    drawn.spines["left"].set_visible(False)
    _save(figure, path)


def _canvas(title: str, horizontal: str, vertical: str, height: float = 4.2) -> "tuple[Figure, Axes]":
    figure, [axes] = _canvases(title, horizontal, vertical, height, 1)
    return figure, axes


def _canvases(
    title: str, horizontal: str, vertical: str, height: float, panels: int
) -> "tuple[Figure, Sequence[Axes]]":
    """A figure of panels one below the other, with the same axes."""
    # The object interface draws without a display and leaves no global state behind, unlike pyplot.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    [*every] = figure.subplots(panels, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    every[0].set_title(title, loc="left", fontsize=11.5, fontweight="bold")
    every[-1].set_xlabel(horizontal, color=_GREY)
    for axes in every:
        axes.set_ylabel(vertical, color=_GREY)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
    return figure, every


def _legend(axes: "Axes", entries: int) -> None:
    if entries > _INSIDE:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    elif entries > 1:
        axes.legend(frameon=False, fontsize=9)


def _save(figure: "Figure", path: Path) -> None:
    with writing_file(path) as temporary:
        figure.savefig(temporary, format="png")
