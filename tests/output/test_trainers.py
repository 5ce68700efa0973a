"""Laws of the training files: nothing of a chat is lost in the table, the masks are the selection's, the three
recipes are one, and TRL trains on exactly the assistant's tokens."""

import ast
import json
import runpy
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import spice_select
from oracles.pool_families import FAMILIES, TEMPLATES, tokenizer_of, with_template
from oracles.pool_masks import assistant_characters, expected_tokens
from spice_select.errors import OutputError, PoolError
from spice_select.files.directory import TOKENS
from spice_select.output.recipes import ModelToTrain, trainer_files
from spice_select.output.summary import SourceShare, Summary
from spice_select.output.trainers import (
    EVAL_FILE,
    TRAIN_FILE,
    held_out,
    training_dataset,
    training_row,
    training_table,
)
from spice_select.pool.encoding import Encoder
from spice_select.pool.examples import PoolOptions, read_pool
from spice_select.pool.messages import Conversation
from spice_select.pool.rendering import Renderer
from spice_select.recipe import Recipe

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"city": "Zürich", "n": [1, None]}}}
CHAT = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b <|im_end|> b"}]
MULTI = [{"role": "system", "content": "s"}, *CHAT, {"role": "user", "content": "c"}, *CHAT[1:]]
CALLING = [
    CHAT[0],
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "content": "17", "name": "f"},
    {"role": "assistant", "content": "warm", "tool_calls": [CALL]},
]
TRAINERS = ("train_trl.py", "axolotl.yaml", "llamafactory.yaml")
KINDS = {
    "single": Conversation(CHAT),
    "multi": Conversation(MULTI),
    "tools": Conversation(CHAT, TOOLS),
    "calls": Conversation(CALLING, TOOLS),
    "context": Conversation(MULTI, None, frozenset([2])),
}

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda text: bool(text.strip()))


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Chats of every shape that the pool lets through: at least one user text and one assistant turn to train."""
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(st.text(st.characters(codec="utf-8"), max_size=9))})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(texts)})
        if draw(st.booleans()):
            messages.append({"role": "assistant", "tool_calls": [CALL] * draw(st.integers(1, 2))})
            messages.append({"role": "tool", "content": draw(texts), "name": "f"})
        messages.append({"role": "assistant", "content": draw(texts)})
    if draw(st.booleans()):
        messages[0]["prefix"], messages[-1]["other_fields"] = (
            draw(st.sampled_from([True, [1, {"a": "b"}], "text"])),
            "own",
        )
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    untrained = draw(st.sets(st.sampled_from(turns[:-1]))) if len(turns) > 1 else set[int]()
    return Conversation(messages, draw(st.sampled_from([None, TOOLS])), frozenset(untrained))


def table_of(*chats: Conversation) -> pa.Table:
    return training_table([training_row(chat, f"id-{i}", "made") for i, chat in enumerate(chats)])


def summary_of(rows: int) -> Summary:
    """A run that kept `rows` rows of ten times as many."""
    sources = [SourceShare("made", rows * 10, rows, 1, 1)]
    return Summary(rows * 10, rows, rows, 0, 0, sources, 1.0, 1.0, None, None, 0)


def files_for(model: ModelToTrain, held: int = 0) -> dict[str, str]:
    """The trainers' files of a run."""
    return trainer_files(model, summary_of(2), held)


def saved(directory: Path, *chats: Conversation) -> Path:
    pq.write_table(table_of(*chats), directory / TRAIN_FILE)
    return directory / TRAIN_FILE


def chatml_with_tools() -> Any:
    return with_template("chatml", (TEMPLATES / "chatml_tools.jinja").read_text(encoding="utf-8"))


def chatml_with_fields() -> Any:
    """Shows fields of a message that are no text, as some templates do."""
    template = (TEMPLATES / "chatml_tools.jinja").read_text(encoding="utf-8")
    shown = "{%- if message.prefix -%}{{- message.prefix | tojson + message.role + '\\n' -}}{%- endif -%}"
    return with_template("chatml", template.replace("{%- if message.content -%}", shown + "{%- if message.content -%}"))


def labels_of(ids: list[int], trained: list[bool]) -> list[int]:
    return [token if target else -100 for token, target in zip(ids, trained, strict=True)]


@settings(max_examples=60, deadline=None)
@given(chats=st.lists(conversations(), min_size=1, max_size=4))
def test_a_table_trains_exactly_as_the_pool_did(
    tmp_path_factory: pytest.TempPathFactory, chats: list[Conversation]
) -> None:
    """Tokens and targets after a round trip through the file are those of the selection."""
    tokenizer = chatml_with_fields()
    found = training_dataset(saved(tmp_path_factory.mktemp("run"), *chats), tokenizer, 10_000)
    encoded = Encoder(tokenizer).encode([Renderer(tokenizer).render(chat) for chat in chats])
    assert found["input_ids"][:] == [e.input_ids.tolist() for e in encoded]
    assert found["labels"][:] == [labels_of(e.input_ids.tolist(), e.trained.tolist()) for e in encoded]


