"""Laws of fine-tuning: it is TRL's own training on the selection's masks, reproducible, and written whole or not at
all."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from oracles.runs import byte_tokenizer, chat_rows, read_jsonl, write_jsonl
from spice_select import select
from spice_select.errors import ConfigError, ModelError, OutputError, PoolError, SpiceSelectError
from spice_select.gradients.loss import collate, response_losses
from spice_select.pool.examples import PoolOptions, read_pool
from spice_select.recipe import Recipe
from spice_select.training.checkpoint import check_output, write_checkpoint
from spice_select.training.data import training_rows
from spice_select.training.finetune import finetune
from spice_select.training.plan import split_batch
from spice_select.training.trainer import add_lora

pytest.importorskip("trl")

SHORT = Recipe(epochs=1.5, batch_size=4, learning_rate=5e-3, lora_rank=4, lora_alpha=8)


@pytest.fixture(scope="module")
def rows():
    """Nineteen chats, so that the last step of a pass is not full; one of three turns with a system message."""
    chats = chat_rows(18)
    words = ["be brief", "one", "two three", "four", "five", "six"]
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    turns = [{"role": role, "content": text} for role, text in zip(roles, words, strict=True)]
    return [*chats, {"id": "turns", "messages": [*turns, {"role": "assistant", "content": "seven"}]}]


@pytest.fixture(scope="module")
def pool(rows, tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("finetune") / "pool.jsonl", rows)


@pytest.fixture(scope="module")
def reference(pool, tiny_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("reference") / "tuned"
    return finetune(pool, model=tiny_model, output=output, recipe=SHORT)


def adapter(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "adapter_model.safetensors")


def labelled(rows: list[dict]) -> list[dict]:
    """Tokens and labels of ChatML written by hand: the assistant's text and its <|im_end|>, nothing else."""
    tokenizer = byte_tokenizer()
    found = []
    for row in rows:
        ids, labels = [], []
        for message in row["messages"]:
            head = tokenizer.encode(f"<|im_start|>{message['role']}\n")
            body = tokenizer.encode(f"{message['content']}<|im_end|>")
            line_end = tokenizer.encode("\n")
            ids += head + body + line_end
            learned = body if message["role"] == "assistant" else [-100] * len(body)
            labels += [-100] * len(head) + learned + [-100] * len(line_end)
        found.append({"input_ids": ids, "labels": labels})
    return found


def test_the_losses_are_those_of_a_plain_trl_training(rows, reference, tiny_model, tmp_path):
    """TRL prepares, pads and trains by itself here, activations recomputed, on labels made by hand."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    # Adapted here: at which state of the generator TRL draws LoRA's A has changed between its versions.
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    trainer = SFTTrainer(
        model=adapted,
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        train_dataset=datasets.Dataset.from_list(labelled(rows)),
        args=SFTConfig(
            output_dir=str(tmp_path / "plain"),
            num_train_epochs=1.5,
            learning_rate=5e-3,
            lr_scheduler_type="cosine",
            **{"warmup_ratio" if transformers.__version__.startswith("4.") else "warmup_steps": 0.03},
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            seed=0,
            use_cpu=True,
            bf16=False,
            logging_steps=1,
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
        ),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    expected = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert reference.steps == len(expected) == 8  # 19 rows, 4 a step: 5 steps a pass, half of them once more
    assert reference.losses == pytest.approx(expected, abs=1e-4)


def test_the_first_loss_is_the_mean_over_the_trained_tokens_of_selection(pool, tiny_model, tmp_path):
    """One step over all rows, weights untouched (B is zero): the loss that selection takes gradients of, by tokens."""
    everything = Recipe(epochs=1, batch_size=20, lora_rank=2)
    result = finetune(pool, model=tiny_model, output=tmp_path / "t", recipe=everything)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    examples = read_pool([pool], AutoTokenizer.from_pretrained(tiny_model)).examples
    with torch.no_grad():
        means = response_losses(model, collate(examples, torch.device("cpu"))).tolist()
    counts = [example.trained_tokens for example in examples]
    expected = sum(mean * count for mean, count in zip(means, counts, strict=True)) / sum(counts)
    assert result.losses == [pytest.approx(expected, abs=1e-4)]  # transformers 4 rounds to four decimals
    assert (result.rows, result.trained_tokens) == (19, sum(counts))


@pytest.mark.parametrize("max_length", [2048, 40])
def test_the_labels_are_the_masks_of_the_pool(pool, tiny_model, max_length):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    options = PoolOptions(skip_invalid=True, max_length=max_length)
    examples, found = read_pool([pool], tokenizer, options), training_rows(pool, tokenizer, options, [].append)
    assert found.rows == len(examples.examples) and found.left_out == len(examples.rejected)
    assert found.trained_tokens == examples.trained_tokens and found.tokens == examples.total_tokens
    for line, example in zip(found.dataset, examples.examples, strict=True):
        assert line["input_ids"] == example.input_ids.tolist()
        assert [label != -100 for label in line["labels"]] == example.trained.tolist()
        assert all(label in (-100, token) for label, token in zip(line["labels"], line["input_ids"], strict=True))


def test_padding_has_neither_attention_nor_label(rows):
    """TRL's collator keeps the labels that it is given."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    made = labelled(rows)
    batch = DataCollatorForLanguageModeling(pad_token_id=0)(made)
    width = max(len(row["input_ids"]) for row in made)
    for i, row in enumerate(made):
        rest = width - len(row["input_ids"])
        assert batch["input_ids"][i].tolist()[: len(row["input_ids"])] == row["input_ids"]
        assert batch["labels"][i].tolist() == row["labels"] + [-100] * rest
        assert batch["attention_mask"][i].tolist() == [1] * len(row["input_ids"]) + [0] * rest


