"""`--chat-template`: a template in place of the tokenizer's reaches the masks, the records and the trainers' files."""

import json

import datasets
import pytest
from transformers import AutoTokenizer

from oracles.forked import spice
from oracles.runs import chat_rows, write_jsonl
from spice_select import training_dataset
from spice_select.errors import ConfigError
from spice_select.proxy.chat_template import read_chat_template

SHOUTING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}"
)


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text(SHOUTING)
    return path


def test_it_is_a_file_or_a_name_of_trl(template):
    pytest.importorskip("trl")
    assert read_chat_template(str(template)) == SHOUTING
    assert "{% generation %}" in read_chat_template("qwen3_training").replace("{%- generation %}", "{% generation %}")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("qwen3_trainin", "no template of that name in TRL; did you mean .*qwen3_training"),
        ("../qwen3_training", "there is no file '../qwen3_training'"),
        ("empty.jinja", "is empty"),
        ("bytes.jinja", "cannot be read as text"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, name, says):
    pytest.importorskip("trl")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jinja").write_text(" \n")
    (tmp_path / "bytes.jinja").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=f"^chat_template: .*{says}"):
        read_chat_template(name)


def test_a_run_records_it_and_hands_it_to_every_trainer(tmp_path, tiny_model, template):
    pool, out = write_jsonl(tmp_path / "p.jsonl", chat_rows(12)), tmp_path / "out"
    options = ["--model", tiny_model, "--method", "longest", "--budget", "4", "--chat-template", template]
    shown = spice("inspect", pool, *options[:2], *options[-2:], "--rows", "1")
    assert "<|im_start|>assistant:⟦" in shown.stdout, shown.stdout + shown.stderr
    done = spice("run", pool, *options, "--output", out)
    assert done.returncode == 0, done.stderr
    assert (out / "chat_template.jinja").read_text() == SHOUTING
    assert json.loads((out / "manifest.json").read_text())["model"]["chat_template"].startswith("sha256:")
    assert 'chat_template.jinja").read_text' in (out / "train_trl.py").read_text()
    assert 'chat_template.jinja").read_text' in (out / "make_tokens.py").read_text()
    assert "place of the tokenizer's" in (out / "README.md").read_text()

    template.write_text(SHOUTING.replace(":", "!"))  # finetune takes the run's copy
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = SHOUTING
    expected = training_dataset(out / "train.parquet", tokenizer)
    assert isinstance(expected, datasets.Dataset)
    tuned = spice("finetune", out, "--output", tmp_path / "tuned", "--epochs", "0.5", "--lora-rank", "1")
    assert tuned.returncode == 0, tuned.stderr
    trained = json.loads((tmp_path / "tuned" / "finetune.json").read_text())["trained_tokens"]
    assert trained == sum(label != -100 for row in expected["labels"] for label in row)
    assert AutoTokenizer.from_pretrained(tmp_path / "tuned").chat_template == SHOUTING


def test_a_store_keeps_it_for_its_picks(tmp_path, tiny_model, template):
    pool, store = write_jsonl(tmp_path / "p.jsonl", chat_rows(12)), tmp_path / "store"
    common = [
        "--model",
        tiny_model,
        "--lora-rank",
        "1",
        "--dim",
        "8",
        "--warmup-steps",
        "0",
        "--chat-template",
        template,
    ]
    assert spice("gradients", pool, *common, "--output", store).returncode == 0
    done = spice("pick", store, "--budget", "4", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == SHOUTING


def test_a_run_is_not_resumed_under_another_template(tmp_path, tiny_model, template):
    pool, out = write_jsonl(tmp_path / "p.jsonl", chat_rows(12)), tmp_path / "out"
    common = [pool, "--model", tiny_model, "--method", "random", "--chat-template", template, "--output", out]
    assert spice("run", *common).returncode == 0
    assert spice("run", *common, "--resume").returncode == 0
    template.write_text(SHOUTING.replace(":", "!"))
    done = spice("run", *common, "--resume")
    assert done.returncode != 0 and "chat_template" in done.stderr, done.stderr