@pytest.mark.parametrize("family", ["chatml", "llama3", "chatml-generation", "plain"])
def test_the_targets_are_the_assistants_text_and_its_end_of_turn(tmp_path: Path, family: str) -> None:
    """Against an oracle that shares no code with this module or the pool."""
    tokenizer = tokenizer_of(family)
    chats = [CHAT, MULTI]
    found = training_dataset(saved(tmp_path, *(Conversation(chat) for chat in chats)), tokenizer)
    for row, chat in zip(found, chats, strict=True):
        ids, trained = expected_tokens(tokenizer, *assistant_characters(FAMILIES[family], tokenizer, chat))
        assert row["input_ids"] == ids
        assert row["labels"] == labels_of(ids, trained)


def test_max_length_cuts_rows_and_leaves_out_those_without_a_target(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("chatml")
    long = Conversation([{"role": "user", "content": "word " * 200}, CHAT[1]])
    path = saved(tmp_path, Conversation(MULTI), long)
    whole, told = training_dataset(path, tokenizer, 10_000), list[str]()
    cut = training_dataset(path, tokenizer, 40, told.append)
    assert len(whole) == 2 and len(told) == 1 and "1 of 2 rows are left out" in told[0]
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        training_dataset(path, tokenizer, 40)
    assert cut["input_ids"][:] == [whole[0]["input_ids"][:40]]
    assert cut["labels"][:] == [whole[0]["labels"][:40]]


def test_a_file_that_is_no_training_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("no")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "y.parquet")
    for name in ("missing.parquet", "x.parquet", "y.parquet"):
        with pytest.raises(OutputError, match=name):
            training_dataset(tmp_path / name, tokenizer_of("chatml"))


def test_a_row_that_the_template_refuses_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, Conversation([{"role": "system", "content": "s"}, *CHAT]))
    with pytest.raises(PoolError, match="id-0"):
        training_dataset(path, tokenizer_of("gemma"))


@given(chats=st.lists(conversations(), min_size=1, max_size=4))
def test_the_table_keeps_rows_and_order_and_its_schema_ignores_order(chats: list[Conversation]) -> None:
    table = table_of(*chats)
    assert table["id"].to_pylist() == [f"id-{i}" for i in range(len(chats))]
    assert [[m["role"] for m in row] for row in table["messages"].to_pylist()] == [
        [m["role"] for m in chat.messages] for chat in chats
    ]
    assert table_of(*reversed(chats)).schema == table.schema


@pytest.mark.parametrize("last", KINDS.values(), ids=KINDS)
def test_every_schema_loads_with_what_is_rare_at_the_end(tmp_path: Path, last: Conversation) -> None:
    path = saved(tmp_path, *[KINDS["single"]] * 20, last)
    rows = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows[20]["messages"][0]["content"] == last.messages[0]["content"]
    assert (rows[20].get("tools") is not None) == (last.tools is not None)


def message_fields(chat: Conversation) -> list[str]:
    return [field.name for field in table_of(chat).schema.field("messages").type.value_type]


def test_columns_are_there_only_when_needed() -> None:
    assert table_of(KINDS["single"], KINDS["multi"]).column_names == ["id", "source", "messages"]
    assert message_fields(KINDS["single"]) == ["role", "content"]
    assert table_of(KINDS["tools"]).column_names == ["id", "source", "messages", "tools"]
    assert message_fields(KINDS["context"]) == ["role", "content", "train"]


