import base64

import pytest

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
