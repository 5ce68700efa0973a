"""Choosing for a target as users do, on a tiny model: from stores, among all rows, and in candidate pools."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from oracles.forked import spice
from oracles.runs import chat_rows, read_jsonl, stores_with_targets, write_jsonl
from spice_select import (
    GradientStore,
    Recipe,
    compute_gradients,
    evaluate,
    finetune,
    forecast,
    pick,
    select,
    select_from_features,
)
from spice_select.choices import PoolRecord, target_coverage, target_measures_of
from spice_select.config import resolve
from spice_select.errors import ConfigError, OutputError
from spice_select.information import Target
from spice_select.progress import NoProgress

FAST = {"dim": 64, "lora_rank": 2, "warmup_steps": 1}
POOLS = {"lora_rank": 2, "warmup_steps": 1, "candidates": 30, "update_every": 2, "budget": "12"}
OPTIONS = ["--dim", "64", "--lora-rank", "2", "--warmup-steps", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pool, a target of other rows, and a second target of which two rows are in the pool, one in capitals."""
    place = tmp_path_factory.mktemp("files")
    rows = chat_rows(106)
    write_jsonl(place / "pool.jsonl", rows[:90])
    write_jsonl(place / "mine.jsonl", rows[90:100])
    loud = json.loads(json.dumps(rows[7]).replace("  ", " "))
    write_jsonl(place / "seen.jsonl", [rows[3], loud, *rows[100:104]])
    return place


@pytest.fixture(scope="module")
def stores(folder, tiny_model, tmp_path_factory):
    return stores_with_targets(folder, tmp_path_factory.mktemp("stores"), model=tiny_model, **FAST)


def ids(result):
    return [chat.id for chat in result.chosen]


