"""Benchmarks on the tiny model: figures equal slow oracles and lm-eval's own; mistakes are refused before any work."""

import gzip
import importlib
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from oracles.choice_oracle import arc_scores, choice_log_probability, true_mass
from oracles.code_metric import write_code_metric
from oracles.runs import write_jsonl
from spice_select.errors import ConfigError, ModelError, PoolError
from spice_select.evaluation.tasks.benchmarks import BENCHMARKS
from spice_select.evaluation.tasks.run import FOLDERS, first_items, prepare_tasks, run_tasks

OPTIONS = {"limit": None, "execute_code": False, "seed": 0}
WORDS = ["red", "blue tree", "two houses", "the sum of 1 and 2", "a"]


@pytest.fixture(scope="module")
def tiny(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    model.config.max_position_embeddings = 8192  # the model has no learnt positions
    return model, AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def lm_eval(tmp_path_factory, monkeypatch):
    """With a cache of its own for what `datasets` makes of the local files."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
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
    results = scored(*tiny, ["gsm8k", "bbh"], data=tmp_path, limit=1)
    assert list(results) == ["gsm8k", "bbh"]
    assert [result.items for result in results.values()] == [1, 1]
    assert [result.shots for result in results.values()] == [5, 3]
    assert all(0 <= result.value <= 1 and result.stderr is None for result in results.values())


def test_answers_are_extracted_and_the_mean_has_its_error(tiny, tmp_path, lm_eval, monkeypatch):
    """Three of four given answers are right, one of them not in the strict form."""
    answers = ["So #### 1", "It is 2.", "#### 7", "#### 4"]
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM.generate_until", lambda _, requests: answers)
    write_jsonl(tmp_path / "gsm8k.jsonl", [{"question": f"{i}?", "answer": f"#### {i}"} for i in (1, 2, 3, 4)])
    result = scored(*tiny, ["gsm8k"], data=tmp_path)["gsm8k"]
    assert (result.metric, result.value, result.items) == ("exact_match (flexible-extract)", 0.75, 4)
    assert result.stderr == pytest.approx(torch.tensor([1.0, 1, 0, 1]).std().item() / 2)
    assert result.others == {"exact_match (strict-match)": 0.5}
    assert "zero-shot" in result.note and result.shots == 0


def code_files(folder):
    check = "def check(f):\n    assert f() == 1"
    write_jsonl(folder / "humaneval.jsonl", [{"prompt": "def f():\n", "test": check, "entry_point": "f"}] * 2)
    tests = ["assert g() == 1"] * 3
    rows = [{"task_id": number, "text": "One.", "test_list": tests} for number in (10, 11, 510, 511)]
    write_jsonl(folder / "mbpp.jsonl", rows)


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_generated_code_is_refused_unless_it_is_allowed(name, tmp_path, lm_eval, monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    monkeypatch.chdir(tmp_path)
    write_code_metric(tmp_path)
    code_files(tmp_path)
    with pytest.raises(ConfigError, match="--execute-code"):
        prepare_tasks([name], data=tmp_path, **OPTIONS)
    assert "HF_ALLOW_CODE_EVAL" not in os.environ


def test_generated_code_runs_where_it_is_allowed(tiny, tmp_path, lm_eval, monkeypatch):
    """A right and a wrong program of each benchmark; of MBPP's local file, the ids of the test split count."""
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "0")
    monkeypatch.chdir(tmp_path)
    write_code_metric(tmp_path)
    code_files(tmp_path)
    answers = iter([["    return 1\n", "    return 2\n"], ["def g():\n    return 1\n", "def g(:\n"]])
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM.generate_until", lambda _, requests: next(answers))
    results = scored(*tiny, ["humaneval", "mbpp"], data=tmp_path, execute_code=True)
    assert [(r.metric, r.value, r.items, r.shots) for r in results.values()] == [("pass@1", 0.5, 2, n) for n in (0, 3)]
    assert "ran on this machine" in results["humaneval"].note


def test_the_metric_that_runs_code_is_named_where_it_is_missing(tmp_path, lm_eval, monkeypatch):
    code_files(tmp_path)

    def absent(name):
        raise FileNotFoundError(name)

    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "0")
    monkeypatch.setattr("evaluate.load", absent)
    with pytest.raises(ConfigError, match=r"run once, online:\npython -c .*code_eval"):
        prepare_tasks(["humaneval"], data=tmp_path, **{**OPTIONS, "execute_code": True})


