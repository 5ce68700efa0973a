"""`gradients`, `pick`, `check` and `run --candidates all` as users give them, on a tiny model."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import click
import pyarrow.parquet as pq
import pytest
import torch

from oracles.forked import ENVIRONMENT, spice
from oracles.runs import chat_rows, read_jsonl, write_jsonl
from spice_select import GradientStore, compute_gradients, pick, select, select_from_features
from spice_select.api.gradients import PICK_OPTIONS
from spice_select.cli import main
from spice_select.cli.store import gradients_command, pick_command
from spice_select.errors import ConfigError, OutputError
from spice_select.methods import GRADIENT_METHODS, ORDERS

FAST = {"dim": 64, "lora_rank": 2, "warmup_steps": 1}
OPTIONS = ["--dim", "64", "--lora-rank", "2", "--warmup-steps", "1"]
ALL = ["--candidates", "all", "--dry-run"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Three sources, as a mixed collection has them."""
    rows = [{**row, "source": f"s{i % 3}"} for i, row in enumerate(chat_rows(300))]
    return write_jsonl(tmp_path_factory.mktemp("pool") / "mixed.jsonl", rows)


@pytest.fixture(scope="module")
def store(tmp_path_factory, pool, tiny_model):
    place = tmp_path_factory.mktemp("stores") / "store"
    compute_gradients(pool, model=tiny_model, output=place, **FAST)
    return place


def ids(result):
    return [chat.id for chat in result.chosen]


def test_the_commands_lead_to_a_directory_that_trainers_take(store, pool, tiny_model, tmp_path):
    done = spice("gradients", pool, "--model", tiny_model, "--output", tmp_path / "s", *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert "300 gradients of 64 dimensions" in done.stdout and "spice-select pick" in done.stdout
    assert (tmp_path / "s" / "manifest.json").read_bytes() == (store / "manifest.json").read_bytes()
    done = spice("check", tmp_path / "s")
    assert done.returncode == 0 and "every checksum matches" in done.stdout
    done = spice("pick", tmp_path / "s", "--budget", "20", "--output", tmp_path / "chosen")
    assert done.returncode == 0, done.stderr
    for text in ("rows kept                 20 of 300", "certificate", "information U"):
        assert text in done.stdout
    rows = read_jsonl(tmp_path / "chosen" / "selected.jsonl")
    own = read_jsonl(pool)
    assert len(rows) == 20 and all(row in own for row in rows)
    assert pq.read_table(tmp_path / "chosen" / "train.parquet").num_rows == 20
    scores = pq.read_table(tmp_path / "chosen" / "scores.parquet").to_pylist()
    assert len(scores) == 300 and sum(line["picked"] for line in scores) == 20
    assert all(line["norm"] > 0 for line in scores)


def test_pick_is_selection_on_the_stores_features(store):
    """With no scale and absolute alpha it is `select_from_features` on the numbers in the store."""
    opened = GradientStore.open(store)
    alpha = 1.0 / float(opened.squared_norms().mean())
    expected = select_from_features(opened.block(0, opened.rows), 30, alpha, 0.2)
    found = pick(
        store,
        budget="30",
        scale="none",
        directions="all",
        fisher_alpha_mode="absolute",
        fisher_alpha=alpha,
        penalty=0.2,
    )
    assert found.records[0].picks == expected.indices
    assert found.summary.quality.certificate == pytest.approx(expected.certificate.ratio)
    again = select_from_features(opened, 30, alpha, 0.2)
    assert again.indices == expected.indices and torch.equal(again.gain, expected.gain)


def test_a_run_over_all_rows_is_gradients_and_pick(store, pool, tiny_model, tmp_path):
    whole = select(pool, model=tiny_model, budget="10%", candidates="all", output=tmp_path / "run", **FAST)
    assert ids(whole) == ids(pick(store, budget="10%"))
    assert ids(pick(tmp_path / "run" / "checkpoint" / "gradients", budget="10%")) == ids(whole)
    for given in (None, str(tmp_path / "run" / "checkpoint" / "gradients")):
        with pytest.raises(OutputError, match="would be removed"):
            pick(given or tmp_path / "run" / "checkpoint" / "gradients", given=given, output=tmp_path / "run",
                 existing="overwrite")  # fmt: skip
        if given:
            with pytest.raises(OutputError, match="would be removed"):
                select(pool, model=tiny_model, candidates="all", given=given, output=tmp_path / "run",
                       existing="overwrite", **FAST)  # fmt: skip
    resumed = select(pool, model=tiny_model, budget="10%", candidates="all", output=tmp_path / "run",
                     existing="resume", **FAST)  # fmt: skip
    assert ids(resumed) == ids(whole)


@pytest.mark.slow
def test_kills_at_random_moments_change_no_byte(store, pool, tiny_model, tmp_path):
    """The real command, killed from its first files on; SPICE_SELECT_KILLS sets how often."""
    place, moments = tmp_path / "store", random.Random(5)
    command = ["gradients", pool, "--model", tiny_model, "--output", place, "--batch-tokens", "256", *OPTIONS]
    compute_gradients(pool, model=tiny_model, output=tmp_path / "whole", batch_tokens=256, **FAST)
    for _ in range(int(os.environ.get("SPICE_SELECT_KILLS", "3"))):
        process = subprocess.Popen([sys.executable, "-m", "spice_select", *map(str, command)], env=ENVIRONMENT,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        deadline = time.monotonic() + 60
        while not (place / ".claims").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 1.5))
        process.kill()
        process.wait()
    done = spice(*command)
    assert done.returncode == 0, done.stderr
    for leaving in place.rglob(".spice-*.tmp"):
        leaving.unlink()  # a kill inside a write leaves its temporary file, which nobody reads
    assert whole_content(place) == whole_content(tmp_path / "whole")


