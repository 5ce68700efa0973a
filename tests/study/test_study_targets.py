"""Studies with targets on a tiny model: what is chosen, drawn, measured, and by which processes."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from oracles.forked import ENVIRONMENT, spice
from oracles.runs import chat_rows, read_jsonl, write_jsonl
from spice_select import select
from spice_select.errors import ConfigError, OutputError
from spice_select.progress import NoProgress
from spice_select.study.config import StudyConfig, load_study
from spice_select.study.cost import Cost, cost_in
from spice_select.study.run import run_study
from spice_select.study.targets import TargetRows

pytest.importorskip("trl")
pytest.importorskip("matplotlib")

SMALL = {"dim": 64, "warmup_steps": 1}
CELLS = {
    "random": {"method": "random"},
    "for-target": {"target": True, **SMALL},
    "of-its-kind": {"method": "random", "of_target_sources": True},
}
RECIPE = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "lora_rank": 2}


def of(source: str, seed: int, count: int = 8) -> list[dict]:
    """Rows of one source."""
    return [{**row, "id": f"{source}-{seed}-{i}", "source": source} for i, row in enumerate(chat_rows(count, seed))]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder of held-out rows of three sources, and rows of two of them as targets."""
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(folder / "held.jsonl", [*of("even", 9, 3), *of("odd", 10, 3), *of("third", 11, 3)])
    write_jsonl(folder / "even.jsonl", of("even", 5))
    write_jsonl(folder / "odd.jsonl", of("odd", 6))
    return folder


def content(model: str, pool: Path, data: Path, **changes) -> dict:
    targets = {"even": str(data / "even.jsonl"), "both": [str(data / "even.jsonl"), str(data / "odd.jsonl")]}
    values = {"model": model, "pool": str(pool), "heldout": str(data / "held.jsonl"), "targets": targets}
    values |= {"target_rows": 4, "budget": 6, "seeds": 2, "recipe": RECIPE, "cells": CELLS, "against": ["of-its-kind"]}
    return {**values, **changes}


def write_study(path: Path, values: dict) -> Path:
    """The YAML of a study, cells in their order."""
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def run(directory: Path, *about, **changes) -> str:
    return run_study(StudyConfig.model_validate(content(*about, **changes)), directory, NoProgress())


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny_model, chat_pool, data) -> Path:
    """The directory of a study that one process made undisturbed."""
    folder = tmp_path_factory.mktemp("alone")
    study = write_study(folder / "study.yaml", content(tiny_model, chat_pool, data))
    done = spice("study", study, "--output", folder / "study")  # with the threads that other commands have
    assert done.returncode == 0, done.stderr
    return folder / "study"


