"""Which characters of a rendered chat are the assistant's, told by markers: every assistant character is replaced and
the two renderings compared, position by position. Slow, obvious, and ignorant of prefixes, skeletons and tags."""

import numpy as np

from oracles.pool_families import Family

_FIRST_MARK = 0xE100  # private use: one mark for each turn


def assistant_characters(family: Family, tokenizer, messages: list[dict]) -> tuple[str, list[tuple[int, int]]]:
    """The rendering, and for each assistant turn the characters of lead, content and end-of-turn text."""
    text = _render(family, tokenizer, messages)
    marked = [
        {**m, "content": "".join(c if c.isspace() else chr(_FIRST_MARK + i) for c in m["content"])}
        if m["role"] == "assistant"
        else m
        for i, m in enumerate(messages)
    ]
    other = _render(family, tokenizer, marked)
    assert len(text) == len(other), "the template's output depends on more than the contents' white space"
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        at = [p for p, c in enumerate(other) if c == chr(_FIRST_MARK + i)]
        content = message["content"]
        before = 0 if family.trims else len(content) - len(content.lstrip())
        after = 0 if family.trims else len(content) - len(content.rstrip())
        start, end = at[0] - before, at[-1] + 1 + after
        assert text[start:end] == (content.strip() if family.trims else content)
        assert text[start - len(family.lead) : start] == family.lead
        assert text.startswith(family.end, end)
        spans.append((start - len(family.lead), end + len(family.end)))
    return text, spans


def expected_tokens(tokenizer, text: str, spans: list[tuple[int, int]]) -> tuple[list[int], list[bool]]:
    """The tokens of the whole text, and for each whether any of its characters is the assistant's."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    inside = np.zeros(len(text), dtype=bool)
    for start, end in spans:
        inside[start:end] = True
    trained = [bool(inside[start:end].any()) for start, end in encoding["offset_mapping"]]
    return encoding["input_ids"], [False, *trained[1:]]


def _render(family: Family, tokenizer, messages: list[dict]) -> str:
    if family.template is None:
        return _plain(tokenizer, messages)
    return tokenizer.apply_chat_template(messages, tokenize=False)


def _plain(tokenizer, messages: list[dict]) -> str:
    """The documented form for base models, written out."""
    blocks = {"system": "{}\n\n", "user": "### Instruction:\n{}\n\n", "assistant": "### Response:\n{}</s>\n\n"}
    text = "".join(blocks[m["role"]].replace("{}", m["content"]) for m in messages)
    return text.removesuffix("\n\n") if messages[-1]["role"] == "assistant" else text
