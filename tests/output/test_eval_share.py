"""Laws of --eval-share: the chosen rows are the same, each is in exactly one of the two files, and all files say so."""

import json

import pyarrow.parquet as pq
import pytest
import yaml

from oracles.forked import spice
from oracles.runs import chat_rows, read_jsonl, write_jsonl
from spice_select import select
from spice_select.config import RunConfig
from spice_select.errors import OutputError
from spice_select.pool.types import PoolOptions
from spice_select.proxy.loading import load_tokenizer, model_source
from spice_select.training.data import training_rows

RANDOM = {"method": "random", "budget": "30"}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    rows = [{**row, "id": f"r{place}"} for place, row in enumerate(chat_rows(60))]
    return write_jsonl(tmp_path_factory.mktemp("pool") / "p.jsonl", rows)


def ids(path):
    return pq.read_table(path)["id"].to_pylist()


@pytest.mark.parametrize(("share", "count"), [("10%", 3), ("0.5%", 1), ("99.9%", 29)])
def test_every_chosen_row_is_in_one_of_two_files(tiny_model, pool, tmp_path, share, count):
    """In the pool's order; the same again by the same seed, others by another; the manifest and the README say so."""
    whole = select(pool, model=tiny_model, output=tmp_path / "whole", **RANDOM)
    for name in ("one", "two"):
        select(pool, model=tiny_model, output=tmp_path / name, eval_share=share, **RANDOM)
    chosen = [row["id"] for row in whole.rows]
    assert [row["id"] for row in read_jsonl(tmp_path / "one" / "selected.jsonl")] == chosen
    train, held = (ids(tmp_path / "one" / name) for name in ("train.parquet", "eval.parquet"))
    assert len(held) == count and sorted([*train, *held]) == sorted(chosen)
    assert train == [one for one in chosen if one in train] and held == [one for one in chosen if one in held]
    assert ids(tmp_path / "two" / "eval.parquet") == held
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["evaluation"] == {"file": "eval.parquet", "share": share, "seed": 0, "rows": count}
    assert f"| `eval.parquet` | {count} of these rows" in (tmp_path / "one" / "README.md").read_text()
    assert yaml.safe_load((tmp_path / "one" / "axolotl.yaml").read_text())["test_datasets"]
    assert json.loads((tmp_path / "whole" / "manifest.json").read_text())["evaluation"] is None
    assert not (tmp_path / "whole" / "eval.parquet").exists()


def test_a_later_run_without_a_share_removes_the_file_and_training_says_that_rows_are_held(tiny_model, pool, tmp_path):
    output, told = tmp_path / "run", list[str]()
    select(pool, model=tiny_model, output=output, eval_share="10%", **RANDOM)
    tokenizer = load_tokenizer(model_source(RunConfig(model=tiny_model)))
    assert training_rows(output, tokenizer, PoolOptions(), told.append).rows == 27
    assert len(told) == 1 and "eval.parquet" in told[0]
    select(pool, model=tiny_model, output=output, existing="overwrite", **RANDOM)
    assert not (output / "eval.parquet").exists() and len(ids(output / "train.parquet")) == 30


def test_a_run_is_resumed_with_the_share_that_it_began_with(tiny_model, pool, tmp_path):
    """Its files hold what that share says, so another one would say what is not so."""
    select(pool, model=tiny_model, output=tmp_path / "run", eval_share="10%", **RANDOM)
    assert select(pool, model=tiny_model, output=tmp_path / "run", existing="resume", eval_share="10%", **RANDOM)
    for other in ({}, {"eval_share": "20%"}):
        with pytest.raises(OutputError, match="eval_share"):
            select(pool, model=tiny_model, output=tmp_path / "run", existing="resume", **other, **RANDOM)


def test_the_command_says_what_is_held_out(tiny_model, pool, tmp_path):
    run = ["run", pool, "--model", tiny_model, "--method", "random", "--budget", "30"]
    done = spice(*run, "--eval-share", "10%", "--output", "run", cwd=tmp_path)
    assert "3 of 30 picks, for evaluation: eval.parquet" in done.stdout, done.stderr
    for bad in ("100%", "0%", "3"):
        refused = spice(*run, "--eval-share", bad, "--output", "bad", cwd=tmp_path)
        assert refused.returncode == 2 and "eval_share" in refused.stderr and not (tmp_path / "bad").exists()
        assert len(refused.stderr.splitlines()) <= 3, refused.stderr
