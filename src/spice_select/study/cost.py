"""What a choice costs: seconds, tokens that pass through the model, memory at its peak; and the files that say so."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook
from transformers import PreTrainedModel

from spice_select.amounts import GIB
from spice_select.files.locks import claimed
from spice_select.files.records import write_json
from spice_select.study.records import read_json

COST = "cost.json"
_EARLIER = "seconds.json"  # what studies had in its place: seconds alone
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a piece of work, or of several; None for what was not measured in one of them.

    Tokens are those that pass through the model, padding and repeated passes included; `backward` are those of passes
    that keep what gradients need. Memory is in GiB: what this process takes beyond what it held before, and what
    tensors on a GPU take.
    """

    seconds: float | None = 0.0
    forward: float | None = 0
    backward: float | None = 0
    memory: float | None = 0.0
    gpu_memory: float | None = 0.0


KEYS, PEAKS = [field.name for field in fields(Cost)], ("memory", "gpu_memory")
UNMEASURED = Cost(None, None, None, None, None)


def joined(costs: Collection[Cost]) -> Cost:
    """The cost of several pieces: the sum of times and tokens, of memory the highest."""

    def joint(key: str) -> float | None:
        values: list[float | None] = [getattr(cost, key) for cost in costs]
        known = [value for value in values if value is not None]
        return None if len(known) < len(values) else max(known) if key in PEAKS else sum(known)

    return Cost(*map(joint, KEYS))


@contextmanager
def measured() -> Generator[Callable[[], Cost]]:
    """Measure the block; the function that it receives tells the cost so far. Blocks do not nest."""
    tokens, started = Counter[str](), time.perf_counter()

    def count(module: torch.nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, PreTrainedModel) and module.base_model is module:  # the innermost: without output layer
            states: torch.Tensor = output[0]
            size = states.shape[:2].numel()
            tokens.update(forward=size, backward=size * states.requires_grad)

    def spent() -> Cost:
        gpu = torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else 0.0
        peak = None if held is None else (_peak() or held) - held
        return Cost(time.perf_counter() - started, tokens["forward"], tokens["backward"], peak, gpu)

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    held = _peak() if _reset_peak() else None
    handle = register_module_forward_hook(count)
    try:
        yield spent
    finally:
        handle.remove()


def _reset_peak() -> bool:
    """Forget how much memory this process has held so far; False where the system keeps no such record."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def _peak() -> float | None:
    """GiB of memory that this process has held at most since it was reset."""
    lines = _STATUS.read_text().splitlines()
    return next((int(line.split()[1]) * 1024 / GIB for line in lines if line.startswith("VmHWM:")), None)


def cost_in(path: Path) -> Cost:
    """The cost that a file holds, whose name ends in `COST`; of an earlier version, seconds alone."""
    earlier = path.with_name(path.name.removesuffix(COST) + _EARLIER)
    if not path.exists() and earlier.exists():
        return Cost(read_json(earlier, float), None, None, None, None)
    return read_json(path, Cost) if path.exists() else UNMEASURED


def cost_beside(path: Path) -> Path:
    """The file that says what all processes together spent on `path`."""
    return path.with_name(f"{path.name}.{COST}")


@contextmanager
def adding_cost(path: Path) -> Generator[None]:
    """Add the cost of the block, also of one that an error or a signal ends, to that of `path`."""
    with measured() as spent:
        try:
            yield
        finally:
            own, beside = spent(), cost_beside(path)
            with claimed(path.parent, beside.name):
                before = cost_in(beside)
                write_json(beside, asdict(own if before == UNMEASURED else joined([before, own])))
