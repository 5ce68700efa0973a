"""Laws of selection while training: plain training on the same batches, the definition's choices, also if resumed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, TrainerCallback

from oracles import selecting
from oracles.forked import torchrun
from oracles.gradient_oracle import gram_error
from oracles.selecting import (
    CHOICE,
    ROWS,
    lora_model,
    plain_trainer,
    prompt_rows,
    same_weights,
    token_rows,
    trl_trainer,
    weights_of,
)
from spice_select.choices import PoolRecord
from spice_select.errors import ConfigError, ModelError, OutputError, PoolError, SpiceSelectError
from spice_select.information import (
    gradient_scales,
    principal_gram,
    principal_rank,
    relative_alpha,
    scale_gram,
    select_from_gram,
)
from spice_select.progress import NoProgress
from spice_select.report.build import build
from spice_select.report.finished_run import open_run
from spice_select.schedule.checkpoint import Checkpoint
from spice_select.trainers import SelectingSampler

KINDS = {"transformers": plain_trainer, "trl": trl_trainer}


def batches_of(sampler):
    """All batches of a training that has ended, epoch by epoch: what was chosen is handed out again."""
    found = []
    for epoch in range(sampler.epoch + 1):
        sampler.epoch = epoch
        found.append(list(sampler))
    return found


@pytest.fixture(autouse=True)
def _own_precision(monkeypatch):
    """A training in bfloat16 by transformers 4 leaves this for the next one in the process."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_those_of_plain_training_on_the_same_batches(kind, tiny_model, tmp_path):
    """To the bit, with dropout: no hook, no gradient, no random number of the choices is left behind."""
    make, options = KINDS[kind], {"gradient_checkpointing": kind == "trl"}
    model = lora_model(tiny_model, lora_dropout=0.2)
    trainer = make(model, tmp_path / "t", num_train_epochs=2, **options)
    sampler = SelectingSampler(trainer, output=tmp_path / "chosen", **CHOICE)
    trainer.train()
    batches = batches_of(sampler)
    assert [len(rows) for rows in batches] == [5, 5] and batches[0] != batches[1]

    other = make(lora_model(tiny_model, lora_dropout=0.2), tmp_path / "u", num_train_epochs=2, **options)
    plain, epochs = other.get_train_dataloader(), iter(batches)

    class InOrder:
        def __len__(self):
            return len(batches[0])

        def __iter__(self):
            yield from next(epochs)

    loader = DataLoader(plain.dataset, batch_sampler=InOrder(), collate_fn=plain.collate_fn)
    other.get_train_dataloader = lambda: other.accelerator.prepare(loader)
    other.train()
    assert same_weights(weights_of(trainer.model), weights_of(other.model))
    assert not same_weights(weights_of(trainer.model), weights_of(lora_model(tiny_model)))


class Copies(TrainerCallback):
    """The adapters at the start of each optimizer step, which is when its rows have been chosen."""

    def __init__(self):
        self.kept = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.kept.append(weights_of(model))


def gradients(model, rows) -> torch.Tensor:
    """[n, P] float64: each row alone, its mean loss by the model's own forward pass, autograd's gradient."""
    model.eval()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    found = []
    for row in rows:
        ids, labels = (torch.tensor([row[key]]) for key in ("input_ids", "labels"))
        loss = model(input_ids=ids, labels=labels).loss
        found.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, trained)]).double())
    return torch.stack(found)


def records_of(directory: Path) -> dict[int, PoolRecord]:
    return Checkpoint(directory / "checkpoint").records()


