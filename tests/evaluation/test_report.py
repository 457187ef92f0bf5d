import base64

import pytest

from linguarec.evaluation.intervals import Interval
from linguarec.evaluation.plots import plot_by_slice, plot_learning_curves, plot_systems
from linguarec.evaluation.report import Figure, Section, Table, write_report

PNG = b"\x89PNG\r\n\x1a\n"


def test_report_is_one_file_with_everything_inside(tmp_path):
    image = tmp_path / "plot.png"
    image.write_bytes(PNG + b"pixels")
    sections = [
        Section(
            "Results <1>",
            text="a & b",
            table=Table(["model", "ndcg@10"], [["SASRec", "0.0553"], ["VQ-Rec", "0.0643"]], strong=frozenset({1})),
            note="published",
            figures=[Figure(image, 'by "length"')],
            commands=["linguarec evaluate RUN"],
        )
    ]
    write_report(tmp_path / "report.html", "Scientific", sections, summary="what it says")
    image.unlink()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>Results &lt;1&gt;</h2>" in page
    assert "<p>a &amp; b</p>" in page
    assert '<tr class="strong"><td>VQ-Rec</td><td>0.0643</td></tr>' in page
    assert base64.b64encode(PNG + b"pixels").decode() in page
    assert 'alt="by &quot;length&quot;"' in page
    assert "<pre>linguarec evaluate RUN</pre>" in page
    assert "http" not in page  # nothing is fetched


def test_a_table_with_a_short_row_is_refused():
    with pytest.raises(ValueError, match="1 cells, the table has 2 columns"):
        Table(["a", "b"], [["1"]])


def test_plots_are_png_files(tmp_path):
    parts = [("1", Interval(0.1, 0.08, 0.12, 50)), ("2–4", Interval(0.2, 0.15, 0.25, 20))]
    plot_by_slice(tmp_path / "a.png", "By length", "history length", "ndcg@10", {"SASRec": parts, "popularity": parts})
    plot_learning_curves(
        tmp_path / "b.png", "Valid", "ndcg@10", {"seed 0": ([1, 2, 3], [0.1, 0.3, 0.2]), "empty": ([], [])}
    )
    plot_systems(
        tmp_path / "c.png", "Test", "ndcg@10", {"SASRec": parts[0][1], "VQ-Rec": parts[1][1]}, {"SASRec": 0.11}
    )
    for name in "abc":
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)
