"""Laws on notebooks: the example runs from top to bottom, bars count every row, and a result shows its own figures."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import pytest

from spice_select import ProgressBar, select

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "choose_and_compare.ipynb"


@pytest.mark.slow
def test_the_example_runs_from_top_to_bottom(monkeypatch):
    """Every cell ends without an error; the result, its tables and both figures are shown."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("ROWS", "24")
    notebook = nbformat.read(EXAMPLE, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "the file holds no outputs of one machine"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(EXAMPLE.parent)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert sum("image/png" in output["data"] for output in shown) == 2
    tables = [output["data"]["text/html"] for output in shown if "text/html" in output["data"]]
    assert any("coverage of the target" in table for table in tables) and len(tables) >= 4


def test_a_result_shows_its_own_figures(tmp_path, tiny_model, chat_pool):
    """The table is well-formed whatever the directory is called, and each figure is that of the summary."""
    output = tmp_path / "<b>&chosen"
    result = select(chat_pool, model=tiny_model, budget=6, target=str(chat_pool), keep_target_rows=True, output=output)
    table = ElementTree.fromstring(result._repr_html_())
    shown = {row[0].text: row[1].text for row in table}
    summary = result.summary
    assert shown["rows kept"] == f"{summary.kept} of {summary.rows}" and shown["output"] == str(output)
    assert shown["trained tokens"].split()[0].replace(",", "") == str(sum(s.kept_tokens for s in summary.sources))
    assert shown["coverage of the target"].startswith(f"{summary.coverage.picks:.1%} by the picks")
    assert f"{summary.quality.certificate:.1%}" in shown["certificate"]
    assert "certificate" not in select(chat_pool, method="random", model=tiny_model)._repr_html_()


def test_bars_count_every_row(tiny_model, chat_pool):
    """A run's bar ends at all of its rows and at 100 %; a note's control characters do not reach the terminal."""
    stream = io.StringIO()
    bar = ProgressBar(stream)
    select(chat_pool, model=tiny_model, budget=6, progress=bar)
    bar.note("a \x1b[2Jname")
    text = stream.getvalue()
    assert "choosing: 100%" in text and "57 of 57 rows" in text
    assert text.endswith("a [2Jname\n") and "\x1b[2J" not in text


def test_a_resumed_bar_ends_where_a_new_one_does():
    """What an earlier run did counts towards the end."""
    stream = io.StringIO()
    bar = ProgressBar(stream)
    bar.begin("gradients", 10, 100)
    bar.resume(6, 60)
    bar.advance(4, 40)
    assert "gradients: 100%" in stream.getvalue() and "10 of 10 rows" in stream.getvalue()
