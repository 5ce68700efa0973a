"""Laws of datasets in, datasets out: indices are places in what was given, and its rows and features come back."""

import datasets
import pandas as pd
import pytest

from oracles.runs import chat_rows, write_jsonl
from spice_select import compute_gradients, pick, select
from spice_select.errors import ConfigError
from spice_select.pool.arrow_rows import HAS_JSON

RANDOM = {"method": "random", "budget": "40%", "skip_invalid": True}
NORM = {"method": "norm", "lora_rank": 2, "warmup_steps": 1}
BAD = {"messages": [{"role": "user", "content": "nobody answers"}]}


def given(seed, bad):
    """Twenty rows with an id that says where they are; those at the places `bad` cannot be used."""
    rows = [{**row, "id": f"{seed}-{place}"} for place, row in enumerate(chat_rows(20, seed))]
    for place in bad:
        rows[place] |= BAD
    features = datasets.Features(
        {"messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")}),
         "id": datasets.Value("string"), "kind": datasets.ClassLabel(names=["odd", "even"])}
    )  # fmt: skip
    table = [{**{key: row[key] for key in ("messages", "id")}, "kind": place % 2} for place, row in enumerate(rows)]
    return datasets.Dataset.from_list(table, features=features)


@pytest.mark.parametrize("bad", [[], [0], [0, 7, 8, 19]])
def test_indices_are_places_in_the_dataset(tiny_model, bad):
    dataset = given(0, bad)
    result = select(dataset, model=tiny_model, **RANDOM)
    assert len(result.pool.rejected) == len(bad) and not set(result.indices) & set(bad)
    selected = dataset.select(result.indices)
    assert sorted(selected["id"]) == sorted(row["id"] for row in result.rows)
    picks = pd.DataFrame({"id": result.scores["id"], "rank": result.scores["rank"]}).loc[result.indices]
    assert picks["id"].tolist() == selected["id"][:] and picks["rank"].tolist() == sorted(picks["rank"])


def test_several_datasets_count_as_one_after_the_other(tiny_model, tmp_path):
    """Also where the second one's first row is further on than the first one's last, and from a store."""
    parts = [given(1, range(1, 20)), given(2, [0, 1]), given(3, [5])]
    whole = datasets.concatenate_datasets(parts)
    result = select(parts, model=tiny_model, **RANDOM)
    assert whole.select(sorted(result.indices))["id"][:] == [row["id"] for row in result.rows]
    assert result.to_dataset().features == parts[0].features
    compute_gradients(parts, model=tiny_model, output=tmp_path / "store", dim=32, lora_rank=2, skip_invalid=True)
    chosen = pick(tmp_path / "store", budget="9")
    assert whole.select(sorted(chosen.indices))["id"][:] == [row["id"] for row in chosen.rows]


def test_files_of_one_name_in_folders_of_one_name_are_told_apart(tiny_model, tmp_path):
    rows, files = list[dict](), list[str]()
    for number in range(3):
        own = [{**row, "id": f"{number}-{place}"} for place, row in enumerate(chat_rows(5, number))]
        place = tmp_path / str(number) / "x"
        place.mkdir(parents=True)
        files.append(str(write_jsonl(place / "p.jsonl", own)))
        rows += own
    result = select(files, model=tiny_model, method="random", budget="9")
    assert len({file.label for file in result.pool.files}) == 3
    assert [rows[place]["id"] for place in sorted(result.indices)] == [row["id"] for row in result.rows]


def test_a_dataset_comes_back_with_its_features_and_scores_beside_them(tiny_model):
    dataset = given(0, [3])
    result = select(dataset, model=tiny_model, **NORM, skip_invalid=True, budget="5")
    plain, scored = result.to_dataset(), result.to_dataset(scores=True)
    assert plain.features == dataset.features
    assert plain[:] == dataset.select(sorted(result.indices))[:]
    assert scored.remove_columns([name for name in scored.column_names if name.startswith("spice_")])[:] == plain[:]
    table = result.scores.loc[sorted(result.indices)]
    for name in ("id", "rank", "norm", "score", "trained_tokens"):
        assert scored[f"spice_{name}"][:] == table[name].tolist()
    with pytest.raises(ConfigError, match="'spice_base' already"):
        select(scored, model=tiny_model, **NORM).to_dataset(scores=True)


def test_rows_that_share_no_schema_come_back_too(tiny_model):
    """A column that the first row lacks, and values of two types."""
    rows = [{**row, "id": str(place)} for place, row in enumerate(chat_rows(6))]
    rows[2]["note"], rows[4]["note"] = "text", {"a": [1, None]}
    result = select(rows, model=tiny_model, method="random", budget="100%")
    if not HAS_JSON:
        with pytest.raises(ConfigError, match=r"datasets 4\.7"):
            result.to_dataset()
        return
    found = result.to_dataset()
    assert found["id"][:] == ["0", "1", "2", "3", "4", "5"]
    assert found["note"][:] == [None, None, "text", None, {"a": [1, None]}, None]
    assert select(rows, model=tiny_model, method="random", budget="1").to_dataset(scores=True).num_rows == 1
