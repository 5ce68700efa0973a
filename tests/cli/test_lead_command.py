"""LEAD as users run it, on a tiny model: whole runs, kills, budgets, rows that cannot be used, refusals."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from oracles import lead_oracle as oracle
from oracles.forked import spice, spice_together
from oracles.poison import poisoned, save_poisoned_model
from oracles.runs import chat_rows, write_jsonl
from spice_select import compute_gradients, pick, select
from spice_select.config import resolve
from spice_select.errors import ConfigError
from spice_select.methods.ifd import difficulty
from spice_select.methods.lead import clusters_of
from spice_select.prepared import prepare
from spice_select.progress import NoProgress
from spice_select.schedule import lead
from spice_select.schedule.ranking import response_and_prompt_losses

QUICK = {"warmup_passes": 1}
FAST = {"method": "lead", "lora_rank": 2, "learning_rate": 5e-3, "constants": QUICK}


class InterruptionError(Exception):
    """Ends a run in the middle, as a kill does."""


class Notes(NoProgress):
    """Keeps what is said, and what the last stage has counted; interrupts rounds when so many rows are picked."""

    def __init__(self, interrupt=None):
        self.lines, self.interrupt = [], interrupt

    def begin(self, stage, rows, tokens):
        self.stage, self.wanted, self.counted = stage, (rows, tokens), (0, 0)

    def advance(self, rows, tokens):
        self.counted = self.counted[0] + rows, self.counted[1] + tokens
        if self.stage == "rounds" and self.interrupt is not None and self.counted[0] >= self.interrupt:
            raise InterruptionError

    def note(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Sources of 30, 29 and 1 rows; some responses are copies."""
    rows = [{**row, "source": "ab"[i % 2]} for i, row in enumerate(chat_rows(60))]
    rows[7]["source"] = "alone"
    rows[20]["messages"] = rows[4]["messages"]
    return write_jsonl(tmp_path_factory.mktemp("pool") / "p.jsonl", rows)


@pytest.fixture(scope="module")
def reference(pool, tiny_model):
    return select(pool, model=tiny_model, budget="12", **FAST)


def test_the_choice_is_the_definition_on_the_proxys_losses(pool, tiny_model, reference):
    """The rounds of the oracle, with losses and training of the real proxy; the picks are not the first by loss."""
    config = resolve({}, {**FAST, "model": tiny_model, "budget": "12"})
    prepared = prepare([pool], config, NoProgress())
    examples, proxy = prepared.pool.examples, prepared.proxy(NoProgress())
    model = lead._Model(proxy, examples, prepared.config, NoProgress())
    first = np.round(np.array(model.losses(range(60))) * 2**16) / 2**16
    model.warm_up()
    losses = response_and_prompt_losses(examples, proxy, NoProgress())
    assert losses.conditioned != pytest.approx(first, abs=1e-3), "the warm-up changed the model"
    model.start_anew()
    assert model.losses(range(60)) == pytest.approx(first, abs=1e-4), "the rounds start from the model as it was"
    clusters = clusters_of(difficulty(losses.conditioned, losses.direct), 7).tolist()

    class OnGrid:
        train = model.train

        def losses(self, rows):
            return [round(loss * 2**16) / 2**16 for loss in model.losses(rows)]

    picks = []
    sources = [line.source for line in prepared.pool.listing().lines]
    constants = {"exploration": 0.1, "share": 0.015, "most_uses": 4}
    for _, _, new in oracle.rounds(clusters, sources, first.tolist(), OnGrid(), 5e-3, 0, **constants):
        picks += new
        if len(picks) >= 12:
            break
    assert reference.records[0].picks == picks[:12]
    assert picks[:12] != sorted(range(60), key=lambda row: -first[row])[:12]


@pytest.mark.parametrize("tokens", [1, 300, 5000])
def test_batches_do_not_change_the_choice(pool, tiny_model, reference, tokens):
    found = select(pool, model=tiny_model, budget="12", batch_tokens=tokens, **FAST)
    assert found.records == reference.records


def test_a_smaller_budget_is_a_beginning_and_a_seed_another_choice(pool, tiny_model, reference):
    shared = {"model": tiny_model, **FAST}
    few_clusters = {**shared, "constants": {**QUICK, "clusters": 1, "share": 1.0}}
    assert select(pool, budget="5", **shared).records[0].picks == reference.records[0].picks[:5]
    assert select(pool, budget="12", seed=1, **shared).records[0].picks != reference.records[0].picks
    coarse = select(pool, budget="12", **few_clusters)
    assert coarse.records[0].picks != reference.records[0].picks and len(coarse.indices) == 12


