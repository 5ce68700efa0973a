"""Which projection of per-sample gradients, and to how many numbers: measured on real gradients.

    python benchmarks/projection.py POOL.jsonl --rows 256

One pass over the rows; every method projects the same gradients (embedded proxy, LoRA r 16 after the default warm-up).
Compared with the exact Gram matrix: cosines between rows, U of the exact picks, and the picks themselves (10 % of the
rows, one pool). Features are rounded to bfloat16 as the store keeps them. Writes its section of benchmarks/RESULTS.md.

Methods:
    fold        random signs, coordinate i to place (i mod w + offset) mod d, w <= d coprime to the weight's rows
                                                                                  (the product's)
    sparse 1    random signs, coordinate i to a random place (count sketch)
    sparse 4    as sparse 1, four times with 1/2 of the weight each
    two-sided   R^T G Q of every module's gradient matrix G with Gaussian R and Q, k x k = d
    srht        random signs, Walsh-Hadamard transform, d random coordinates

"""

import argparse
import math
import time
import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from report import machine, write_section
from spice_select.config import RunConfig
from spice_select.gradients.capture import captured
from spice_select.gradients.gram import GramAccumulator, HeldGradients
from spice_select.gradients.loss import collate, response_losses
from spice_select.gradients.projection import Projection
from spice_select.information import (
    Scale,
    gradient_scales,
    information,
    principal_gram,
    principal_rank,
    relative_alpha,
    scale_gram,
    select_from_gram,
)
from spice_select.pool.batches import batches_within
from spice_select.pool.examples import PoolOptions, read_pool
from spice_select.progress import NoProgress
from spice_select.proxy.loading import load_model, load_tokenizer, model_source, pick_device
from spice_select.proxy.lora import Proxy, attach_lora
from spice_select.proxy.update import ProxyOptimizer
from spice_select.schedule.proxy_training import warm_up

DIMS = (512, 1024, 2048, 4096, 8192)
Project = Callable[[str, Tensor, tuple[int, int]], Tensor]


def seeded(*parts: object) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(repr(parts).encode()))


def sparse(dim: int, copies: int) -> Project:
    def project(name: str, gradients: Tensor, _: tuple[int, int]) -> Tensor:
        result = torch.zeros(len(gradients), dim)
        for copy in range(copies):
            generator = seeded("sparse", dim, copies, copy, name)
            places = torch.randint(dim, (gradients.shape[1],), generator=generator)
            signs = torch.randint(0, 2, (gradients.shape[1],), generator=generator) * 2.0 - 1.0
            result.index_add_(1, places, gradients * signs / math.sqrt(copies))
        return result

    return project


def two_sided(dim: int) -> Project:
    side = math.isqrt(dim)

    def project(name: str, gradients: Tensor, shape: tuple[int, int]) -> Tensor:
        generator = seeded("two-sided", dim, name)
        left = torch.randn(shape[0], side, generator=generator) / math.sqrt(side)
        right = torch.randn(shape[1], side, generator=generator) / math.sqrt(side)
        matrix = gradients.view(-1, *shape)
        product = torch.einsum("boi,ok,il->bkl", matrix, left, right).flatten(1)
        return torch.nn.functional.pad(product, (0, dim - side * side))

    return project


def hadamard(values: Tensor) -> Tensor:
    size, step = values.shape[1], 1
    while step < size:
        pairs = values.view(len(values), -1, 2, step)
        values = torch.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], dim=2)
        step *= 2
    return values.reshape(-1, size)


def srht(dim: int) -> Project:
    def project(name: str, gradients: Tensor, _: tuple[int, int]) -> Tensor:
        generator = seeded("srht", dim, name)
        size = 1 << (gradients.shape[1] - 1).bit_length()
        signs = torch.randint(0, 2, (gradients.shape[1],), generator=generator) * 2.0 - 1.0
        mixed = hadamard(torch.nn.functional.pad(gradients * signs, (0, size - gradients.shape[1])))
        kept = torch.randint(size, (dim,), generator=generator)
        return mixed[:, kept] / math.sqrt(dim)

    return project


def fold(projection: Projection) -> Project:
    return lambda name, gradients, _: projection(name, gradients)


def methods(proxy: Proxy) -> dict[tuple[str, int], Project]:
    found: dict[tuple[str, int], Project] = {}
    for dim in DIMS:
        found["fold", dim] = fold(Projection(proxy.factors, dim, 0))
        found["sparse 1", dim] = sparse(dim, 1)
        found["two-sided", dim] = two_sided(dim)
    for dim in (16384, 32768):
        found["fold", dim] = fold(Projection(proxy.factors, dim, 0))
    found["sparse 4", 4096] = sparse(4096, 4)
    found["srht", 4096] = srht(4096)
    return found