def test_each_choice_is_the_definitions_by_the_adapters_as_they_stand(tiny_model, tmp_path):
    """A pool a step: its Gram matrix is of autograd's gradients after the step before, its picks the greedy ones."""
    data, copies = token_rows(36), Copies()
    trainer = plain_trainer(lora_model(tiny_model), tmp_path / "t", data, per_device_train_batch_size=2)
    trainer.add_callback(copies)
    schedule = {"candidates": 9, "picks": 4, "update_every": 1}
    SelectingSampler(trainer, output=tmp_path / "chosen", **schedule)
    trainer.train()
    records = records_of(tmp_path / "chosen")
    assert len(records) == len(copies.kept) == 4
    for step, weights in enumerate(copies.kept):
        record = records[step]
        model = lora_model(tiny_model)
        model.load_state_dict(weights)
        each = gradients(model, [data[row] for row in record.rows])
        gram = Checkpoint(tmp_path / "chosen" / "checkpoint").gram(step)
        assert gram_error(gram, each @ each.T) < 1e-5
        lengths = torch.tensor([sum(label != -100 for label in data[row]["labels"]) for row in record.rows])
        scaled = scale_gram(gram, gradient_scales("geometric", lengths, gram.diagonal()))
        scaled = principal_gram(scaled, principal_rank(record.quota))
        assert record.picks == list(select_from_gram(scaled, record.quota, relative_alpha(scaled, 1.0), 0.1).indices)


@pytest.mark.parametrize(("kind", "lost"), [("transformers", False), ("transformers", True), ("trl", False)])
def test_a_resumed_training_is_the_undisturbed_one(kind, lost, tiny_model, tmp_path):
    """The same order, weights and record; where the record was lost, the order is in the checkpoint all the same."""

    def make():
        model = lora_model(tiny_model, lora_dropout=0.2)
        return KINDS[kind](model, tmp_path / "t", num_train_epochs=2, save_strategy="steps", save_steps=1)

    whole = make()
    order = SelectingSampler(whole, output=tmp_path / "chosen", **CHOICE)
    whole.train()
    expected, scores = batches_of(order), pq.read_table(tmp_path / "chosen" / "scores.parquet")
    if lost:
        shutil.rmtree(tmp_path / "chosen")
    # In the middle of an epoch and of a cycle; the first of the second epoch. Transformers 4, resumed within an epoch,
    # trains on no incomplete accumulation at its end, whatever the sampler: there, between two epochs.
    for step in (3,) if transformers.__version__.startswith("4.") else (1, 4):
        resumed = make()
        again = SelectingSampler(resumed, output=tmp_path / "chosen", **CHOICE)
        resumed.train(resume_from_checkpoint=str(tmp_path / "t" / f"checkpoint-{step}"))
        assert batches_of(again) == expected
        assert same_weights(weights_of(resumed.model), weights_of(whole.model))
        found = pq.read_table(tmp_path / "chosen" / "scores.parquet")
        columns = ["index", "rank", "picked"] if lost else found.column_names
        if not lost:
            assert found.select(columns).equals(scores.select(columns))
        assert found["picked"].equals(scores["picked"])