STONES, LABELS = ["granite", "basalt", "chalk"], ["A", "B", "C"]
ARC_LAYOUTS = {
    "hub": {"question": "Which is soft?", "choices": {"text": STONES, "label": LABELS}, "answerKey": "C"},
    "digits": {"question": "Which is soft?", "choices": {"text": STONES, "label": ["1", "2", "3"]}, "answerKey": "3"},
    "query": {"query": "Question: Which is soft?", "choices": STONES, "gold": 2},
    "stem": {
        "question": {
            "stem": "Which is soft?",
            "choices": [{"text": text, "label": label} for text, label in zip(STONES, LABELS, strict=True)],
        },
        "answerKey": "C",
    },
}


def only_task(name, data):
    (prepared,) = prepare_tasks([name], data=data, **OPTIONS)
    return prepared.tasks


@pytest.mark.parametrize("layout", ARC_LAYOUTS)
def test_the_layouts_of_arc_are_one_question(layout, tmp_path, lm_eval):
    write_jsonl(tmp_path / "ARC-Challenge-Test.jsonl", [ARC_LAYOUTS[layout]])
    task = only_task("arc_challenge", tmp_path)["arc_challenge"]
    (item,) = task.eval_docs
    assert task.doc_to_text(item) == "Question: Which is soft?\nAnswer:"
    assert (task.doc_to_choice(item), task.doc_to_target(item)) == (STONES, 2)


def test_mmlu_answers_are_places_or_letters(tiny, tmp_path, lm_eval):
    rows = mmlu_rows("anatomy", 6)
    values = []
    for answers in ([row["answer"] for row in rows], ["ABCD"[row["answer"]] for row in rows]):
        write_jsonl(
            tmp_path / "mmlu.jsonl", [row | {"answer": answer} for row, answer in zip(rows, answers, strict=True)]
        )
        values.append(scored(*tiny, ["mmlu"], data=tmp_path)["mmlu"].value)
    assert values[0] == values[1]


def test_truthfulqa_sets_the_best_against_the_false_and_all_true_against_the_false(tmp_path, lm_eval):
    columns = {
        "Question": "What do stones eat?",
        "Best Answer": "Nothing",
        "Correct Answers": "Stones do not eat; Nothing; Nothing; ",
        "Incorrect Answers": "Moss; Sand",
    }
    lists = {
        "question": "What do stones eat?",
        "best_answer": "Nothing",
        "correct_answers": ["Stones do not eat"],
        "incorrect_answers": ["Moss", "Sand"],
    }
    targets = {
        "question": "What do stones eat?",
        "mc1_targets": {"choices": ["Nothing", "Moss", "Sand"], "labels": [1, 0, 0]},
        "mc2_targets": {"choices": ["Stones do not eat", "Nothing", "Moss", "Sand"], "labels": [1, 1, 0, 0]},
    }
    for number, row in enumerate((columns, lists, targets)):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_jsonl(folder / "truthfulqa.jsonl", [row])
        for task in only_task("truthfulqa", folder).values():
            assert list(task.eval_docs) == [targets]


