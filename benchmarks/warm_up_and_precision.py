"""What the warm-up of the proxy and bfloat16 change: one candidate pool, a tenth of it picked.

    python benchmarks/warm_up_and_precision.py POOL.jsonl

LoRA's B starts at zero, which makes every gradient with respect to A zero: half of the factors carry no information
until the proxy has taken steps. The pool's Gram matrix is computed after 0 and 4 optimizer steps of 8 seeded random
rows, and after 4 steps with the frozen weights in bfloat16. Reported: the share of |g|^2 in the A factors, picks
shared with the default's, and the correlation of pairwise cosines with the default's. Writes its section of
benchmarks/RESULTS.md.
"""

import argparse
import time

import numpy as np
import torch
from torch import Tensor

from report import machine, on, write_section
from spice_select.config import RunConfig, resolve
from spice_select.gradients.capture import captured
from spice_select.gradients.gram import GramAccumulator, HeldGradients
from spice_select.gradients.loss import collate, response_losses
from spice_select.pool.examples import Example, PoolOptions, read_pool
from spice_select.proxy.loading import load_model, load_tokenizer, model_source, pick_device
from spice_select.proxy.lora import attach_lora, merge
from spice_select.proxy.update import ProxyOptimizer
from spice_select.schedule.pick_in_pool import pick_in_pool
from spice_select.schedule.pools import CandidatePool, cut_pools, warm_up_rows

SETTINGS = [("float32", 0), ("float32", 4), ("bfloat16", 4)]
DEFAULT = ("float32", 4)
CHOICES = {
    "default": {},
    "unit, directions all": {"scale": "unit", "directions": "all"},
    "none, directions all": {"scale": "none", "directions": "all"},
}


def gram_after(examples: list[Example], rows: list[Example], dtype: str, steps: int) -> tuple[Tensor, Tensor, float]:
    """Gram matrix of all factors, |g|^2 of the A factors alone, and the seconds of the pass."""
    config = RunConfig(dtype=dtype)
    model = load_model(model_source(config), dtype, pick_device("auto"))
    proxy = attach_lora(model, config.lora_rank, config.lora_alpha, seed=0)
    optimizer = ProxyOptimizer(proxy, config.learning_rate, config.lr_warmup_steps)
    warm = [examples[i] for i in warm_up_rows(len(examples), steps * config.update_batch_size, seed=0)]
    optimizer.train_on(warm, config.update_batch_size)
    merge(proxy)
    batches = proxy.batches([len(row.input_ids) for row in rows])
    accumulator = GramAccumulator(proxy.factors, batches, proxy.device, HeldGradients(), proxy.model.dtype)
    in_a = torch.zeros(len(rows), dtype=torch.float64)
    begun = time.perf_counter()
    for members in batches:

        def add(name: str, gradients: Tensor, members: list[int] = members) -> None:
            accumulator.add(name, gradients)
            if ".lora_A." in name:
                in_a[members] += gradients.double().square().sum(dim=1).cpu()

        with captured(proxy.layers, len(members), add):
            response_losses(proxy.model, collate([rows[i] for i in members], proxy.device)).sum().backward()
        accumulator.next_batch()
    return accumulator.finish().cpu(), in_a, time.perf_counter() - begun


def cosines(gram: Tensor) -> np.ndarray:
    norms = gram.diagonal().sqrt()
    upper = torch.triu_indices(len(gram), len(gram), 1)
    return (gram / (norms[:, None] * norms[None, :]))[upper[0], upper[1]].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool")
    parser.add_argument("--rows", type=int, default=120, help="rows of the candidate pool; a tenth is picked")
    arguments = parser.parse_args()
    examples = read_pool([arguments.pool], load_tokenizer(model_source(RunConfig())), PoolOptions()).examples
    pool: CandidatePool = cut_pools(len(examples), arguments.rows, len(examples) // 10, seed=0)[0]
    rows = [examples[i] for i in pool.rows]
    lengths = [row.trained_tokens for row in rows]
    found = {}
    for dtype, steps in SETTINGS:
        gram, in_a, seconds = gram_after(examples, rows, dtype, steps)
        picks = {
            name: set(pick_in_pool(pool, gram, lengths, resolve({}, options), 0.0).picks)
            for name, options in CHOICES.items()
        }
        found[dtype, steps] = (float((in_a / gram.diagonal()).mean()), picks, cosines(gram), seconds)
        print(dtype, steps, f"{seconds:.1f} s", flush=True)
    _, default_picks, default_cosines, _ = found[DEFAULT]
    lines = [
        f"Pool of {len(rows)} rows, {pool.quota} picks; compared with the default (float32, 4 steps).",
        "",
        f"| weights | warm-up steps | share of squared norm in A | picks shared: {' / '.join(CHOICES)} | "
        "correlation of cosines | median cosine | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (dtype, steps), (share, picks, cosine, seconds) in found.items():
        shared = " / ".join(str(len(picks[name] & default_picks[name])) for name in CHOICES)
        correlation = np.corrcoef(cosine, default_cosines)[0, 1]
        figures = f"{share:.3f} | {shared} | {correlation:.3f} | {np.median(cosine):.3f} | {seconds:.1f}"
        lines.append(f"| {dtype} | {steps} | {figures} |")
    device = pick_device("auto")
    write_section(on("Warm-up and precision", device), "warm_up_and_precision.py", [machine(device), "", *lines])


if __name__ == "__main__":
    main()