def outcome(directory: Path) -> dict:
    """lines.json without costs, which no two runs share."""
    found = json.loads((directory / "lines.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    del found["cost"]
    for table in found["targets"].values():
        for line in table:
            del line["seconds"]
    return found


def records(directory: Path, pattern: str) -> dict[str, object]:
    paths = sorted(directory.glob(pattern))
    return {str(path.relative_to(directory)): json.loads(path.read_text(encoding="utf-8")) for path in paths}


def ids(directory: Path, name: str) -> list[str]:
    ((_, record),) = records(directory, f"cells/{name}-*/cell.json").items()
    return record["ids"]


def test_cells_of_states_and_of_methods_for_a_target(tiny_model, chat_pool, data, tmp_path) -> None:
    """They pick what run picks. States cost a forward pass, gradients a backward pass too, random rows nothing."""
    own = {
        "less": {"method": "less", "warmup_steps": 1, "dim": 64},
        "rds": {"method": "rds"},
        "tsds": {"method": "tsds"},
    }
    own["states"] = {"features": "states"}
    cells = {"random": {"method": "random"}, "plain": {"features": "states", "candidates": "all"}}
    cells |= {name: {"target": True, **options} for name, options in own.items()}
    changes = {"seeds": 1, "recipe": {**RECIPE, "epochs": 0.1}, "against": [], "cells": cells}
    run(tmp_path / "out", tiny_model, chat_pool, data, targets={"even": str(data / "even.jsonl")}, **changes)
    about = {"model": tiny_model, "budget": 6}
    mine = {"candidates": "all", "target": str(tmp_path / "out" / "targets" / "even-0-4.jsonl")}
    for name, options in own.items():
        chosen = select([chat_pool], **about, **mine, **options).chosen
        assert ids(tmp_path / "out", f"{name}@even-0") == [chat.id for chat in chosen]
    chosen = select([chat_pool], **about, **cells["plain"]).chosen
    assert ids(tmp_path / "out", "plain-0") == [chat.id for chat in chosen]

    def cost(name: str) -> Cost:
        (place,) = tmp_path.glob(f"out/cells/{name}-0-*")
        return cost_in(place / "cost.json")

    lengths = [line.tokens for line in select([chat_pool], model=tiny_model, method="random").pool.lines]
    assert (cost("random").forward, cost("random").backward) == (0, 0)
    assert sum(lengths) <= cost("plain").forward < cost("rds@even").forward < 2 * sum(lengths)
    assert (cost("plain").backward, cost("rds@even").backward) == (0, 0)
    assert cost("less@even").forward >= cost("less@even").backward > sum(lengths)


@pytest.mark.parametrize("target", ["even", "both"])
def test_a_cell_with_a_target_picks_what_run_picks(target, alone, tiny_model, chat_pool) -> None:
    """The same rows as a run over the whole pool with the drawn rows as its target."""
    files = sorted(map(str, (alone / "targets").glob(f"{target}-0-4*.jsonl")))
    chosen = select([chat_pool], model=tiny_model, budget=6, candidates="all", target=files, **SMALL).chosen
    assert ids(alone, f"for-target@{target}-0") == [chat.id for chat in chosen]


def test_seeds_draw_other_rows_in_equal_parts(alone, data) -> None:
    even, odd = read_jsonl(data / "even.jsonl"), read_jsonl(data / "odd.jsonl")
    for seed in (0, 1):
        assert read_jsonl(alone / "targets" / f"even-{seed}-4.jsonl") == even[4 * seed : 4 * seed + 4]
        assert read_jsonl(alone / "targets" / f"both-{seed}-4@1.jsonl") == odd[2 * seed : 2 * seed + 2]


def test_the_ceiling_takes_rows_of_the_targets_sources_as_random_orders_them(alone, chat_pool) -> None:
    """Fewer than the budget only where the pool has no more."""
    sources = {row["id"]: row["source"] for row in read_jsonl(chat_pool)}
    for seed in (0, 1):
        chosen = set(ids(alone, f"of-its-kind@even-{seed}"))
        assert len(chosen) == 6
        assert {sources[name] for name in chosen} == {"even"}
        assert {name for name in ids(alone, f"random-{seed}") if sources[name] == "even"} <= chosen
        assert ids(alone, f"of-its-kind@both-{seed}") == ids(alone, f"random-{seed}")


def test_the_tables_say_what_the_losses_say(alone, data) -> None:
    """The loss on a target is the mean over its held-out sources, that on the others over the rest."""
    source = {row["id"]: row["source"] for row in read_jsonl(data / "held.jsonl")}
    tuned = {path.parent.name: json.loads(path.read_text()) for path in alone.glob("tuned/*/heldout.json")}
    table = outcome(alone)["targets"]["even"]
    assert [line["cell"] for line in table] == ["untrained", *CELLS]
    assert table[3]["picks"] == table[3]["rows"] == 6
    means = [sum(losses[name] for name in source if source[name] == "even") / 3 for losses in tuned.values()]
    assert min(means) <= table[1]["loss"]["mean"] <= max(means)
    text = (alone / "table.md").read_text(encoding="utf-8")
    assert text.index("| random | 2 | 6 |") < text.index("Target even:") < text.index("Target both:")
    assert text.index("Target both:") < text.index("All targets:") < text.rindex("| for-target | 2 |")
    assert text.index("All targets:") < text.index("Cost:")
    assert "even" in (alone / "targets.svg").read_text(encoding="utf-8")


def test_a_targets_table_does_not_depend_on_other_targets(alone, tiny_model, chat_pool, data, tmp_path) -> None:
    """One target alone, over fine-tunings that are there already; then the other is added: nothing is tuned anew."""
    shutil.copytree(alone / "tuned", tmp_path / "study" / "tuned")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "study").glob("tuned/*/*")}
    about = (tmp_path / "study", tiny_model, chat_pool, data)
    run(*about, targets={"even": str(data / "even.jsonl")})
    one, both = outcome(tmp_path / "study"), outcome(alone)
    assert one["targets"]["even"] == both["targets"]["even"]
    assert one["cells"] == both["cells"]
    run(*about)
    assert outcome(tmp_path / "study") == both
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "study").glob("tuned/*/*")} == before
    with pytest.raises(OutputError, match="target 'even' was made of other rows"):
        run(*about, targets={"even": str(data / "odd.jsonl")})