@pytest.mark.parametrize("rows_at_once", [1, 2, 3])
def test_the_rows_at_once_do_not_change_the_losses(pool, reference, tiny_model, tmp_path, rows_at_once):
    result = finetune(pool, model=tiny_model, output=tmp_path / "t", recipe=SHORT, rows_at_once=rows_at_once)
    assert result.losses == pytest.approx(reference.losses, abs=1e-4)
    other = adapter(tmp_path / "t")
    for name, weight in adapter(reference.output).items():
        assert torch.allclose(weight, other[name], atol=1e-3), name


def test_the_seed_decides_the_adapter(pool, reference, tiny_model, tmp_path):
    again = finetune(pool, model=tiny_model, output=tmp_path / "again", recipe=SHORT)
    other = finetune(pool, model=tiny_model, output=tmp_path / "other", recipe=SHORT.model_copy(update={"seed": 1}))
    weights = (reference.output / "adapter_model.safetensors").read_bytes()
    assert again.losses == reference.losses
    assert (tmp_path / "again" / "adapter_model.safetensors").read_bytes() == weights
    assert other.losses != reference.losses
    assert (tmp_path / "other" / "adapter_model.safetensors").read_bytes() != weights


def test_the_start_depends_on_the_seed_alone(tiny_model):
    def start(recipe: Recipe) -> dict[str, torch.Tensor]:
        torch.rand(3)  # whatever was drawn before
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        return {
            name: weight for name, weight in add_lora(model, recipe, "m", None).state_dict().items() if "lora_" in name
        }

    first, same, other = start(SHORT), start(Recipe(lora_rank=4, epochs=9)), start(Recipe(lora_rank=4, seed=7))
    for name, weight in first.items():
        assert torch.equal(weight, same[name])
        assert torch.equal(weight, other[name]) == ("lora_B" in name)
        assert bool(weight.any()) == ("lora_A" in name)


def test_training_lowers_the_loss_and_the_checkpoint_carries_it(pool, tiny_model, tmp_path):
    """The saved adapter, loaded by PEFT on the model that it names, has a lower loss than the model without it."""
    recipe = Recipe(epochs=8, batch_size=4, learning_rate=1e-2)
    result = finetune(pool, model=tiny_model, output=tmp_path / "t", recipe=recipe)
    assert result.losses[-1] < result.losses[0] - 0.2
    named = json.loads((tmp_path / "t" / "adapter_config.json").read_text())["base_model_name_or_path"]
    base = AutoModelForCausalLM.from_pretrained(named, dtype=torch.float32)
    batch = collate(read_pool([pool], AutoTokenizer.from_pretrained(tmp_path / "t")).examples, torch.device("cpu"))
    with torch.no_grad():
        before = response_losses(base, batch).mean()
        after = response_losses(PeftModel.from_pretrained(base, str(tmp_path / "t")), batch).mean()
    assert after < before - 0.2


