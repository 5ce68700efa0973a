"""What a command would take, told before it starts."""

from dataclasses import dataclass

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


def clock(seconds: float) -> str:
    """Hours, minutes and seconds as people write them."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"