def whole_content(place):
    files = (path for path in place.rglob("*") if path.is_file() and ".claims" not in path.parts)
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_killed_run_over_all_rows_goes_on_to_the_same_subset(store, pool, tiny_model, tmp_path):
    command = ["run", pool, "--model", tiny_model, "--candidates", "all", "--output", tmp_path / "run", *OPTIONS]
    process = subprocess.Popen([sys.executable, "-m", "spice_select", *map(str, command)], env=ENVIRONMENT,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("warm-up"):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = spice(*command, "--resume")
    assert done.returncode == 0, done.stderr
    chosen = [row["id"] for row in read_jsonl(tmp_path / "run" / "selected.jsonl")]
    assert chosen == ids(pick(store, budget="10%"))


def test_quotas_budgets_in_tokens_and_excluded_rows(store, tmp_path):
    lines = GradientStore.open(store).listing.lines
    source, tokens = {line.id: line.source for line in lines}, {line.id: line.trained_tokens for line in lines}
    chosen = ids(pick(store, budget="40", quota={"s0": "50%", "s1": "..5"}))
    counts = [sum(source[name] == s for name in chosen) for s in ("s0", "s1", "s2")]
    assert counts[0] == 20 and counts[1] <= 5 and sum(counts) == 40
    budget = sum(tokens.values()) // 10
    chosen = ids(pick(store, budget=f"{budget}tok"))
    assert budget - max(tokens.values()) < sum(tokens[name] for name in chosen) <= budget
    first = ids(pick(store, budget="20"))
    (tmp_path / "no.txt").write_text("\ufeff" + "\n".join([*first, "of another pool"]) + "\n")
    second = pick(store, budget="20", exclude=str(tmp_path / "no.txt"), output=tmp_path / "second")
    assert len(second.chosen) == 20 and not set(first) & set(ids(second))
    scores = pq.read_table(tmp_path / "second" / "scores.parquet").to_pylist()
    assert sum(line["picked"] for line in scores) == 20
    assert [line["id"] for line in scores if line["pool"] is None] == sorted(first, key=[r.id for r in lines].index)


def test_halves_of_an_odd_budget(store):
    """A share between two whole numbers of rows allows either."""
    source = {line.id: line.source for line in GradientStore.open(store).listing.lines}
    chosen = [source[name] for name in ids(pick(store, budget="5", quota={"s0": "50%", "s1": "50%"}))]
    assert all(chosen.count(s) in (2, 3) for s in ("s0", "s1"))


def test_the_record_of_a_pick(store, tmp_path):
    """What the store was made with stays in it; a preset of the score does not change the gradients' options."""
    chosen = pick(store, budget="5", preset="paper", output=tmp_path / "out")
    assert (chosen.config.scale, chosen.config.warmup_steps) == ("none", FAST["warmup_steps"])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["store"]["path"] == str(store.resolve())
    with pytest.raises(ConfigError, match="lora_rank was set when the store was made"):
        pick(store, budget="5", lora_rank=1)


def test_given_rows_are_not_chosen_again(store, pool, tiny_model, tmp_path):
    """Rows like those already there add little: copies of a first choice are passed over in a second."""
    first = pick(store, budget="30", directions="all")
    held = write_jsonl(tmp_path / "held.jsonl", first.rows)
    given = tmp_path / "given"
    compute_gradients(held, model=tiny_model, output=given, proxy_of=store, **FAST)
    second = ids(pick(store, budget="30", directions="all", given=str(given)))
    assert len(set(second) & set(ids(first))) < 15
    other = tmp_path / "other"
    compute_gradients(held, model=tiny_model, output=other, **FAST)
    with pytest.raises(ConfigError, match="--proxy-of"):
        pick(store, budget="30", given=str(other))
    compute_gradients(held, model=tiny_model, output=tmp_path / "small", **{**FAST, "dim": 32})
    with pytest.raises(ConfigError, match="dim \\(was 32, is 64\\)"):
        pick(store, budget="30", given=str(tmp_path / "small"))
    with pytest.raises(ConfigError, match="dim \\(was 64, is 32\\)"):
        compute_gradients(held, model=tiny_model, output=tmp_path / "no", proxy_of=store, **{**FAST, "dim": 32})
    assert not (tmp_path / "no").exists()
    with pytest.raises(ConfigError, match="another --output"):
        compute_gradients(held, model=tiny_model, output=other, proxy_of=store, **FAST)


MISTAKES = {
    "no store": (["pick", "nowhere"], "no gradient store"),
    "not a store": (["check", "."], "no gradient store"),
    "unknown source": (["pick", "STORE", "--quota", "maths=20%"], "no such source"),
    "not a quota": (["pick", "STORE", "--quota", "s0=lots"], "is not a quota"),
    "half a quota": (["pick", "STORE", "--quota", "s0"], "SOURCE=SHARE"),
    "shares too large": (["pick", "STORE", "--quota", "s0=60%", "--quota", "s1=60%"], "ask for at least"),
    "shares too small": (
        ["pick", "STORE", "--quota", "s0=1", "--quota", "s1=1", "--quota", "s2=1"], "leave room for 3 rows"
    ),
    "more than a source has": (["pick", "STORE", "--budget", "290", "--quota", "s0=200"], "the source has 100"),
    "quota and tokens": (["pick", "STORE", "--budget", "90tok", "--quota", "s0=20%"], "quota counts rows"),
    "quota and stop": (["pick", "STORE", "--stop-ratio", "0.5", "--quota", "s0=20%"], "early stop"),
    "too few tokens": (["pick", "STORE", "--budget", "1tok"], "cheapest row"),
    "too many rows": (["pick", "STORE", "--budget", "301"], "at most 300"),
    "a quota twice": (["pick", "STORE", "--quota", "s0=9", "--quota", "s0=..20"], "given twice"),
    "stop and tokens": (["pick", "STORE", "--stop-ratio", "0.5", "--budget", "90tok"], "compares gains of rows"),
    "no file of ids": (["pick", "STORE", "--exclude", "absent.txt"], "--exclude"),
    "unknown id": (["pick", "STORE", "--exclude", "ids.txt"], "ids.txt, line 1"),
    "given is no store": (["pick", "STORE", "--given", "ids.txt"], "no gradient store"),
    "a method without features": (["pick", "STORE", "--method", "dpp"], "pick chooses by spice, fisher, less"),
    "a method without a choice": (["pick", "STORE", "--method", "random"], "pick chooses by spice, fisher, less"),
    "quota in candidate pools": (["run", "POOL", "--candidates", "120", "--quota", "s0=20%"], "candidates all"),
    "tokens in candidate pools": (["run", "POOL", "--candidates", "120", "--budget", "9tok"], "pools takes rows"),
    "a dry run and its quota": (["run", "POOL", *ALL, "--quota", "maths=20%"], "no such source"),
    "a dry run and its ids": (["run", "POOL", *ALL, "--exclude", "absent.txt"], "--exclude"),
    "a dry run beside a store": (["run", "POOL", *ALL, "--given", "STORE"], "is not comparable"),
    "a store's dry run": (["gradients", "POOL", "--output", "s", "--proxy-of", "STORE", "--dim", "32", "--dry-run"],
                          "dim (was 64"),
    "no dimension": (["gradients", "POOL", "--dim", "0", "--output", "s"], "dim"),
    "no output": (["gradients", "POOL"], "--output"),
    "no pool": (["gradients", "--output", "s"], "No pool was given"),
    "store of other options": (["gradients", "POOL", "--output", "STORE", "--dim", "32"], "dim (was 64, is 32)"),
    "output is something else": (["gradients", "POOL", "--output", "."], "no part of a store"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name, store, pool, tiny_model, tmp_path, monkeypatch, capfd):
    """One to three lines, exit code 2, and nothing written; in this process, whose start-up takes the longest."""
    arguments, clue = MISTAKES[name]
    (tmp_path / "ids.txt").write_text("nobody\nnothing\n")
    given = [str({"STORE": store, "POOL": pool}.get(part, part)) for part in arguments]
    if arguments[0] in ("run", "gradients"):
        given += ["--model", tiny_model]
    if arguments[0] in ("run", "pick"):
        given += ["--output", "out"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["spice-select", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    stderr = capfd.readouterr().err
    told = ("reading the", "loading", "looking at")
    error = [line for line in stderr.splitlines() if line.strip() and not line.startswith(told)]
    error = [line for line in error if "fields that are not used" not in line]
    assert ended.value.code == 2, stderr
    assert 1 <= len(error) <= 3 and "Traceback" not in stderr, stderr
    assert clue in "\n".join(error)
    assert [path.name for path in tmp_path.iterdir()] == ["ids.txt"]


def test_the_help_speaks_of_what_the_command_has():
    """`pick` takes the options of a pick, and names no other method; neither command has candidate pools."""
    words = {command: command.get_help(click.Context(command)) for command in (pick_command, gradients_command)}
    for text in words.values():
        assert not re.search(r"pool.size|candidate|rejected\.jsonl", text), text
    others = {*GRADIENT_METHODS, *ORDERS} - {"norm"}  # which is a word, too
    assert not others & set(re.findall(r"\w+", words[pick_command]))
    own = {option.name for option in pick_command.params} - {"store", "output", "overwrite"}
    assert own == set(PICK_OPTIONS)


def test_a_damaged_shard_is_named_and_computed_again_once_deleted(pool, tiny_model, tmp_path):
    place = tmp_path / "store"
    compute_gradients(pool, model=tiny_model, output=place, **FAST)
    path = place / "shards" / "000001.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-2] ^= 4
    path.write_bytes(raw)
    done = spice("check", place)
    assert done.returncode == 1 and "000001.safetensors: is damaged" in done.stderr and "again" in done.stderr
    done = spice("gradients", pool, "--model", tiny_model, "--output", place, *OPTIONS)
    assert done.returncode == 2 and "000001.safetensors: is damaged" in done.stderr and "Delete" in done.stderr
    assert path.read_bytes() == bytes(raw)
    path.unlink()
    assert spice("gradients", pool, "--model", tiny_model, "--output", place, *OPTIONS).returncode == 0
    assert spice("check", place).returncode == 0
    raw[-2] ^= 4
    assert path.read_bytes() == bytes(raw)


def test_a_directory_is_replaced_only_when_asked(store, tmp_path):
    pick(store, budget="5", output=tmp_path / "out")
    with pytest.raises(OutputError, match="--overwrite replaces it"):
        pick(store, budget="6", output=tmp_path / "out")
    pick(store, budget="6", output=tmp_path / "out", existing="overwrite")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["totals"]["kept"] == 6
