"""What the reader of a study's table must know about its data: which sources it compares, and what is on both sides."""

from collections.abc import Iterable, Mapping

from spice_select.pool.examples import Example, Pool

SHOWN = 8
"""Sources that a remark names."""


def source_remarks(heldout: Iterable[str], pool: Mapping[str, float]) -> list[str]:
    """What limits the loss in the pool's proportions: sources held out, and each source's share of the pool's rows."""
    measured = set(heldout)
    if not measured & pool.keys():
        return [
            f"No loss in the pool's proportions: the pool has no row of the held-out sources ({_named(measured)}), "
            f"but of {_named(pool.keys())}."
        ]
    remarks: list[str] = []
    if weightless := measured - pool.keys():
        remarks.append(f"Sources that are not in the pool count nothing in its proportions: {_named(weightless)}.")
    if missing := pool.keys() - measured:
        share = sum(pool[source] for source in missing)
        remarks.append(
            f"Sources with {share:.0%} of the pool's rows are not held out, so its proportions are those of the rest: "
            f"{_named(missing)}."
        )
    return remarks


def overlap_remarks(pool: Pool, heldout: Pool) -> list[str]:
    """How many held-out rows have the prompt, token by token, of a row of the pool; nothing where none has."""
    prompts = {_prompt(example) for example in pool.examples}
    shared = sum(_prompt(example) in prompts for example in heldout.examples)
    if not shared:
        return []
    return [
        f"{shared:,} of {len(heldout.examples):,} held-out rows have a prompt that is also in the pool: "
        "cells that choose it are flattered."
    ]


def _prompt(example: Example) -> bytes:
    """All tokens before the first trained one."""
    return example.input_ids[: int(example.trained.argmax())].tobytes()


def _named(sources: Iterable[str]) -> str:
    names = sorted(sources)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