def test_a_budget_of_all_rows_and_one_in_tokens(pool, tiny_model):
    every = select(pool, model=tiny_model, budget="100%", **{**FAST, "constants": {**QUICK, "share": 0.5}})
    assert sorted(every.indices) == list(range(60)) and every.records[0].picks == every.indices
    notes = Notes()
    some = select(pool, model=tiny_model, budget="300tok", progress=notes, **FAST)
    lengths = [line.trained_tokens for line in some.pool.lines]
    assert abs(sum(lengths[row] for row in some.indices) - 300) <= max(lengths) / 2
    assert notes.stage == "rounds" and notes.wanted[1] == 300 == notes.counted[1]
    assert any(" rounds of " in line for line in notes.lines)


def test_few_rows_of_one_token_each(tiny_model, tmp_path):
    """Fewer rows than clusters; then no row with an IFD: responses are cut to one token."""
    asked = [{"role": "user", "content": "a b"}]
    rows = [{"messages": [*asked, {"role": "assistant", "content": text}]} for text in "abc"]
    whole = select(write_jsonl(tmp_path / "p.jsonl", rows), model=tiny_model, budget="100%", **FAST)
    prompt = min(line.tokens - line.trained_tokens for line in whole.pool.lines)  # a line break after the response, too
    cut = select(tmp_path / "p.jsonl", model=tiny_model, budget="2", max_length=prompt, **FAST)
    assert {line.trained_tokens for line in cut.pool.lines} == {1} and len(cut.indices) == 2


def test_a_run_writes_what_others_do_and_resumes_to_the_same(pool, tiny_model, reference, tmp_path):
    """Interrupted in its rounds, it starts anew; its page, manifest and YAML name method and constants."""
    place, options = tmp_path / "run", {"model": tiny_model, "budget": "12", **FAST}
    with pytest.raises(InterruptionError):
        select(pool, output=place, progress=Notes(interrupt=6), **options)
    assert not (place / "manifest.json").exists() and not [*place.glob("checkpoint/pool-*")]
    notes = Notes()
    assert select(pool, output=place, existing="resume", progress=notes, **options).records == reference.records
    assert "lead keeps nothing before its choice is made, and starts anew" in notes.lines
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["config"]["constants"]["clusters"] == 7 and manifest["totals"]["kept"] == 12
    assert manifest["totals"]["quality"] is None and manifest["seconds"]["proxy training"] > 0
    assert "lead" in (place / "report.html").read_text()
    again = spice("run", "--config", place / "run.yaml", "--output", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "scores.parquet").read_bytes() == (place / "scores.parquet").read_bytes()
    table = pq.read_table(place / "scores.parquet").to_pylist()
    picked = sorted((line["rank"], line["index"]) for line in table if line["picked"])
    assert [row for _, row in picked] == reference.records[0].picks


def test_rows_whose_loss_is_not_finite(tiny_model, tmp_path):
    """The run stops at the first, or chooses among the others as if those were not in the pool."""
    bad = [3, 7, 12]
    model = save_poisoned_model(tiny_model, tmp_path / "bad-model")
    rows = [{**row, "source": "one"} for row in chat_rows(20)]
    with_bad = write_jsonl(tmp_path / "with.jsonl", poisoned(rows, bad))
    without = write_jsonl(tmp_path / "without.jsonl", [row for i, row in enumerate(rows) if i not in bad])
    stopped = spice("run", with_bad, "--method", "lead", "--model", model, "--output", tmp_path / "none")
    assert stopped.returncode == 2 and "row 4 (id 'row-3'): its loss is not finite" in stopped.stderr
    found = select(with_bad, model=model, budget="6", on_bad_gradient="skip", **FAST)
    assert [row.row for row in found.records[0].bad] == bad
    assert [row["id"] for row in found.rows] == [
        row["id"] for row in select(without, model=model, budget="6", **FAST).rows
    ]
    everything = select(with_bad, model=model, budget="100%", on_bad_gradient="skip", **FAST)
    assert sorted(everything.indices) == [row for row in range(20) if row not in bad]


