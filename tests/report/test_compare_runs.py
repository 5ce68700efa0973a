"""Several runs on one pool: each figure from the files by an oracle, the page, the command, and what is refused."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from oracles import report_oracle as oracle
from oracles.forked import spice
from oracles.runs import chat_rows, write_jsonl
from spice_select import select
from spice_select.errors import ConfigError
from spice_select.report.compare import compare, write

METHODS = {
    "spice": {"candidates": 40},
    "norm": {"method": "norm", "candidates": 40},
    "random": {"method": "random"},
}


@pytest.fixture(scope="module")
def runs(tiny_model, tmp_path_factory) -> list[Path]:
    base = tmp_path_factory.mktemp("runs")
    pool = write_jsonl(base / "chats.jsonl", chat_rows(80, seed=5))
    for name, options in METHODS.items():
        select([str(pool)], model=tiny_model, budget="10%", output=base / name, **options)
    return [base / name for name in METHODS]


def picks(run: Path) -> list[int]:
    rows = [row for row in oracle.scores(run) if row["picked"]]
    return [row["index"] for row in sorted(rows, key=lambda row: (row["pool"], row["rank"]))]


def test_all_runs_are_measured_on_the_gradients_of_the_first(runs):
    found = compare(runs)
    assert (found.measured_by, found.pool_rows, found.notes) == ("spice", 80, [])
    tokens = {row["index"]: row["trained_tokens"] for row in oracle.scores(runs[0])}
    for run, compared in zip(runs, found.runs, strict=True):
        chosen, information, gains = picks(run), 0.0, []
        for pool in oracle.pools(runs[0]).values():
            seen = oracle.seen(pool["gram"], [tokens[row] for row in pool["rows"]], max(1, pool["quota"] // 2))
            places = [pool["rows"].index(row) for row in chosen if row in pool["rows"]]
            values = [oracle.information(seen, places[:count], pool["alpha"]) for count in range(len(places) + 1)]
            information += values[-1]
            gains.append(np.diff(values).tolist())
        assert compared.information == pytest.approx(information, rel=1e-6)
        firsts = [line[0] for line in gains if line]
        assert compared.gain.mean[0] == pytest.approx(np.mean(firsts), rel=1e-6)
        assert compared.random_information > 0 and len(compared.diversity) == 2
        assert (compared.rows, compared.tokens) == (8, sum(tokens[row] for row in chosen))
        assert compared.shared == [len(set(chosen) & set(picks(other))) for other in runs]
    assert [one.method for one in found.runs] == ["spice", "norm", "random"]
    assert "candidates 120" in found.runs[2].settings


def test_shares_of_the_sources_add_up(runs):
    columns = zip(*(shares for _, shares in compare(runs).sources), strict=True)
    assert all(sum(column) == pytest.approx(1.0) for column in columns)


def test_runs_without_gradients_are_still_compared(runs, tmp_path):
    found = compare([runs[2], runs[2]])
    assert found.measured_by is None and found.runs[0].information is None
    assert found.notes == ["No run has gradients, so information and conflict are not known."]
    assert [path.name for path in write(found, tmp_path)] == ["comparison.html"]


class Resources(HTMLParser):
    """Every address that a page would fetch, and its ids."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key in {"src", "href", "action", "data", "poster", "srcset"} and not (value or "").startswith("data:"):
                self.found.append(value or "")
            if key == "id":
                self.ids.append(value or "")
            assert not key.startswith("on") and key != "style", (tag, key)


def test_the_page_asks_for_nothing_and_holds_every_run(runs, tmp_path):
    first, second = write(compare(runs), tmp_path / "one"), write(compare(runs), tmp_path / "two")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    text = first[0].read_text(encoding="utf-8")
    resources = Resources()
    resources.feed(text)
    assert all(address.startswith("#") for address in resources.found), resources.found
    assert len(resources.ids) == len(set(resources.ids))
    assert all(f"<bdi>{name}</bdi>" in text for name in METHODS) and "<script" not in text
    assert [path.name for path in first] == ["comparison.html", "decay.svg", "decay.png"]


def test_the_command_prints_the_table(runs, tmp_path):
    done = spice("compare", *runs, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for name in METHODS:
        assert re.search(rf"^{name} +{name} +8 ", done.stdout, re.M), done.stdout
    assert (tmp_path / "out" / "comparison.html").exists()


def test_other_rows_and_single_runs_are_refused(runs, tiny_model, tmp_path):
    with pytest.raises(ConfigError, match="at least two runs"):
        compare(runs[:1])
    pool = write_jsonl(tmp_path / "other.jsonl", chat_rows(80, seed=6)[:79])
    select([str(pool)], model=tiny_model, method="random", output=tmp_path / "other")
    with pytest.raises(ConfigError, match="did not choose from the same rows"):
        compare([runs[0], tmp_path / "other"])
