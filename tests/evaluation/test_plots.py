"""What the plots show, read from the figures that are saved and from the pixels of the files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import imread

from linguarec.evaluation.intervals import Interval
from linguarec.evaluation.plots import plot_by_share, plot_by_slice, plot_learning_curves, plot_systems

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
SHORT, LONG = Interval(0.1, 0.08, 0.125, 50), Interval(0.2, 0.15, 0.25, 2000)


def pixels_of(file: Path, colour: str) -> np.ndarray:
    """Rows and columns of the pixels of a colour [n, 2], from the top left."""
    image = imread(file)[..., :3]
    return np.argwhere(np.abs(image - np.array(to_rgb(colour))).max(axis=-1) < 0.02)


def intervals_of(figure: Figure) -> dict[str, tuple[list[float], list[tuple[float, float]]]]:
    """Means and (low, high) of each system of a plot of intervals, from left to right."""
    [axes] = figure.axes
    found = {}
    for container in axes.containers:
        assert isinstance(container, ErrorbarContainer)
        line, _, [bars] = container.lines
        spans = [(segment[0][1], segment[1][1]) for segment in bars.get_segments()]
        found[str(container.get_label())] = (list(line.get_ydata()), spans)
    return found


def legend_of(figure: Figure) -> list[str] | None:
    legend = figure.axes[0].get_legend()
    return None if legend is None else [text.get_text() for text in legend.get_texts()]


def test_the_axis_of_a_single_epoch_has_no_fractions_of_it(tmp_path: Path, drawn: Callable[[Path], Any]) -> None:
    file = tmp_path / "one.png"
    plot_learning_curves(file, "Solved", "ndcg@10", {"closed form": ([0.0], [0.1])})
    [axes] = drawn(file).axes
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [-1, 0, 1]


def test_a_metric_by_slice(tmp_path: Path, drawn: Callable[[Path], Any]) -> None:
    file = tmp_path / "a.png"
    low = Interval(0.05, 0.05, 0.05, 50)  # rounding may put an end of an interval inside: no bar is below 0
    systems = {
        "SASRec": [("1", SHORT), ("2-4", LONG)],
        "popularity": [("1", low), ("2-4", Interval(0.06, 0.07, 0.05, 2000))],
    }
    plot_by_slice(file, "By length", "history length", "ndcg@10", {"kept": systems})
    figure = drawn(file)
    [axes] = figure.axes
    assert (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()) == (
        "By length",
        "history length",
        "ndcg@10",
    )
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1\n50 users", "2-4\n2,000 users"]
    assert axes.get_ylim()[0] == 0
    found = intervals_of(figure)
    assert list(found) == legend_of(figure) == ["SASRec", "popularity"]
    assert found["SASRec"] == (pytest.approx([0.1, 0.2]), [pytest.approx((0.08, 0.125)), pytest.approx((0.15, 0.25))])
    assert found["popularity"][1] == [pytest.approx((0.05, 0.05)), pytest.approx((0.06, 0.06))]
    places = [container.lines[0].get_xdata() for container in axes.containers]
    assert places == [pytest.approx([-0.06, 0.94]), pytest.approx([0.06, 1.06])]  # side by side around the tick

    shown = imread(file)
    assert shown.shape[:2] == (630, 1140)
    # The mean of the long histories stands to the right of that of the short ones, and higher.
    blue = pixels_of(file, BLUE)
    assert len(blue) > 200
    left, right = (blue[blue[:, 1] == column] for column in (blue[:, 1].min(), blue[:, 1].max()))
    assert right[:, 0].mean() < left[:, 0].mean()
    assert len(pixels_of(file, ORANGE)) > 200
    assert len(pixels_of(file, GREEN)) == 0


def test_a_metric_by_share(tmp_path: Path, drawn: Callable[[Path], Any]) -> None:
    file = tmp_path / "b.png"
    plot_by_share(file, "Transfer", "ndcg@10", {"scratch": [("5 %", SHORT), ("100 %", LONG)]})
    figure = drawn(file)
    [axes] = figure.axes
    assert (axes.get_title(loc="left"), axes.get_xlabel()) == ("Transfer", "share of the users who train")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5 %", "100 %"]
    assert intervals_of(figure)["scratch"][0] == pytest.approx([0.1, 0.2])
    assert legend_of(figure) is None  # a line alone is told by the title


def test_learning_curves(tmp_path: Path, drawn: Callable[[Path], Any]) -> None:
    file = tmp_path / "c.png"
    curves = {"seed 0": ([1, 2, 3], [0.1, 0.3, 0.2]), "empty": ([], []), "seed 1": ([1, 2], [0.25, 0.2])}
    plot_learning_curves(file, "Valid", "ndcg@10", curves)
    figure = drawn(file)
    [axes] = figure.axes
    lines = [(list(line.get_xdata()), list(line.get_ydata()), line.get_marker()) for line in axes.lines]
    assert lines == [
        ([1, 2, 3], [0.1, 0.3, 0.2], "None"),
        ([2], [0.3], "o"),  # the best epoch
        ([], [], "None"),
        ([1, 2], [0.25, 0.2], "None"),
        ([1], [0.25], "^"),
    ]
    assert axes.lines[0].get_color() == axes.lines[1].get_color() == BLUE
    assert axes.lines[3].get_color() == axes.lines[4].get_color() == GREEN
    assert legend_of(figure) == ["seed 0", "empty", "seed 1"]
    assert axes.get_ylim()[0] == 0
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "ndcg@10")
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    # The topmost blue pixels are those of the mark at the best epoch: wider than the line.
    blue = pixels_of(file, BLUE)
    assert np.ptp(blue[blue[:, 0] < blue[:, 0].min() + 8][:, 1]) > 8


def test_protocols_stand_one_below_the_other(tmp_path: Path, drawn: Callable[[Path], Any]) -> None:
    file = tmp_path / "f.png"
    panels = {
        "kept": {"SASRec": [("1", SHORT)], "EASE": [("1", LONG)]},
        "learned": {"EASE": [("1", LONG)]},  # SASRec has no repeat term
    }
    plot_by_slice(file, "By length", "history length", "ndcg@10", panels)
    upper, lower = drawn(file).axes
    assert [axes.get_ylabel() for axes in (upper, lower)] == ["ndcg@10, kept", "ndcg@10, learned"]
    assert (upper.get_xlabel(), lower.get_xlabel()) == ("", "history length")
    assert upper.get_ylim() == lower.get_ylim()
    [alone] = lower.containers
    assert alone.lines[0].get_color() == upper.containers[1].lines[0].get_color() == ORANGE  # the same in both
    assert alone.lines[0].get_xdata() == pytest.approx(upper.containers[1].lines[0].get_xdata())


def test_systems_beside_published_values(tmp_path: Path, drawn: Callable[[Path], Any]) -> None:
    file = tmp_path / "d.png"
    measured = {"kept": {"SASRec": SHORT, "VQ-Rec": LONG}, "learned": {"VQ-Rec": Interval(0.3, 0.25, 0.36, 2000)}}
    plot_systems(file, "Test", "ndcg@10", measured, {"VQ-Rec": 0.21, "other": 0.4})
    figure = drawn(file)
    [axes] = figure.axes
    spans = [segment[:, 0].tolist() for lines in axes.collections for segment in lines.get_segments()]
    assert spans == [pytest.approx([0.08, 0.125]), pytest.approx([0.15, 0.25]), pytest.approx([0.25, 0.36])]
    kept, learned, published = ((list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines)
    assert kept == ([0.1, 0.2], pytest.approx([-0.12, 0.88]))
    assert learned == ([0.3], pytest.approx([1.12]))  # below the other protocol, in the row of its system
    # In the row of its system, with the first protocol; a value of a system that is not shown is left out.
    assert published == ([0.21], pytest.approx([0.88]))
    assert [text.get_text() for text in axes.texts] == ["0.1000", "0.2000", "0.3000"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["SASRec", "VQ-Rec"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first system on top
    assert axes.get_xlim()[0] == 0
    assert legend_of(figure) == ["kept", "learned", "published"]
    assert len(pixels_of(file, ORANGE)) > 20

    plot_systems(tmp_path / "e.png", "Test", "ndcg@10", {"kept": {"SASRec": SHORT}}, {})
    assert legend_of(drawn(tmp_path / "e.png")) is None
    assert len(pixels_of(tmp_path / "e.png", ORANGE)) == 0
