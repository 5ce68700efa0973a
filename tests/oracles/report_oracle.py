"""The figures of a report once more, from a run's files alone: plain loops over scores and Gram matrices."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

Row = dict


def scores(directory: Path) -> list[Row]:
    return pq.read_table(directory / "scores.parquet").to_pylist()


def pools(directory: Path) -> dict[int, dict]:
    """Each candidate pool: `rows`, `picks` (rows in the order of picking), `quota`, `alpha`, `gram`."""
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    about = {line["pool"]: line for line in manifest["pools"]}
    found: dict[int, dict] = {}
    for path in sorted((directory / "checkpoint").glob("pool-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        number = record["pool"]
        picks = [record["rows"][place] for place in record["picks"]]
        gram = load_file(directory / "checkpoint" / f"gram-{number:06d}.safetensors")["gram"]
        found[number] = {**about[number], "rows": record["rows"], "picks": picks, "gram": gram}
    return found


def seen(gram: np.ndarray, tokens: list[int], rank: int) -> np.ndarray:
    """The Gram matrix of gradients scaled to `geometric`, cut to their top `rank` directions."""
    norms = np.sqrt(gram.diagonal())
    factors = np.sqrt(np.sqrt(np.array(tokens, dtype=float)) / norms)
    values, vectors = np.linalg.eigh(factors[:, None] * gram * factors[None, :])
    top = np.argsort(values)[::-1][:rank]
    return (vectors[:, top] * values[top]) @ vectors[:, top].T


def information(gram: np.ndarray, places: list[int], alpha: float) -> float:
    part = gram[np.ix_(places, places)]
    return float(np.linalg.slogdet(np.eye(len(places)) + alpha * part)[1])


def cosine(gram: np.ndarray, one: int, other: int) -> float:
    return float(gram[one, other] / math.sqrt(gram[one, one] * gram[other, other]))


def spearman(one: list[float], other: list[float]) -> float:
    def ranks(values: list[float]) -> np.ndarray:
        return np.array([sum(b < a for b in values) + (sum(b == a for b in values) + 1) / 2 for a in values])

    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def step_values(directory: Path, column: str) -> list[list[float]]:
    """`column` of the picks of each pool, in the order of picking."""
    by_index = {row["index"]: row for row in scores(directory)}
    return [[by_index[row][column] for row in pool["picks"]] for pool in pools(directory).values()]


def texts(directory: Path) -> list[Counter]:
    """Words of each row: of the turns before the last, with their roles, and of the last, which is the response."""
    found = []
    for row in pq.read_table(directory / "checkpoint" / "texts.parquet").to_pylist():
        *before, last = json.loads(row["chat"])["messages"]
        prompt = "\n".join(f"{message['role']}: {message['content']}" for message in before)
        found.append(Counter(words(f"{prompt}\n{last['content']}")))
    return found


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, and each other sign that is no space."""
    found, inside = [], False
    for character in text.lower():
        wordy = character.isalnum() or character == "_"
        if wordy and inside:
            found[-1] += character
        elif not character.isspace():
            found.append(character)
        inside = wordy
    return found


def word_weights(rows: list[Counter]) -> dict[str, float]:
    return {word: math.log(1 + len(rows) / sum(word in row for row in rows)) for row in rows for word in row}


def text_similarity(one: Counter, other: Counter, weights: dict[str, float]) -> float:
    """The lower of two weighted Jaccard indices: of all words, and of those with a digit."""
    found = []
    for wanted in (lambda _: True, lambda word: any(c.isdigit() for c in word)):
        every = [word for word in {*one, *other} if wanted(word)]
        common = sum(weights[word] * min(one[word], other[word]) for word in every)
        whole = sum(weights[word] * max(one[word], other[word]) for word in every)
        found.append(common / whole if every else 1.0)
    return min(found)
