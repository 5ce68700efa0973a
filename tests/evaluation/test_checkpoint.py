"""Checkpoints: a merged adapter is the unmerged one; the base and the tokenizer come from where they should."""

import json
import shutil

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from oracles.evaluation_oracle import oracle_losses, rewrite, save_adapter, unmerged
from oracles.runs import read_jsonl
from spice_select.errors import ConfigError, ModelError
from spice_select.evaluation.checkpoint import find_checkpoint, load_weights
from spice_select.evaluation.heldout import row_losses
from spice_select.option_values import EMBEDDED_MODEL
from spice_select.pool.examples import read_pool

CPU = torch.device("cpu")


def load(name, dtype="float32"):
    return load_weights(find_checkpoint(name), CPU, dtype)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, tiny_model):
    return save_adapter(tmp_path_factory.mktemp("adapter"), tiny_model)


@pytest.fixture
def damaged(adapter, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(adapter, tmp_path / "damaged")


@pytest.mark.parametrize("ours", [False, True])
def test_merged_gives_the_losses_of_the_unmerged(tmp_path, tiny_model, chat_pool, ours):
    directory = save_adapter(tmp_path / "a", tiny_model, seed=1, ours=ours)
    loaded = load(directory)
    rows = read_jsonl(chat_pool)[:12]
    losses = row_losses(loaded.model, read_pool([rows], loaded.tokenizer).examples, 300, lambda rows, tokens: None)
    beside = oracle_losses(unmerged(directory, tiny_model), loaded.tokenizer, rows)
    assert losses == pytest.approx(beside, abs=1e-5)
    base = oracle_losses(AutoModelForCausalLM.from_pretrained(tiny_model).eval(), loaded.tokenizer, rows)
    assert losses != pytest.approx(base, abs=1e-2), "the adapter does something"


def test_a_loaded_model_is_plain_frozen_and_in_eval_mode(adapter, tiny_model):
    loaded = load(str(adapter))
    assert loaded.name == str(adapter)
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    assert not [name for name, _ in loaded.model.named_modules() if "lora" in name]
    assert {p.dtype for p in load(adapter, "bfloat16").model.parameters()} == {torch.bfloat16}


def test_a_full_model_is_itself(tiny_model):
    loaded, plain = load(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    for name, weight in plain.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight)


def test_the_tokenizer_is_the_checkpoints_own_else_the_bases(tmp_path, tiny_model, adapter):
    assert load(adapter).tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_model).chat_template
    own = save_adapter(tmp_path / "own", tiny_model, tokenizer=True)
    tokenizer = AutoTokenizer.from_pretrained(own)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    tokenizer.save_pretrained(own)
    assert load(own).tokenizer.chat_template == tokenizer.chat_template


def test_fingerprints_tell_weights_apart(tmp_path, tiny_model, adapter):
    first, again = load(adapter).fingerprint, load(adapter).fingerprint
    other = load(save_adapter(tmp_path / "other", tiny_model, seed=2)).fingerprint
    base = load(tiny_model).fingerprint
    assert first == again and len({first, other, base}) == 3
    assert first.endswith(f"+{base}")


def cut(directory):
    path = directory / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_a_weight(directory):
    path = directory / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: weights[name] for name in sorted(weights)[1:]}, path)


def one_too_many(directory):
    path = directory / "adapter_model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    save_file({**weights, name.replace("layers.0", "layers.9"): weights[name].clone()}, path)


def not_a_number(directory):
    path = directory / "adapter_model.safetensors"
    weights = load_file(path)
    weights[sorted(weights)[0]][0, 0] = float("nan")
    save_file(weights, path)


def other_base(**fields):
    return lambda directory: rewrite(directory / "adapter_config.json", **fields)


def record(text):
    return lambda directory: (directory / "finetune.json").write_text(text)


MISTAKES = {
    "cut weights": (cut, "the adapter cannot be loaded"),
    "a weight is missing": (lose_a_weight, "does not fit its base model: 1 weights"),
    "a weight too many": (one_too_many, "does not fit its base model: 1 weights"),
    "NaN among the weights": (not_a_number, "the adapter cannot be loaded"),
    "another rank": (other_base(r=5), "the adapter cannot be loaded"),
    "unknown kind": (other_base(peft_type="NOVEL"), "the adapter cannot be loaded"),
    "no weights": (lambda d: (d / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
    "base directory gone": (other_base(base_model_name_or_path="./gone"), "Restore './gone', or correct 'base_model"),
    "base not on this machine": (other_base(base_model_name_or_path="some/base"), "its base model cannot be loaded"),
    "no base": (other_base(base_model_name_or_path=None), "names no base model"),
    "broken config": (lambda d: (d / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
    "broken record": (record("[1"), "finetune.json: cannot be read as JSON"),
    "record without model": (record("[1]"), "is not a JSON object"),
    "broken tokenizer": (lambda d: (d / "tokenizer_config.json").write_text("{"), "damaged tokenizer"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_damaged_adapters(damaged, name):
    spoil, clue = MISTAKES[name]
    spoil(damaged)
    with pytest.raises(ModelError) as caught:
        load(damaged)
    message = str(caught.value)
    assert clue in message and 1 <= len(message.splitlines()) <= 3, message


@pytest.mark.parametrize(
    ("name", "clue"),
    [
        ("./nowhere", "nowhere"),
        ("someone/some-model", "some-model"),
        ("{empty}", "no config.json inside"),
        ("{config}", "config"),
    ],
)
def test_no_checkpoint(tmp_path, name, clue):
    (tmp_path / "empty").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError) as caught:
        load(name.format(empty=tmp_path / "empty", config=tmp_path / "config"))
    message = str(caught.value)
    assert clue in message and "--model" not in message and len(message.splitlines()) <= 3, message


def test_an_adapter_without_weights_to_merge_into_is_refused(tmp_path, tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be merged"):
        load(tmp_path)


IN_THE_WEIGHTS = {"cut weights", "another rank", "NaN among the weights", "a weight is missing", "a weight too many"}


@pytest.mark.parametrize("name", sorted(MISTAKES.keys() - IN_THE_WEIGHTS))
def test_what_needs_no_weights_is_found_without_them(damaged, name):
    spoil, clue = MISTAKES[name]
    spoil(damaged)
    with pytest.raises(ModelError) as caught:
        find_checkpoint(damaged)
    assert clue in str(caught.value)


def test_a_damaged_configuration_is_found_without_the_weights(tmp_path, tiny_model):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    rewrite(model / "config.json", model_type="novel")
    with pytest.raises(ModelError, match="configuration"):
        find_checkpoint(model)


def test_a_revision_of_what_has_none_is_refused(tiny_model, adapter):
    """Neither a directory nor an adapter of a directory has one."""
    for name, clue in ((tiny_model, tiny_model), (adapter, f"the base of {adapter}"), (EMBEDDED_MODEL, "no hub id")):
        with pytest.raises(ConfigError) as caught:
            find_checkpoint(name, revision="v2")
        assert clue in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_out_of_memory_is_not_blamed_on_the_adapter(adapter, monkeypatch):
    """Merging computes in the accelerator's memory, which may be exhausted by then."""

    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("peft.tuners.lora.layer.Linear.get_delta_weight", exhausted)
    with pytest.raises(ModelError, match="out of memory while loading") as caught:
        load(adapter)
    assert "Save it again" not in str(caught.value) and "--dtype bfloat16" in str(caught.value)