def test_processes_share_the_work_and_survive_a_kill(alone, tiny_model, chat_pool, data, tmp_path) -> None:
    """Two at once, of which one is killed: the other, and one that comes later, end in the undisturbed results."""
    out, same = tmp_path / "out", tmp_path / "same"
    path = write_study(tmp_path / "study.yaml", content(tiny_model, chat_pool, data, seeds=1))
    command = [sys.executable, "-m", "spice_select", "study", str(path), "--output", str(out)]
    with (tmp_path / "log").open("wb") as log:
        both = [subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log) for _ in range(2)]
    while not list(out.glob("tuned/*/heldout.json")):
        assert None in [one.poll() for one in both], (tmp_path / "log").read_text()
        time.sleep(0.05)
    both[0].send_signal(signal.SIGKILL)
    assert both[1].wait() == 0, (tmp_path / "log").read_text()
    both[0].wait()
    shutil.copytree(alone, same)
    text = run(same, tiny_model, chat_pool, data, seeds=1)
    assert outcome(out) == outcome(same)
    for pattern in ("tuned/0-*/heldout.json", "cells/*-0-*/cell.json"):
        assert records(out, pattern) == records(alone, pattern)
    later = spice(*command[3:])
    assert later.returncode == 0, later.stderr
    mine, same = (
        [line.split("|")[1:9] for line in told.partition("Cost:")[0].splitlines() if line.startswith("| for-target")]
        for told in (later.stdout, text)
    )
    assert mine == same != []


def test_targets_of_the_command_line_replace_those_of_the_file(alone, tiny_model, chat_pool, data, tmp_path) -> None:
    shutil.copytree(alone, tmp_path / "out")
    path = write_study(tmp_path / "study.yaml", content(tiny_model, chat_pool, data, targets={"gone": "gone.jsonl"}))
    given = [f"both={data / 'even.jsonl'}", f"both={data / 'odd.jsonl'}"]
    command = ["study", path, "--output", tmp_path / "out", *(f"--target={text}" for text in given)]
    done = spice(*command)
    assert done.returncode == 0, done.stderr
    assert "Target both:" in done.stdout and "Target even:" not in done.stdout
    wrong = spice(*command, "--target", "even")
    assert wrong.returncode == 2
    assert "'even' is not NAME=FILE" in wrong.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": {}}, "cell 'for-target' needs a target, and the study names none"),
        ({"targets": {"a": "held.jsonl"}}, r"has 0 rows, and 9 more that are held out too, but a seed draws 4"),
        (
            {"targets": {"a": "new.jsonl"}},
            r"no row of its sources \(new\) is held out, where the sources are even",
        ),
        ({"targets": {"a": "third.jsonl"}}, r"no row of its sources \(third\) is in the pool"),
        ({"target_rows": 16}, "has 8 rows, but a seed draws 16"),
    ],
)
def test_a_target_that_does_not_fit_is_found_before_anything_is_written(
    changes, message, tiny_model, chat_pool, data, tmp_path, monkeypatch
) -> None:
    write_jsonl(tmp_path / "new.jsonl", of("new", 3))
    write_jsonl(tmp_path / "third.jsonl", of("third", 3))
    shutil.copy(data / "held.jsonl", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message) as error:
        run(tmp_path / "out", tiny_model, chat_pool, data, **changes)
    assert len(str(error.value).splitlines()) <= 3
    assert not (tmp_path / "out").exists()


