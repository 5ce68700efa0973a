"""Scores of a loaded model on benchmarks, by lm-eval."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from spice_select.errors import ConfigError
from spice_select.evaluation.tasks.benchmarks import BENCHMARKS, Score
from spice_select.evaluation.tasks.prepare import PreparedTask, need_module
from spice_select.gradients.memory import explain_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One benchmark's figure.

    Attributes:
        task: its name in `BENCHMARKS`.
        metric: what `value` is, e.g. `acc_norm`.
        value: mean of the metric over the items, from 0 to 1.
        stderr: its standard error, s / sqrt(items); None for a single item.
        items: how many items were scored.
        shots: worked examples before each item.
        others: further metrics over the same items.
        note: what a reader of the figure has to know.

    """

    task: str
    metric: str
    value: float
    stderr: float | None
    items: int
    shots: int
    others: Mapping[str, float] = field(default_factory=dict[str, float])
    note: str = ""


def run_tasks(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prepared: Sequence[PreparedTask], batch_size: int
) -> Iterator[TaskResult]:
    """Score a causal language model on benchmarks with lm-eval; each result as soon as it is known.

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
    language_model = wrap(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
    for name, task in ((benchmark.name, task) for benchmark in prepared for task in benchmark.tasks.values()):
        generation: dict[str, Any] = task.config.generation_kwargs or {}
        longest = generation.get("max_gen_toks", language_model.max_gen_toks)
        if task.OUTPUT_TYPE == "generate_until" and longest >= language_model.max_length:
            raise ConfigError(
                f"{name}: answers may take {longest} tokens, but the model's window is {language_model.max_length}; "
                "leave it out for this model."
            )
    chat = tokenizer.chat_template is not None  # pyright: ignore[reportUnknownMemberType]
    return (_scored(benchmark, language_model, chat) for benchmark in prepared)


def _scored(prepared: PreparedTask, language_model: Any, chat_template: bool) -> TaskResult:
    benchmark = BENCHMARKS[prepared.name]
    remedy = "Lower --task-batch (batch_size), use --dtype bfloat16, or a device with more memory."
    with explain_out_of_memory(remedy, f"scoring {prepared.name}"):
        samples = need_module("lm_eval.evaluator").evaluate(
            language_model,
            {"tasks": {task: prepared.tasks[task] for task in prepared.items}},
            samples={task: list(range(count)) for task, count in prepared.items.items()},
            bootstrap_iters=0,
            apply_chat_template=benchmark.chat and chat_template,
            fewshot_as_multiturn=True,
            confirm_run_unsafe_code=benchmark.executes,  # allowed, or it would not have been prepared
        )["samples"]
    values = [_item_values(score, samples) for score in benchmark.scores]
    count = len(values[0])
    shots = int(prepared.tasks[next(iter(prepared.items))].config.num_fewshot or 0)
    note = "generated programs ran on this machine" if benchmark.executes else ""
    if benchmark.shot_files and not shots:
        note = f"zero-shot: the folder has no {benchmark.shot_files[0]} file of worked examples"
    return TaskResult(
        prepared.name,
        benchmark.scores[0].label,
        float(np.mean(values[0])),
        float(np.std(values[0], ddof=1)) / count**0.5 if count > 1 else None,
        count,
        shots,
        {score.label: float(np.mean(part)) for score, part in list(zip(benchmark.scores, values, strict=True))[1:]},
        note,
    )


def _item_values(score: Score, samples: Mapping[str, Any]) -> list[float]:
    return [
        float(item[score.metric])
        for task, items in samples.items()
        if score.task in (None, task)
        for item in items
        if item["filter"] == score.filter
    ]