def test_every_accepted_file_kind_holds_the_same_rows(tmp_path, lm_eval):
    rows = [{"question": f"q{i}", "answer": f"#### {i}"} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    contents = {
        "gsm8k_test.jsonl": lines.encode(),
        "gsm8k_test.jsonl.gz": gzip.compress(lines.encode()),
        "gsm8k.json": json.dumps(rows).encode(),
        "gsm8k.csv": ("question,answer\n" + "".join(f"q{i},#### {i}\n" for i in range(3))).encode(),
    }
    for name, content in contents.items():
        folder = tmp_path / f"{name} [1]*"  # a folder's name is no pattern
        folder.mkdir()
        (folder / name).write_bytes(content)
        assert list(only_task("gsm8k", folder)["gsm8k"].eval_docs) == rows


BAD_FILES = {
    "torn": ("gsm8k", '{"question": "q", "answer": "a"}\n{"question"', ["gsm8k.jsonl, row 2: broken JSON"]),
    "empty": ("gsm8k", "", ["holds no row"]),
    "a field is missing": ("gsm8k", [{"question": "q"}], ["gsm8k", "'answer' is undefined"]),
    "a field is null": (
        "gsm8k",
        [{"question": "q", "answer": "a"}, {"question": "q", "answer": None}],
        ["gsm8k, item 2", "'answer' is undefined", "fields are: question"],
    ),
    "no such choice": ("arc_challenge", [{"query": "q", "choices": ["a", "b"], "gold": 2}], ["arc_challenge", "index"]),
    "no such label": (
        "arc_challenge",
        [{"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "D"}],
        ["arc_challenge", "'D' is not in list"],
    ),
    "three choices": ("mmlu", [mmlu_rows("anatomy", 1)[0] | {"choices": ["a", "b", "c"]}], ["mmlu", "no element 3"]),
    "no subject": ("mmlu", [{"question": "q"}], ["mmlu.jsonl, row 1: field 'subject' (None)", "fields are: question"]),
    "no subject of this name": ("mmlu", mmlu_rows("anatomi", 1), ["mmlu.jsonl, row 1: field 'subject' (anatomi)"]),
    "no best answer": ("truthfulqa", [{"Question": "q"}], ["truthfulqa, row 1: no field 'best_answer'"]),
    "no incorrect answer": (
        "truthfulqa",
        [{"Question": "q", "Best Answer": "a", "Correct Answers": "a", "Incorrect Answers": " ;"}],
        ["truthfulqa, row 1: has no incorrect answer"],
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_local_file_that_does_not_fit_is_named(case, tmp_path, lm_eval):
    name, content, clues = BAD_FILES[case]
    text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
    (tmp_path / f"{name}.jsonl").write_text(text)
    with pytest.raises((ConfigError, PoolError)) as error:
        prepare_tasks([name], data=tmp_path, **OPTIONS)
    said = str(error.value)
    assert all(clue in said for clue in clues) and len(said.splitlines()) <= 3, said


def test_there_are_the_eight_and_lm_eval_has_their_tasks(lm_eval):
    names = ["gsm8k", "bbh", "mmlu", "arc_challenge", "truthfulqa", "ifeval", "humaneval", "mbpp"]
    assert sorted(BENCHMARKS) == sorted(names)
    tasks = Path(lm_eval.__file__).parent / "tasks"
    manager = importlib.import_module("lm_eval.tasks").TaskManager(
        include_path=[tasks / folder for folder in FOLDERS], include_defaults=False
    )
    assert {task for benchmark in BENCHMARKS.values() for task in benchmark.tasks} <= set(manager.all_tasks)


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(1, 9), min_size=1), st.integers(1, 60))
def test_a_shared_limit_is_spread_evenly_and_spent(sizes, limit):
    counts = first_items(sizes, limit, together=True)
    assert sum(counts.values()) == min(limit, sum(sizes.values()))
    assert all(1 <= counts[part] <= sizes[part] for part in counts)
    most = max(counts.values())
    short = [counts.get(part, 0) for part in sorted(sizes) if counts.get(part, 0) < sizes[part]]
    assert all(count >= most - 1 for count in short)
    assert short == sorted(short, reverse=True), "earlier names come first"


def test_limits_of_scorings_of_the_same_items_are_not_shared():
    assert first_items({"mc1": 5, "mc2": 5}, 3, together=False) == {"mc1": 3, "mc2": 3}
    assert first_items({"mc1": 5, "mc2": 5}, None, together=True) == {"mc1": 5, "mc2": 5}


@pytest.mark.parametrize(
    ("names", "changes", "said"),
    [
        (["qqqqqq"], {}, "the benchmarks are: gsm8k"),
        (["arc_challenge", "humaneval"], {}, "--execute-code"),
        (["mbpp"], {}, "runs the programs that the model writes"),
    ],
)
def test_mistakes_are_refused_without_a_model(names, changes, said, tmp_path):
    with pytest.raises(ConfigError) as error:
        prepare_tasks(names, data=tmp_path, **{**OPTIONS, **changes})
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


def test_a_folder_that_is_missing(tmp_path, lm_eval):
    with pytest.raises(ConfigError, match="none: no file of mmlu"):
        prepare_tasks(["mmlu"], data=tmp_path / "none", **OPTIONS)


def test_without_lm_eval_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    with pytest.raises(ConfigError, match=r"pip install 'spice-select\[tasks\]'"):
        prepare_tasks(["mmlu"], data=tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    ("files", "name", "said"),
    [
        ({}, "arc_challenge", "looked for arc_challenge.jsonl"),
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