def test_rows_that_are_held_out_are_not_drawn(tiny_model, chat_pool, data, tmp_path) -> None:
    """Up to case and white space; the tables say how many."""
    held = read_jsonl(data / "held.jsonl")[:3]
    held[0]["messages"][0]["content"] = held[0]["messages"][0]["content"].upper() + "  "
    mixed = write_jsonl(tmp_path / "mixed.jsonl", [*held, *read_jsonl(data / "even.jsonl")])
    changes = {"targets": {"a": str(mixed)}, "seeds": 1, "against": [], "baseline": "for-target"}
    changes["cells"] = {"for-target": CELLS["for-target"]}
    text = run(tmp_path / "out", tiny_model, chat_pool, data, **changes)
    assert "held-out macro loss |" not in text  # there is no cell without a target
    assert "3 rows of target a are held out too and not drawn: mixed.jsonl, row 1." in text
    assert read_jsonl(tmp_path / "out" / "targets" / "a-0-4.jsonl") == read_jsonl(data / "even.jsonl")[:4]


def test_losses_of_other_rows_are_refused(tiny_model, chat_pool, data, alone, tmp_path) -> None:
    """A fine-tuning that was measured on other held-out rows is not taken over."""
    shutil.copytree(alone / "tuned", tmp_path / "out" / "tuned")
    for path in (tmp_path / "out").glob("tuned/*/heldout.json"):
        path.write_text('{"row": 1.0}')
    with pytest.raises(OutputError, match="holds losses of other rows"):
        run(tmp_path / "out", tiny_model, chat_pool, data, cells={"random": {"method": "random"}}, against=[])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": {"a b": "f"}}, "target 'a b': use letters"),
        ({"targets": {"a": []}}, "target 'a': name at least one file"),
        ({"targets": {"a": ["f", "f"]}}, "each file once"),
        ({"targets": {"a": ["f", "g", "h"]}}, "target 'a': 4 rows are no equal parts of 3 files"),
        ({"cells": {**CELLS, "x": {"target": True, "target_rows": 3}}}, "cell 'x': 3 target_rows are no equal parts"),
        ({"cells": {**CELLS, "x": {"target": True, "target_rows": 5}}}, "from 1 to that of the study, 4"),
        ({"cells": {**CELLS, "x": {"target_rows": 2}}}, "target_rows goes with target: true"),
        ({"cells": {**CELLS, "x": {"target": "a"}}}, "target must be true"),
        ({"cells": {**CELLS, "x": {"target": True, "candidates": 20}}}, "leave candidates out"),
        ({"cells": {**CELLS, "x": {"target": True, "update_every": 2}}}, "'update_every' changes nothing"),
        ({"cells": {**CELLS, "x": {"dim": 64}}}, "'dim' changes nothing in candidate pools"),
        ({"cells": {**CELLS, "x": {"of_target_sources": True}}}, "of_target_sources goes with method random"),
        ({"cells": {**CELLS, "x": {"target_rule": "information"}}}, "target_rule goes with target"),
        ({"cells": {**CELLS, "x": {"target": True, "method": "dpp"}}}, "cell 'x'"),
        ({"against": ["nobody"]}, "against 'nobody' is not among the cells"),
        ({"target_rows": 0}, "target_rows"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_mistakes_about_targets_are_named(changes, message, tmp_path) -> None:
    """The error names the key, in one line."""
    path = write_study(tmp_path / "study.yaml", content("model", tmp_path, tmp_path, **changes))
    with pytest.raises(ConfigError, match=message) as error:
        load_study(path)
    assert len(str(error.value).splitlines()) == 1


@given(st.lists(st.integers(4, 40), min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 20))
def test_draws(rows: list[int], fewer: int, stride: int, seed: int) -> None:
    """Equal parts; fewer rows are a part of more; no row comes twice while there are enough."""
    files = len(rows)
    target = TargetRows("t", [[(i, place) for place in range(n)] for i, n in enumerate(rows)], frozenset(), "", [])
    fewer = min(fewer, stride)
    every = [target.drawn(s, stride * files, stride * files) for s in (seed, seed + 1)]
    few = target.drawn(seed, fewer * files, stride * files)
    for part, (mine, others, some) in enumerate(zip(*every, few, strict=True)):
        assert len(set(mine)) == len(mine) == stride and len(some) == fewer
        assert set(some) <= set(mine) <= set(target.parts[part])
        assert set(mine).isdisjoint(others) or rows[part] < 2 * stride
