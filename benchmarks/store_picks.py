"""Picks from a gradient store of real gradients, against the exact Gram matrix and against selection on it.

python benchmarks/store_picks.py STORE GRAM     GRAM: the gram-*.safetensors of a study of the same pool and seed
"""

import argparse
from pathlib import Path

import torch
from projection import choices, picks
from safetensors.torch import load
from torch import Tensor

from report import machine, write_section
from spice_select import GradientStore, select_from_gram
from spice_select.information import (
    RowLimit,
    ScaledFeatures,
    choose_rows,
    gradient_scales,
    information,
    moments_of,
    principal_rank,
    relative_alpha,
)

PENALTY = 0.1


def same_picks(store: GradientStore, lengths: Tensor, budget: int) -> bool:
    """Whether lazy and Gram selection agree on the store's features."""
    agree = True
    for scale, _ in choices(1):
        factors = gradient_scales(scale, lengths, store.squared_norms())
        rows = ScaledFeatures(store, factors)
        whole = rows.block(0, rows.rows)
        gram = whole @ whole.T
        alpha = relative_alpha(gram, 1.0)
        found = choose_rows(moments_of(rows), RowLimit(budget), alpha, PENALTY, None)
        agree = agree and found.indices == select_from_gram(gram, budget, alpha, PENALTY).indices
    return agree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("gram")
    arguments = parser.parse_args()
    store = GradientStore.open(arguments.store)
    exact = load(Path(arguments.gram).read_bytes())["gram"]
    lengths = torch.tensor([line.trained_tokens for line in store.listing.lines])
    budget = store.rows // 10
    whole = store.block(0, store.rows)
    projected, squares = whole @ whole.T, exact.diagonal()
    off = ~torch.eye(store.rows, dtype=torch.bool)
    norms = squares.sqrt()
    error = ((projected - exact) / torch.outer(norms, norms))[off]
    agree = same_picks(store, lengths, budget)
    lines = [
        machine(store.device),
        "",
        f"{store.rows:,} rows, d = {store.dim:,}, {budget} picks among all rows. Cosines: RMS error "
        f"{float(error.square().mean().sqrt()):.4f}, largest {float(error.abs().max()):.3f}. "
        f"Lazy and Gram selection in float64 on the store's features: "
        f"{'the same picks' if agree else 'DIFFERENT PICKS'} at every scale.",
        "",
        "| scale, rank | picks shared with the exact Gram's | U that they reach there |",
        "| --- | --: | --: |",
    ]
    for scale, rank in choices(principal_rank(budget)):
        chosen, scaled, alpha = picks(exact, lengths, squares, scale, rank)
        found, _, _ = picks(projected, lengths, squares, scale, rank)
        reached = information(scaled, found, alpha) / information(scaled, chosen, alpha)
        shared = len(set(found) & set(chosen)) / budget
        lines.append(f"| {scale}, {rank or 'all'} | {shared:.2f} | {reached:.4f} |")
    write_section("Picks from a store", "store_picks.py", lines)


if __name__ == "__main__":
    main()
