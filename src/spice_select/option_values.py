"""The values that options of a run can take, what each method needs, and what a choice of one implies for others."""

from collections.abc import Mapping
from typing import Any, Literal

Method = Literal[
    "spice", "fisher", "norm", "dpp", "cosine", "ifd", "selectit", "fishersft", "lead", "longest", "random",
    "less", "rds", "tsds",
]  # fmt: skip
GREEDY: tuple[Method, ...] = ("spice", "fisher")
"""Methods that maximise information step by step; only these can stop early."""
TARGETED: tuple[Method, ...] = ("less", "rds", "tsds")
"""Methods that need a target and choose among all rows of a store."""
FROM_STORE: tuple[Method, ...] = (*GREEDY, *TARGETED)
"""Methods that can choose among all rows of a store."""
TRAINING: tuple[Method, ...] = ("lead",)
"""Methods that train the proxy in a schedule of their own while they choose among all rows."""
WITHOUT_GRADIENTS: tuple[Method, ...] = ("ifd", "selectit", "fishersft", "longest", "random", *TRAINING)
"""Methods that need no gradient of a row; but for those that train, they rank all rows of the pool at once."""
WITHOUT_SEED: tuple[Method, ...] = ("ifd", "selectit", "fishersft", "longest")
"""Methods whose choice is the same whatever the seed."""
WITHOUT_MODEL: tuple[Method, ...] = ("longest", "random")
"""Methods that run no model at all."""
AMONG_ALL: tuple[Method, ...] = (*TARGETED, *TRAINING, "selectit", "fishersft")
"""Methods that do not work in candidate pools, and refuse a number of rows for one."""
Features = Literal["gradients", "preconditioned", "states"]
Scale = Literal["auto", "none", "sqrt-length", "geometric", "unit"]
TargetRule = Literal["variance", "information"]
AlphaMode = Literal["relative", "absolute"]
Dtype = Literal["auto", "float32", "bfloat16"]

CANDIDATES = 120
"""Rows of a candidate pool where no number is given (paper section 4)."""
WHOLE_ABOVE = 2000
"""Usable rows above which a greedy choice is one among all rows where no number is given (docs/study.md)."""
NEED_ALL_ROWS = ("target", "quota", "exclude", "given")
"""Options of which one makes a choice from a store one among all rows where no number of candidates is given."""

EMBEDDED_MODEL = "smollm2-135m-instruct"
"""Name of the proxy that comes with the project (no hub needed)."""

IMPLIED: dict[str, dict[str, dict[str, Any]]] = {
    "method": {
        "selectit": {"candidates": "all"},
        "fishersft": {"candidates": "all"},
        "less": {"features": "preconditioned", "candidates": "all"},
        "rds": {"features": "states", "candidates": "all"},
        "tsds": {"features": "states", "candidates": "all"},
        "lead": {"candidates": "all"},
    },
    "preset": {
        # The formula as printed: raw gradients in all directions, absolute alpha, LoRA's B zero at first.
        "paper": {
            "candidates": CANDIDATES,
            "scale": "none",
            "directions": "all",
            "fisher_alpha_mode": "absolute",
            "fisher_alpha": 1.0,
            "warmup_steps": 0,
        },
    },
    "features": {"preconditioned": {"candidates": "all", "warmup_steps": 30}, "states": {"candidates": "all"}},
}
"""Option -> its value -> the values of other options that it implies where these are not given."""

OF_GRADIENTS = (
    "dim", "lora_rank", "lora_alpha", "layers", "warmup_steps", "learning_rate", "lr_warmup_steps", "update_batch_size",
)  # fmt: skip
"""Options of gradients that decide no state."""

NOUNS: dict[Features, str] = {
    "gradients": "gradient",
    "preconditioned": "preconditioned gradient",
    "states": "state",
}
"""What texts call a row's features, in the singular."""


def factor_of(scale: Scale, features: Features) -> Literal["none", "sqrt-length", "geometric", "unit"]:
    """The factor on each row that `scale` means for these features."""
    if scale == "auto":
        return "unit" if features == "states" else "geometric"
    return scale


def implied(values: Mapping[str, Any], *options: str) -> dict[str, Any]:
    """What the values of these options, all of `IMPLIED` where none is named, imply for others."""
    found: dict[str, Any] = {}
    for option in options or IMPLIED:
        found |= IMPLIED[option].get(str({**found, **values}.get(option)), {})
    return found
