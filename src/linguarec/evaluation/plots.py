"""Plots of results as PNG files. The colours are distinguishable for colour-blind readers."""

from collections.abc import Mapping, Sequence
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
_GREY = "#6b7280"

Parts = Sequence[tuple[str, Interval]]


def plot_by_slice(path: Path, title: str, group: str, metric: str, systems: Mapping[str, Parts]) -> None:
    """A metric over the parts of one group of slices, one line per system, with 95 % intervals; the number of users below.

    Args:
        path: PNG file to write.
        title: title of the plot.
        group: name of the group of slices; the label of the horizontal axis.
        metric: name of the metric; the label of the vertical axis.
        systems: name of each system -> (name of a part, its interval), the same parts in the same order for all.
    """
    parts = next(iter(systems.values()))
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
    _plot_intervals(path, title, "share of the users who train", metric, labels, systems)


def _plot_intervals(
    path: Path, title: str, horizontal: str, metric: str, labels: Sequence[str], systems: Mapping[str, Parts]
) -> None:
    figure, axes = _canvas(title, horizontal, metric)
    width = 0.12
    for number, (system, parts) in enumerate(systems.items()):
        shift = (number - (len(systems) - 1) / 2) * width  # side by side, so that the intervals do not cover each other
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
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_ylim(bottom=0)
    _legend(axes, len(systems))
    _save(figure, path)


def plot_learning_curves(
    path: Path, title: str, metric: str, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> None:
    """A metric over the epochs (or minutes), one line per run, its best value marked.

    Args:
        path: PNG file to write.
        title: title of the plot.
        metric: label of the vertical axis.
        curves: name of each run -> (epochs, values).
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _canvas(title, "epoch", metric)
    for number, (run, (epochs, values)) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(epochs, values, label=run, color=colour, linewidth=1.5)
        if values:
            best = max(range(len(values)), key=lambda index: values[index])
            axes.plot(epochs[best], values[best], color=colour, marker=_MARKERS[number % len(_MARKERS)], markersize=6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    _legend(axes, len(curves))
    _save(figure, path)


def plot_systems(
    path: Path, title: str, metric: str, systems: Mapping[str, Interval], published: Mapping[str, float]
) -> None:
    """One row per system: its mean with the 95 % interval, and a hollow mark for a published value.

    Args:
        path: PNG file to write.
        title: title of the plot.
        metric: label of the horizontal axis.
        systems: name of each system -> its interval, top to bottom.
        published: published values, for some of the systems.
    """
    figure, axes = _canvas(title, metric, "", height=1.4 + 0.42 * len(systems))
    names = list(systems)
    for row, name in enumerate(names):
        interval = systems[name]
        axes.plot([interval.low, interval.high], [row, row], color=_COLOURS[0], linewidth=2, solid_capstyle="butt")
        axes.plot(
            interval.mean,
            row,
            marker="o",
            color=_COLOURS[0],
            markersize=7,
            linestyle="none",
            label="measured" if row == 0 else None,
        )
        axes.annotate(
            f"{interval.mean:.4f}",
            (interval.mean, row),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
        )
    shown = [name for name in names if name in published]
    if shown:
        axes.plot(
            [published[name] for name in shown],
            [names.index(name) for name in shown],
            marker="D",
            markerfacecolor="white",
            color=_COLOURS[1],
            linestyle="none",
            markersize=6,
            label="published",
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.7)
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)
    _legend(axes, 2 if shown else 1)
    _save(figure, path)


def _canvas(title: str, horizontal: str, vertical: str, height: float = 4.2) -> "tuple[Figure, Axes]":
    # The object interface draws without a display and leaves no global state behind, unlike pyplot.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold")
    axes.set_xlabel(horizontal, color=_GREY)
    axes.set_ylabel(vertical, color=_GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    return figure, axes


def _legend(axes: "Axes", entries: int) -> None:
    if entries > 1:
        axes.legend(frameon=False, fontsize=9)


def _save(figure: "Figure", path: Path) -> None:
    with writing_file(path) as temporary:
        figure.savefig(temporary, format="png")
