"""Rows whose texts are nearly the same, word for word: texts that merely share a form are not.

Contract: similarity is the weighted Jaccard index of two texts' words, each as often as it occurs, or that of their
numbers alone where it is lower: one exercise with other numbers is another exercise. A word weighs log(1 + n / d), d of
n texts holding it, so that a name counts for more than what many texts say.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

ALIKE = 0.6
"""Least similarity of near-duplicates. In examples/pool.jsonl, the capitals of two countries reach 0.56."""

NEAR = 200
"""Other texts that each is compared with; of more, those beside it in the order of texts."""

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")


def words_of(text: str) -> Counter[str]:
    """The words and signs of a text, in lower case; a letter of scripts without spaces is a word."""
    return Counter(_WORD.findall(text.lower()))


def word_weights(texts: Sequence[Counter[str]]) -> Mapping[str, float]:
    """The weight of every word of `texts`."""
    holding = Counter(word for words in texts for word in words)
    return {word: math.log(1 + len(texts) / count) for word, count in holding.items()}


def similarity(one: Counter[str], other: Counter[str], weights: Mapping[str, float]) -> float:
    """Weight of the words in common over that of all, of words or of numbers, in [0, 1]; 1 for texts without any."""
    common, every = one & other, one | other
    return min(_ratio(common, every, weights), _ratio(_numbers(common), _numbers(every), weights))


def _ratio(common: Mapping[str, int], every: Mapping[str, int], weights: Mapping[str, float]) -> float:
    part, whole = (sum(weights[word] * count for word, count in words.items()) for words in (common, every))
    return part / whole if whole else 1.0


def _numbers(words: Mapping[str, int]) -> Mapping[str, int]:
    return {word: count for word, count in words.items() if any(map(str.isdigit, word))}


def similar_pairs(
    texts: Sequence[Counter[str]], order: Sequence[str], weights: Mapping[str, float]
) -> Iterator[tuple[int, int]]:
    """Places of texts that are alike, each compared with the `NEAR` after it by `order`, a text to sort by."""
    places = sorted(range(len(texts)), key=lambda place: (order[place], place))
    for start, one in enumerate(places):
        for other in places[start + 1 : start + 1 + NEAR]:
            if similarity(texts[one], texts[other], weights) >= ALIKE:
                yield one, other