def test_tools_and_arguments_are_json_text() -> None:
    row = table_of(KINDS["calls"]).to_pylist()[0]
    assert json.loads(row["tools"]) == TOOLS
    function = row["messages"][1]["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == ("f", CALL["function"]["arguments"])


@pytest.mark.parametrize("model", ["org/name", 'C:\\models\\it\'s "mine"', "- a: #b", "モデル", "a\nb", "{x}"])
def test_any_model_name_survives_in_every_file(model: str) -> None:
    files = files_for(ModelToTrain(model))
    assert yaml.safe_load(files["axolotl.yaml"])["base_model"] == model
    assert yaml.safe_load(files["llamafactory.yaml"])["model_name_or_path"] == model
    names = [
        ast.literal_eval(node.value)
        for node in ast.parse(files["train_trl.py"]).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "MODEL"
    ]
    assert names == [model]


def test_the_three_recipes_are_one() -> None:
    files = files_for(ModelToTrain("m", 777))
    axolotl, factory = (yaml.safe_load(files[name]) for name in ("axolotl.yaml", "llamafactory.yaml"))
    calls = {
        keyword.arg: keyword.value.value
        for node in ast.walk(ast.parse(files["train_trl.py"]))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if isinstance(keyword.value, ast.Constant)
    }
    tables = [ast.unparse(node) for node in ast.walk(ast.parse(files["train_trl.py"])) if isinstance(node, ast.Dict)]
    assert f"{{WARMUP: {Recipe().warmup}}}" in tables
    assert axolotl["warmup_ratio"] == factory["warmup_ratio"] == Recipe().warmup
    for trl, theirs, ours in (
        ("r", "lora_r", "lora_rank"),
        ("lora_alpha", "lora_alpha", "lora_alpha"),
        ("learning_rate", "learning_rate", "learning_rate"),
        ("lr_scheduler_type", "lr_scheduler", "lr_scheduler_type"),
        ("num_train_epochs", "num_epochs", "num_train_epochs"),
        ("per_device_train_batch_size", "micro_batch_size", "per_device_train_batch_size"),
        ("gradient_accumulation_steps", "gradient_accumulation_steps", "gradient_accumulation_steps"),
        ("max_length", "sequence_len", "cutoff_len"),
    ):
        assert calls[trl] == axolotl[theirs] == factory[ours], trl
    assert calls["seed"] == axolotl["seed"] == factory["seed"] == 0
    assert calls["logging_steps"] == axolotl["logging_steps"] == factory["logging_steps"]
    assert axolotl["gradient_checkpointing"]  # TRL and LLaMA-Factory do so unless told otherwise
    assert axolotl["attn_implementation"] == "sdpa" and axolotl["sample_packing"] is False
    assert all("A step is 16 rows on one device, 4 at a time" in files[name] for name in TRAINERS)
    assert (calls["r"], calls["lora_alpha"], calls["learning_rate"], calls["num_train_epochs"]) == (16, 32, 2e-4, 3)


@pytest.mark.parametrize("name", TRAINERS)
def test_the_model_stands_at_the_top_as_the_thing_to_set(name: str) -> None:
    """Before any other line that is no comment; what is said of it is that the choice's model may be smaller."""
    text = files_for(ModelToTrain("proxy/name"))[name].split('TRL. Needs trl and spice-select. """')[-1]
    lines = [line for line in text.splitlines() if line]
    assert lines[0].startswith("# The model to train.")
    assert "may be smaller" in lines[0] and "proxy/name" in lines[1]


@pytest.mark.parametrize(
    ("model", "template"),
    [("Qwen/Qwen2.5-0.5B-Instruct", "qwen"), ("Qwen/Qwen3-8B", "qwen3"),
     ("Qwen/Qwen3-4B-Instruct-2507", "qwen3_nothink"), ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2"),
     ("meta-llama/Llama-3.2-1B-Instruct", "llama3"), ("meta-llama/Llama-3.2-11B-Vision-Instruct", None),
     ("Qwen/Qwen2.5-7B", None), ("./qwen", None), ("me/Qwen3-8B", None)],
)  # fmt: skip
def test_a_template_is_named_where_it_is_known(model: str, template: str | None) -> None:
    text = files_for(ModelToTrain(model))["llamafactory.yaml"]
    assert yaml.safe_load(text).get("template") == template
    assert ("# template: set LLaMA-Factory's name" in text) == (template is None)
    assert "template" not in yaml.safe_load(files_for(ModelToTrain(model, 64, "{{ x }}"))["llamafactory.yaml"])


@given(st.integers(0, 400), st.integers(1, 99), st.integers(0, 3))
def test_a_share_is_held_out_and_something_is_left_to_train_on(rows: int, percent: int, seed: int) -> None:
    held = held_out(rows, f"{percent}%", seed)
    assert held == held_out(rows, f"{percent}%", seed) and held <= set(range(rows)) and not held_out(rows, None, seed)
    assert len(held) == (min(max(1, round(rows * percent / 100)), rows - 1) if rows > 1 else 0)


def test_the_readme_names_every_file() -> None:
    for held, data in ((0, {TRAIN_FILE}), (3, {TRAIN_FILE, EVAL_FILE})):
        files = files_for(ModelToTrain("m"), held)
        for name in {*files, *data, "selected.jsonl"} - {"README.md"}:
            assert f"`{name}`" in files["README.md"]
    assert EVAL_FILE not in "".join(files_for(ModelToTrain("m")).values())


@pytest.mark.parametrize("held", [0, 2])
@pytest.mark.parametrize("trainer", ["llamafactory", "axolotl"])
def test_the_other_trainers_get_the_selections_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trainer: str, held: int
) -> None:
    """The run's own script writes, where the trainer's file looks for them, the tokens of the model named there."""
    tokenizer = chatml_with_tools()
    tokenizer.save_pretrained(tmp_path / "model")
    path = saved(tmp_path, *KINDS.values())
    if held:
        saved(tmp_path, KINDS["multi"], KINDS["tools"]).rename(tmp_path / EVAL_FILE)
        path = saved(tmp_path, *KINDS.values())
    for name, text in files_for(ModelToTrain(str(tmp_path / "model"), 64), held).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    config = yaml.safe_load((tmp_path / f"{trainer}.yaml").read_text(encoding="utf-8"))
    place = config["tokenized_path"] if trainer == "llamafactory" else config["datasets"][0]["path"]
    assert Path(place).parts[0] == TOKENS, "a later run must remove them"
    remains = (tmp_path / place).parent / "prepared"
    remains.mkdir(parents=True)

    monkeypatch.setattr("sys.argv", ["make_tokens.py", f"{trainer}.yaml"])
    runpy.run_path(str(tmp_path / "make_tokens.py"))

    left, told = list[str](), capsys.readouterr().out
    found, expected = datasets.load_from_disk(tmp_path / place), training_dataset(path, tokenizer, 64, left.append)
    assert all(sentence in told for sentence in left)
    if held:
        if trainer == "llamafactory":
            assert config["eval_strategy"] == "epoch" and config["eval_dataset"]
            found, evaluated = found["train"], found["validation"]
        else:
            assert config["val_set_size"] == 0 and config["evals_per_epoch"] == 1
            evaluated = datasets.load_from_disk(tmp_path / config["test_datasets"][0]["path"])
        theirs = training_dataset(tmp_path / EVAL_FILE, tokenizer, 64, left.append)
        assert evaluated["input_ids"][:] == theirs["input_ids"][:] and evaluated["labels"][:] == theirs["labels"][:]
    assert found["input_ids"][:] == expected["input_ids"][:] and found["labels"][:] == expected["labels"][:]
    assert found["attention_mask"][:] == [[1] * len(ids) for ids in expected["input_ids"]]
    assert not remains.exists(), "the trainer would take what it made of earlier tokens"


