"""What `spice-select evaluate` does with its options: measure, print tables, and write one JSON file.

Imported when the command runs, since it imports torch.
"""

import json
import sys
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spice_select.cli.printable import printable
from spice_select.cli.progress import progress_on
from spice_select.cli.table import plain_table
from spice_select.evaluation.bootstrap import Interval, PairedDifference
from spice_select.evaluation.checkpoint import FoundCheckpoint, LoadedModel, find_checkpoint, load_weights
from spice_select.evaluation.evaluate import Evaluation, evaluate_model, evaluation_json
from spice_select.evaluation.heldout import HeldoutLoss, compare
from spice_select.evaluation.tasks.run import PreparedTask, TaskResult, prepare_tasks, run_tasks
from spice_select.files.atomic import write_text
from spice_select.pool.types import PoolOptions
from spice_select.progress import Progress
from spice_select.proxy.loading import pick_device

HEADER = {"format": "spice-select-evaluation", "version": 1}
READING = ("format", "columns", "skip_invalid", "max_length", "per_file")
SETTINGS = ("limit_per_source", "batch_tokens", "resamples", "seed")
PARTS: dict[str, Any] = {"checkpoint": None, "fingerprint": None, "heldout": None, "tasks": {}, "against": None}


class EvaluationRun:
    """One call of the command: its options, and the JSON of what is measured so far, see docs/output.md."""

    def __init__(self, values: dict[str, Any], output: Path | None) -> None:
        """`values`: the command's options by name; `output`: the JSON file, if one is wanted."""
        self.values, self.output = values, output
        self.device = pick_device(values["device"])
        self.reading = PoolOptions(*(values[name] for name in READING))
        self.console = Console(highlight=False)
        self.content: dict[str, Any] = {**HEADER, "complete": False, **PARTS}

    def measure(self, checkpoint: str) -> None:
        """Find and check everything first; then measure, print and write one part after another.

        Raises `SpiceSelectError`; the parts measured before are in the file.
        """
        values, trust = self.values, bool(self.values["trust_remote_code"])
        found = find_checkpoint(checkpoint, revision=values["revision"], trust_remote_code=trust)
        other = find_checkpoint(values["against"], trust_remote_code=trust) if values["against"] else None
        tasks: list[PreparedTask] = []
        if values["tasks"]:
            data = Path(values["task_data"]) if values["task_data"] else None
            names = list(dict.fromkeys(name.strip() for name in values["tasks"].split(",")))
            tasks = prepare_tasks(names, data, values["task_limit"], values["execute_code"], values["seed"])
        first = self._measure_first(found, tasks)
        if first and other:  # the first model is freed by now: two need not fit into memory
            self._compare(first, other)
        self._write(complete=True)

    def _measure_first(self, found: FoundCheckpoint, tasks: list[PreparedTask]) -> Evaluation | None:
        with progress_on(sys.stderr) as progress:
            loaded = self._load(found, progress)
            scores = run_tasks(loaded.model, loaded.tokenizer, tasks, self.values["task_batch"]) if tasks else ()
            evaluation = self._evaluate(loaded, progress) if self.values["data"] else None
        about = {"checkpoint": loaded.name, "fingerprint": loaded.fingerprint}
        if evaluation:
            self.console.print(loss_table(evaluation.heldout))
            self._write(**about, heldout=evaluation_json(evaluation))
        results: list[TaskResult] = []
        try:
            for result in scores:
                results.append(result)
                self._write(**about, tasks={done.task: asdict(done) for done in results})
        finally:
            if results:
                self.console.print(task_table(results))
        return evaluation

    def _compare(self, first: Evaluation, other: FoundCheckpoint) -> None:
        with progress_on(sys.stderr) as progress:
            second = self._evaluate(self._load(other, progress), progress)
        about = {"checkpoint": second.checkpoint, "fingerprint": second.fingerprint, "heldout": evaluation_json(second)}
        self._write(against=about | {"difference": None})
        difference = compare(first.heldout, second.heldout, self.values["resamples"], self.values["seed"])
        self._write(against=about | {"difference": asdict(difference)})
        self.console.print(Text(verdict(first, second, difference)), soft_wrap=True)

    def _load(self, found: FoundCheckpoint, progress: Progress) -> LoadedModel:
        progress.note(f"loading {found.name}")
        return load_weights(found, self.device, self.values["dtype"])

    def _evaluate(self, loaded: LoadedModel, progress: Progress) -> Evaluation:
        limit, budget, resamples, seed = itemgetter(*SETTINGS)(self.values)
        return evaluate_model(loaded, self.values["data"], self.reading, limit, budget, resamples, seed, progress)

    def _write(self, **parts: Any) -> None:
        """Add finished parts to the file, which is written whole each time."""
        content = self.content | parts
        if self.output:
            write_text(self.output, json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
        self.content = content


def loss_table(heldout: HeldoutLoss) -> Table:
    """Losses by source, of all rows, and their macro mean."""
    rows = [
        (s.source, f"{s.rows:,}", f"{s.trained_tokens:,}", f"{s.mean:.4f}", _shown(s.interval), f"{s.token_mean:.4f}")
        for s in heldout.sources
    ]
    tokens = sum(s.trained_tokens for s in heldout.sources)
    rows.append(("all rows", f"{len(heldout.rows):,}", f"{tokens:,}", f"{heldout.mean:.4f}", "", ""))
    rows.append(("macro", "", "", f"{heldout.macro:.4f}", _shown(heldout.macro_interval), ""))
    table = plain_table(["source", "rows", "trained tokens", "loss", "95 % interval", "per token"], rows)
    table.rows[-1].style = "bold"
    return table


def task_table(results: list[TaskResult]) -> Table:
    """A line for each task."""
    rows = [
        (r.task, r.metric, f"{r.items:,}", f"{r.value:.4f}", "-" if r.stderr is None else f"{r.stderr:.4f}", r.note)
        for r in results
    ]
    return plain_table(["task", "metric", "items", "value", "standard error", ""], rows, words=(0, 1, 5))


def verdict(first: Evaluation, second: Evaluation, difference: PairedDifference) -> str:
    """Whether the rows distinguish the two checkpoints."""
    text = f"\nagainst {second.checkpoint}: macro {second.heldout.macro:.4f}, difference {difference.macro:+.4f}"
    if difference.interval is None:
        single = next(source.source for source in first.heldout.sources if source.rows == 1)
        return printable(f"{text}; no interval and no verdict: source '{single}' has one row; two or more are needed.")
    better = first if difference.macro < 0 else second
    found = "includes zero: these rows do not distinguish the two."
    if not difference.interval.low <= 0.0 <= difference.interval.high:
        found = f"excludes zero: {better.checkpoint} predicts these sources better."
    return printable(f"{text} (95 %: {_shown(difference.interval)}); the interval {found}")


def _shown(interval: Interval | None) -> str:
    return f"{interval.low:.4f} to {interval.high:.4f}" if interval else "-"
