"""Benchmarks on the tiny model: figures equal slow oracles and lm-eval's own; mistakes are refused before any work."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from oracles.choice_oracle import arc_scores, choice_log_probability, true_mass
from oracles.runs import write_jsonl
from spice_select.errors import ConfigError, ModelError
from spice_select.evaluation.tasks.programs import returned_literal
from spice_select.evaluation.tasks.results import mean_and_error
from spice_select.evaluation.tasks.run import first_items, prepare_tasks, run_tasks

OPTIONS = {"limit": None, "execute_code": False, "seed": 0}
WORDS = ["red", "blue tree", "two houses", "the sum of 1 and 2", "a"]


@pytest.fixture(scope="module")
def tiny(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    model.config.max_position_embeddings = 8192  # the model has no learnt positions
    return model, AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def lm_eval():
    return pytest.importorskip("lm_eval")


def scored(model, tokenizer, names, **options):
    """Results by name, in the order they come."""
    prepared = prepare_tasks(names, **{**OPTIONS, **options})
    return {result.task: result for result in run_tasks(model, tokenizer, prepared, batch_size=3)}


def arc_rows(count):
    return [
        {"query": f"Question: What walks {i} times?", "choices": [WORDS[(i + j) % 5] for j in range(4)], "gold": i % 4}
        for i in range(count)
    ]


def mmlu_rows(subject, count):
    return [
        {"subject": subject, "question": f"{subject} {i}?", "choices": [f"{i}", "two", "red", "blue"], "answer": i % 4}
        for i in range(count)
    ]


def test_arc_equals_the_sums_of_plain_forward_passes(tiny, tmp_path, lm_eval):
    rows = arc_rows(7)
    write_jsonl(tmp_path / "arc_challenge.jsonl", rows)
    result = scored(*tiny, ["arc_challenge"], data=tmp_path)["arc_challenge"]
    oracle = [arc_scores(*tiny, row["query"].removeprefix("Question: "), row["choices"], row["gold"]) for row in rows]
    assert (result.metric, result.items, result.shots) == ("acc_norm", 7, 0)
    assert result.value == pytest.approx(sum(normed for _, normed in oracle) / 7)
    assert result.others["acc"] == pytest.approx(sum(plain for plain, _ in oracle) / 7)


def test_truthfulqa_equals_the_mass_of_plain_forward_passes(tiny, tmp_path, lm_eval):
    rows = [
        {
            "Question": f"What is {i}?",
            "Best Answer": "A number",
            "Correct Answers": "A number; A digit",
            "Incorrect Answers": "A tree; A house that runs; Blue",
        }
        for i in range(3)
    ]
    write_jsonl(tmp_path / "truthfulqa.jsonl", rows)
    result = scored(*tiny, ["truthfulqa"], data=tmp_path)["truthfulqa"]
    yaml = importlib.import_module("lm_eval.tasks._yaml_loader")
    folder = Path(lm_eval.__file__).parent / "tasks" / "truthfulqa"
    template = yaml.load_yaml(folder / "truthfulqa_mc2.yaml")["doc_to_text"]
    choices, labels = ["A number", "A digit", "A tree", "A house that runs", "Blue"], [1, 1, 0, 0, 0]
    contexts = [lm_eval.utils.apply_template(template, {"question": row["Question"]}) for row in rows]
    masses = [true_mass(*tiny, context, choices, labels) for context in contexts]
    assert (result.metric, result.items) == ("mc2", 3)
    assert result.value == pytest.approx(sum(masses) / 3, abs=1e-5)
    first = [[choice_log_probability(*tiny, c, f" {text}") for text in choices if text != "A digit"] for c in contexts]
    assert result.others["mc1"] == pytest.approx(sum(sums[0] == max(sums) for sums in first) / 3)


@pytest.mark.parametrize("shots", [0, 5])
def test_mmlu_weighs_items_and_shows_the_dev_questions_in_order(tiny, tmp_path, lm_eval, shots):
    sizes = {"anatomy": 2, "virology": 5}
    rows = [row for subject, count in sizes.items() for row in mmlu_rows(subject, count)]
    write_jsonl(tmp_path / "mmlu_test.jsonl", rows)
    dev = {subject: mmlu_rows(subject, 9)[4:] for subject in sizes}
    if shots:
        write_jsonl(tmp_path / "mmlu_dev.jsonl", [row for part in dev.values() for row in part])

    def shown(row, answer):
        options = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", row["choices"], strict=True))
        return f"{row['question']}{options}\nAnswer:{answer}"

    right = 0
    for row in rows:
        head = f"The following are multiple choice questions (with answers) about {row['subject']}.\n\n"
        worked = [shown(other, f" {'ABCD'[other['answer']]}\n\n") for other in dev[row["subject"]][:shots]]
        context = head + "".join(worked) + shown(row, "")
        sums = [choice_log_probability(*tiny, context, f" {letter}") for letter in "ABCD"]
        right += sums.index(max(sums)) == row["answer"]
    result = scored(*tiny, ["mmlu"], data=tmp_path)["mmlu"]
    assert (result.value, result.items, result.shots) == (pytest.approx(right / 7), 7, shots)
    assert ("zero-shot" in result.note) == (not shots)


def test_generated_benchmarks_run_and_need_no_hub(tiny, tmp_path, lm_eval):
    write_jsonl(tmp_path / "gsm8k.jsonl", [{"question": f"{i} and 1?", "answer": f"#### {i + 1}"} for i in range(3)])
    write_jsonl(tmp_path / "gsm8k_train.jsonl", [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(9)])
    write_jsonl(tmp_path / "bbh.jsonl", [{"task": "navigate", "input": "left", "target": "No"}] * 2)
    check = "def check(f):\n    assert f() == 1"
    write_jsonl(tmp_path / "humaneval.jsonl", [{"prompt": "def f():\n", "test": check, "entry_point": "f"}])
    write_jsonl(tmp_path / "mbpp.jsonl", [{"task_id": 11, "text": "Nothing.", "test_list": ["assert 1 == 1"] * 3}])
    names = ["mbpp", "gsm8k", "bbh", "humaneval"]
    results = scored(*tiny, names, data=tmp_path, execute_code=True, limit=1)
    assert list(results) == names
    assert [results[name].items for name in names] == [1, 1, 1, 1]
    assert [results[name].shots for name in names] == [3, 5, 3, 0]
    assert all(0 <= result.value <= 1 and result.stderr is None for result in results.values())
    assert "network" in results["humaneval"].note


def test_the_worked_examples_of_mbpp_are_those_of_its_module(lm_eval):
    folder = Path(lm_eval.__file__).parent / "tasks" / "mbpp"
    rows = returned_literal(folder / "utils.py", "list_fewshot_samples")
    assert [row["task_id"] for row in rows] == [2, 3, 4]
    assert all(row["is_fewshot"] and len(row["test_list"]) == 3 for row in rows)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_mean_and_error_of_a_sample(scores):
    mean, error = mean_and_error(scores)
    sample = torch.tensor(scores, dtype=torch.float64)
    assert mean == pytest.approx(float(sample.mean()))
    assert error == pytest.approx(float(sample.std() / len(scores) ** 0.5), abs=1e-9)


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(1, 9), min_size=1), st.integers(1, 60))
def test_a_shared_limit_is_spread_evenly_and_spent(sizes, limit):
    counts = first_items(sizes, limit, together=True)
    assert sum(counts.values()) == min(limit, sum(sizes.values()))
    assert all(1 <= counts[part] <= sizes[part] for part in counts)
    most = max(counts.values())
    full = [counts.get(part, 0) for part in sizes]
    short = [count for part, count in zip(sizes, full, strict=True) if count < sizes[part]]
    assert all(count >= most - 1 for count in short)
    assert short == sorted(short, reverse=True), "earlier parts come first"


def test_limits_of_scorings_of_the_same_items_are_not_shared():
    assert first_items({"mc1": 5, "mc2": 5}, 3, together=False) == {"mc1": 3, "mc2": 3}
    assert first_items({"mc1": 5, "mc2": 5}, None, together=True) == {"mc1": 5, "mc2": 5}


@pytest.mark.parametrize(
    ("names", "changes", "said"),
    [
        (["mmlv"], {}, "did you mean 'mmlu'"),
        (["qqqqqq"], {}, "the benchmarks are: gsm8k"),
        (["arc_challenge", "humaneval"], {}, "--execute-code"),
        (["mbpp"], {}, "runs the programs that the model writes"),
        (["arc_challenge"], {"limit": 0}, "limit is 0"),
    ],
)
def test_mistakes_are_refused_without_a_model(names, changes, said, tmp_path):
    with pytest.raises(ConfigError) as error:
        prepare_tasks(names, data=tmp_path, **{**OPTIONS, **changes})
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        prepare_tasks(["mmlu"], data=tmp_path / "none", **OPTIONS)


def test_without_lm_eval_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    with pytest.raises(ConfigError, match=r"pip install 'spice-select\[tasks\]'"):
        prepare_tasks(["mmlu"], data=tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    ("files", "name", "said"),
    [
        ({}, "arc_challenge", "looked for arc_challenge.jsonl"),
        ({"mmlu": mmlu_rows("anatomi", 1)}, "mmlu", "the nearest is 'anatomy'"),
        ({"mmlu": mmlu_rows("anatomy", 1), "mmlu_dev": mmlu_rows("virology", 5)}, "mmlu", "fewer than 5 worked"),
    ],
)
def test_local_files_that_do_not_fit_are_named(files, name, said, tmp_path, lm_eval):
    for stem, rows in files.items():
        (tmp_path / f"{stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError) as error:
        prepare_tasks([name], data=tmp_path, **OPTIONS)
    assert said in str(error.value)


def test_every_benchmark_is_prepared_before_the_first_is_scored(tmp_path, lm_eval):
    """The second one's file is missing: found although the first one's is good."""
    write_jsonl(tmp_path / "arc_challenge.jsonl", arc_rows(2))
    with pytest.raises(ConfigError, match="no file of gsm8k"):
        prepare_tasks(["arc_challenge", "gsm8k"], data=tmp_path, **OPTIONS)


def test_results_come_as_they_are_known_and_out_of_memory_says_what_helps(tiny_model, tmp_path, lm_eval):
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_model).eval(),
        AutoTokenizer.from_pretrained(tiny_model),
    )
    write_jsonl(tmp_path / "arc_challenge.jsonl", arc_rows(2))
    write_jsonl(tmp_path / "mmlu.jsonl", mmlu_rows("anatomy", 2))
    results = run_tasks(model, tokenizer, prepare_tasks(["arc_challenge", "mmlu"], data=tmp_path, **OPTIONS), 3)
    assert next(results).task == "arc_challenge"

    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    model.lm_head.register_forward_pre_hook(exhausted)
    with pytest.raises(ModelError, match=r"out of memory while scoring mmlu.\nLower --task-batch"):
        next(results)


def test_a_window_too_small_for_an_answer_is_refused(tiny_model, tmp_path, lm_eval):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    write_jsonl(tmp_path / "bbh.jsonl", [{"task": "navigate", "input": "left", "target": "No"}])
    prepared = prepare_tasks(["bbh"], data=tmp_path, **OPTIONS)
    with pytest.raises(ConfigError, match="1024 tokens, but the model's window is 512"):
        run_tasks(model, tokenizer, prepared, batch_size=3)  # before any result is asked for


def test_without_a_folder_and_without_a_connection_the_folder_is_advised(lm_eval):
    with pytest.raises(ConfigError, match="Give a folder"):
        prepare_tasks(["arc_challenge"], data=None, **OPTIONS)


def test_ifeval_names_the_sentence_data_it_lacks(tmp_path, monkeypatch, lm_eval):
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(ConfigError, match=r"nltk\.downloader punkt_tab"):
        prepare_tasks(["ifeval"], data=tmp_path, **OPTIONS)


def test_ifeval_counts_prompts_whose_every_instruction_is_followed(tiny, tmp_path, monkeypatch, lm_eval):
    nltk = pytest.importorskip("nltk")
    pytest.importorskip("langdetect")
    (tmp_path / "tokenizers" / "punkt_tab" / "english").mkdir(parents=True)  # nothing below counts sentences
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    least = {"relation": "at least", "num_words": 100000}
    most = {"relation": "less than", "num_words": 100000}
    words = ["length_constraints:number_words"]
    rows = [
        {"key": i, "prompt": "Say a.", "instruction_id_list": words, "kwargs": [kwargs]}
        for i, kwargs in enumerate([most, least, most, most])
    ]
    write_jsonl(tmp_path / "ifeval.jsonl", rows)
    result = scored(*tiny, ["ifeval"], data=tmp_path, limit=2)["ifeval"]
    assert (result.metric, result.value, result.items) == ("prompt_level_strict_acc", 0.5, 2)
