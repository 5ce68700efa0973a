"""Model directories that are damaged, foreign or hostile: refused with a reason, and no code of theirs is run."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from oracles.commands import refusal
from oracles.runs import byte_tokenizer, chat_rows, write_jsonl
from spice_select.errors import ModelError, TemplateError
from spice_select.evaluation.checkpoint import find_checkpoint, load_weights
from spice_select.pool import templates
from spice_select.pool.examples import PoolOptions, read_pool

CODE = "from pathlib import Path\nPath({marker!r}).write_text('run')\n"
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


class Marker:
    """A pickle of it writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "run")


def change(folder: Path, name: str, **values: object) -> None:
    """Set fields of a JSON file; None takes one out."""
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    content.update(values)
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as stream:
        pickle.dump({"weight": Marker(folder.parent / "marker")}, stream)


def pickled_shards(folder: Path) -> None:
    """An index that looks like safetensors and names pickles."""
    pickled(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "pytorch_model.bin"}}))


def shards_elsewhere(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "../other.safetensors"}}))


def pickled_by_name(folder: Path) -> None:
    """A configuration that names the file of the weights itself."""
    pickled(folder)
    (folder / "pytorch_model.bin").rename(folder / "adapter_model.bin")
    change(folder, "config.json", transformers_weights="adapter_model.bin")


def own_code(folder: Path) -> None:
    """Code for a known kind of model, and for its configuration and tokenizer."""
    for name in ("modeling_x", "configuration_x", "tokenization_x"):
        (folder / f"{name}.py").write_text(CODE.format(marker=str(folder.parent / "marker")))
    auto_map = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"}
    change(folder, "config.json", model_type="x-of-its-own", auto_map=auto_map, architectures=["X"])
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.X", "tokenization_x.X"]})


def cut(name: str, keep: int):
    def make(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:keep])

    return make


def text(name: str, content: str):
    return lambda folder: (folder / name).write_text(content)


