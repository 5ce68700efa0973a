"""Benchmarks of a loaded model: everything that can be refused is refused before the model works."""

import difflib
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spice_select.errors import ConfigError
from spice_select.evaluation.tasks.benchmarks import BENCHMARKS, Benchmark, Score
from spice_select.evaluation.tasks.definitions import build_tasks, need_module
from spice_select.evaluation.tasks.results import TaskResult, mean_and_error
from spice_select.evaluation.tasks.sandbox import check_supported, isolation
from spice_select.gradients.memory import explain_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class PreparedTasks:
    """Benchmarks whose names, packages and data were found to be good.

    Attributes:
        parts: lm-eval's task objects of each benchmark by their names there.
        limit: items of each benchmark, see `prepare_tasks`.

    """

    parts: Mapping[str, Mapping[str, Any]]
    limit: int | None


def prepare_tasks(
    tasks: Sequence[str], *, data: Path | None, limit: int | None, execute_code: bool, seed: int
) -> PreparedTasks:
    """Check and read everything that benchmarks need besides a model.

    Args:
        tasks: names from `BENCHMARKS`.
        data: a folder of local files (names in `benchmarks.py`); None lets lm-eval fetch from the hub.
        limit: the first items of each benchmark; one with subtasks takes one item of each subtask in turn, in
            alphabetical order, until there are that many in total. None scores all.
        execute_code: allows humaneval and mbpp to run what the model writes (see `sandbox.py`).
        seed: draws worked examples (gsm8k) and steadies language detection (ifeval).

    Raises:
        ConfigError: an unknown name; code that may not be executed; a limit below 1; a missing file, field or package.
        PoolError: a local file is damaged.

    """
    chosen = _choose(tasks, execute_code)
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; at least one item is needed.")
    if data is not None and not data.is_dir():
        raise ConfigError(f"{data}: no such folder of benchmark files.")
    need_module("lm_eval.models.huggingface")
    with _quiet_log():
        return PreparedTasks(
            {name: build_tasks(name, benchmark, data, seed) for name, benchmark in chosen.items()}, limit
        )


def run_tasks(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prepared: PreparedTasks, batch_size: int
) -> Iterator[TaskResult]:
    """Score a causal language model on benchmarks with lm-eval's definitions; each result as soon as it is known.

    The call checks, the iteration scores. Prompts longer than the model's window lose their beginning, as everywhere in
    lm-eval.

    Args:
        model: in eval mode, on its device.
        tokenizer: the model's own; its pad token is set where it has none.
        prepared: the benchmarks.
        batch_size: sequences a forward pass.

    Raises:
        ConfigError: the model's window cannot hold an answer.
        ModelError: out of memory.

    """
    wrap = need_module("lm_eval.models.huggingface").HFLM
    with _quiet_log():
        language_model = wrap(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
    for name, parts in prepared.parts.items():
        _check_window(name, parts, language_model)
    chat = tokenizer.chat_template is not None  # pyright: ignore[reportUnknownMemberType]
    return (_scored(name, parts, prepared.limit, language_model, chat) for name, parts in prepared.parts.items())


def _scored(
    name: str, parts: Mapping[str, Any], limit: int | None, language_model: Any, chat_template: bool
) -> TaskResult:
    benchmark = BENCHMARKS[name]
    sizes = {part: len(task.eval_docs) for part, task in parts.items()}
    wanted = first_items(sizes, limit, together=benchmark.part is not None)
    evaluate = need_module("lm_eval.evaluator").evaluate
    remedy = "Lower --task-batch (batch_size), use --dtype bfloat16, or a device with more memory."
    with _quiet_log(), explain_out_of_memory(remedy, f"scoring {name}"):
        samples = evaluate(
            language_model,
            {"tasks": {part: parts[part] for part in wanted}},
            samples={part: list(range(count)) for part, count in wanted.items()},
            bootstrap_iters=0,
            apply_chat_template=benchmark.chat and chat_template,
            fewshot_as_multiturn=True,
            confirm_run_unsafe_code=benchmark.executes,  # allowed, or it would not have been prepared
        )["samples"]
    return _result(name, benchmark, samples, parts)


def first_items(sizes: Mapping[str, int], limit: int | None, together: bool) -> dict[str, int]:
    """How many of the first items of each part to score; parts with none are left out.

    Args:
        sizes: items of each part, in order.
        limit: as in `prepare_tasks`.
        together: the parts share the limit in turn; otherwise each is another scoring of the same items.

    """
    if limit is None or not together:
        return {part: size if limit is None else min(limit, size) for part, size in sizes.items()}
    counts: dict[str, int] = dict.fromkeys(sizes, 0)
    left = min(limit, sum(sizes.values()))
    while left:
        for part in [part for part, size in sizes.items() if counts[part] < size][:left]:
            counts[part] += 1
            left -= 1
    return {part: count for part, count in counts.items() if count}


def _choose(tasks: Sequence[str], execute_code: bool) -> dict[str, Benchmark]:
    for name in tasks:
        if name not in BENCHMARKS:
            close = difflib.get_close_matches(name, BENCHMARKS, n=1, cutoff=0.4)
            hint = f"did you mean '{close[0]}'?" if close else f"the benchmarks are: {', '.join(BENCHMARKS)}."
            raise ConfigError(f"unknown benchmark '{name}'; {hint}")
        if BENCHMARKS[name].executes:
            if not execute_code:
                raise ConfigError(
                    f"{name} runs the programs that the model writes, on this machine; execute_code (--execute-code) "
                    "allows it.\nEach runs in a limited subprocess, without the network where the system permits; "
                    "use a container for models nobody vetted."
                )
            check_supported()
    return {name: BENCHMARKS[name] for name in tasks}


def _check_window(name: str, parts: Mapping[str, Any], language_model: Any) -> None:
    for task in parts.values():
        if task.OUTPUT_TYPE == "generate_until":
            length = int(task.config.generation_kwargs.get("max_gen_toks", language_model.max_gen_toks))
            if length >= language_model.max_length:
                raise ConfigError(
                    f"{name}: answers may take {length} tokens, but the model's window is {language_model.max_length}; "
                    "leave it out for this model."
                )


def _result(name: str, benchmark: Benchmark, samples: Mapping[str, Any], parts: Mapping[str, Any]) -> TaskResult:
    values = {score.label: mean_and_error(_item_scores(score, samples)) for score in benchmark.scores}
    first = benchmark.scores[0]
    shots = int(next(iter(parts.values())).config.num_fewshot or 0)
    return TaskResult(
        name,
        first.label,
        *values[first.label],
        items=len(_item_scores(first, samples)),
        shots=shots,
        others={label: value for label, (value, _) in values.items() if label != first.label},
        note=_note(benchmark, shots),
    )


def _item_scores(score: Score, samples: Mapping[str, Any]) -> list[float]:
    return [
        float(item[score.metric])
        for part, items in samples.items()
        if score.definition in (None, part)
        for item in items
        if item["filter"] == score.filter
    ]


def _note(benchmark: Benchmark, shots: int) -> str:
    if benchmark.executes:
        return f"generated programs ran {'without' if isolation() else 'WITH'} access to the network"
    if benchmark.shot_files and not shots:
        return f"zero-shot: the folder has no {benchmark.shot_files[0]} file of worked examples"
    return ""


@contextmanager
def _quiet_log() -> Generator[None]:
    """lm-eval logs how its command line would be used; here only errors are news."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