@pytest.mark.slow
def test_two_processes_choose_what_one_does(tiny_model, tmp_path):
    """Pools shared between them, one choice: the same rows in every cycle, the same weights up to rounding."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(selecting.__file__).parents[1]), *filter(None, sys.path)])
    results = []
    for processes, share in ((1, 4), (2, 2)):
        place = tmp_path / str(processes)
        place.mkdir()
        if processes == 1:
            selecting.main(tiny_model, place, share)
        else:
            words = torchrun(processes, selecting.__file__, tiny_model, place, share)
            done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr[-3000:]
        results.append(json.loads((place / "result.json").read_text()))
    one, two = results
    assert one["chosen"] == two["chosen"] and len(one["chosen"]) == 12
    for name, values in one["adapters"].items():
        torch.testing.assert_close(torch.tensor(values), torch.tensor(two["adapters"][name]), rtol=1e-3, atol=1e-5)
    for pool, record in records_of(tmp_path / "1" / "chosen").items():
        assert record.picks == records_of(tmp_path / "2" / "chosen")[pool].picks
    assert open_run(tmp_path / "2" / "chosen").missing == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_is_a_run_that_report_explains(kind, tiny_model, tmp_path):
    """Every row once in a lap, the picked ones those trained on, with texts and sources; the page has no gap."""
    trainer = KINDS[kind](lora_model(tiny_model), tmp_path / "t")
    sampler = SelectingSampler(trainer, output=tmp_path / "chosen", rows=20, **CHOICE)
    trainer.train()
    (batches,) = batches_of(sampler)
    table = pq.read_table(tmp_path / "chosen" / "scores.parquet").to_pandas()
    assert len(table) == 2 * ROWS and table["picked"].sum() == 20  # a lap trains 14
    assert sorted(table[table["picked"]]["index"] % ROWS) == sorted(row for batch in batches for row in batch)
    first = table[table["index"] < ROWS]
    assert first["picked"].sum() == 14 and first["score"].notna().all()
    assert set(table["source"]) == ({"even", "odd"} if kind == "transformers" else {"train_dataset"})
    report = build(tmp_path / "chosen", NoProgress())
    assert report.notes == [] and report.theory is not None
    texts = {row.line.location: (row.prompt, row.response) for row in report.rows}
    question, answer = (
        prompt_rows()[0]["prompt"][0]["content"],
        prompt_rows()[0]["completion"][0]["content"],
    )
    prompt, response = texts["train_dataset[0]"]
    assert question in prompt and answer in response and answer not in prompt


def test_a_target_turns_the_choice_and_its_rows_are_never_picked(tiny_model, tmp_path):
    data = prompt_rows()
    chosen = {}
    for name in ("plain", "aimed"):
        trainer = trl_trainer(lora_model(tiny_model), tmp_path / "t", data, eval_strategy="no")
        trainer.eval_dataset = trl_trainer(lora_model(tiny_model), tmp_path / "u", data.select([3, 4, 5])).train_dataset
        target = {"target": trainer.eval_dataset} if name == "aimed" else {}
        sampler = SelectingSampler(trainer, output=tmp_path / name, **CHOICE, **target)
        trainer.train()
        chosen[name] = {row for batch in batches_of(sampler)[0] for row in batch}
    assert chosen["plain"] != chosen["aimed"] and not chosen["aimed"] & {3, 4, 5}
    table = pq.read_table(tmp_path / "aimed" / "scores.parquet").to_pandas().set_index("index")
    assert table.loc[[3, 4, 5], "problem"].str.startswith("equals target row target[").all()
    run = open_run(tmp_path / "aimed")
    assert run.missing == [] and len(run.pools) == 5
    assert [chat.id for chat in run.target_chats()] == ["target[0]", "target[1]", "target[2]"]


def test_bfloat16_is_measured_as_it_is_trained(tiny_model, tmp_path):
    """Under the trainer's autocast the Gram matrix is that of float32 up to bfloat16's rounding."""
    grams = []
    for bf16 in (False, True):
        trainer = plain_trainer(lora_model(tiny_model), tmp_path / "t", bf16=bf16, max_steps=1)
        SelectingSampler(trainer, output=tmp_path / str(bf16), **CHOICE)
        trainer.train()
        grams.append(Checkpoint(tmp_path / str(bf16) / "checkpoint").gram(0))
    assert 1e-6 < gram_error(grams[1], grams[0]) < 0.05


def dora(directory):
    return lora_model(directory, use_dora=True)


def with_head(directory):
    return lora_model(directory, modules_to_save=["lm_head"])


def two_adapters(directory):
    model = lora_model(directory)
    model.add_adapter("second", LoraConfig(r=2, target_modules="all-linear"))
    model.base_model.set_adapter(["default", "second"])
    return model


def frozen(directory):
    model = lora_model(directory)
    for weight in model.parameters():
        weight.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (AutoModelForCausalLM.from_pretrained, "not a PEFT model"),
        (dora, "variant of LoRA"),
        (with_head, "lm_head.* is trained, but is no factor"),
        (two_adapters, "several adapters are active"),
        (frozen, "no LoRA layer whose factors are all trained"),
    ],
)
def test_models_whose_gradients_are_not_lora_s_are_refused(make, said, tiny_model, tmp_path):
    trainer = plain_trainer(make(tiny_model), tmp_path / "t")
    with pytest.raises(ModelError, match=said):
        SelectingSampler(trainer, output=tmp_path / "chosen")
    assert "get_train_dataloader" not in vars(trainer)


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({"dataloader_num_workers": 1}, {}, "dataloader_num_workers=0"),
        ({"auto_find_batch_size": True}, {}, "auto_find_batch_size=False"),
        ({"ignore_data_skip": True}, {}, "ignore_data_skip=False"),
        ({"accelerator_config": {"split_batches": True}}, {}, "split_batches"),
        ({"dataloader_drop_last": True}, {"rows": 2}, "less than a batch of 3"),
        ({}, {"picks": 200}, "choose 1 to 120"),
        ({}, {"rows": 0}, "at least one row"),
        ({}, {"budget": "10%"}, "unknown option 'budget'"),
        ({}, {"method": "random"}, "not by random"),
        ({}, {"penalty": -1}, "penalty"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(settings, options, said, tiny_model, tmp_path):
    trainer = plain_trainer(lora_model(tiny_model), tmp_path / "t", **settings)
    with pytest.raises(ConfigError, match=said):
        SelectingSampler(trainer, output=tmp_path / "chosen", **options)


def test_packed_rows_and_rows_without_labels_are_refused(tiny_model, tmp_path):
    for options in ({"packing": True, "max_length": 64}, {"padding_free": True}):
        from trl import SFTConfig, SFTTrainer

        args = SFTConfig(**{**selecting.arguments(tmp_path / "t"), "max_length": None, **options})
        packed = SFTTrainer(lora_model(tiny_model), args=args, train_dataset=prompt_rows(),
                            processing_class=selecting.byte_tokenizer())  # fmt: skip
        with pytest.raises(PoolError, match=r"hold .*position_ids"):
            SelectingSampler(packed, output=tmp_path / "chosen")
    untrained = token_rows().map(lambda row: {"labels": [-100] * len(row["labels"])})
    trainer = plain_trainer(lora_model(tiny_model), tmp_path / "t", untrained)
    with pytest.raises(PoolError, match="no row has a trained token"):
        SelectingSampler(trainer, output=tmp_path / "chosen")


def test_a_record_is_not_replaced_unasked_nor_continued_on_other_data(tiny_model, tmp_path):
    def training(**options):
        trainer = plain_trainer(
            lora_model(tiny_model), tmp_path / "t", save_strategy="steps", save_steps=1, max_steps=1
        )
        SelectingSampler(trainer, output=tmp_path / "chosen", **{**CHOICE, **options})
        return trainer

    training().train()
    with pytest.raises(OutputError, match="finished run"):
        training().train()
    with pytest.raises(OutputError, match="penalty"):
        training(penalty=0.3).train(resume_from_checkpoint=str(tmp_path / "t" / "checkpoint-1"))
    training(overwrite=True).train()


def test_a_row_without_a_gradient_stops_the_training_with_its_place(tiny_model, tmp_path):
    model = lora_model(tiny_model)
    trainer = plain_trainer(model, tmp_path / "t")
    SelectingSampler(trainer, output=tmp_path / "chosen", **CHOICE)
    with torch.no_grad():
        next(weight for weight in model.parameters() if weight.requires_grad).fill_(float("nan"))
    with pytest.raises(SpiceSelectError, match=r"train_dataset\[\d+\].*not finite"):
        trainer.train()
    assert all(weight.requires_grad == ("lora_" in name) for name, weight in model.named_parameters())


def test_plain_lora_of_any_name_is_measured(tiny_model, tmp_path):
    """Another adapter's name, ranks of single layers, rsLoRA's scaling; a row left out for want of a trained token."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=4, use_rslora=True, rank_pattern={"q_proj": 2}, target_modules=["q_proj", "up_proj"]
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config, adapter_name="mine")
    rows = [{**row, "labels": [-100] * len(row["labels"])} if i == 7 else row for i, row in enumerate(token_rows())]
    data = token_rows().from_list(rows)
    trainer = plain_trainer(model, tmp_path / "t", data)
    start = weights_of(model)
    SelectingSampler(trainer, output=tmp_path / "chosen", **CHOICE)
    trainer.train()
    record = records_of(tmp_path / "chosen")[0]
    model.load_state_dict(start)
    places = [row for row in range(ROWS) if row != 7]
    each = gradients(model, [data[places[row]] for row in record.rows])
    assert gram_error(Checkpoint(tmp_path / "chosen" / "checkpoint").gram(0), each @ each.T) < 1e-5
    assert len(pq.read_table(tmp_path / "chosen" / "scores.parquet")) == ROWS - 1
    assert json.loads((tmp_path / "chosen" / "manifest.json").read_text())["totals"]["rejected"] == 1