def test_a_run_directory_and_its_rows_give_the_same(chat_pool, tiny_model, tmp_path):
    """Without --model the one that the run names is trained."""
    select(chat_pool, model=tiny_model, method="random", budget="12", output=tmp_path / "run")
    one = finetune(tmp_path / "run", output=tmp_path / "one", recipe=SHORT)
    two = finetune(tmp_path / "run" / "selected.jsonl", model=tiny_model, output=tmp_path / "two", recipe=SHORT)
    three = finetune(read_jsonl(tmp_path / "run" / "selected.jsonl"), model=tiny_model, output=tmp_path / "three",
                     recipe=SHORT)  # fmt: skip
    assert one.losses == two.losses == three.losses and one.trained_tokens == two.trained_tokens
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two", "three")]
    assert files[0] == files[1] == files[2]
    assert json.loads((tmp_path / "one" / "finetune.json").read_text())["model"] == tiny_model


def test_a_run_directory_is_trained_as_it_was_chosen(chat_pool, tiny_model, tmp_path, monkeypatch):
    """Its rows are cut where the run cut them; its model, named by a relative path, is found from anywhere."""
    monkeypatch.chdir(Path(tiny_model).parent)
    options = {"method": "random", "budget": "12", "max_length": 64}
    select(chat_pool, model=f"./{Path(tiny_model).name}", output=tmp_path / "run", **options)
    monkeypatch.chdir(tmp_path)
    own = finetune("run", output="own", recipe=SHORT)
    rows = finetune("run/selected.jsonl", model=tiny_model, output="rows",
                    recipe=SHORT.model_copy(update={"max_length": 64}))  # fmt: skip
    whole = finetune("run", output="whole", recipe=Recipe(**SHORT.model_dump(exclude={"max_length"}), max_length=2048))
    assert own.losses == rows.losses and own.trained_tokens == rows.trained_tokens
    assert own.trained_tokens < whole.trained_tokens, "no row was cut: nothing is shown"
    record = json.loads((tmp_path / "own" / "finetune.json").read_text())
    assert record["model"] == str(Path(tiny_model).resolve()) and record["recipe"]["max_length"] == 64


def test_the_checkpoint_holds_what_it_promises(reference, tiny_model):
    record = json.loads((reference.output / "finetune.json").read_text())
    assert (record["format"], record["version"], record["model"]) == ("spice-select-finetune", 1, tiny_model)
    assert record["recipe"] == SHORT.model_dump() and record["losses"] == reference.losses
    assert (record["rows"], record["trained_tokens"]) == (19, reference.trained_tokens)
    assert record["steps"] == len(record["losses"]) and {"trl", "peft", "torch"} <= record["versions"].keys()
    files = {path.name for path in reference.output.iterdir()}
    assert files == set(record["files"]) and "README.md" not in files
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "finetune.json"} <= files
    assert not list(reference.output.parent.glob(".*")), "nothing left beside it"
    modes = {path.stat().st_mode for path in reference.output.iterdir()}
    assert len(modes) == 1, "all files as readable as an ordinary new file"


