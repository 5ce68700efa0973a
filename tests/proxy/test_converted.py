"""The converted copy of the embedded model: verified, remade unless whole, and the same model as the GGUF."""

import errno
import json
import os
import shutil

import pytest
import torch

from spice_select.config import RunConfig
from spice_select.files.atomic import TEMPORARY_PATTERN
from spice_select.option_values import EMBEDDED_MODEL
from spice_select.proxy.embedded import GGUF_NAME, RECORD, converted_model, copy_folder, embedded_model_file
from spice_select.proxy.loading import ModelSource, load_model, load_tokenizer, model_fingerprint, model_source


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spice-select"


class Conversion:
    """Stands in for the real one, and counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, folder):
        self.calls += 1
        (folder / "model.safetensors").write_bytes(bytes(range(256)))
        (folder / "config.json").write_text("{}")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_copy_is_made_once(cache):
    convert = Conversion()
    copy = converted_model(convert)
    assert copy == copy_folder() and copy.parent == cache
    assert converted_model(convert) == copy and convert.calls == 1


def flip_a_bit(copy):
    path = copy / "model.safetensors"
    path.write_bytes(b"\x01" + path.read_bytes()[1:])


def edit_record(copy, **fields):
    record = json.loads((copy / RECORD).read_text())
    (copy / RECORD).write_text(json.dumps({**record, **fields}))


def replace_by_a_link(copy):
    shutil.move(copy, copy.with_name("elsewhere"))
    flip_a_bit(copy.with_name("elsewhere"))
    copy.symlink_to("elsewhere")


def replace_by_a_file(copy):
    shutil.rmtree(copy)
    copy.write_text("")


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        replace_by_a_link,
        replace_by_a_file,
        lambda copy: os.truncate(copy / "model.safetensors", 100),
        lambda copy: (copy / "config.json").unlink(),
        lambda copy: (copy / "adapter_config.json").write_text("{}"),
        lambda copy: (copy / "folder").mkdir(),
        lambda copy: (copy / RECORD).unlink(),
        lambda copy: (copy / RECORD).write_text("{"),
        lambda copy: (copy / RECORD).write_bytes(b"\xff"),
        lambda copy: edit_record(copy, gguf_sha256="0" * 64),
        lambda copy: edit_record(copy, transformers="5.0.0"),
    ],
)
def test_a_damaged_or_foreign_copy_is_made_anew(cache, damage):
    convert = Conversion()
    copy = converted_model(convert)
    before = content(copy)
    damage(copy)
    assert converted_model(convert) == copy and convert.calls == 2
    assert content(copy) == before and not copy.is_symlink()


@pytest.mark.parametrize("place", ["file", "file/cache", "/proc"])
def test_without_a_writable_cache_nothing_is_converted(tmp_path, monkeypatch, place):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    convert = Conversion()
    assert converted_model(convert) is None and convert.calls == 0


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "broken")])
def test_a_failed_conversion_leaves_nothing(cache, error):
    def fail(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    assert converted_model(fail) is None
    assert list(cache.iterdir()) == []


def test_an_interrupted_conversion_leaves_nothing(cache):
    def interrupt(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converted_model(interrupt)
    assert list(cache.iterdir()) == []


def test_of_two_conversions_at_once_the_first_to_end_stays(cache):
    first = Conversion()

    def second(folder):
        assert converted_model(first) == copy_folder()
        (folder / "model.safetensors").write_bytes(b"another")

        (folder / "config.json").touch()

    assert converted_model(second) == copy_folder()
    assert (copy_folder() / "model.safetensors").read_bytes() == bytes(range(256))
    assert list(cache.glob(TEMPORARY_PATTERN)) == []


def test_what_a_killed_conversion_left_is_removed(cache):
    """A process still at work loses its folder, too, and takes the copy that is there by then."""
    (cache / ".spice-killed.tmp").mkdir(parents=True)
    first = Conversion()

    def second(folder):
        converted_model(first)
        assert not folder.exists()
        Conversion()(folder)

    assert converted_model(second) == copy_folder()
    assert list(cache.iterdir()) == [copy_folder()]


@pytest.mark.slow
def test_the_copy_is_the_model_of_the_gguf_bit_for_bit(monkeypatch, tmp_path):
    copied = model_source(RunConfig())
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    plain = model_source(RunConfig())
    assert copied.arguments == {} and plain.arguments == {"gguf_file": GGUF_NAME}
    assert plain == ModelSource(EMBEDDED_MODEL, str(embedded_model_file().parent), plain.arguments)
    assert model_fingerprint(copied) == model_fingerprint(plain)
    one, other = load_tokenizer(copied), load_tokenizer(plain)
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()
    assert one.chat_template == other.chat_template and one.special_tokens_map == other.special_tokens_map
    talk = [
        {"role": "user", "content": "Zwei  plus\n3?\t😀<|im_end|> <repo_name>"},
        {"role": "assistant", "content": ""},
    ]
    for options in ({}, {"add_generation_prompt": True}):
        assert one.apply_chat_template(talk, **options) == other.apply_chat_template(talk, **options)
    models = [load_model(source, "float32", torch.device("cpu")) for source in (copied, plain)]
    weights, expected = (dict(model.named_parameters()) for model in models)
    buffers, expected_buffers = (dict(model.named_buffers()) for model in models)
    for found, wanted in ((weights, expected), (buffers, expected_buffers)):
        assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    narrow = load_model(copied, "bfloat16", torch.device("cpu"))
    assert all(torch.equal(weight, expected[name].bfloat16()) for name, weight in narrow.named_parameters())
    settings = [model.config.to_dict() | model.generation_config.to_dict() for model in models]
    own = {"_name_or_path", "architectures"}
    assert {k: v for k, v in settings[0].items() if k not in own} == {
        k: v for k, v in settings[1].items() if k not in own
    }
