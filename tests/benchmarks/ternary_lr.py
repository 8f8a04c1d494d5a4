"""Whether ternary weights want a higher learning rate: `python -m tests.benchmarks.ternary_lr`.

A tiny model learns synthetic pairs (two coloured squares, their colours and places in words) at each factor on the rate of
its BitLinear weights, all other weights at `--lr`; then its full-precision twin, with the same factor on the same weights:
what helps both is a rate too low, what helps one alone is its own. Prints the loss at the end, each as the mean of the last
tenth of the steps, by seed; pairs are never shown twice. About 60 ms a step on a busy core.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from bitgen.batch import Batch
from bitgen.model.bitgen import BitGen
from bitgen.model.bitlinear import BitLinear, ternarised_once
from bitgen.objectives.total import Objective, draw
from bitgen.tokens import EOT
from bitgen.training.config import LossConfig, OptimConfig
from bitgen.training.optimizer import build_optimizer, set_trainable
from bitgen.training.schedule import Schedule, learning_rate_scale
from tests import fakes

CELLS = 4
"""On a side of the image: one patch each."""
COLOURS = torch.tensor([[220, 40, 40], [40, 200, 60], [50, 80, 230], [230, 210, 50], [160, 60, 190], [60, 200, 210]])
WORDS = 1 + len(COLOURS) + CELLS**2
"""Colours, places, end of text."""
MODEL = replace(
    fakes.MODEL,
    vision=replace(fakes.VISION, mode="full"),
    vocabulary=WORDS,
    width=32,
    compressor_width=48,
    ffn=64,
    decoder_layers=2,
)
LOSS = LossConfig(queue=0, label_smoothing=0.0, episode=8, episode_rows=8)


def pairs(seed: int, batch: int) -> Iterator[Batch]:
    """Endless batches of new images and their texts of six words: colour, place, colour, place between two ends."""
    generator = torch.Generator().manual_seed(seed)
    shape, rows = fakes.fake_batch(batch, texts=1, phrases=0), torch.arange(batch)
    patch = fakes.SIDE // CELLS
    while True:
        colours = torch.randint(len(COLOURS), (batch, 2), generator=generator)
        places = torch.rand(batch, CELLS**2, generator=generator).topk(2).indices
        cells = torch.full((batch, 3, CELLS**2), 128)
        for i in range(2):
            cells[rows, :, places[:, i]] = COLOURS[colours[:, i]]
        grid = cells.unflatten(2, (CELLS, CELLS)).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        noise = torch.randint(-24, 25, grid.shape, generator=generator)
        ids = torch.full((batch, 6), EOT)
        ids[:, 1:5:2], ids[:, 2:5:2] = 1 + colours, 1 + len(COLOURS) + places
        yield replace(
            shape,
            images=(grid + noise).to(torch.uint8),
            token_ids=ids,
            token_mask=torch.ones_like(ids, dtype=torch.bool),
        )


def last_loss(ternary: bool, factor: float, seed: int, options: argparse.Namespace) -> float:
    """The loss of one run, mean of the last tenth of its steps."""
    torch.manual_seed(seed)
    model = BitGen(MODEL, kept=(*range(1, WORDS), EOT))
    objective = Objective(model, LOSS)
    set_trainable(objective, lora=True)
    optim = OptimConfig(lr=options.lr, ternary_lr_scale=factor)
    optimizer = build_optimizer(objective, optim)
    for module in model.modules():  # after the groups are made, so that both twins have the same
        if isinstance(module, BitLinear):
            module.ternary = module.ternary and ternary
    schedule = Schedule(options.steps, options.steps, options.steps // 10, 0)
    losses: list[float] = []
    for step, batch in zip(range(options.steps), pairs(seed, options.batch), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * group["scale"] * learning_rate_scale(step, schedule, optim.lr_final)
        with ternarised_once():
            loss = objective(batch, draw(seed, step, options.batch, CELLS**2, torch.device("cpu")))["loss"]
            loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in objective.parameters() if p.requires_grad], optim.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return statistics.mean(losses[-max(1, options.steps // 10) :])


def main() -> None:
    """Prints a line for each twin and factor: every seed's loss, their mean and standard deviation."""
    parser = argparse.ArgumentParser(description="The learning rate of ternary weights, by factor.")
    parser.add_argument("--factors", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--twins", nargs="+", choices=["ternary", "full"], default=["ternary", "full"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.steps} steps of {options.batch} pairs, lr {options.lr:g}")
    print(
        f"{'twin':<10}{'factor':>7}" + "".join(f"{f'seed {s}':>10}" for s in options.seeds) + f"{'mean':>10}{'sd':>8}"
    )
    start = time.perf_counter()
    for twin in options.twins:
        for factor in options.factors:
            found = [last_loss(twin == "ternary", factor, seed, options) for seed in options.seeds]
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            numbers = "".join(f"{x:>10.3f}" for x in found)
            print(f"{twin:<10}{factor:>7g}{numbers}{statistics.mean(found):>10.3f}{spread:>8.3f}", flush=True)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