class Sketches:
    """The exact Gram matrix and every method's features, from one pass."""

    def __init__(self, proxy: Proxy, batches: list[list[int]]):
        self.exact = GramAccumulator(proxy.factors, batches, proxy.device, HeldGradients(), torch.bfloat16)
        self.methods = methods(proxy)
        rows = sum(map(len, batches))
        self.features = {key: torch.zeros(rows, key[1]) for key in self.methods}
        self.seconds = dict.fromkeys(self.methods, 0.0)
        self.shapes = {name: tuple(layer.weight.shape) for name, layer in proxy.factors.items()}
        self.batch: list[int] = []

    def add(self, name: str, gradients: Tensor) -> None:
        """Take one module's gradients of the batch at hand."""
        self.exact.add(name, gradients)
        for key, project in self.methods.items():
            start = time.perf_counter()
            self.features[key][self.batch] += project(name, gradients, self.shapes[name])
            self.seconds[key] += time.perf_counter() - start


def picks(
    gram: Tensor, lengths: Tensor, squares: Tensor, scale: Scale, rank: int | None
) -> tuple[list[int], Tensor, float]:
    scaled = scale_gram(gram, gradient_scales(scale, lengths, squares))
    budget = max(1, len(gram) // 10)
    if rank is not None:
        scaled = principal_gram(scaled, rank)
    alpha = relative_alpha(scaled, 1.0)
    return select_from_gram(scaled, budget, alpha, 0.1).indices, scaled, alpha


def choices(rank: int) -> list[tuple[Scale, int | None]]:
    return [("geometric", rank), ("geometric", None), ("unit", None), ("none", None)]


def compare(gram: Tensor, exact: Tensor, lengths: Tensor) -> list[str]:
    squares = exact.diagonal()
    norms = squares.sqrt()
    off = ~torch.eye(len(gram), dtype=torch.bool)
    error = (gram / torch.outer(norms, norms) - exact / torch.outer(norms, norms))[off]
    cells = [f"{float(error.square().mean().sqrt()):.4f}", f"{float(error.abs().max()):.3f}"]
    rank = principal_rank(max(1, len(gram) // 10))
    for scale, cut in choices(rank):
        chosen, scaled, alpha = picks(exact, lengths, squares, scale, cut)
        found, approximate, _ = picks(gram, lengths, squares, scale, cut)
        if (scale, cut) == ("geometric", None):
            truth = information(scaled, chosen, alpha)
            cells.insert(2, f"{information(approximate, chosen, alpha) / truth - 1:+.4f}")
        reached = information(scaled, found, alpha) / information(scaled, chosen, alpha)
        cells.append(f"{len(set(found) & set(chosen)) / len(chosen):.2f} / {reached:.3f}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool")
    parser.add_argument("--rows", type=int, default=256)
    arguments = parser.parse_args()
    config = RunConfig()  # pyright: ignore[reportCallIssue]
    source = model_source(config)
    everything = read_pool([arguments.pool], load_tokenizer(source), PoolOptions(max_length=1024)).examples
    rows = everything[:: max(1, len(everything) // arguments.rows)][: arguments.rows]
    proxy = attach_lora(load_model(source, config.dtype, pick_device("cpu")), 16, 32.0, 0)
    warm_up(ProxyOptimizer(proxy, config.learning_rate, config.lr_warmup_steps), rows, config, NoProgress())
    batches = batches_within([len(row.input_ids) for row in rows], 1024)
    sketches = Sketches(proxy, batches)
    backward = 0.0
    for batch in batches:
        sketches.batch = batch
        with captured(proxy.layers, len(batch), sketches.add):
            response_losses(proxy.model, collate([rows[i] for i in batch], proxy.device)).sum().backward()
        sketches.exact.next_batch()
        start = time.perf_counter()
        with captured(proxy.layers, len(batch), lambda *_: None):
            response_losses(proxy.model, collate([rows[i] for i in batch], proxy.device)).sum().backward()
        backward += time.perf_counter() - start
        print(f"{batch[:1]} of {len(rows)}", flush=True)
    exact = sketches.exact.finish()
    lengths = torch.tensor([row.trained_tokens for row in rows])
    norms = exact.diagonal().sqrt()
    cosines = (exact / torch.outer(norms, norms))[~torch.eye(len(rows), dtype=torch.bool)]
    quartiles = ", ".join(f"{float(cosines.quantile(q)):.3f}" for q in (0.25, 0.5, 0.75))
    lines = [
        machine(proxy.device),
        "",
        f"{len(rows)} rows, {proxy.parameters:,} coordinates; cosines between rows, quartiles {quartiles}; forward and "
        f"backward alone {backward:.0f} s. Shared picks beside the U that they reach, of the exact picks' U. "
        "The times of the methods that are not the product's include drawing their random numbers.",
        "",
        "| method | d | cosine error, RMS | largest | U of the exact picks | "
        "picks shared / their U: default | geometric, directions all | unit, directions all | none, directions all | "
        "time beside the passes |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for (method, dim), features in sorted(sketches.features.items()):
        for label, stored in ((method, features.bfloat16()), (f"{method}, float32", features)):
            if label != method and (method, dim) != ("fold", 4096):
                continue
            cells = compare(stored.double() @ stored.double().T, exact, lengths)
            share = f"{sketches.seconds[method, dim] / backward:.1%}"
            lines.append(f"| {label} | {dim:,} | " + " | ".join(cells) + f" | {share} |")
    print("\n".join(lines))
    write_section("Projection", "projection.py", lines)


if __name__ == "__main__":
    main()