def template(content: str):
    def make(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(content)

    return make


def no_template_and_no_eos(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    change(folder, "tokenizer_config.json", eos_token=None)
    if (folder / "special_tokens_map.json").exists():
        change(folder, "special_tokens_map.json", eos_token=None)


def adapter_only(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def without(name: str):
    return lambda folder: (folder / name).unlink()


MODELS = {
    "empty": (lambda folder: [path.unlink() for path in folder.iterdir()], ["no config.json"]),
    "no configuration": (without("config.json"), ["no config.json"]),
    "adapter only": (adapter_only, ["is an adapter"]),
    "configuration no JSON": (text("config.json", "{"), ["model"]),
    "configuration a list": (text("config.json", "[]"), ["model"]),
    "configuration deep": (text("config.json", "[" * 5000), ["model"]),
    "unknown kind": (lambda folder: change(folder, "config.json", model_type="magic"), ["magic"]),
    "no kind": (lambda folder: change(folder, "config.json", model_type=None), ["model"]),
    "no language model": (lambda folder: change(folder, "config.json", model_type="vit"), ["model"]),
    "layers of a text": (lambda folder: change(folder, "config.json", num_hidden_layers="two"), ["model"]),
    "other sizes": (lambda folder: change(folder, "config.json", hidden_size=64), ["model"]),
    "no weights": (without("model.safetensors"), ["model.safetensors"]),
    "weights cut": (cut("model.safetensors", 5000), ["model"]),
    "weights of zero bytes": (cut("model.safetensors", 0), ["model"]),
    "weights no safetensors": (text("model.safetensors", "no weights at all"), ["model"]),
    "weights a huge header": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 7 + b"\x7f" + b"{}"),
        ["model"],
    ),
    "pickles": (pickled, ["pickles (pytorch_model.bin)", "save_pretrained"]),
    "pickles behind an index": (pickled_shards, ["model.safetensors.index.json"]),
    "pickles by name": (pickled_by_name, ["transformers_weights"]),
    "weights elsewhere": (shards_elsewhere, ["model.safetensors.index.json"]),
    "index no JSON": (text("model.safetensors.index.json", "{"), ["model.safetensors.index.json"]),
    "own code": (own_code, ["--trust-remote-code"]),
    "no tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
        ["tokenizer"],
    ),
    "tokenizer no JSON": (text("tokenizer.json", "{"), ["tokenizer"]),
    "tokenizer of nothing": (text("tokenizer.json", "{}"), ["tokenizer"]),
    "tokenizer cut": (cut("tokenizer.json", 900), ["tokenizer"]),
    "tokenizer of an odd model": (
        text("tokenizer.json", '{"version": "1.0", "model": {"type": "Magic"}}'),
        ["tokenizer"],
    ),
    "template of broken syntax": (template("{% for %}"), ["template"]),
    "template that refuses": (template("{{ raise_exception('never') }}"), ["never"]),
    "template of nothing": (template("hello"), ["template"]),
    "template that repeats": (
        template("{% for m in messages %}{{ m.content }}{{ m.content }}<|im_end|>{% endfor %}"),
        ["2 times"],
    ),
    "template that escapes": (
        template("{{ ().__class__.__base__.__subclasses__() }}" + "{% for m in messages %}{{ m.content }}{% endfor %}"),
        ["template"],
    ),
    "template that imports": (template("{% include '/etc/passwd' %}"), ["template"]),
    "template that calls itself": (
        template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        ["template"],
    ),
    "template of a large range": (template("{% for a in range(10 ** 9) %}{% endfor %}"), ["template"]),
    "template of a text beyond memory": (template("{{ 'a' * 10 ** 17 }}"), ["template"]),
    "template that loops": (template(LOOPS), ["did not finish", "second"]),
    "no template and no eos": (no_template_and_no_eos, ["eos token"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_bad_models(name, tmp_path, tiny_model, monkeypatch, capsys):
    make, clues = MODELS[name]
    shutil.copytree(tiny_model, tmp_path / "model")
    make(tmp_path / "model")
    write_jsonl(tmp_path / "p.jsonl", chat_rows(40))
    monkeypatch.setattr(templates, "RENDER_SECONDS", 0.2)
    arguments = ["run", "p.jsonl", "--model", "./model", "--output", "out"]
    message = refusal(tmp_path, arguments, monkeypatch, capsys)
    assert [clue for clue in clues if clue not in message] == [], message


def test_the_pickle_of_these_tests_does_run_when_it_is_read(tmp_path):
    pickle.loads(pickle.dumps(Marker(tmp_path / "marker")))
    assert (tmp_path / "marker").read_text() == "run"


def adapter(base: str, folder: Path) -> Path:
    """An untrained adapter of `base`."""
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.name_or_path = base
    get_peft_model(model, config).save_pretrained(str(folder))
    return folder


def test_an_adapter_that_is_a_pickle_is_refused(tmp_path, tiny_model):
    folder = adapter(tiny_model, tmp_path / "adapter")
    with (folder / "adapter_model.bin").open("wb") as stream:
        pickle.dump({"weight": Marker(tmp_path / "marker")}, stream)
    load_weights(find_checkpoint(folder), torch.device("cpu"), "float32")  # beside safetensors it is not looked at
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="as a pickle") as caught:
        find_checkpoint(folder)
    assert "save_pretrained" in str(caught.value)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("damage", [pickled, pickled_shards, own_code])
def test_the_base_of_an_adapter_is_held_to_the_same(damage, tmp_path, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "model")
    folder = adapter(str(tmp_path / "model"), tmp_path / "adapter")
    damage(tmp_path / "model")
    with pytest.raises(ModelError):
        load_weights(find_checkpoint(folder), torch.device("cpu"), "float32")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("damage", [pickled, own_code])
@pytest.mark.parametrize(
    "command", [["finetune", "p.jsonl", "--model"], ["evaluate", "--data=p.jsonl"], ["gradients", "p.jsonl", "--model"]]
)
def test_every_command_that_loads_a_model_refuses(command, damage, tmp_path, tiny_model, monkeypatch, capsys):
    shutil.copytree(tiny_model, tmp_path / "model")
    damage(tmp_path / "model")
    write_jsonl(tmp_path / "p.jsonl", chat_rows(5))
    output = [] if command[0] == "evaluate" else ["--output", "out"]
    message = refusal(tmp_path, [*command, "./model", *output], monkeypatch, capsys)
    assert "pickles" in message or "trust" in message or "code" in message


def test_code_of_a_model_runs_only_where_its_flag_is_given(tmp_path, tiny_model, monkeypatch, capsys):
    """The marker shows that the refusal, not an accident, keeps the code from running."""
    shutil.copytree(tiny_model, tmp_path / "model")
    own_code(tmp_path / "model")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises((ModelError, AttributeError)):
        find_checkpoint(tmp_path / "model")
    assert not (tmp_path / "marker").exists()
    with pytest.raises((ModelError, AttributeError)):
        find_checkpoint(tmp_path / "model", trust_remote_code=True)
    assert (tmp_path / "marker").exists()


def test_a_template_that_loops_on_some_chats_costs_those(monkeypatch):
    """The rest of the pool is read, and the process's alarm is its own again afterwards."""
    import signal

    monkeypatch.setattr(templates, "RENDER_SECONDS", 0.2)
    tokenizer = byte_tokenizer()
    hook = "{% for message in messages %}{% if 'loop' in message.content %}" + LOOPS + "{% endif %}{% endfor %}"
    tokenizer.chat_template = hook + tokenizer.chat_template
    rows = [{"prompt": "q", "response": word} for word in ("one", "loop", "two")]
    pool = read_pool([rows], tokenizer, PoolOptions(skip_invalid=True))
    assert [rejection.number for rejection in pool.rejected] == [2]
    assert "did not finish" in pool.rejected[0].reason
    with pytest.raises(TemplateError, match="row 2"):
        read_pool([rows], tokenizer)
    read_pool([rows[:1]], tokenizer)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_timer_of_somebody_else_is_left_alone():
    import signal

    heard = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 100)
        read_pool([[{"prompt": "q", "response": "a"}]], byte_tokenizer())
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
        assert heard == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
