"""Every figure of a report against the same figure taken from the run's files by an oracle."""

import json
import math
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from oracles import diversity_oracle
from oracles import report_oracle as oracle
from oracles.runs import chat_rows, write_jsonl
from spice_select import forecast, select
from spice_select.errors import ConfigError, OutputError
from spice_select.information import select_from_gram
from spice_select.progress import NoProgress
from spice_select.report.build import build, write_page
from spice_select.report.composition import TOO_SHORT, diversity_of, language
from spice_select.report.finished_run import open_run
from spice_select.report.theory import curve, spearman

QUOTA, RANK = 6, 3  # 10 % of 60 rows, and half as many directions


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    rows = chat_rows(150, seed=3)
    rows[7] = {**rows[6], "id": "copy"}
    return write_jsonl(tmp_path_factory.mktemp("pool") / "chats.jsonl", rows)


@pytest.fixture(scope="module")
def run(tiny_model, pool, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("run") / "chosen"
    select([str(pool)], model=tiny_model, candidates=60, update_every=1, penalty=0.5, output=directory)
    return directory


@pytest.fixture(scope="module")
def report(run):
    return build(run, NoProgress())


def whole_pools(run: Path) -> list[dict]:
    return list(oracle.pools(run).values())


def as_seen(run: Path, pool: dict) -> np.ndarray:
    tokens = {row["index"]: row["trained_tokens"] for row in oracle.scores(run)}
    rank = max(1, min(pool["quota"] // 2, 16))
    return oracle.seen(pool["gram"], [tokens[row] for row in pool["rows"]], rank)


def uncut(run: Path, pool: dict) -> np.ndarray:
    """The Gram matrix of a pool's scaled gradients in all directions."""
    tokens = {row["index"]: row["trained_tokens"] for row in oracle.scores(run)}
    return oracle.seen(pool["gram"], [tokens[row] for row in pool["rows"]], len(pool["rows"]))


def places(pool: dict, rows: list[int]) -> list[int]:
    return [pool["rows"].index(row) for row in rows]


def test_curves_are_means_over_pools(run, report):
    for column, found in (
        ("gain", report.theory.gain),
        ("base", report.theory.base),
        ("conflict", report.theory.conflict),
    ):
        lines = oracle.step_values(run, column)
        assert list(found.picks) == list(range(1, max(map(len, lines)) + 1))
        for step in range(len(found.picks)):
            at = [line[step] for line in lines if len(line) > step]
            assert found.mean[step] == pytest.approx(np.mean(at))
            assert found.low[step] <= np.median(at) <= found.high[step]
    assert report.theory.pools == len(whole_pools(run)) == 3


def test_information_and_its_rivals(run, report):
    theory, pools = report.theory, whole_pools(run)
    chosen = sum(oracle.information(as_seen(run, p), places(p, p["picks"]), p["alpha"]) for p in pools)
    assert theory.information == pytest.approx(chosen, rel=1e-6)
    largest = 0.0
    for p in pools:
        order = np.argsort(-p["gram"].diagonal(), kind="stable")[: len(p["picks"])].tolist()
        largest += oracle.information(as_seen(run, p), order, p["alpha"])
    rivals = {rival.name: rival for rival in theory.rivals}
    assert rivals["the largest gradients"].information == pytest.approx(largest, rel=1e-6)
    chance = rivals["random rows"]
    assert chance.information == pytest.approx(sum(p["random_information"] for p in pools), rel=1e-6)
    assert chance.low <= chance.information <= chance.high <= theory.information
    free = rivals["the same choice with penalty 0"].information
    alone = oracle_greedy(run, pools)
    assert free == pytest.approx(alone, rel=1e-6)
    bound = sum(p["bound"] for p in pools)
    assert theory.certificate == pytest.approx(chosen / bound, rel=1e-6)
    assert theory.curvature == pytest.approx(max(p["curvature"] for p in pools))
    assert theory.guarantee is None  # the penalty is not 0


def test_information_in_all_directions(run, report):
    """Of the picks, random rows and greedy picks: of scaled gradients, without the cut to principal directions."""
    found, picked, greedily = report.theory.all_directions, 0.0, 0.0
    for p in whole_pools(run):
        whole = uncut(run, p)
        picked += oracle.information(whole, places(p, p["picks"]), p["alpha"])
        best = select_from_gram(whole, len(p["picks"]), p["alpha"], 0.0).indices
        greedily += oracle.information(whole, best, p["alpha"])
    assert found.information == pytest.approx(picked, rel=1e-6)
    assert found.greedy_information == pytest.approx(greedily, rel=1e-6)
    assert 0 < found.random_information < found.greedy_information
    assert report.theory.information < found.information <= found.greedy_information


def oracle_greedy(run: Path, pools: list[dict]) -> float:
    total = 0.0
    for p in pools:
        gram, picks = as_seen(run, p), []
        while len(picks) < len(p["picks"]):
            left = [row for row in range(len(gram)) if row not in picks]
            picks.append(max(left, key=lambda row: oracle.information(gram, [*picks, row], p["alpha"])))
        total += oracle.information(gram, picks, p["alpha"])
    return total


def test_half_life_correlations_and_theorem4(run, report):
    gains = oracle.step_values(run, "gain")
    halves = [next((s for s, gain in enumerate(line) if gain <= line[0] / 2), math.inf) for line in gains]
    median = float(np.median(halves))
    assert report.theory.half_life == (median if math.isfinite(median) else None)
    rows = [row for row in oracle.scores(run) if row["picked"] and row["rank"] > 0]
    for found in report.theory.correlations:
        if not found.name.endswith("at each pick"):
            rows_of = [row for row in oracle.scores(run) if not row["picked"]]
        else:
            rows_of = rows
        other = [row["gain"] if "gain" in found.name else abs(row["epsilon"]) for row in rows_of]
        assert found.count == len(rows_of)
        assert found.value == pytest.approx(oracle.spearman([row["conflict"] for row in rows_of], other))
    counts = np.zeros(3, dtype=int)
    for p in whole_pools(run):
        values, vectors = np.linalg.eigh(as_seen(run, p))
        features = vectors * np.sqrt(np.clip(values, 0, None))
        counts += diversity_oracle.theorem4(features, places(p, p["picks"]), p["alpha"])
    assert report.theory.theorem4 == (tuple(counts) if counts[1] else None)


def test_shares_add_up_and_follow_the_scores(run, report):
    rows = oracle.scores(run)
    for shares in (report.composition.sources, report.composition.lengths, report.composition.languages):
        assert sum(share.rows for share in shares) == len(rows)
        assert sum(share.kept for share in shares) == sum(row["picked"] for row in rows)
        assert sum(share.tokens for share in shares) == sum(row["trained_tokens"] for row in rows)
        assert sum(share.kept_tokens for share in shares) == sum(row["trained_tokens"] for row in rows if row["picked"])
    kept = Counter(row["source"] for row in rows if row["picked"])
    assert {share.name: share.kept for share in report.composition.sources} == {**Counter(), **kept}
    pairs = np.log([[row["trained_tokens"], row["norm"]] for row in rows]).T
    assert report.composition.length_correlation == pytest.approx(np.corrcoef(pairs)[0, 1])
    lows = [int(share.name.split(" to ")[0].replace(",", "")) for share in report.composition.lengths]
    assert lows == sorted(lows) and len(lows) <= 10


def test_languages_are_told_where_there_is_enough_text():
    assert language("Der Hund läuft schnell über die große Straße und bellt laut.") == "de"
    assert language("The dog runs quickly across the wide street and barks.") == "en"
    assert language("42") == language("!!!") == language("") == TOO_SHORT


def test_without_the_detector_only_languages_are_missing(run, report, monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)
    bare = build(run, NoProgress())
    assert any("spice-select[languages]" in note for note in bare.notes)
    missing = {"languages": report.composition.languages, "language_rows": report.composition.language_rows}
    assert bare.composition.languages == [] and replace(bare.composition, **missing) == report.composition


def test_diversity_of_the_kept_rows_follows_its_definition(run, report):
    """Averaged over candidate pools by picks; cosines are those of the unscaled gradients."""
    pools, found = whole_pools(run), {line.name: line for line in report.diversity}
    vendi = distance = 0.0
    for p in pools:
        values, vectors = np.linalg.eigh(p["gram"])
        features = (vectors * np.sqrt(np.clip(values, 0, None)))[places(p, p["picks"])]
        vendi += len(p["picks"]) * diversity_oracle.vendi(features)
        distance += len(p["picks"]) * diversity_oracle.log_det_distance(features, 0.01)
    picks = sum(len(p["picks"]) for p in pools)
    assert found["Vendi score"].kept == pytest.approx(vendi / picks, rel=1e-5)
    assert found["log-det distance"].kept == pytest.approx(distance / picks, rel=1e-5)
    assert list(found) == ["Vendi score", "log-det distance"]
    assert all(line.space == "gradients" and line.random > 0 for line in report.diversity)


def test_neighbours_are_the_picks_of_highest_and_lowest_cosine(run, report):
    stories = {story.line.index: story for story in report.rows}
    for p in whole_pools(run):
        for row in p["rows"]:
            others = [pick for pick in p["picks"] if pick != row]
            near = sorted(((oracle.cosine(p["gram"], *places(p, [row, pick])), pick) for pick in others), reverse=True)
            story = stories[row]
            assert [n.cosine for n in story.overlaps] == pytest.approx([c for c, _ in near[:3] if c > 0], abs=1e-6)
            assert [n.cosine for n in story.opposes] == pytest.approx([c for c, _ in near[:-4:-1] if c < 0], abs=1e-6)
            assert {n.row for n in (*story.overlaps, *story.opposes)} <= set(others)


def test_stories_say_what_the_scores_say(run, report, pool):
    texts = {row["index"]: row for row in oracle.scores(run)}
    assert [story.line.index for story in report.rows] == list(range(150)) and report.all_rows == 150
    for story in report.rows:
        row = texts[story.line.index]
        for name in ("id", "source", "location", "tokens", "trained_tokens"):
            assert getattr(story.line, name) == row[name]
        for name in ("pool", "rank", "gain", "base", "conflict", "score", "norm"):
            assert getattr(story, name) == row[name]
        assert story.response and story.prompt.startswith("user: ")


def test_audit_lists_follow_their_definitions(run, report):
    against: dict[int, float] = {}
    for p in whole_pools(run):
        values, vectors = np.linalg.eigh(uncut(run, p))
        features = vectors * np.sqrt(np.clip(values, 0, None))
        for row, vector in zip(p["rows"], features, strict=True):
            mean = np.mean(
                [features[place] for place in places(p, [pick for pick in p["picks"] if pick != row])], axis=0
            )
            against[row] = float(-vector @ mean / np.linalg.norm(vector) / np.linalg.norm(mean))
    opposed = sorted((row for row, value in against.items() if value > 0), key=lambda row: -against[row])
    assert [finding.line.index for finding in report.audit.conflicts.listed] == opposed[:100]
    assert report.audit.conflicts.total == len(opposed)
    for finding in report.audit.conflicts.listed:
        assert finding.value == pytest.approx(against[finding.line.index], rel=1e-6)
        assert f"(cosine {-finding.value:.3f})" in finding.reason
    together, texts = 0, oracle.texts(run)
    weights = oracle.word_weights(texts)

    def alike(one: int, other: int) -> bool:
        return one != other and oracle.text_similarity(texts[one], texts[other], weights) >= 0.6

    for p in whole_pools(run):
        values, vectors = np.linalg.eigh(p["gram"])
        features = vectors * np.sqrt(np.clip(values, 0, None))
        near = diversity_oracle.pairs(features, 0.65) & {
            (i, j) for i, one in enumerate(p["rows"]) for j, other in enumerate(p["rows"]) if alike(one, other)
        }
        joined = diversity_oracle.components(len(features), near)
        expected = {tuple(sorted(p["rows"][i] for i in g)[:50]) for g in joined}
        together += len(expected)
        assert expected <= {tuple(line.index for line in group.lines) for group in report.audit.duplicates}
    assert together == len(report.audit.duplicates) == report.audit.groups


def test_a_choice_from_all_rows_has_the_same_report_of_its_store(tiny_model, pool, tmp_path):
    """One pool, gradients from the store: information and neighbours agree with the store's own features."""
    select([str(pool)], model=tiny_model, candidates="all", dim=64, output=tmp_path / "all")
    run, report = open_run(tmp_path / "all"), build(tmp_path / "all", NoProgress())
    (one,) = run.pools
    features = run.store.block(0, 150).numpy()
    picks = run.picked
    story = report.rows[picks[0]]
    cosines = sorted((diversity_oracle.cosine(features[picks[0]], features[row]) for row in picks[1:]), reverse=True)
    assert [n.cosine for n in story.overlaps] == pytest.approx([c for c in cosines[:3] if c > 0], abs=1e-9)
    seen = one.scaled.block(0, 150).numpy()
    chosen = oracle.information(seen @ seen.T, picks, one.measures.alpha)
    assert report.theory.information == pytest.approx(chosen, rel=1e-6)
    assert report.audit.scope == "Every row was compared with every other."


def test_a_choice_without_gradients_still_has_a_report(tiny_model, pool, tmp_path):
    select([str(pool)], model=tiny_model, method="random", output=tmp_path / "random")
    report = build(tmp_path / "random", NoProgress())
    assert report.theory is None and report.audit is None and list(report.diversity) == []
    assert sum(share.kept for share in report.composition.sources) == 15
    assert all(story.gain is None and story.response for story in report.rows)


def test_what_is_gone_is_said(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (copy / "checkpoint" / "gram-000000.safetensors").unlink()
    (copy / "checkpoint" / "texts.parquet").unlink()
    report = build(copy, NoProgress())
    assert report.notes[:2] == [
        "The Gram matrices of 1 of 3 candidate pools are missing (checkpoint/).",
        "The texts of the rows are missing (checkpoint/texts.parquet).",
    ]
    assert all(story.response == "" for story in report.rows)
    (copy / "checkpoint" / "gram-000001.safetensors").write_bytes(b"no")
    with pytest.raises(OutputError, match="is damaged"):
        build(copy, NoProgress())


def test_other_choices_are_compared_with_in_the_pools_that_are_there(run, tmp_path):
    """With a pool's gradients gone, U of the picks beside U of others counts the same pools."""
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (copy / "checkpoint" / "gram-000002.safetensors").unlink()
    theory = build(copy, NoProgress()).theory
    kept = whole_pools(run)[:2]
    expected = sum(oracle.information(as_seen(run, p), places(p, p["picks"]), p["alpha"]) for p in kept)
    assert theory.compared == pytest.approx(expected, rel=1e-6) and theory.compared < theory.information
    for path in copy.glob("checkpoint/gram-*"):
        path.unlink()
    report = build(copy, NoProgress())
    assert report.audit.duplicates is None and list(report.theory.rivals) == []
    assert "The Gram matrices of 3 of 3 candidate pools are missing" in report.audit.scope


def test_gradients_of_zero_and_a_pool_kept_whole_still_have_a_report(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    record = json.loads((copy / "checkpoint" / "pool-000002.json").read_text(encoding="utf-8"))
    count = len(record["rows"])
    save_file({"gram": torch.zeros(count, count, dtype=torch.float64)}, copy / "checkpoint" / "gram-000002.safetensors")
    whole = json.loads((copy / "checkpoint" / "pool-000001.json").read_text(encoding="utf-8"))
    whole["picks"] = list(range(len(whole["rows"])))
    (copy / "checkpoint" / "pool-000001.json").write_text(json.dumps(whole), encoding="utf-8")
    report = build(copy, NoProgress())
    write_page(report, copy)
    assert len(report.diversity) == 2 and all(line.kept > 0 for line in report.diversity)


def test_all_rows_are_as_diverse_as_all_rows(run):
    """Where everything is kept, random rows of the same number are the same rows."""
    pools = [(pool, range(len(pool.record.rows))) for pool in open_run(run).pools]
    for line in diversity_of(pools, 0, "gradient"):
        assert line.kept == pytest.approx(line.random, rel=1e-9), line.name


def test_a_report_that_fails_leaves_the_run_complete(tiny_model, pool, tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr("spice_select.report.build.build", lambda *_: (_ for _ in ()).throw(OutputError("no\nmore")))
    monkeypatch.setattr(NoProgress, "note", lambda self, text: notes.append(text))
    select([str(pool)], model=tiny_model, method="random", output=tmp_path / "run", progress=NoProgress())
    assert (
        tmp_path / "run" / "manifest.json"
    ).exists() and "the selection is complete, but its report could not be written: no" in notes[-1]


def test_a_page_of_many_long_rows_of_any_script_stays_small(tiny_model, tmp_path):
    """Of more rows than a page holds some are in it, shortened by what their letters take; and it says so."""
    question, answer = "问题" * 400, "答案" * 400
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": f"{i} {answer}"}]}
        for i in range(2100)
    ]
    pool = write_jsonl(tmp_path / "long.jsonl", rows)
    select([str(pool)], model=tiny_model, method="random", max_length=8192, output=tmp_path / "run")
    report = build(tmp_path / "run", NoProgress())
    assert len(report.rows) == 2000 and report.all_rows == 2100
    assert sum(story.rank is not None for story in report.rows) == 210
    page = (tmp_path / "run" / "report.html").read_bytes()
    assert 1_000_000 < len(page) < 3_000_000 and "答案" in page.decode()


@pytest.mark.parametrize("options", [{"candidates": 60}, {"candidates": "all", "dim": 64}, {"method": "random"}])
def test_a_run_holds_no_more_than_was_forecast(tiny_model, pool, tmp_path, options):
    needed = forecast([str(pool)], model=tiny_model, **options).disk
    select([str(pool)], model=tiny_model, output=tmp_path / "run", **options)
    held = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert held <= needed <= 3_000_000 + 8 * held


def test_what_is_no_run_is_refused(tmp_path, run):
    with pytest.raises(OutputError, match="holds no finished run"):
        open_run(tmp_path)
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(OutputError, match="is not the manifest of a selection run"):
        open_run(tmp_path)
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot be read"):
        open_run(tmp_path)


def test_embeddings_of_ones_own(run, tmp_path):
    vectors = np.random.default_rng(0).standard_normal((150, 5)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    report = build(run, NoProgress(), tmp_path / "vectors.npy")
    picked = [row["index"] for row in oracle.scores(run) if row["picked"]]
    found = next(line for line in report.diversity if (line.space, line.name) == ("vectors.npy", "Vendi score"))
    assert found.kept == pytest.approx(diversity_oracle.vendi(vectors[picked].astype(float)), rel=1e-5)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (np.zeros((149, 5)), r"shape \(149, 5\); real numbers of shape \(150, d\)"),
        (np.zeros(150), "shape"),
        (np.full((150, 2), np.nan), "vector 0 is not finite"),
        (np.array([{}] * 150), "cannot be read"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(run, tmp_path, content, reason):
    np.save(tmp_path / "bad.npy", content, allow_pickle=True)
    with pytest.raises(ConfigError, match=reason):
        build(run, NoProgress(), tmp_path / "bad.npy")


def test_several_arrays_in_one_file_and_an_empty_one_are_refused(run, tmp_path):
    np.savez(tmp_path / "several.npz", np.zeros((150, 2)))
    with pytest.raises(ConfigError, match="cannot be read"):
        build(run, NoProgress(), tmp_path / "several.npz")
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be read"):
        build(run, NoProgress(), tmp_path / "empty.npy")


def test_long_curves_are_thinned_and_correlations_need_variety():
    long = curve([[float(i) for i in range(5000)]])
    assert len(long.picks) == 400 and (long.picks[0], long.picks[-1]) == (1, 5000)
    assert list(long.mean) == [float(pick - 1) for pick in long.picks]
    assert spearman([1, 1, 1], [1, 2, 3]) is None and spearman([1, 2], [1, 2]) is None
    assert spearman([3, 1, 2], [30, 10, 20]) == pytest.approx(1.0)


def test_the_table_of_scores_as_a_frame(tiny_model, pool, tmp_path):
    result = select([str(pool)], model=tiny_model, method="norm", candidates=60, output=tmp_path / "norm")
    frame = result.scores.reset_index(drop=True)
    stored = pq.read_table(tmp_path / "norm" / "scores.parquet").to_pandas()
    assert frame.equals(stored) and frame["picked"].sum() == 15
    drawn = result.plot_decay()
    assert [len(line.get_xdata()) for line in drawn.lines] == [QUOTA, QUOTA]
    assert drawn.lines[1].get_ydata()[0] == pytest.approx(
        np.mean([line[0] for line in oracle.step_values(tmp_path / "norm", "gain")])
    )
    page = result.report()
    assert page == tmp_path / "norm" / "report.html" and page.stat().st_size < 3_000_000


def test_without_a_directory_or_gradients_it_says_so(tiny_model, pool):
    result = select([str(pool)], model=tiny_model, method="random")
    with pytest.raises(ConfigError, match="give select an output"):
        result.report()
    with pytest.raises(ConfigError, match="computes no gradients"):
        result.plot_decay()
