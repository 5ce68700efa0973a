"""Outputs that may not be written, and directories of every command that are missing, foreign, damaged or hostile."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from oracles.commands import refusal
from spice_select.errors import SpiceSelectError
from spice_select.progress import NoProgress
from spice_select.report.build import build
from spice_select.store.reading import GradientStore


def link(name: str, target: str):
    def make(place: Path) -> None:
        path = place / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return make


def write(name: str, content: str):
    return lambda place: (place / name).write_text(content)


def edit(name: str, **values: object):
    """Set fields of a JSON file; None removes one."""

    def make(place: Path) -> None:
        content = json.loads((place / name).read_text())
        content.update(values)
        (place / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return make


def cut(name: str, keep: int):
    return lambda place: (place / name).write_bytes((place / name).read_bytes()[:keep])


def no_text(place: Path) -> None:
    """Write an id that is not UTF-8 into an otherwise valid Parquet file."""
    path = place / "run" / "scores.parquet"
    table = pq.read_table(path)
    ids = pc.cast(
        pa.array([b"\xb3"] * len(table), pa.binary()), options=pc.CastOptions(pa.string(), allow_invalid_utf8=True)
    )
    pq.write_table(table.set_column(table.column_names.index("id"), "id", ids), path)


def flipped(place: Path) -> None:
    """Change one value of a Gram matrix."""
    path = place / "run" / "checkpoint" / "gram-000000.safetensors"
    gram = load_file(path)["gram"].clone()
    gram[2, 3] += 100.0
    save_file({"gram": gram}, path)


def nothing(place: Path) -> None:
    pass


def both(*makes):
    return lambda place: [make(place) for make in makes]


RUN = ["run", "p.jsonl", "--model", "MODEL", "--output"]
PICK = ["pick", "store", "--output", "out"]
RECORD = "run/checkpoint/pool-000000.json"

PLACES = {
    "output is a file": (nothing, [*RUN, "p.jsonl"], ["p.jsonl", "is a file"]),
    "output under a file": (nothing, [*RUN, "p.jsonl/out"], ["p.jsonl/out"]),
    "output is foreign": (nothing, [*RUN, "foreign"], ["foreign", "not written by a run"]),
    "output is foreign, with --overwrite": (nothing, [*RUN, "foreign", "--overwrite"], ["not written by a run"]),
    "output is a run": (nothing, [*RUN, "run"], ["run", "--overwrite"]),
    "output is a store": (nothing, [*RUN, "store"], ["store", "not written by a run"]),
    "output is another program's": (
        both(write("foreign/manifest.json", '{"format": "theirs"}')),
        [*RUN, "foreign", "--overwrite"],
        ["not written by a run"],
    ),
    "output is a link to a foreign folder": (link("out", "foreign"), [*RUN, "out"], ["not written by a run"]),
    "output is a link to nothing": (link("out", "nowhere/at/all"), [*RUN, "out"], ["out"]),
    "output is a link to itself": (link("out", "out"), [*RUN, "out"], ["out"]),
    "resume of other options": (nothing, [*RUN, "run", "--resume", "--seed", "9"], ["other settings", "seed"]),
    "resume of a damaged identity": (
        write("run/checkpoint/identity.json", "{"),
        [*RUN, "run", "--resume"],
        ["identity.json", "cannot be read"],
    ),
    "an input that would be replaced": (
        nothing,
        ["run", "run/selected.jsonl", "--model", "MODEL", "--output", "run", "--overwrite", "--budget", "1"],
        ["is an input"],
    ),
    "gradients into a run": (nothing, ["gradients", "p.jsonl", "--model", "MODEL", "--output", "run"], ["run"]),
    "gradients into a file": (
        nothing,
        ["gradients", "p.jsonl", "--model", "MODEL", "--output", "p.jsonl"],
        ["p.jsonl"],
    ),
    "gradients of nothing": (nothing, ["gradients", "--model", "MODEL", "--output", "out"], ["pool"]),
    "gradients by another proxy": (
        nothing,
        ["gradients", "p.jsonl", "--model", "MODEL", "--proxy-of", "run", "--output", "out"],
        ["run", "no gradient store"],
    ),
    "pick from nowhere": (nothing, ["pick", "absent", "--output", "out"], ["absent", "no gradient store"]),
    "pick from a run": (nothing, ["pick", "run", "--output", "out"], ["run", "no gradient store"]),
    "pick from a file": (nothing, ["pick", "p.jsonl", "--output", "out"], ["p.jsonl"]),
    "pick into the store": (nothing, ["pick", "store", "--output", "store"], ["store"]),
    "pick by a baseline": (nothing, [*PICK, "--method", "random"], ["random"]),
    "pick of an unfinished store": (lambda place: (place / "store/manifest.json").unlink(), PICK, ["not finished"]),
    "manifest no JSON": (write("store/manifest.json", "{"), PICK, ["manifest.json"]),
    "manifest a list": (write("store/manifest.json", "[]"), PICK, ["manifest.json"]),
    "manifest deep": (write("store/manifest.json", "[" * 9999), PICK, ["manifest.json"]),
    "manifest of another version": (edit("store/manifest.json", format_version=9), PICK, ["version 9"]),
    "rows below zero": (edit("store/manifest.json", rows=-5, shards=[]), PICK, ["manifest.json", "damaged"]),
    "no rows": (edit("store/manifest.json", rows=0, shards=[]), PICK, ["manifest.json", "damaged"]),
    "rows a text": (edit("store/manifest.json", rows="many"), PICK, ["manifest.json", "damaged"]),
    "rows endless": (edit("store/manifest.json", rows=1e999), PICK, ["manifest.json", "damaged"]),
    "rows of other files": (edit("store/manifest.json", rows=39), PICK, ["store"]),
    "shards of none": (edit("store/manifest.json", shards=None), PICK, ["manifest.json", "damaged"]),
    "shards of no rows": (edit("store/manifest.json", shard_rows=0), PICK, ["manifest.json", "damaged"]),
    "dim of another": (edit("store/manifest.json", dim=17), PICK, ["000000.safetensors"]),
    "a shard cut": (cut("store/shards/000000.safetensors", 500), PICK, ["000000.safetensors", "damaged"]),
    "a shard of text": (write("store/shards/000000.safetensors", "x" * 99), PICK, ["000000.safetensors", "damaged"]),
    "a shard too many": (write("store/shards/000001.safetensors", "x"), PICK, ["1 shards that"]),
    "pool.json a list": (write("store/pool.json", "[]"), PICK, ["pool.json"]),
    "pool.json without options": (edit("store/pool.json", config=None), PICK, ["pool.json"]),
    "pool.json with odd options": (edit("store/pool.json", config={"dim": "x", "magic": 1}), PICK, ["magic"]),
    "pool.json of odd inputs": (edit("store/pool.json", inputs=3), PICK, ["pool.json", "damaged"]),
    "identity a list": (write("store/identity.json", "[]"), [*PICK, "--given", "store"], ["store"]),
    "rows.parquet cut": (cut("store/rows.parquet", 300), PICK, ["rows.parquet", "damaged"]),
    "rows.parquet of text": (write("store/rows.parquet", "PAR1"), PICK, ["rows.parquet", "damaged"]),
    "pool.parquet cut": (cut("store/pool.parquet", 300), PICK, ["pool.parquet", "damaged"]),
    "check of nowhere": (nothing, ["check", "absent"], ["absent"]),
    "check of a run": (nothing, ["check", "run"], ["no gradient store"]),
    "report of nowhere": (nothing, ["report", "absent"], ["absent", "no finished run"]),
    "report of a file": (nothing, ["report", "p.jsonl"], ["p.jsonl", "no finished run"]),
    "report of a store": (nothing, ["report", "store"], ["store"]),
    "report of a run cut short": (cut("run/manifest.json", 99), ["report", "run"], ["manifest.json", "read"]),
    "manifest of a run deep": (
        write("run/manifest.json", "[" * 9999),
        ["report", "run"],
        ["manifest.json", "read"],
    ),
    "a run without options": (edit("run/manifest.json", config=None), ["report", "run"], ["manifest.json"]),
    "a run of odd options": (edit("run/manifest.json", config={"penalty": "x"}), ["report", "run"], ["penalty"]),
    "a run without records": (
        lambda place: [path.unlink() for path in (place / "run" / "checkpoint").glob("pool-*.json")],
        ["report", "run"],
        ["checkpoint", "no record"],
    ),
    "a record cut": (cut(RECORD, 30), ["report", "run"], ["pool-000000.json"]),
    "a record of a list": (write(RECORD, "[]"), ["report", "run"], ["pool-000000.json"]),
    "a record of other rows": (edit(RECORD, rows=[10**9] * 20), ["report", "run"], ["pool-000000.json"]),
    "a record of other picks": (edit(RECORD, picks=[99]), ["report", "run"], ["pool-000000.json"]),
    "a record of odd rows": (edit(RECORD, rows="abc"), ["report", "run"], ["pool-000000.json"]),
    "a record of odd measures": (edit(RECORD, measures={"gain": 1}), ["report", "run"], ["pool-000000.json"]),
    "scores cut": (cut("run/scores.parquet", 300), ["report", "run"], ["scores.parquet"]),
    "scores of no text": (no_text, ["report", "run"], ["scores.parquet", "damaged"]),
    "texts cut": (cut("run/checkpoint/texts.parquet", 300), ["report", "run"], ["texts.parquet"]),
    "a gram cut": (cut("run/checkpoint/gram-000000.safetensors", 300), ["report", "run"], ["gram-000000"]),
    "a gram of other numbers": (flipped, ["report", "run"], ["gram-000000", "symmetric"]),
    "embeddings of nowhere": (nothing, ["report", "run", "--embeddings", "absent.npy"], ["absent.npy"]),
    "embeddings of text": (nothing, ["report", "run", "--embeddings", "p.jsonl"], ["p.jsonl"]),
    "audit of nowhere": (nothing, ["audit", "absent"], ["absent", "no finished run"]),
    "audit of a foreign folder": (nothing, ["audit", "foreign"], ["foreign", "no finished run"]),
    "audit of no line": (nothing, ["audit", "run", "--limit", "0"], ["limit"]),
    "compare one": (nothing, ["compare", "run"], ["at least two"]),
    "compare with nowhere": (nothing, ["compare", "run", "absent"], ["absent", "no finished run"]),
    "compare into a file": (nothing, ["compare", "run", "run", "--output", "p.jsonl"], ["p.jsonl"]),
    "finetune on nowhere": (nothing, ["finetune", "absent", "--model", "MODEL", "--output", "out"], ["absent"]),
    "finetune on a foreign folder": (
        nothing,
        ["finetune", "foreign", "--model", "MODEL", "--output", "out"],
        ["foreign"],
    ),
    "finetune into a run": (nothing, ["finetune", "run", "--output", "run"], ["run", "not written by finetune"]),
    "finetune into a file": (nothing, ["finetune", "run", "--output", "p.jsonl"], ["p.jsonl", "is a file"]),
    "finetune into another's checkpoint": (
        write("foreign/finetune.json", '{"format": "spice-select-finetune", "files": 7}'),
        ["finetune", "run", "--output", "foreign", "--overwrite"],
        ["foreign"],
    ),
    "finetune on torn rows": (cut("run/train.parquet", 200), ["finetune", "run", "--output", "out"], ["train.parquet"]),
    "finetune on odd options": (write("run/run.yaml", "model: [1]"), ["finetune", "run", "--output", "out"], ["model"]),
    "evaluate nowhere": (nothing, ["evaluate", "absent/x/y", "--data", "p.jsonl"], ["absent"]),
    "evaluate a run": (nothing, ["evaluate", "run", "--data", "p.jsonl"], ["run", "no config.json"]),
    "evaluate nothing": (nothing, ["evaluate", "MODEL"], ["nothing to measure"]),
    "evaluate on nowhere": (nothing, ["evaluate", "MODEL", "--data", "absent.jsonl"], ["absent.jsonl"]),
    "evaluate into a folder": (
        nothing,
        ["evaluate", "MODEL", "--data", "p.jsonl", "--output", "foreign"],
        ["foreign", "directory"],
    ),
    "evaluate into its data": (
        nothing,
        ["evaluate", "MODEL", "--data", "p.jsonl", "--output", "p.jsonl", "--overwrite"],
        ["p.jsonl", "is an input"],
    ),
    "evaluate unknown tasks": (nothing, ["evaluate", "MODEL", "--tasks", "magic"], ["magic"]),
    "study of nowhere": (nothing, ["study", "absent.yaml", "--output", "out"], ["absent.yaml"]),
    "study of a pool": (nothing, ["study", "p.jsonl", "--output", "out"], ["p.jsonl"]),
    "inspect nowhere": (nothing, ["inspect", "absent.jsonl", "--model", "MODEL"], ["absent.jsonl"]),
}


@pytest.mark.parametrize("name", PLACES)
def test_bad_places(name, place, tiny_model, monkeypatch, capsys):
    make, arguments, clues = PLACES[name]
    make(place)
    arguments = [tiny_model if argument == "MODEL" else argument for argument in arguments]
    message = refusal(place, arguments, monkeypatch, capsys)
    assert [clue for clue in clues if clue not in message] == [], message


def test_a_manifest_cannot_lead_a_report_to_other_files(place):
    """A run that names a store which is no store is reported without gradients."""
    manifest = json.loads((place / "run" / "manifest.json").read_text())
    for named in ({"path": "/etc", "sha256": None}, {"path": 7, "sha256": None}, [], {"path": "a\0b", "sha256": "x"}):
        manifest["config"]["candidates"] = "all"
        (place / "run" / "manifest.json").write_text(json.dumps({**manifest, "store": named}))
        try:
            build(place / "run", NoProgress())
        except SpiceSelectError as error:
            assert len(str(error).splitlines()) <= 3


def test_pickles_in_arrays_are_not_read(place, monkeypatch, capsys):
    """NumPy can put pickles into .npy files."""
    np.save(place / "e.npy", np.array([{"a": 1}] * 40, dtype=object), allow_pickle=True)
    message = refusal(place, ["report", "run", "--embeddings", "e.npy"], monkeypatch, capsys)
    assert "e.npy" in message


def test_an_audit_runs_no_code_that_a_manifest_allows(place, tiny_model, monkeypatch, capsys):
    """A run's directory may ask for the model's own code; only the flag allows it."""
    model = place / "model"
    shutil.copytree(tiny_model, model)
    (model / "modeling_x.py").write_text(
        f"from pathlib import Path\nPath({str(place / 'marker')!r}).write_text('run')\n"
    )
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "x", "auto_map": {"AutoConfig": "modeling_x.X", "AutoModelForCausalLM": "modeling_x.X"}}
    (model / "config.json").write_text(json.dumps(config))
    manifest = json.loads((place / "run" / "manifest.json").read_text())
    manifest["config"] |= {"model": str(model), "trust_remote_code": True}
    (place / "run" / "manifest.json").write_text(json.dumps(manifest))
    message = refusal(place, ["audit", "run", "--answers"], monkeypatch, capsys)
    assert "code" in message
    assert not (place / "marker").exists()


def test_the_store_of_these_tests_is_whole(place):
    assert GradientStore.open(place / "store").rows == 40
