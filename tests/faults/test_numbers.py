"""NaN and infinity never choose: rows whose loss or gradient is not finite stop a run or are left out, and said so."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerControl, TrainerState, TrainingArguments

from oracles.forked import spice_together
from oracles.gradient_oracle import random_examples, tiny_proxy
from oracles.poison import poisoned, save_poisoned_model, save_steep_model
from oracles.runs import byte_tokenizer, chat_rows, read_jsonl, write_jsonl
from spice_select import compute_gradients, pick, select
from spice_select.cli.run import run_command
from spice_select.config import resolve
from spice_select.errors import ConfigError, ModelError
from spice_select.evaluation.heldout import heldout_loss
from spice_select.pool.examples import read_pool
from spice_select.prepared import prepare
from spice_select.progress import NoProgress
from spice_select.proxy.update import ProxyOptimizer
from spice_select.report.audit import audit_of
from spice_select.report.compare import compare
from spice_select.report.finished_run import open_run
from spice_select.schedule.pick_in_pool import pick_among_usable, pick_in_pool
from spice_select.schedule.pools import CandidatePool
from spice_select.store.reading import check_store
from spice_select.study.gram import frozen_picks
from spice_select.training.callback import Steps

BAD = [3, 7, 12]
ROWS = 20
FAST = {"lora_rank": 2, "update_batch_size": 4, "candidates": 8, "update_every": 1, "budget": "6"}
FROZEN = {"lora_rank": 2, "warmup_steps": 0, "candidates": ROWS, "budget": "6"}
FROZEN_PROXY = {"lora_rank": 2, "warmup_steps": 0}
STORE = {"lora_rank": 2, "warmup_steps": 1, "update_batch_size": 4, "dim": 64}
FLOAT32_MAX = float(torch.finfo(torch.float32).max)


class Notes(NoProgress):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


class InterruptionError(Exception):
    """Ends a run in the middle, as a kill does."""


class Interrupting(NoProgress):
    """Interrupts at the first note that begins with a text."""

    def __init__(self, start):
        self.start = start

    def note(self, text):
        if text.startswith(self.start):
            raise InterruptionError


@pytest.fixture(scope="module")
def bad_model(tiny_model, tmp_path_factory):
    return save_poisoned_model(tiny_model, tmp_path_factory.mktemp("bad-model"))


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("pool") / "p.jsonl", poisoned(chat_rows(ROWS), BAD))


@pytest.fixture(scope="module")
def good_rows():
    return [row for place, row in enumerate(chat_rows(ROWS)) if place not in BAD]


@pytest.fixture(scope="module")
def fresh(pool, bad_model):
    """An undisturbed run that skips the bad rows."""
    return select(pool, model=bad_model, on_bad_gradient="skip", **FAST)


@pytest.fixture(scope="module")
def store(pool, bad_model, tmp_path_factory):
    """Gradients of the pool, its bad rows skipped."""
    place = tmp_path_factory.mktemp("store") / "store"
    compute_gradients(pool, model=bad_model, output=place, on_bad_gradient="skip", **STORE)
    return place


def ids(result):
    return [row["id"] for row in result.rows]


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"warmup_steps": 0}, "row 4"),
        ({}, "row 8"),  # the first in the warm-up's order
        ({"warmup_steps": 0, "candidates": "all", "dim": 64}, "row 4"),
        ({"method": "ifd"}, "row 4"),
    ],
)
def test_a_bad_row_stops_the_run_by_name_and_the_run_goes_on_with_skip(
    options, place, pool, bad_model, fresh, tmp_path
):
    """The error names row, id, what is not finite and the ways out; resumed with skip it is a run begun with skip."""
    given = {"model": bad_model, **FAST, **options}
    with pytest.raises(ModelError, match=rf"p.jsonl, {place} \(id 'row-\d+'\): its loss is not finite(.|\n)*skip"):
        select(pool, output=tmp_path / "run", **given)
    resumed = select(pool, output=tmp_path / "run", existing="resume", on_bad_gradient="skip", **given)
    assert resumed.indices == (select(pool, on_bad_gradient="skip", **given) if options else fresh).indices
    assert {bad.row for record in resumed.records for bad in record.bad} == set(BAD)
    assert resumed.summary.kept == 6 and not set(resumed.indices) & set(BAD)


@pytest.mark.parametrize("method", ["spice", "norm", "ifd"])
def test_skipping_rows_is_a_pool_without_them(method, pool, good_rows, bad_model):
    """One candidate pool and a proxy that stands still: the bad rows leave no trace in the choice."""
    skipped = select(pool, model=bad_model, method=method, on_bad_gradient="skip", **FROZEN)
    without = select(good_rows, model=bad_model, method=method, **FROZEN)
    assert ids(skipped) == ids(without)
    assert skipped.summary.not_finite == len(BAD) and without.summary.not_finite == 0


@pytest.mark.parametrize(("method", "noun"), [("selectit", "rating"), ("fishersft", "state")])
def test_a_rating_or_state_that_is_not_finite_stops_or_leaves_the_row_out(method, noun, pool, good_rows, bad_model):
    options = {"model": bad_model, "method": method, "budget": "6"}
    with pytest.raises(ModelError, match=rf"row 4 \(id 'row-3'\): its {noun} is not finite(.|\n)*skip"):
        select(pool, **options)
    skipped = select(pool, on_bad_gradient="skip", **options)
    assert ids(skipped) == ids(select(good_rows, **options)) and skipped.summary.not_finite == len(BAD)


@pytest.mark.parametrize("method", ["spice", "fisher", "norm", "dpp", "cosine"])
def test_a_marked_gram_matrix_is_that_without_its_marked_rows(method):
    """Picks and every number, whatever stands in the marked rows; fewer rows than the quota are all picked."""
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(9, 30, generator=generator, dtype=torch.float64)
    examples, gram = list(read_pool([chat_rows(9)], byte_tokenizer()).examples), vectors @ vectors.T
    good = [0, 2, 3, 5, 6, 8]
    marked = gram.clone()
    for row, mark in ((1, math.nan), (4, math.inf), (7, math.inf)):
        marked[row], marked[:, row] = mark, mark
    for quota in (1, 4, 8):
        config = resolve({}, {"method": method})
        found, left = pick_among_usable(CandidatePool(0, [*range(10, 19)], quota), marked, examples, config, 0.0)
        lengths = [examples[row].trained_tokens for row in good]
        expected = pick_in_pool(
            CandidatePool(0, [row + 10 for row in good], quota), gram[good][:, good], lengths, config, 0.0
        )
        assert replace(found, bad=[]) == expected and len(found.picks) == min(quota, 6)
        assert [(bad.row, bad.reason.split()[1]) for bad in found.bad] == [
            (1, "loss"),
            (4, "gradient"),
            (7, "gradient"),
        ]
        assert torch.equal(left, gram[good][:, good])


def test_a_bad_row_is_in_the_table_the_totals_the_page_and_the_audit(pool, bad_model, tmp_path):
    notes = Notes()
    run = select(pool, model=bad_model, on_bad_gradient="skip", output=tmp_path / "run", progress=notes, **FAST)
    lines = pq.read_table(tmp_path / "run" / "scores.parquet").to_pylist()
    assert [line["index"] for line in lines if line["problem"]] == BAD
    for row in BAD:
        assert lines[row]["problem"] == "its loss is not finite" and lines[row]["pool"] is not None
        assert lines[row]["norm"] is None and lines[row]["rank"] is None and not lines[row]["picked"]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["totals"]["not_finite"] == 3 == sum(part["not_finite"] for part in manifest["pools"])
    assert "3 rows could not be chosen" in (tmp_path / "run" / "report.html").read_text()
    told = "\n".join(notes.lines)
    assert all(f"p.jsonl, row {row + 1} (id 'row-{row}')" in told for row in BAD)
    outliers = audit_of(open_run(tmp_path / "run")).outliers.listed
    assert sorted(finding.line.index for finding in outliers if "could not be chosen" in finding.reason) == BAD
    again = select(pool, model=bad_model, output=tmp_path / "run", existing="resume", **FAST)
    assert again.indices == run.indices and again.summary == run.summary
    one, other = compare([tmp_path / "run", tmp_path / "run"]).runs
    assert one.information == other.information == pytest.approx(run.summary.quality.information)


@pytest.mark.parametrize("moment", ["2 rows are left out", "update 2: proxy"])
def test_an_interrupted_run_with_bad_rows_ends_in_the_same_subset(moment, pool, bad_model, fresh, tmp_path):
    given = {"model": bad_model, "on_bad_gradient": "skip", **FAST}
    with pytest.raises(InterruptionError):
        select(pool, output=tmp_path / "run", progress=Interrupting(moment), **given)
    resumed = select(pool, output=tmp_path / "run", existing="resume", **given)
    assert resumed.indices == fresh.indices


def test_a_store_marks_bad_rows_and_choices_leave_them_out(store, pool, bad_model, tmp_path):
    """As if they were excluded by name; every byte is as the manifest says; a run of stop refuses the store."""
    assert check_store(store) == []
    norms = np.array(pq.read_table(store / "rows.parquet").column("norm").to_pylist())
    assert np.flatnonzero(np.isnan(norms)).tolist() == BAD
    write_jsonl(tmp_path / "ids.txt", [])
    (tmp_path / "ids.txt").write_text("".join(f"row-{row}\n" for row in BAD))
    for options in (
        {"budget": "30%"},
        {"budget": "5", "quota": {"odd": "2"}},
        {"budget": "200tok", "directions": "all"},
    ):
        marked, excluded = pick(store, **options), pick(store, exclude=str(tmp_path / "ids.txt"), **options)
        assert marked.records[0].picks == excluded.records[0].picks and marked.indices == excluded.indices
        assert marked.summary.not_finite == 3 and excluded.summary.not_finite == 0
    with pytest.raises(ConfigError, match="holds 17 usable rows"):
        pick(store, budget="18")
    whole = pick(store, budget="17", output=tmp_path / "chosen")
    assert sorted(whole.indices) == [row for row in range(ROWS) if row not in BAD]
    assert "3 rows could not be chosen" in (tmp_path / "chosen" / "report.html").read_text()
    with pytest.raises(ModelError, match=r"p\.jsonl, row 4"):
        compute_gradients(pool, model=bad_model, output=store, **STORE)


def test_given_rows_without_a_gradient_are_as_if_not_given(store, bad_model, good_rows, tmp_path):
    """The same picks beside a store of the given rows that have one."""
    mine = [{**row, "id": f"mine-{i}"} for i, row in enumerate(chat_rows(9, seed=4))]
    bad, good = poisoned(mine, [0, 5]), [row for i, row in enumerate(mine) if i not in (0, 5)]
    like = {"model": bad_model, "proxy_of": store, "batch_tokens": 1, **STORE}
    own = {**like, "proxy_of": None}
    compute_gradients(good_rows, output=tmp_path / "pool", **own)
    compute_gradients(bad, output=tmp_path / "bad", on_bad_gradient="skip", **{**like, "proxy_of": tmp_path / "pool"})
    compute_gradients(good, output=tmp_path / "good", **{**like, "proxy_of": tmp_path / "pool"})
    found = [pick(tmp_path / "pool", budget="6", given=str(tmp_path / name)) for name in ("bad", "good")]
    assert found[0].indices == found[1].indices
    assert found[0].records[0].measures.information == pytest.approx(found[1].records[0].measures.information)


def test_where_no_row_can_be_used_there_is_no_choice(bad_model, tmp_path):
    rows = poisoned(chat_rows(9), list(range(9)))
    for options in ({}, {"warmup_steps": 0}, {"method": "ifd"}, {"candidates": "all", "dim": 64}):
        with pytest.raises(ModelError, match=r"no row (can be chosen|is left to choose from)"):
            select(rows, model=bad_model, on_bad_gradient="skip", **{**FAST, "budget": "2", **options})


def test_a_pool_of_bad_rows_alone_yields_nothing_and_the_others_their_share(bad_model):
    """Candidate pools of one row each, a third of them bad."""
    rows = poisoned(chat_rows(9), [0, 4, 8])
    found = select(rows, model=bad_model, on_bad_gradient="skip", warmup_steps=0, candidates=1, budget="9", lora_rank=2)
    assert sorted(found.indices) == [1, 2, 3, 5, 6, 7]
    assert [len(record.rows) + len(record.bad) for record in found.records] == [1] * 9


def clearly_above(ratio):
    return ratio > 1.1


def clearly_below(ratio):
    return ratio < 0.9


def test_gradients_that_overflow_when_squared_are_named_and_skipped(tiny_model, tmp_path):
    """Steep logits: losses are finite, norms grow as the factor. Bad are the rows beyond float32's root.

    Near it the norm of the projection decides as well, which differs by some parts in a hundred.
    """
    steep = {"lora_rank": 2, "warmup_steps": 0, "dim": 64}
    rows = chat_rows(12)
    less = save_steep_model(tiny_model, tmp_path / "less", 1e9)
    record = select(rows, model=less, candidates=12, budget="3", **FROZEN_PROXY).records[0]
    norms = np.array(record.measures.norm)
    norm_of = dict(zip(record.rows, norms.tolist(), strict=True))
    factor = 1e9 * math.sqrt(FLOAT32_MAX) / float(np.median(norms))
    model = save_steep_model(tiny_model, tmp_path / "steep", factor)
    beyond, below = (
        {row for row, norm in norm_of.items() if far(norm / np.median(norms))} for far in (clearly_above, clearly_below)
    )
    assert beyond and below
    with pytest.raises(ModelError, match=r"\(id 'row-\d+'\): its gradient is not finite"):
        compute_gradients(rows, model=model, output=tmp_path / "store", **steep)
    made = compute_gradients(rows, model=model, output=tmp_path / "store", on_bad_gradient="skip", **steep)
    bad = set(torch.isinf(made.squared_norms()).nonzero()[:, 0].tolist())
    assert beyond <= bad and not below & bad and torch.isfinite(made.block(0, 12)).all()
    assert not set(pick(made, budget="3").indices) & bad
    # A candidate pool sums its factors in float64 and overflows later: all of it, far beyond.
    steepest = save_steep_model(tiny_model, tmp_path / "steepest", 100 * factor)
    with pytest.raises(ModelError, match="its gradient is not finite"):
        select(rows, model=steepest, candidates=12, budget="3", **FROZEN_PROXY)
    with pytest.raises(ModelError, match=r"(?s)warm-up|its gradient is not finite"):
        select(rows, model=steepest, candidates=12, budget="3", lora_rank=2)
    with pytest.raises(ModelError, match="no row can be chosen: each of the 12"):
        select(rows, model=steepest, candidates=12, budget="3", on_bad_gradient="skip", **FROZEN_PROXY)


BROKEN = 60


class Spoiled:
    """An example whose first token is one that the model has no finite embedding for."""

    def __init__(self, example, token):
        self.input_ids, self.trained = np.where(example.input_ids == BROKEN, 1, example.input_ids), example.trained
        self.input_ids[0] = token


def spoiled_training(places, on_bad):
    """Weights and losses after training on ten examples of which those at `places` are bad, four a step."""
    proxy, examples = tiny_proxy("llama"), random_examples(10, seed=2)
    with torch.no_grad():
        proxy.model.get_input_embeddings().weight[BROKEN] = math.nan
    rows = [Spoiled(example, BROKEN if place in places else 1) for place, example in enumerate(examples)]
    optimizer = ProxyOptimizer(proxy, 1e-2, 3)
    losses = optimizer.train_on(rows, 4, on_bad=on_bad)
    return proxy, optimizer, losses, rows


def weights_of(proxy):
    return torch.cat([layer.weight.detach().flatten() for layer in proxy.factors.values()])


def test_a_training_step_goes_on_without_its_bad_rows():
    """To the bit the steps of the good rows alone; a step of bad rows only is left out and does not count."""
    told = []
    proxy, optimizer, losses, rows = spoiled_training({1, 4, 5, 6, 7}, told.append)
    assert [sorted(bad) for bad in told] == [[1], [4, 5, 6, 7]]
    assert set(told[0].values()) == {"its loss is not finite"}
    other, again, _, _ = spoiled_training(set(), lambda bad: pytest.fail(str(bad)))
    fresh = tiny_proxy("llama")
    expected = ProxyOptimizer(fresh, 1e-2, 3)
    with torch.no_grad():
        fresh.model.get_input_embeddings().weight[BROKEN] = math.nan
    steps = [expected.train_on([rows[i] for i in step], 4)[0] for step in ([0, 2, 3], [8, 9])]
    assert losses == steps and optimizer.steps == 2
    assert torch.equal(weights_of(proxy), weights_of(fresh)) and torch.isfinite(weights_of(proxy)).all()
    assert again.steps == 3 and torch.isfinite(weights_of(other)).all()


def test_a_training_step_that_may_not_skip_changes_nothing():
    proxy = tiny_proxy("llama")
    before = weights_of(proxy).clone()
    with torch.no_grad():
        proxy.model.get_input_embeddings().weight[BROKEN] = math.inf
    optimizer = ProxyOptimizer(proxy, 1e-2, 3)
    with pytest.raises(ModelError, match="row 0: its loss is not finite"):
        optimizer.train_on([Spoiled(example, BROKEN) for example in random_examples(2, seed=1)], 2)
    assert torch.equal(weights_of(proxy), before) and optimizer.steps == 0


@pytest.mark.parametrize("form", [{"candidates": 6}, {"candidates": "all", "dim": 32}, {"candidates": 1}])
def test_zero_gradients_and_copies_fill_every_budget(form, tiny_model, tmp_path):
    """A model whose logits are constant gives zero gradients; a pool of one row, copied, gives equal ones."""
    flat = save_steep_model(tiny_model, tmp_path / "flat", 0.0)
    copies = [{**chat_rows(1)[0], "id": f"copy-{i}"} for i in range(12)]
    for rows, model, budgets in ((chat_rows(12), flat, ("7",)), (copies, tiny_model, ("1", "12"))):
        for budget in budgets:
            found = select(rows, model=model, budget=budget, lora_rank=2, warmup_steps=0, **form)
            assert found.summary.kept == int(budget) == len(set(found.indices)) and found.summary.not_finite == 0
            assert all(math.isfinite(gain) for r in found.records if r.measures for gain in r.measures.gain)
            assert found.summary.quality.certificate <= 1.0
        for budget, remedy in (("0", "budget"), ("13", "ask for at most 12")):
            with pytest.raises(ConfigError, match=remedy):
                select(rows, model=model, budget=budget, lora_rank=2, warmup_steps=0, **form)


def test_a_pool_of_one_row(tiny_model):
    for form in ({}, {"candidates": "all", "dim": 32}, {"method": "dpp"}):
        assert select(chat_rows(1), model=tiny_model, budget="1", lora_rank=2, **form).indices == [0]


def test_a_study_skips_bad_rows_alike_now_and_from_what_it_kept(pool, bad_model, tmp_path):
    """The Gram matrix is read again with its marks, also by a study that stopped at them before."""
    base = {
        "model": bad_model,
        "lora_rank": 2,
        "warmup_steps": 0,
        "update_every": "never",
        "budget": "5",
        "candidates": 120,
    }
    for _ in range(2):
        stopping = prepare([str(pool)], resolve({}, base), NoProgress())
        with pytest.raises(ModelError, match=r"row 4.*its loss is not finite"):
            frozen_picks(stopping, stopping.config, 0, tmp_path, NoProgress())
    skipping = resolve({}, {**base, "on_bad_gradient": "skip"})
    (tmp_path / "new").mkdir()
    kept, computed = (
        frozen_picks(stopping, skipping, 0, place, NoProgress())[0] for place in (tmp_path, tmp_path / "new")
    )
    assert kept == computed and len(kept) == 5 and not set(kept) & set(BAD)


def test_a_heldout_loss_that_is_not_finite_names_its_row(pool, bad_model):
    model = AutoModelForCausalLM.from_pretrained(bad_model).eval()
    with pytest.raises(ModelError, match=r"p.jsonl, row 4: the loss of row 'row-3' .*2 others"):
        heldout_loss(model, read_pool([str(pool)], AutoTokenizer.from_pretrained(bad_model)), resamples=2)


@pytest.mark.parametrize("logs", [{"loss": math.nan, "grad_norm": 1.0}, {"loss": 1.0, "grad_norm": math.inf}])
def test_fine_tuning_ends_at_a_loss_or_gradient_that_is_not_finite(logs):
    """The step is reported as broken, so no checkpoint is written; an ordinary step is not."""
    arguments, steps, control = TrainingArguments(), Steps(NoProgress(), 1, 1), TrainerControl()
    steps.on_log(arguments, TrainerState(), control, {"loss": 1.0, "grad_norm": 3.0})
    assert not steps.diverged and not control.should_training_stop
    steps.on_log(arguments, TrainerState(), control, logs)
    assert steps.diverged and control.should_training_stop


def test_the_command_line_says_both(pool, bad_model, tmp_path):
    options = [str(pool), "--model", bad_model, "--candidates", "8", "--lora-rank", "2", "--budget", "6"]
    stopped = CliRunner().invoke(run_command, [*options, "--output", str(tmp_path / "run")])
    assert isinstance(stopped.exception, ModelError)
    skipped = [*options, "--resume", "--on-bad-gradient", "skip", "--output", str(tmp_path / "run")]
    done = CliRunner().invoke(run_command, skipped)
    assert done.exit_code == 0 and "rows not choosable        3;" in done.output
    assert "on_bad_gradient: skip" in (tmp_path / "run" / "run.yaml").read_text()


@pytest.mark.slow
def test_two_processes_skip_the_rows_that_one_does(pool, bad_model, fresh, tmp_path):
    """Bad rows in the warm-up's steps, in pools of both processes."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in FAST.items()]
    command = ["run", pool, "--model", bad_model, "--on-bad-gradient", "skip", *options, "--output", tmp_path / "run"]
    done = spice_together(2, *command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_jsonl(tmp_path / "run" / "selected.jsonl") == fresh.rows
    assert Path(tmp_path / "run" / "report.html").exists()
