"""What a command would take, told before it starts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from spice_select.amounts import GIB


@dataclass(frozen=True, slots=True)
class Forecast:
    """Work still to be done, and what it needs.

    `seconds` by stage; None where no model runs or measuring would cost more than it tells. `memory` is the peak in
    bytes, of the process or, on a GPU, of its tensors; None likewise. `obtainable` is what the device can give at most,
    where that is known. `disk` is the most that the output directory will hold at once. `remedy` says what to change
    where memory will not suffice.
    """

    rows: int
    tokens: int
    trained_tokens: int
    seconds: dict[str, float] | None
    memory: int | None
    obtainable: int | None
    disk: int
    remedy: str = "lower --token-budget or --gradient-memory, or take a smaller --model"

    def times(self, factor: float) -> "Forecast":
        """The same work so many times, one after the other."""
        return replace(
            self,
            rows=round(factor * self.rows),
            tokens=round(factor * self.tokens),
            trained_tokens=round(factor * self.trained_tokens),
            seconds=self.seconds and {stage: factor * spent for stage, spent in self.seconds.items()},
        )

    def lines(self) -> list[str]:
        """For people: one line, and a warning where memory will not suffice."""
        parts: list[str] = []
        if self.seconds is not None:
            total = sum(self.seconds.values())
            stages = [(stage, spent) for stage, spent in self.seconds.items() if spent >= 1]
            told = ", ".join(f"{stage} {clock(spent)}" for stage, spent in stages)
            parts.append(f"about {clock(total)}" + (f" ({told})" if len(stages) > 1 else ""))
        if self.memory is not None:
            parts.append(f"{self.memory / GIB:.1f} GiB of memory")
        parts.append(f"up to {self.disk / 1e6:,.1f} MB on disk")
        lines = ["forecast: " + ", ".join(parts)]
        if self.memory is not None and self.obtainable is not None and self.memory > self.obtainable:
            lines.append(f"only {self.obtainable / GIB:.1f} GiB can be had here: {self.remedy}")
        return lines


def in_turn(parts: Sequence[Forecast], disk: int, remedy: str) -> Forecast:
    """Works that follow each other; those without a time count as nothing. `disk` is that of all."""
    seconds: Counter[str] = Counter()
    for part in parts:
        seconds.update(part.seconds or {})
    return Forecast(
        sum(part.rows for part in parts),
        sum(part.tokens for part in parts),
        sum(part.trained_tokens for part in parts),
        dict(seconds),
        max((part.memory for part in parts if part.memory is not None), default=None),
        min((part.obtainable for part in parts if part.obtainable is not None), default=None),
        disk,
        remedy,
    )


def clock(seconds: float) -> str:
    """Hours, minutes and seconds as people write them."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"