@settings(max_examples=25, deadline=None)
@given(chats=st.lists(conversations(), min_size=1, max_size=4))
def test_a_training_file_is_a_pool_with_the_same_masks(
    tmp_path_factory: pytest.TempPathFactory, chats: list[Conversation]
) -> None:
    """Turns that are context stay context, and tools and calls stay what they were."""
    tokenizer = chatml_with_tools()
    path = saved(tmp_path_factory.mktemp("run"), *chats)
    pool, expected = (
        read_pool([path], tokenizer, PoolOptions(max_length=10_000)),
        training_dataset(path, tokenizer, 10_000),
    )
    assert not pool.rejected and not pool.files[0].unused
    for example, chat, row in zip(pool.examples, chats, expected, strict=True):
        assert example.conversation.untrained == chat.untrained
        assert example.input_ids.tolist() == row["input_ids"]
        assert labels_of(example.input_ids.tolist(), example.trained.tolist()) == row["labels"]


def test_trl_trains_on_exactly_the_assistants_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's own script, whole, on a tiny model whose pad token is its end of turn."""
    pytest.importorskip("trl")
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = chatml_with_tools()
    assert tokenizer.pad_token == "<|im_end|>", "otherwise a collator that masks by pad id would pass"
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = tmp_path / "model"
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(model)
    tokenizer.save_pretrained(model)

    chats = [KINDS[name] for name in ("single", "multi", "tools", "calls", "context")]
    saved(tmp_path, *chats)
    pq.write_table(table_of(KINDS["multi"]), tmp_path / EVAL_FILE)
    (tmp_path / "train_trl.py").write_text(files_for(ModelToTrain(str(model)), 1)["train_trl.py"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    trainer = runpy.run_path("train_trl.py")["trainer"]

    assert trainer.state.global_step >= 2
    assert len([entry for entry in trainer.state.log_history if "eval_loss" in entry]) == 3
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}, "bfloat16 needs a GPU"
    batch = trainer.data_collator(list(trainer.train_dataset))
    learned = [
        tokenizer.decode([t for t in row.tolist() if t != -100], skip_special_tokens=False) for row in batch["labels"]
    ]
    call = f"<tool_call>{json.dumps(CALL['function'], ensure_ascii=False)}</tool_call>"
    answer = "b <|im_end|> b<|im_end|>"
    assert learned == [answer, answer * 2, answer, f"{call}<|im_end|>warm{call}<|im_end|>", answer]
    assert (tmp_path / "trl-out" / "adapter_config.json").is_file()


def test_the_scripts_import_is_public() -> None:
    assert spice_select.training_dataset is training_dataset
