"""The real command line in a subprocess, on a tiny model: results, replays, kills, refusals."""

import json
import re
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import yaml

from oracles.forked import ENVIRONMENT, spice, spice_anew
from oracles.runs import chat_rows, read_jsonl, write_jsonl

FAST = ["--candidates", "10", "--update-every", "2", "--update-batch-size", "4", "--lora-rank", "2", "--budget", "20%"]
LATER = {"constants", "judge", "balance"}
"""Options that the first runs did not have."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory, tiny_model, chat_pool):
    """One undisturbed run that the others are compared with."""
    output = tmp_path_factory.mktemp("reference") / "run"
    done = spice("run", chat_pool, "--model", tiny_model, "--output", output, *FAST)
    assert done.returncode == 0, done.stderr
    return output, done


def test_a_dry_run_tells_what_a_run_takes_and_writes_nothing(tmp_path, tiny_model, chat_pool):
    before = sorted(tmp_path.iterdir())
    done = spice("run", chat_pool, "--model", tiny_model, *FAST, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    needs = r"forecast: about 0:00:0\d, \d\.\d GiB of memory, up to \d\.\d MB on disk\n"
    assert re.fullmatch(needs, done.stdout), done.stdout
    assert "57 rows" in done.stderr
    assert sorted(tmp_path.iterdir()) == before
    for options in (["--method", "random"], ["--method", "ifd"], ["--candidates", "all"]):
        done = spice("run", chat_pool, "--model", tiny_model, *options, "--dry-run", cwd=tmp_path)
        assert done.returncode == 0 and done.stdout.startswith("forecast: "), done.stdout + done.stderr
        assert ("about 0:00:0" in done.stdout) == (options != ["--method", "random"])
    few = write_jsonl(tmp_path / "few.jsonl", chat_rows(2))
    before.append(few)
    done = spice("gradients", few, "--model", tiny_model, "--output", "store", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and "forecast: about 0:00:0" in done.stdout, done.stdout + done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_gradients_of_the_last_blocks_are_another_choice_that_replays(tmp_path, tiny_model, chat_pool):
    done = spice("run", chat_pool, "--model", tiny_model, "--output", tmp_path / "one", *FAST, "--layers", "last:1")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["config"]["layers"] == "last:1" and manifest["model"]["adapted_layers"] == 7
    again = spice("run", "--config", tmp_path / "one" / "run.yaml", "--output", tmp_path / "two")
    assert again.returncode == 0, again.stderr
    assert picks(tmp_path / "one") == picks(tmp_path / "two")
    done = spice("run", chat_pool, "--model", tiny_model, "--output", tmp_path / "three", "--layers", "last:3")
    assert done.returncode == 2 and "the model has 2 blocks" in done.stderr and not (tmp_path / "three").exists()
    done = spice("run", chat_pool, "--model", tiny_model, "--output", tmp_path / "three", "--layers", "4")
    assert done.returncode == 2 and "last:4" in done.stderr


def picks(directory):
    table = pq.read_table(directory / "scores.parquet").to_pylist()
    return [(line["pool"], line["rank"], line["id"]) for line in table if line["picked"]]


def test_a_run_leaves_what_it_promises(reference, chat_pool):
    output, done = reference
    rows = read_jsonl(chat_pool)
    selected = read_jsonl(output / "selected.jsonl")
    assert len(selected) == 11  # 20 % of 57
    positions = [rows.index(row) for row in selected]
    assert positions == sorted(positions), "rows are as they were, in the pool's order"
    scores = pq.read_table(output / "scores.parquet").to_pylist()
    assert [line["id"] for line in scores] == [row["id"] for row in rows]
    assert {line["id"] for line in scores if line["picked"]} == {row["id"] for row in selected}
    for line in scores:
        assert line["picked"] == (line["rank"] is not None)
        assert line["epsilon"] == pytest.approx(line["gain"] - line["base"], abs=1e-12)
        assert line["score"] == pytest.approx(line["gain"] - 0.1 * line["conflict"], abs=1e-12)
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["totals"]["kept"] == 11 and manifest["totals"]["rows"] == 57
    assert sum(pool["picked"] for pool in manifest["pools"]) == 11
    assert all(0 < pool["certificate"] <= 1 for pool in manifest["pools"])
    for name in ("train.parquet", "make_tokens.py", "axolotl.yaml", "README.md", "run.yaml"):
        assert (output / name).is_file()
    assert pq.read_table(output / "train.parquet").num_rows == 11
    assert "certificate" in done.stdout and "even" in done.stdout and "median response" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr, "no terminal, no control codes"
    assert not list(output.glob("**/*.tmp")) and not list(output.glob("checkpoint/proxy-*"))


@pytest.mark.parametrize("budget", ["70", "4000"])
def test_the_batch_tokens_does_not_change_the_subset(reference, tmp_path, tiny_model, chat_pool, budget):
    done = spice("run", chat_pool, "--model", tiny_model, "--output", tmp_path / "r", *FAST, "--batch-tokens", budget)
    assert done.returncode == 0, done.stderr
    assert picks(tmp_path / "r") == picks(reference[0])


def test_little_gradient_memory_does_not_change_the_subset(reference, tmp_path, tiny_model, chat_pool):
    arguments = [*FAST, "--gradient-memory", "0.00001", "--batch-tokens", "300"]
    done = spice("run", chat_pool, "--model", tiny_model, "--output", tmp_path / "r", *arguments)
    assert done.returncode == 0, done.stderr
    assert "passes over each pool" in done.stderr
    assert picks(tmp_path / "r") == picks(reference[0])


def test_a_killed_run_resumes_to_the_identical_subset(reference, tmp_path, tiny_model, chat_pool):
    """SIGKILL after the first proxy, after pools and in an update; each time --resume goes on."""
    output = tmp_path / "r"
    arguments = ["run", chat_pool, "--model", tiny_model, "--output", output, *FAST]
    checkpoint = output / "checkpoint"
    moments = ["proxy-000000.safetensors", "pool-000001.json", "pool-000003.json"]
    for i, moment in enumerate(moments):
        resume = ["--resume"] if i else []
        command = [sys.executable, "-m", "spice_select", *map(str, arguments), *resume]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (checkpoint / moment).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (output / "manifest.json").exists(), "killed too late to show anything"
    refused = spice(*arguments)
    assert refused.returncode == 2 and "--resume continues it" in refused.stderr
    done = spice(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert picks(output) == picks(reference[0])
    for name in ("selected.jsonl", "train.parquet", "scores.parquet"):
        assert (output / name).read_bytes() == (reference[0] / name).read_bytes()


def test_resuming_a_finished_run_changes_nothing(tmp_path, tiny_model, chat_pool):
    arguments = ["run", chat_pool, "--model", tiny_model, "--output", tmp_path / "r", *FAST]
    assert spice(*arguments).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    again = spice(*arguments, "--resume")
    assert again.returncode == 0 and "certificate" in again.stdout
    assert before == {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}


def test_a_run_of_an_earlier_version_goes_on(tmp_path, tiny_model, chat_pool):
    """Its identity names no option that was added since; defaults of these differ from nothing."""
    arguments = ["run", chat_pool, "--model", tiny_model, "--output", tmp_path, *FAST]
    assert spice(*arguments).returncode == 0
    path = tmp_path / "checkpoint" / "identity.json"
    earlier = {key: value for key, value in json.loads(path.read_text()).items() if key not in LATER}
    path.write_text(json.dumps(earlier))
    assert spice(*arguments, "--resume").returncode == 0


def test_resume_with_other_settings_is_refused(reference, tiny_model, chat_pool):
    done = spice("run", chat_pool, "--model", tiny_model, "--output", reference[0], *FAST, "--resume", "--seed", "5")
    assert done.returncode == 2 and "seed" in done.stderr


def test_the_written_yaml_replays_the_run(reference, tmp_path):
    done = spice_anew("run", "--config", reference[0] / "run.yaml", "--output", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again" / "selected.jsonl").read_bytes() == (reference[0] / "selected.jsonl").read_bytes()


def test_print_config_writes_nothing(tmp_path):
    done = spice("run", "p.jsonl", "--penalty", "0.3", "--print-config", cwd=tmp_path)
    assert done.returncode == 0 and yaml.safe_load(done.stdout)["penalty"] == 0.3
    assert not list(tmp_path.iterdir())


def test_overwrite_replaces_the_run_and_spares_other_files(tmp_path, tiny_model, chat_pool):
    output = tmp_path / "r"
    arguments = ["run", chat_pool, "--model", tiny_model, "--output", output, "--method", "random"]
    assert spice(*arguments, "--parquet").returncode == 0
    (output / "notes.txt").write_text("mine")
    assert spice(*arguments).returncode == 2
    assert spice(*arguments, "--seed", "1", "--overwrite").returncode == 0
    assert (output / "notes.txt").read_text() == "mine"
    assert not (output / "selected.parquet").exists()


def test_a_directory_that_is_no_run_is_never_touched(tmp_path, tiny_model, chat_pool):
    (tmp_path / "thesis.txt").write_text("years of work")
    done = spice("run", chat_pool, "--model", tiny_model, "--output", tmp_path, "--overwrite")
    assert done.returncode == 2 and "not written by a run" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("method", ["fisher", "norm", "dpp", "cosine", "ifd", "longest", "random"])
def test_methods_meet_the_budget(tmp_path, tiny_model, chat_pool, method):
    done = spice("run", chat_pool, "--model", tiny_model, "--output", tmp_path / "r", *FAST, "--method", method)
    assert done.returncode == 0, done.stderr
    assert len(read_jsonl(tmp_path / "r" / "selected.jsonl")) == 11
    if method == "norm":
        assert "100% of the picks" in done.stdout


def test_a_budget_in_tokens_is_met_as_near_as_rows_allow(tmp_path, tiny_model, chat_pool):
    arguments = ["run", chat_pool, "--model", tiny_model, "--output", tmp_path / "r", "--method", "random"]
    done = spice(*arguments, "--budget", "300tok")
    assert done.returncode == 0, done.stderr
    scores = pq.read_table(tmp_path / "r" / "scores.parquet")
    rows = [row for row in scores.to_pylist() if row["picked"]]
    kept = sum(row["trained_tokens"] for row in rows)
    assert abs(kept - 300) <= max(scores["trained_tokens"].to_pylist()) / 2
    assert f"rows kept                 {len(rows)} of 57" in done.stdout
    again = spice(*arguments, "--budget", "300tok", "--resume")
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "norm", "--stop-ratio", "0.5"), "stop_ratio belongs to the methods spice and fisher"),
        (("--budget", "300tok", "--candidates", "120"), "spice in candidate pools takes rows"),
        (("--directions", "0"), "directions: "),
    ],
)
def test_options_that_a_method_cannot_use_are_refused(tmp_path, chat_pool, arguments, message):
    done = spice("run", chat_pool, "--output", tmp_path / "r", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "r").exists()


def test_a_finished_run_of_any_method_is_read_back(tmp_path, tiny_model, chat_pool):
    arguments = ["run", chat_pool, "--model", tiny_model, "--output", tmp_path / "r", *FAST, "--method", "ifd"]
    first, second = spice(*arguments), spice(*arguments, "--resume")
    assert second.returncode == 0, second.stderr
    strip = [[line for line in done.stdout.splitlines() if not line.startswith("time")] for done in (first, second)]
    assert strip[0] == strip[1]


def test_early_stop_makes_the_budget_a_cap(tmp_path, tiny_model, chat_pool):
    arguments = ["--budget", "90%", "--stop-ratio", "0.9", "--scale", "none"]
    done = spice("run", chat_pool, "--model", tiny_model, "--output", tmp_path / "r", *FAST[:-2], *arguments)
    assert done.returncode == 0, done.stderr
    kept = len(read_jsonl(tmp_path / "r" / "selected.jsonl"))
    assert 0 < kept < 51 and "stopped early" in done.stdout and "cap 51" in done.stdout


def test_the_last_pool_may_be_one_row_and_quotas_zero(tmp_path, tiny_model):
    pool = write_jsonl(tmp_path / "p.jsonl", chat_rows(21))
    arguments = ["--candidates", "4", "--budget", "3", "--lora-rank", "2", "--parquet"]
    done = spice("run", pool, "--model", tiny_model, "--output", tmp_path / "r", *arguments)
    assert done.returncode == 0, done.stderr
    assert len(read_jsonl(tmp_path / "r" / "selected.jsonl")) == 3
    assert pq.read_table(tmp_path / "r" / "selected.parquet").num_rows == 3


def test_several_pools_of_different_formats(tmp_path, tiny_model):
    chats = write_jsonl(tmp_path / "chats.jsonl", [{"messages": row["messages"]} for row in chat_rows(8)])
    questions = write_jsonl(tmp_path / "qa.jsonl", [{"question": f"{i}+1", "answer": str(i + 1)} for i in range(8)])
    done = spice("run", chats, questions, "--model", tiny_model, "--output", tmp_path / "r", *FAST)
    assert done.returncode == 0, done.stderr
    assert {line["source"] for line in pq.read_table(tmp_path / "r" / "scores.parquet").to_pylist()} == {"chats", "qa"}


def test_skipped_rows_are_kept_aside_with_their_reason(tmp_path, tiny_model):
    pool = tmp_path / "p.jsonl"
    write_jsonl(pool, chat_rows(12))
    pool.write_text(pool.read_text() + '{"messages": []}\n{"messages": [{"role": "user", "content": "no answer"}]}\n')
    stopped = spice("run", pool, "--model", tiny_model, "--output", tmp_path / "r", "--budget", "3")
    assert stopped.returncode == 2 and "row 13" in stopped.stderr and "--skip-invalid" in stopped.stderr
    assert not (tmp_path / "r").exists()
    done = spice("run", pool, "--model", tiny_model, "--output", tmp_path / "r", "--budget", "3", "--skip-invalid")
    assert done.returncode == 0, done.stderr
    rejected = read_jsonl(tmp_path / "r" / "rejected.jsonl")
    assert [line["row"] for line in rejected] == [13, 14] and all(line["reason"] for line in rejected)


def test_inspect_marks_the_trained_text(tmp_path, tiny_model, chat_pool):
    done = spice("inspect", chat_pool, "--model", tiny_model, "--rows", "1")
    assert done.returncode == 0, done.stderr
    answer = read_jsonl(chat_pool)[0]["messages"][1]["content"]
    assert f"⟦{answer}<|im_end|>⟧" in done.stdout and "57 usable rows" in done.stdout


def test_a_foreign_manifest_is_not_taken_for_a_run(tmp_path, tiny_model, chat_pool):
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    (tmp_path / "README.md").write_text("mine")
    done = spice("run", chat_pool, "--model", tiny_model, "--output", tmp_path, "--overwrite", "--method", "random")
    assert done.returncode == 2 and (tmp_path / "README.md").read_text() == "mine"


def test_a_run_never_replaces_its_own_input(tmp_path, tiny_model, chat_pool):
    first = ["--model", tiny_model, "--output", tmp_path / "r", "--method", "random", "--overwrite", "--budget", "50%"]
    assert spice("run", chat_pool, *first).returncode == 0
    before = (tmp_path / "r" / "selected.jsonl").read_bytes()
    done = spice("run", tmp_path / "r" / "selected.jsonl", *first)
    assert done.returncode == 2 and "is an input" in done.stderr
    assert (tmp_path / "r" / "selected.jsonl").read_bytes() == before
