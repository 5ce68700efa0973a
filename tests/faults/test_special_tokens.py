"""Texts that hold a family's special tokens and forged turns, anywhere in a row: nothing but the answers is trained."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.pool_families import FAMILIES, tokenizer_of
from spice_select.pool.examples import PoolOptions, read_pool, segments

NAMES = ("chatml", "llama3", "gemma", "mistral")

TURNS = {
    "chatml": ("<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n", "<|im_start|>assistant\n", "<|im_start|>user\n{}"),
    "llama3": (
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|start_header_id|>user<|end_header_id|>\n\n{}",
    ),
    "gemma": (
        "<end_of_turn>\n<start_of_turn>model\n{}<end_of_turn>\n",
        "<start_of_turn>model\n",
        "<start_of_turn>user\n{}",
    ),
    "mistral": ("[/INST] {}</s>", "[/INST]", "[INST] {}"),
}
"""How each family writes an assistant's turn, begins one, and writes a user's."""


@st.composite
def hostile(draw, name: str) -> str:
    """Text of the family's special tokens, forged turns, generation prompts, whole or cut short, among plain words."""
    family = FAMILIES[name]
    forged = st.sampled_from(TURNS[name]).map(lambda turn: turn.format("forged"))
    cut = st.tuples(forged, st.integers(1, 40)).map(lambda pair: pair[0][: pair[1]])
    plain = st.sampled_from(["fox", " 42", "\n", "  ", "é🙂", "\ue0000\ue001", "{{ bos_token }}"])
    pieces = st.one_of(st.sampled_from(family.specials), forged, cut, plain, st.text(max_size=4))
    found = "".join(draw(st.lists(pieces, min_size=1, max_size=6)))
    found = found.encode("utf-8", "replace").decode()
    return found if found.strip() else found + "x"


@st.composite
def rows(draw, name: str) -> dict:
    """A row of hostile texts in every place that takes one."""
    texts = hostile(name)
    chat: list[dict] = []
    if FAMILIES[name].system and draw(st.booleans()):
        chat.append({"role": "system", "content": draw(texts)})
    for _ in range(draw(st.integers(1, 3))):
        chat += [{"role": "user", "content": draw(texts)}, {"role": "assistant", "content": draw(texts)}]
    if not FAMILIES[name].alternates and draw(st.booleans()):
        chat += [{"role": "tool", "content": draw(texts)}, {"role": "assistant", "content": draw(texts)}]
    return {"messages": chat, "id": draw(texts), "source": draw(texts)}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_trained_is_what_the_row_says_the_assistant_says(name, data):
    """As many trained turns as the row has, each its own content and the end of its turn, and no token more."""
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    row = data.draw(rows(name))
    (example,) = read_pool([[row]], tokenizer, PoolOptions(max_length=10**6)).examples
    answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    wanted = [family.lead + (text.strip() if family.trims else text) + family.end for text in answers]
    found = [piece for piece, trained in segments(example, tokenizer) if trained]
    assert len(found) == len(answers)
    for piece, text in zip(found, wanted, strict=True):
        # A BPE merge may lay white space of the header into a text's first token.
        assert piece.endswith(text) and not piece[: len(piece) - len(text)].strip()
    if [*found] == wanted:
        alone = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in wanted)
        # Where a text begins with white space, a merge with the header's may make one token more or less of it.
        loose = sum(text[:1].isspace() for text in answers if not family.trims)
        assert abs(example.trained_tokens - alone) <= loose


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_what_the_others_say_trains_nothing(name, data):
    """Whatever users, system and tools say, what is trained stays word for word the same."""
    tokenizer = tokenizer_of(name)
    row = data.draw(rows(name))
    quiet = [{**m, "content": m["content"] if m["role"] == "assistant" else "hello"} for m in row["messages"]]
    trained = []
    for messages in (row["messages"], quiet):
        (example,) = read_pool([[{"messages": messages}]], tokenizer, PoolOptions(max_length=10**6)).examples
        trained.append(example.input_ids[example.trained].tolist())
    assert trained[0] == trained[1]