def test_a_row_that_goes_bad_while_the_proxy_trains_is_not_chosen(pool, tiny_model, monkeypatch):
    options = {"model": tiny_model, "budget": "12", "on_bad_gradient": "skip", **FAST}
    real, gone = lead.conditioned_losses, []

    def failing(examples, proxy, progress=None):
        found = real(examples, proxy, progress)
        if progress is None and not gone:
            gone.append(examples[0].index)
        return [math.inf if example.index in gone else loss for example, loss in zip(examples, found, strict=True)]

    monkeypatch.setattr(lead, "conditioned_losses", failing)
    found = select(pool, **options)
    assert [row.row for row in found.records[0].bad] == gone and gone[0] not in found.indices
    assert len(found.indices) == 12


def test_a_row_that_its_own_training_spoils_stays_chosen(pool, tiny_model, monkeypatch):
    """The run says so, and does not say that the row cannot be chosen."""
    options = {"model": tiny_model, "budget": "12", "on_bad_gradient": "skip", **FAST}
    real, calls, notes = lead.conditioned_losses, list[int](), list[str]()

    def failing(examples, proxy, progress=None):
        found = real(examples, proxy, progress)
        if progress is None:
            calls.append(examples[0].index)
            if len(calls) == 2:  # after the first round's training
                return [math.inf, *found[1:]]
        return found

    class Notes(NoProgress):
        def note(self, text: str) -> None:
            notes.append(text)

    monkeypatch.setattr(lead, "conditioned_losses", failing)
    found = select(pool, progress=Notes(), **options)
    assert calls[0] == calls[1] and calls[1] in found.indices and not found.records[0].bad
    assert any("1 row chosen before, whose loss is not finite after training" in note for note in notes)


def test_a_dry_run_says_what_is_needed(pool, tiny_model, tmp_path):
    done = spice("run", pool, "--method", "lead", "--model", tiny_model, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("forecast: about 0:00:0"), done.stdout + done.stderr
    assert "3 forward passes over the pool, 240 rows trained on in the warm-up" in done.stderr
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "a"}, "target goes with the methods spice, fisher, less, rds, tsds, not with lead"),
        ({"candidates": 120}, "lead chooses among all rows; leave candidates out, or give all"),
        ({"warmup_steps": 9}, "lead has a warm-up of its own: leave warmup_steps out, see its constants"),
        ({"features": "states"}, "features states goes with spice, fisher, less, rds, tsds, not with lead"),
        ({"stop_ratio": 0.5}, "stop_ratio belongs to"),
        ({"quota": {"a": "20%"}}, "quota goes with candidates all and spice"),
        ({"constants": {"clusters": 0}}, "constant clusters of lead: .* greater than or equal to 1"),
        ({"constants": {"rate": 1}}, "lead has no constant 'rate'; its constants: warmup_share 0.01, warmup_passes 4"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        resolve({}, {"method": "lead", **options})
    assert len(str(error.value).splitlines()) == 1


def test_it_is_refused_for_stores_and_in_several_processes(pool, tiny_model, tmp_path):
    store = compute_gradients(pool, output=tmp_path / "store", model=tiny_model, features="states")
    with pytest.raises(
        ConfigError, match=r"^method lead: pick chooses by .*; for other methods use `spice-select run "
    ):
        pick(store, method="lead", budget="5")
    done = spice_together(2, "run", pool, "--method", "lead", "--model", tiny_model, "--output", tmp_path / "none")
    assert done.returncode == 2 and not (tmp_path / "none").exists()
    assert "lead trains one model while it chooses; start it in a single process." in done.stderr


def test_the_change_of_the_weights_is_what_training_did(pool, tiny_model):
    prepared = prepare([pool], resolve({}, {**FAST, "model": tiny_model}), NoProgress())
    model = lead._Model(prepared.proxy(NoProgress()), prepared.pool.examples, prepared.config, NoProgress())
    before = torch.cat([weight.detach().flatten() for weight in model.optimizer.weights.values()])
    change = model.train([1, 2, 3])
    after = torch.cat([weight.detach().flatten() for weight in model.optimizer.weights.values()])
    assert change.abs().max() > 0
    torch.testing.assert_close(before + change, after)
    model.start_anew()
    again = torch.cat([weight.detach().flatten() for weight in model.optimizer.weights.values()])
    assert torch.equal(again, before) and model.optimizer.steps == 0