def test_overwriting_replaces_a_checkpoint_and_nothing_else(tmp_path):
    def save(text):
        return lambda folder: (folder / f"{text}.bin").write_text(text)

    place = tmp_path / "t"
    check_output(place, "refuse")
    write_checkpoint(place, {"rows": 1}, save("old"))
    with pytest.raises(OutputError, match="--overwrite replaces it"):
        check_output(place, "refuse")
    check_output(place, "overwrite")
    write_checkpoint(place, {"rows": 2}, save("new"))
    assert sorted(path.name for path in place.iterdir()) == ["finetune.json", "new.bin"]
    (place / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        check_output(place, "overwrite")
    assert (place / "notes.txt").read_text() == "mine"

    for foreign in ("{}", "[1]", "{", json.dumps({"format": "other", "files": ["finetune.json"]})):
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        (other / "finetune.json").write_text(foreign)
        with pytest.raises(OutputError, match="not written by finetune"):
            check_output(other, "overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "t"]


def test_a_link_to_a_directory_stays_a_link(tmp_path):
    """Outputs are often links to a larger disk; the checkpoint goes where the link leads."""
    (tmp_path / "disk").mkdir()
    place = tmp_path / "t"
    place.symlink_to(tmp_path / "disk", target_is_directory=True)
    for text in ("old", "new"):
        check_output(place, "overwrite")
        write_checkpoint(place, {"rows": 1}, lambda folder, text=text: (folder / f"{text}.bin").write_text(text))
    assert place.is_symlink()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["finetune.json", "new.bin"]


def test_a_failure_while_writing_leaves_the_old_checkpoint(tmp_path):
    place = tmp_path / "t"
    write_checkpoint(place, {"rows": 1}, lambda folder: (folder / "a.bin").write_text("old"))

    def fail(folder: Path) -> None:
        (folder / "a.bin").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        write_checkpoint(place, {"rows": 2}, fail)
    assert (place / "a.bin").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("existing", [False, True])
def test_a_kill_while_writing_leaves_no_half_checkpoint(tmp_path, existing):
    place = tmp_path / "t"
    if existing:
        write_checkpoint(place, {"rows": 1}, lambda folder: (folder / "a.bin").write_text("old"))
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from spice_select.training.checkpoint import write_checkpoint\n"
        "def save(folder):\n    (folder / 'a.bin').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_checkpoint(Path(sys.argv[1]), {'rows': 2}, save)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(place)], check=False).returncode == -9
    assert place.exists() == existing
    if existing:
        assert (place / "a.bin").read_text() == "old" and json.loads((place / "finetune.json").read_text())["rows"] == 1


def test_several_processes_share_a_batch_whole():
    for batch_size in range(1, 25):
        for processes in (1, 2, 3, 4):
            for rows_at_once in (1, 2, 4, 7, 100):
                if batch_size % processes:
                    with pytest.raises(ConfigError, match=f"multiple of {processes}"):
                        split_batch(batch_size, rows_at_once, processes)
                    continue
                share = split_batch(batch_size, rows_at_once, processes)
                assert share.rows_at_once * share.accumulation * processes == batch_size
                own = batch_size // processes
                better = [n for n in range(share.rows_at_once + 1, rows_at_once + 1) if own % n == 0]
                assert share.rows_at_once <= rows_at_once and not better


@pytest.mark.parametrize(
    ("options", "error", "clue"),
    [
        ({"recipe": Recipe(max_length=8)}, PoolError, "max_length 8 cuts off"),
        ({"device": "cuda:7"}, ModelError, "cuda:7"),
        ({"dtype": "float16"}, ConfigError, "dtype"),
        ({"rows_at_once": 0}, ConfigError, "rows_at_once"),
        ({"data": []}, ConfigError, "no data"),
        ({"model": "./nowhere"}, ModelError, "nowhere"),
    ],
)
def test_mistakes_write_nothing(pool, tiny_model, tmp_path, options, error, clue):
    given = {"data": pool, "model": tiny_model, **options}
    with pytest.raises(error, match=clue):
        finetune(output=tmp_path / "deep" / "t", **given)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_ends_the_training(pool, tiny_model, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "broken")
    with pytest.raises(SpiceSelectError, match="step 1 is not finite"):
        finetune(pool, model=str(tmp_path / "broken"), output=tmp_path / "t", recipe=SHORT)
    assert not (tmp_path / "t").exists()


def test_without_trl_the_error_says_what_to_install(pool, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)  # what an import of a missing module finds
    with pytest.raises(SpiceSelectError, match=r"pip install 'spice-select\[train\]'"):
        finetune(pool, model=tiny_model, output=tmp_path / "t", recipe=SHORT)


def test_bfloat16_weights_train_float32_adapters(pool, tiny_model, reference, tmp_path):
    result = finetune(pool, model=tiny_model, output=tmp_path / "t", recipe=SHORT, dtype="bfloat16")
    assert result.losses == pytest.approx(reference.losses, abs=0.05) and result.losses != reference.losses
    assert {weight.dtype for weight in adapter(tmp_path / "t").values()} == {torch.float32}
    after = finetune(pool, model=tiny_model, output=tmp_path / "after", recipe=SHORT)  # in the same process
    assert after.losses == pytest.approx(reference.losses, abs=1e-4)


@pytest.mark.slow
def test_the_embedded_model_trains_from_its_own_loss_under_its_public_name(tmp_path):
    """No model named and no run: the embedded one, with the loss that selection sees, named as others find it."""
    from spice_select.config import RunConfig
    from spice_select.option_values import EMBEDDED_MODEL
    from spice_select.proxy.embedded import HUB_NAME
    from spice_select.proxy.loading import load_model, load_tokenizer, model_source

    rows = [{"prompt": "What is 2 + 3?", "completion": "5"}]
    result = finetune(rows, output=tmp_path / "t", recipe=Recipe(epochs=2, batch_size=1, warmup=0.5))
    source = model_source(RunConfig())
    examples = read_pool([rows], load_tokenizer(source)).examples
    with torch.no_grad():
        loss = response_losses(
            load_model(source, "float32", torch.device("cpu")), collate(examples, torch.device("cpu"))
        )
    assert result.losses[0] == pytest.approx(float(loss[0]), abs=1e-4)
    assert json.loads((tmp_path / "t" / "adapter_config.json").read_text())["base_model_name_or_path"] == HUB_NAME
    assert json.loads((tmp_path / "t" / "finetune.json").read_text())["model"] == EMBEDDED_MODEL
