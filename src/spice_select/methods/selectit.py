"""SelectIT (Liu et al., NeurIPS 2024, arXiv 2402.16705): models rate rows, and what they are unsure of counts less.

A rating prompt asks for a score from 1 to 5 of how well a response follows its instruction. P' are the probabilities of
the five scores as the next token, with sum 1, and the base is the most likely of them.

Token level: base * mean over the other four scores of P'(base) - P'(score). Sentence level: mean over K rating prompts
/ (1 + a * standard deviation over them). Model level: the mean over models, weighed by their parameters.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spice_select.methods.facts import RowFacts

PROMPTS = (
    "Read the instruction and the response below. Rate from 1 (worst) to 5 (best) how accurately the response follows "
    "the instruction. Give the number only.",
    "Below are an instruction and a response to it. On a scale from 1 to 5, where 5 is best, how well does the "
    "response do what the instruction asks? Answer with one number.",
    "Judge how precisely the response fulfils the instruction. 1 means not at all, 5 means completely. Write a single "
    "number from 1 to 5.",
    "You are asked to grade an answer. Give a grade from 1 to 5 for how correctly the response carries out the "
    "instruction; a higher grade is better. Reply with the grade alone.",
    "How faithful is the response to the instruction? Choose a whole number between 1, for a response that misses it, "
    "and 5, for one that meets it in full.",
    "Score the response against the instruction from 1 to 5, with 1 for wrong or off the point and 5 for right and to "
    "the point. State just the score.",
    "Consider whether the response is what the instruction calls for. Assign it a mark of 1, 2, 3, 4 or 5; the better "
    "it complies, the higher the mark.",
    "Assess the quality of the response as an answer to the instruction. Express it as a number from 1, the lowest, to "
    "5, the highest.",
    "Evaluate how accurately the given response answers the given instruction. The evaluation is one number from 1 "
    "(poor) to 5 (excellent).",
)
"""Rating prompts of this project's own; K of them are used, from the first on, as in the released code."""
SCORES = ("1", "2", "3", "4", "5")
QUESTION = "\nThe answer is:\n"
"""What follows the response; the score begins a line, so it is a token of its own, without a space."""

_STEPS = 1e5  # of a score: rounding in the model's passes, which depends on the batches, is below one


def token_level(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scores [...] from probabilities of the five scores [..., 5]; of equal ones, to 1e-5, the lower is base."""
    shares = probabilities / probabilities.sum(axis=-1, keepdims=True)
    base = shares.round(5).argmax(axis=-1, keepdims=True)
    spread = np.abs(np.take_along_axis(shares, base, axis=-1) - shares).sum(axis=-1) / (len(SCORES) - 1)
    return (base[..., 0] + 1) * spread


def sentence_level(scores: npt.NDArray[np.float64], a: float) -> npt.NDArray[np.float64]:
    """Scores [n] from those of each rating prompt, [n, K]."""
    return scores.mean(axis=1) / (1.0 + a * scores.std(axis=1))


def model_level(scores: npt.NDArray[np.float64], parameters: Sequence[int]) -> npt.NDArray[np.float64]:
    """Scores [n] from those of each model [models, n] and its number of parameters."""
    weights = np.array(parameters, dtype=np.float64)
    return weights / weights.sum() @ scores


def order(facts: RowFacts) -> list[int]:
    """Rows by score, highest first; ties, up to 1e-5, go to the lower row; rows without a score come last."""
    steps = np.round(np.array(facts.scores) * _STEPS)
    return np.argsort(np.where(np.isnan(steps), np.inf, -steps), kind="stable").tolist()
