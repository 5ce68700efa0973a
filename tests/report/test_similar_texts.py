"""Texts that are alike, by definition and by example."""

import json
import math
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles import report_oracle as oracle
from spice_select.report.similar_texts import ALIKE, similar_pairs, similarity, word_weights, words_of

EXAMPLES = Path(__file__).parents[2] / "examples" / "pool.jsonl"
TEXTS = st.lists(st.text("ab 12_.,é\n", max_size=30), min_size=2, max_size=6)


@given(TEXTS)
def test_similarity_follows_its_definition(texts) -> None:
    """It is symmetric, in [0, 1], and 1 for equal texts."""
    words = [words_of(text) for text in texts]
    assert words == [Counter(oracle.words(text)) for text in texts]
    weights = word_weights(words)
    assert weights == pytest.approx(oracle.word_weights(words))
    for one, other in combinations(words, 2):
        found = similarity(one, other, weights)
        assert found == pytest.approx(oracle.text_similarity(one, other, weights))
        assert found == pytest.approx(similarity(other, one, weights)) and 0 <= found <= 1 + 1e-12
        assert similarity(one, one, weights) == pytest.approx(1.0)


@given(TEXTS)
def test_pairs_are_those_that_are_alike(texts) -> None:
    """Each once, in whatever order the texts are sorted."""
    words = [words_of(text) for text in texts]
    weights = word_weights(words)
    found = [frozenset(pair) for pair in similar_pairs(words, texts, weights)]
    pairs = combinations(range(len(texts)), 2)
    expected = {frozenset(p) for p in pairs if similarity(words[p[0]], words[p[1]], weights) >= ALIKE}
    assert set(found) == expected and len(found) == len(expected)


def test_rows_of_one_form_are_not_alike() -> None:
    """In the example pool: capitals of different countries, and one exercise with other numbers."""
    rows = [json.loads(line) for line in EXAMPLES.read_text(encoding="utf-8").splitlines()]
    texts = ["\n".join(message["content"] for message in row["messages"][-2:]) for row in rows]
    words = [words_of(text) for text in texts]
    weights = word_weights(words)
    capitals = [i for i, text in enumerate(texts) if text.startswith("What is the capital of ")]
    assert len(capitals) > 5
    by_country = {texts[i].split("?")[0]: words[i] for i in capitals}
    assert all(similarity(a, b, weights) < ALIKE for a, b in combinations(by_country.values(), 2))
    one = words_of("A coat costs 200 euros and is reduced by 25 percent. It now costs 150 euros.")
    other = words_of("A coat costs 80 euros and is reduced by 25 percent. It now costs 60 euros.")
    assert similarity(one, other, word_weights([one, other])) < ALIKE


def test_a_reworded_question_with_its_answer_is_alike() -> None:
    """In the sentences that benchmarks/audit.py plants, beside other rows."""
    rows = [json.loads(line) for line in EXAMPLES.read_text(encoding="utf-8").splitlines()]
    question, answer = (message["content"] for message in rows[0]["messages"][-2:])
    texts = [words_of("\n".join(message["content"] for message in row["messages"][-2:])) for row in rows]
    weights = {**word_weights(texts)}
    for form in ("I have a request. {}\nPlease answer it.", "Can you help me with this? {}", "Question: {}\nAnswer:"):
        reworded = words_of(f"{form.format(question)}\n{answer}")
        known = {word: weights.get(word, math.log(1 + len(texts))) for word in reworded}
        assert similarity(texts[0], reworded, weights | known) >= ALIKE