def test_the_commands(stores, folder, tiny_model, tmp_path):
    """A target's store from the command line, a choice for it, and what its files say."""
    done = spice("gradients", folder / "mine.jsonl", "--model", tiny_model, "--proxy-of", stores / "store",
                 "--output", tmp_path / "target", *OPTIONS)  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = spice("pick", stores / "store", "--target", tmp_path / "target", "--budget", "9", "--output", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    assert "coverage of the target" in done.stdout and "by the whole pool" in done.stdout
    assert len(read_jsonl(tmp_path / "c" / "selected.jsonl")) == 9
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert manifest["target"][0]["path"] == str(tmp_path / "target") and len(manifest["target"][0]["sha256"]) == 64
    covered = manifest["totals"]["coverage"]
    assert 0 < covered["random"] < covered["whole"] < 1 and 0 < covered["picks"] <= covered["whole"]
    assert manifest["pools"][0]["coverage"]["certificate"] == pytest.approx(covered["certificate"])
    conflicts = pq.read_table(tmp_path / "c" / "scores.parquet")["target_conflict"].to_pylist()
    assert all(0 <= value <= 1 for value in conflicts)
    page = (tmp_path / "c" / "report.html").read_text()
    assert "Coverage of the target" in page and "Serves target rows" in page


@pytest.mark.parametrize("rule", ["variance", "information"])
def test_pick_is_selection_on_the_stores_features(stores, rule):
    """With no scale and absolute alpha it is `select_from_features` on the numbers in both stores."""
    opened, target = (GradientStore.open(stores / name) for name in ("store", "mine"))
    alpha = 1.0 / float(opened.squared_norms().mean())
    wanted = Target(target.block(0, target.rows), rule=rule)
    expected = select_from_features(opened.block(0, opened.rows), 12, alpha, 0.1, target=wanted)
    found = pick(stores / "store", target=stores / "mine", target_rule=rule, budget="12", scale="none",
                 fisher_alpha_mode="absolute", fisher_alpha=alpha)  # fmt: skip
    record = found.records[0]
    assert record.picks == expected.indices
    assert record.target.picks == pytest.approx(expected.coverage.picks.tolist())
    assert record.target.certificate == pytest.approx(expected.coverage.certificate)
    assert PoolRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_shares_and_the_pool_itself(stores):
    """A share of 100 % is one target alone; shares change the choice; so does a share of the pool."""
    both = [f"{stores / 'mine'}=50%", f"{stores / 'seen'}=50%"]
    one = pick(stores / "store", target=stores / "mine", budget="15")
    two = pick(stores / "store", target=both, budget="15", keep_target_rows=True)
    mixed = pick(stores / "store", target=stores / "mine", target_share="30%", budget="15")
    assert len({tuple(ids(result)) for result in (one, two, mixed)}) == 3
    weights = two.records[0].target.weights
    assert sum(weights[:10]) == pytest.approx(0.5) and len(weights) == 16


def test_rows_of_the_target_are_left_out(stores, folder, tiny_model):
    """Rows that equal a target row, in every form; they are named, and kept on demand."""
    for result in (
        pick(stores / "store", target=stores / "seen", budget="10"),
        select(folder / "pool.jsonl", model=tiny_model, target=folder / "seen.jsonl", **POOLS),
    ):
        leaks = [leak for record in result.records for leak in record.leaks]
        assert sorted(leak.row for leak in leaks) == [3, 7] and result.summary.leaks == 2
        assert "equals target row" in leaks[0].reason
        assert not {3, 7} & set(result.indices)
    kept = pick(stores / "store", target=stores / "seen", budget="10", keep_target_rows=True)
    assert {3, 7} <= set(kept.records[0].rows) and not kept.records[0].leaks


def test_stop_at_a_coverage(stores):
    """Fewer picks, the first of those without the stop, that cover at least so much of what the pool covers."""
    whole = pick(stores / "store", target=stores / "mine", budget="60")
    found = pick(stores / "store", target=stores / "mine", budget="60", stop_coverage="60%")
    count = len(found.indices)
    assert count < 60 and found.indices == whole.indices[:count] and found.records[0].stopped_early
    covered = found.summary.coverage
    assert covered.picks >= 0.6 * covered.whole
    assert whole.records[0].target.curve[count - 2] < 0.6 * covered.whole


def test_a_run_over_all_rows_is_gradients_and_pick(stores, folder, tiny_model, tmp_path):
    options = {"model": tiny_model, "budget": "10", "candidates": "all", "target": folder / "mine.jsonl", **FAST}
    whole = select(folder / "pool.jsonl", output=tmp_path / "run", **options)
    expected = pick(stores / "store", target=stores / "mine", budget="10")
    assert ids(whole) == ids(expected)
    assert whole.records[0].target == expected.records[0].target
    place = tmp_path / "run" / "checkpoint"
    assert ids(pick(place / "gradients", target=place / "target-0", budget="10")) == ids(whole)
    (tmp_path / "run" / "manifest.json").unlink()
    resumed = select(folder / "pool.jsonl", output=tmp_path / "run", existing="resume", **options)
    assert ids(resumed) == ids(whole)


def test_candidate_pools(folder, tiny_model, tmp_path):
    """Each pool is chosen for the target, the page is whole, and another target is another run."""
    options = {"model": tiny_model, "target": folder / "mine.jsonl", **POOLS}
    found = select(folder / "pool.jsonl", output=tmp_path / "run", **options)
    assert len(found.records) == 3 and len(found.rows) == 12
    for record in found.records:
        assert len(record.target.picks) == 10 and len(record.target.serves) == len(record.picks)
        assert record.target.certificate <= 1 and record.measures.certificate <= 1
    page = found.report().read_text()
    assert "Coverage of the target" in page and "Against other choices" in page
    assert "a choice by information U alone" in page and "with penalty 0" not in page
    (tmp_path / "run" / "manifest.json").unlink()
    write_jsonl(tmp_path / "other.jsonl", read_jsonl(folder / "mine.jsonl")[:5])
    with pytest.raises(OutputError, match="target"):
        select(folder / "pool.jsonl", output=tmp_path / "run", existing="resume",
               **{**options, "target": tmp_path / "other.jsonl"})  # fmt: skip


def test_a_forecast_counts_the_target(folder, tiny_model):
    options = {"model": tiny_model, **POOLS}
    alone = forecast(folder / "pool.jsonl", **options)
    aimed = forecast(folder / "pool.jsonl", target=folder / "mine.jsonl", **options)
    assert aimed.disk > alone.disk and aimed.rows == alone.rows


@pytest.mark.parametrize("form", [[], ["--candidates", "all", "--dim", "64"]])
def test_a_target_that_is_the_pool_leaves_nothing_to_choose(tiny_model, tmp_path, form):
    rows = write_jsonl(tmp_path / "few.jsonl", chat_rows(12))
    common = [rows, "--model", tiny_model, "--target", rows, "--lora-rank", "2", "--warmup-steps", "0", *form]
    done = spice("run", *common, "--budget", "3", "--output", tmp_path / "out")
    assert done.returncode == 2 and "all 12 rows of the pool equal a target row" in done.stderr, done.stderr


def test_a_file_is_no_target_of_a_pick_and_the_message_says_what_is(stores, folder):
    with pytest.raises(ConfigError, match=r"is a file.*\n.*gradients .*mine.jsonl --proxy-of .*store --output DIR"):
        pick(stores / "store", target=folder / "mine.jsonl", budget="3")


def test_a_target_may_have_columns_of_its_own(folder, tiny_model, tmp_path):
    own = write_jsonl(tmp_path / "own.jsonl", [{"ask": f"sum {n}", "say": str(n)} for n in range(4)])
    reading = ["--format", "own.jsonl=prompt-completion", "--column", "own.jsonl:prompt=ask",
               "--column", "own.jsonl:completion=say"]  # fmt: skip
    common = ["--model", tiny_model, "--lora-rank", "2", "--warmup-steps", "0", "--candidates", "30", "--budget", "6"]
    done = spice("run", folder / "pool.jsonl", "--target", own, *reading, *common, "--output", tmp_path / "out")
    assert done.returncode == 0 and "mean of 4 target rows" in done.stdout, done.stderr


def test_stores_that_do_not_match(stores, folder, tiny_model, tmp_path):
    """Another proxy, other options, no store."""
    compute_gradients(folder / "mine.jsonl", model=tiny_model, output=tmp_path / "own", **FAST)
    with pytest.raises(ConfigError, match="--proxy-of"):
        pick(stores / "store", target=tmp_path / "own", budget="5")
    compute_gradients(folder / "mine.jsonl", model=tiny_model, output=tmp_path / "small", **{**FAST, "dim": 32})
    with pytest.raises(ConfigError, match="not comparable"):
        pick(stores / "store", target=tmp_path / "small", budget="5")
    with pytest.raises(OutputError, match="is no gradient store"):
        pick(stores / "store", target=tmp_path, budget="5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ["a=70%", "b"]}, "every target a share"),
        ({"target": ["a=70%", "b=40%"]}, "100% in total"),
        ({"target": ["a=0%"]}, "not a share"),
        ({"target": 3}, "file or a list"),
        ({"target": ""}, "must name a file"),
        ({"target": [{"messages": []}]}, "must name a file"),
        ({"target": ["a", "a"]}, "each target once"),
        ({"target": "a", "target_share": "120%"}, "not a share"),
        ({"target_share": "50%"}, "goes with target"),
        ({"stop_coverage": "95%"}, "goes with target"),
        ({"target": "a", "method": "random"}, "target goes with"),
        ({"target": "a", "stop_coverage": "95%", "stop_ratio": 0.5}, "exclude each other"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        resolve({}, options)


@pytest.mark.parametrize(("kinds", "gains"), [(4, True), (0, False)])
def test_a_pool_without_anything_like_the_target_says_so(kinds, gains):
    """Rows of pure noise explain a target by chance alone; some rows of its kind change that."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 400, generator=generator, dtype=torch.float64)
    target = torch.randn(1, 400, generator=generator, dtype=torch.float64)
    rows[:kinds] += 3 * target
    near = target + 0.3 * torch.randn(6, 400, generator=generator, dtype=torch.float64)
    found = select_from_features(rows, 20, 1 / 400, target=near)
    measures = target_measures_of(found.coverage, "variance")
    record = PoolRecord(0, list(range(200)), found.indices, 20, False, 0.0, None, target=measures)
    assert target_coverage([record]).gains is gains


@pytest.mark.slow
def test_evaluation_on_the_target_itself_is_warned_of(stores, folder, tiny_model, tmp_path):
    """The fine-tuned model remembers what its rows were chosen for; other rows bring no warning."""
    pytest.importorskip("trl")
    pick(stores / "store", target=stores / "mine", budget="4", output=tmp_path / "chosen")
    finetune(tmp_path / "chosen", model=tiny_model, output=tmp_path / "tuned", recipe=Recipe(epochs=1.0, batch_size=4))
    for name, warned in (("mine", True), ("pool", False)):
        notes = Notes()
        evaluate(tmp_path / "tuned", folder / f"{name}.jsonl", progress=notes)
        assert any("is the target" in note for note in notes.said) is warned


class Notes(NoProgress):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)
