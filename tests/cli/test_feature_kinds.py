"""`--features` states and preconditioned, from the command line to the page, and the mistakes that it can hold."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from oracles.forked import spice, spice_anew
from oracles.runs import chat_rows, write_jsonl
from spice_select import GradientStore, compute_gradients, forecast_gradients, pick, select
from spice_select.errors import ConfigError, ModelError, OutputError
from spice_select.files.locks import CLAIMS
from spice_select.store.reading import check_store

FAST = {"dim": 64, "lora_rank": 2, "warmup_steps": 1}
FLAGS = ["--dim", "64", "--lora-rank", "2", "--warmup-steps", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    """A pool, a task, and stores of both kinds."""
    place = tmp_path_factory.mktemp("kinds")
    write_jsonl(place / "pool.jsonl", chat_rows(300))
    write_jsonl(place / "task.jsonl", chat_rows(12, seed=1))
    compute_gradients(place / "pool.jsonl", model=tiny_model, output=place / "states", features="states")
    compute_gradients(place / "task.jsonl", model=tiny_model, output=place / "aim", features="states")
    made = {"model": tiny_model, "features": "preconditioned", **FAST}
    compute_gradients(place / "pool.jsonl", output=place / "less", **made)
    compute_gradients(place / "task.jsonl", output=place / "given", proxy_of=place / "less", **made)
    plain = {**made, "features": "gradients"}
    compute_gradients(place / "task.jsonl", output=place / "plain", proxy_of=place / "less", **plain)
    return place


def ids(result):
    return [chat.id for chat in result.chosen]


def files(store):
    found = (path for path in store.rglob("*") if path.is_file() and CLAIMS not in path.parts)
    return {path.relative_to(store): path.read_bytes() for path in found}


def test_states_end_to_end(folder, tiny_model, tmp_path):
    done = spice(
        "run", folder / "pool.jsonl", "--model", tiny_model, "--features", "states", "--target", folder / "task.jsonl",
        "--budget", "20", "--output", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "coverage of the target" in done.stdout and "warm-up" not in done.stderr
    store = GradientStore.open(tmp_path / "run" / "checkpoint" / "gradients")
    assert (store.features, store.dim) == ("states", 32) and not (store.path / "proxy.safetensors").exists()
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<dt>state</dt>" in page and "gradient" not in page.partition("<main")[2].partition("row-0")[0].lower()
    scores = pq.read_table(tmp_path / "run" / "scores.parquet")
    assert scores["loss"].null_count == scores.num_rows
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["config"]["candidates"] == "all"
    chosen = pick(folder / "states", target=str(folder / "aim"), budget=20)
    assert ids(chosen) == [row["id"] for row in map(json.loads, (tmp_path / "run" / "selected.jsonl").open())]
    assert spice("audit", tmp_path / "run").returncode == 0
    assert "states of 32 dimensions" in spice("check", store.path).stdout


def test_a_run_with_preconditioned_gradients_has_a_plain_target(folder, tiny_model, tmp_path):
    done = spice(
        "run", folder / "pool.jsonl", "--model", tiny_model, "--features", "preconditioned", *FLAGS, "--target",
        folder / "task.jsonl", "--budget", "20", "--output", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    place = tmp_path / "run" / "checkpoint"
    kinds = [GradientStore.open(place / name).features for name in ("gradients", "target-0")]
    assert kinds == ["preconditioned", "gradients"]
    chosen = pick(folder / "less", target=str(folder / "plain"), given=str(folder / "given"), budget=20)
    assert len(ids(chosen)) == 20 and chosen.config.features == "preconditioned"
    assert ids(pick(folder / "less", target=str(folder / "plain"), budget=20)) == [
        json.loads(line)["id"] for line in (tmp_path / "run" / "selected.jsonl").open()
    ]
    losses = pq.read_table(tmp_path / "run" / "scores.parquet")["loss"]
    assert losses.null_count == 0 and losses.to_pylist() == pq.read_table(folder / "less" / "rows.parquet")[
        "loss"].to_pylist()  # fmt: skip


def test_moments_are_kept_with_the_proxy_alone(folder):
    kept, plain = (load_file(folder / name / "proxy.safetensors") for name in ("less", "plain"))
    moments = {name for name in kept if name.startswith("exp_avg")}
    assert len(moments) == 2 * len(plain) and kept.keys() - moments == plain.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize("name", ["states", "less"])
def test_a_store_that_lost_a_shard_is_completed_to_the_same_bytes(folder, tiny_model, tmp_path, name):
    shutil.copytree(folder / name, tmp_path / "store")
    (tmp_path / "store" / "manifest.json").unlink()
    (tmp_path / "store" / "shards" / "000001.safetensors").unlink()
    options = {"features": "states"} if name == "states" else {"features": "preconditioned", **FAST}
    compute_gradients(folder / "pool.jsonl", model=tiny_model, output=tmp_path / "store", **options)
    assert files(tmp_path / "store") == files(folder / name) and check_store(tmp_path / "store") == []


@pytest.mark.parametrize("name", ["states", "less"])
def test_two_processes_fill_one_store_to_the_same_bytes(folder, tiny_model, tmp_path, name):
    kind = ["states"] if name == "states" else ["preconditioned", *FLAGS]
    command = [
        "gradients",
        folder / "pool.jsonl",
        "--model",
        tiny_model,
        "--output",
        tmp_path / "s",
        "--features",
        *kind,
    ]
    with ThreadPoolExecutor(2) as both:
        for done in both.map(lambda _: spice_anew(*command), range(2)):
            assert done.returncode == 0, done.stderr
    assert files(tmp_path / "s") == files(folder / name)


def test_losses_of_candidate_pools_are_kept(folder, tiny_model, tmp_path):
    options = {"candidates": 100, "update_every": "never", "lora_rank": 2, "warmup_steps": 1}
    select(folder / "pool.jsonl", model=tiny_model, output=tmp_path / "run", budget=9, **options)
    found = pq.read_table(tmp_path / "run" / "scores.parquet")["loss"].to_pylist()
    expected = pq.read_table(folder / "less" / "rows.parquet")["loss"].to_pylist()  # of the same warmed-up proxy
    assert found == pytest.approx(expected, rel=1e-4)


def test_scale_auto_is_unit_for_states(folder):
    assert ids(pick(folder / "states", budget=20)) == ids(pick(folder / "states", budget=20, scale="unit"))
    assert ids(pick(folder / "less", budget=20)) == ids(pick(folder / "less", budget=20, scale="geometric"))


def test_a_forecast_of_states_has_no_training(folder, tiny_model):
    found = forecast_gradients(folder / "pool.jsonl", model=tiny_model, features="states")
    assert found.seconds["states"] > 0 and found.seconds["proxy training"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "states", "candidates": 120}, "features states goes with candidates all"),
        ({"features": "states", "method": "norm"}, "candidates all goes with|features states goes with"),
        ({"features": "states", "method": "random"}, "features states goes with"),
        ({"features": "states", "dim": 64}, "dim goes with gradients"),
        ({"features": "states", "layers": "last:1"}, "layers goes with gradients"),
        ({"features": "preconditioned", "warmup_steps": 0}, "warmup_steps of at least 1"),
        ({"features": "preconditioned", "preset": "paper"}, "warmup_steps of at least 1"),
    ],
)
def test_options_that_exclude_each_other(folder, tiny_model, options, message):
    with pytest.raises(ConfigError, match=message):
        select(folder / "pool.jsonl", model=tiny_model, **options)


@pytest.mark.parametrize(
    ("store", "options", "message"),
    [
        ("less", {"target": "given"}, "target .*given: is not comparable"),
        ("less", {"given": "plain"}, "given .*plain: is not comparable"),
        ("less", {"target": "aim"}, "target .*aim: is not comparable"),
        ("states", {"target": "plain"}, "target .*plain: is not comparable with .*states: features"),
        ("states", {"target": "task.jsonl"}, "gradients .*task.jsonl --proxy-of .*states --output DIR"),
        ("less", {"target": "task.jsonl"}, "task.jsonl --features gradients --proxy-of .*less --output DIR"),
    ],
)
def test_stores_that_do_not_fit_each_other(folder, store, options, message):
    with pytest.raises(ConfigError, match=message):
        pick(folder / store, budget=20, **{key: str(folder / name) for key, name in options.items()})


@pytest.mark.parametrize("name", ["states", "less"])
def test_a_store_takes_the_options_of_the_one_that_it_is_compared_with(folder, tmp_path, name):
    kind = {"features": "gradients"} if name == "less" else {}
    compute_gradients(folder / "task.jsonl", output=tmp_path / "aim", proxy_of=folder / name, **kind)
    same = folder / ("aim" if name == "states" else "plain")
    assert ids(pick(folder / name, target=str(tmp_path / "aim"), budget=20)) == ids(
        pick(folder / name, target=str(same), budget=20)
    )


@pytest.mark.parametrize("features", ["gradients", "preconditioned", "states"])
def test_rows_that_equal_a_target_row_are_found_by_what_they_say(folder, tiny_model, tmp_path, features):
    (tmp_path / "seen.jsonl").write_text("".join([*(folder / "pool.jsonl").open()][3:5]).replace("w ", "W  "))
    fast = {} if features == "states" else FAST
    found = select(
        folder / "pool.jsonl",
        model=tiny_model,
        target=tmp_path / "seen.jsonl",
        features=features,
        candidates="all",
        **fast,
    )
    assert {3, 4} <= {leak.row for leak in found.records[0].leaks} and not {3, 4} & {*found.indices}


def test_a_seed_of_a_pick_draws_anew(folder):
    drawn = [ids(pick(folder / "states", target=str(folder / "aim"), method="tsds", budget=20, **own))
             for own in ({}, {"seed": 0}, {"seed": 1})]  # fmt: skip
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_constant_of_a_method_decides_the_choice_and_its_identity(folder, tmp_path):
    arguments = ["pick", folder / "states", "--target", folder / "aim", "--method", "tsds", "--budget", 20]
    given = [*arguments, "--constant", "sigma=0", "--constant", "alpha=0.9", "--output", tmp_path / "chosen"]
    done = spice(*given)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "chosen" / "manifest.json").read_text())
    assert manifest["config"]["constants"] == {"alpha": 0.9, "C": 5.0, "sigma": 0.0}
    usual, own = ({"target": str(folder / "aim"), "method": "tsds", "budget": 20, **more}
                  for more in ({}, {"constants": {"alpha": 0.9, "sigma": 0}}))  # fmt: skip
    assert ids(pick(folder / "states", **own)) != ids(pick(folder / "states", **usual))
    refused = spice(*arguments, "--constant", "sigma", "--output", tmp_path / "none")
    assert refused.returncode == 2 and "--constant sigma: write it as NAME=VALUE, e.g. sigma=0.5." in refused.stderr


def test_a_store_of_another_kind_is_not_completed(folder, tiny_model):
    with pytest.raises(OutputError, match="features"):
        compute_gradients(folder / "pool.jsonl", model=tiny_model, output=folder / "states", **FAST)
    with pytest.raises(ConfigError, match="features was set when the store was made"):
        pick(folder / "states", budget=20, features="gradients")


def test_a_state_that_is_not_finite_has_its_own_reason(folder, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokens = json.loads((tmp_path / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    model.get_input_embeddings().weight.data[tokens["w"]] = torch.inf
    model.save_pretrained(tmp_path / "model")
    options = {"model": str(tmp_path / "model"), "features": "states"}
    with pytest.raises(ModelError, match="its state is not finite"):
        compute_gradients(folder / "pool.jsonl", output=tmp_path / "stops", **options)
    store = compute_gradients(folder / "pool.jsonl", output=tmp_path / "goes", on_bad_gradient="skip", **options)
    assert 0 < int(store.squared_norms().isposinf().sum()) < 300
    problems = pick(store, budget=5, output=tmp_path / "chosen").records[0].bad
    assert {row.reason for row in problems} == {"its state is not finite"}
