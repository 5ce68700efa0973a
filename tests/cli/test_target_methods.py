"""LESS, RDS+ and TSDS as users run them, on a tiny model: from stores and among all rows of a pool."""

import json

import pytest

from oracles import method_oracle
from oracles.forked import spice
from oracles.runs import chat_rows, read_jsonl, stores_with_targets, write_jsonl
from spice_select import GradientStore, compute_gradients, pick, select
from spice_select.config import resolve
from spice_select.errors import ConfigError
from spice_select.option_values import TARGETED
from spice_select.report.target_story import RULES

FAST = {"dim": 64, "lora_rank": 2, "warmup_steps": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pool of two sources, and two targets; one of the second target's rows is in the pool."""
    place = tmp_path_factory.mktemp("files")
    rows = chat_rows(96)
    write_jsonl(place / "pool.jsonl", [{**row, "source": "ab"[i % 2]} for i, row in enumerate(rows[:80])])
    write_jsonl(place / "mine.jsonl", rows[80:90])
    write_jsonl(place / "seen.jsonl", [rows[3], *rows[90:96]])
    return place


@pytest.fixture(scope="module")
def stores(folder, tiny_model, tmp_path_factory):
    return stores_with_targets(folder, tmp_path_factory.mktemp("stores"), model=tiny_model, **FAST)


def numbers(place):
    store = GradientStore.open(place)
    return store.block(0, store.rows).numpy()


@pytest.mark.parametrize("method", ["less", "rds"])
@pytest.mark.parametrize("targets", [["mine"], ["mine", "seen"]])
def test_a_pick_is_the_definition_on_the_stores_features(stores, method, targets):
    """Whatever scale, rank and penalty, which only enter what is measured of the picks."""
    found = pick(stores / "store", target=[stores / name for name in targets], method=method, budget="20",
                 scale="none", directions=2, penalty=0.4, keep_target_rows=True)  # fmt: skip
    expected = getattr(method_oracle, method)(
        numbers(stores / "store"), [numbers(stores / name) for name in targets], {"most": 20}
    )
    assert found.records[0].picks == expected
    again = pick(stores / "store", target=[stores / name for name in targets], method=method, budget="20",
                 keep_target_rows=True)  # fmt: skip
    assert again.records[0].picks == expected


@pytest.mark.parametrize("method", TARGETED)
def test_a_run_over_all_rows_is_gradients_and_pick(stores, folder, tiny_model, tmp_path, method):
    """Also after an interruption; the terminal, the manifest and the page name the rule and promise nothing."""
    arguments = [
        "--model",
        tiny_model,
        "--dim",
        64,
        "--lora-rank",
        2,
        "--warmup-steps",
        1,
        "--output",
        tmp_path / "run",
        "--features",
        "gradients",
    ]
    done = spice("run", folder / "pool.jsonl", "--target", folder / "mine.jsonl", "--method", method, "--budget", 10,
                 *arguments)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{method}; the figures below measure" in done.stdout and "coverage of the target" in done.stdout
    expected = pick(stores / "store", target=stores / "mine", method=method, budget="10")
    assert [row["messages"] for row in read_jsonl(tmp_path / "run" / "selected.jsonl")] == [
        row["messages"] for row in expected.rows
    ]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["config"]["method"] == method and manifest["config"]["candidates"] == "all"
    assert manifest["pools"][0]["guarantee"] is None and 0 < manifest["pools"][0]["certificate"] <= 1
    record = expected.records[0]
    assert record.target.rule == method and record.measures.guarantee is None and not record.stopped_early
    assert len(record.target.serves) == 10 and record.target.certificate <= 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert RULES[method].split(":")[0] in page and "does not count information" in page
    assert "which the choice does not count" not in page and "The choice, and the figures" not in page
    (tmp_path / "run" / "manifest.json").unlink()
    resumed = select(folder / "pool.jsonl", output=tmp_path / "run", existing="resume", model=tiny_model,
                     target=folder / "mine.jsonl", method=method, features="gradients", budget="10",
                     **FAST)  # fmt: skip
    assert resumed.indices == expected.indices


@pytest.mark.parametrize(("method", "features"), [("less", "preconditioned"), ("rds", "states"), ("tsds", "states")])
def test_a_method_compares_rows_as_its_paper_does(folder, tiny_model, tmp_path, method, features):
    fast = {"dim": 64, "lora_rank": 2, "warmup_steps": 1} if method == "less" else {}
    shared = {"model": tiny_model, **fast}
    found = select(folder / "pool.jsonl", target=folder / "mine.jsonl", method=method, budget="10", **shared)
    assert found.config.features == features and found.summary.coverage.picks > 0
    store = compute_gradients(folder / "pool.jsonl", output=tmp_path / "store", features=features, **shared)
    plain = {"features": "gradients"} if method == "less" else {}
    compute_gradients(folder / "mine.jsonl", output=tmp_path / "mine", proxy_of=store.path, **plain)
    assert pick(store, target=tmp_path / "mine", method=method, budget="10").indices == found.indices


@pytest.mark.parametrize("method", TARGETED)
def test_limits_exclusions_and_leaks(stores, tmp_path, method):
    """Quotas, excluded ids, a budget in tokens and rows that equal a target row hold as for the other methods."""
    lines = GradientStore.open(stores / "store").listing.lines
    shared = {"target": stores / "seen", "method": method}
    found = pick(stores / "store", budget="20", quota={"a": "25%"}, **shared)
    assert [lines[row].source for row in found.indices].count("a") == 5 and len(found.indices) == 20
    assert [leak.row for leak in found.records[0].leaks] == [3]
    kept = pick(stores / "store", budget="80", keep_target_rows=True, **shared)
    assert sorted(kept.indices) == list(range(80))
    gone = [lines[row].id for row in found.indices[:5]]
    (tmp_path / "ids").write_text("\n".join(gone))
    other = pick(stores / "store", budget="20", exclude=str(tmp_path / "ids"), **shared)
    assert not {lines[row].id for row in other.indices} & set(gone) and len(other.indices) == 20
    tokens = pick(stores / "store", budget="300tok", **shared)
    spent = sum(lines[row].trained_tokens for row in tokens.indices)
    left = [line.trained_tokens for line in lines if line.index not in (3, *tokens.indices)]
    assert spent <= 300 < spent + min(left)


@pytest.mark.parametrize("method", TARGETED)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": []}, "needs a target"),
        ({"candidates": 120}, "among all rows"),
        ({"stop_ratio": 0.5}, "stop_ratio belongs to"),
        ({"stop_coverage": "95%"}, "stop_coverage goes with the methods spice and fisher"),
        ({"target_share": "50%"}, "target_share goes with the methods spice and fisher"),
        ({"target_rule": "information"}, "target_rule goes with the methods spice and fisher"),
        ({"given": "store"}, "given goes with the methods spice and fisher"),
        ({"target": ["a=70%", "b=30%"]}, "treats targets alike"),
    ],
)
def test_options_that_do_not_fit(method, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        resolve({}, {"method": method, "target": "a", **options})
    assert len(str(error.value).splitlines()) == 1


def test_a_pick_without_a_target_is_refused(stores):
    with pytest.raises(ConfigError, match="less needs a target"):
        pick(stores / "store", method="less", budget="5")
