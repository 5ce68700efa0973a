"""Information and gains with 100 digits: of gradients as they are, before any product of them was rounded."""

from collections.abc import Sequence

import mpmath
import numpy as np

DIGITS = 100


def information(vectors: np.ndarray, subset: Sequence[int], alpha: float) -> mpmath.mpf:
    """U(S) = log det(I + alpha K_SS) of the rows of `vectors` [m, P]."""
    with mpmath.workdps(DIGITS):
        if not subset:
            return mpmath.mpf(0)
        rows = [[mpmath.mpf(float(number)) for number in vectors[row]] for row in subset]
        gram = mpmath.matrix(len(rows), len(rows))
        for i, one in enumerate(rows):
            for j, other in enumerate(rows):
                gram[i, j] = mpmath.mpf(float(alpha)) * mpmath.fdot(one, other) + (i == j)
        return mpmath.log(mpmath.det(gram))


def gains(vectors: np.ndarray, subset: Sequence[int], alpha: float) -> np.ndarray:
    """D_x(S) = U(S + x) - U(S) for every row x, [m] float64; -inf for the rows of S."""
    with mpmath.workdps(DIGITS):
        before = information(vectors, subset, alpha)
        values = [
            -np.inf if row in subset else float(information(vectors, [*subset, row], alpha) - before)
            for row in range(len(vectors))
        ]
    return np.array(values)
