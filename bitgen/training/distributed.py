"""What crosses ranks: gathering with gradients, global means. With one process every function is the identity."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

ANOTHER = "expected all ranks to go on, found that another one could not and says why"


class RankError(Exception):
    """This rank ends because another one has failed."""


def is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    return distributed.get_rank() if is_distributed() else 0


def cores() -> int:
    """Of this machine, that this rank may use: shared with the machine's other ranks, which torchrun counts."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, mine // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def world() -> int:
    return distributed.get_world_size() if is_distributed() else 1


def join(device: torch.device) -> None:
    """Join the process group when torchrun started this process (NCCL on an accelerator, Gloo on a CPU)."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not is_distributed():
        # Gloo beside NCCL: `together` is asked in every micro-step, and must not wait for the accelerator.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def leave() -> None:
    """Leave the process group at the end of a run; NCCL warns of one that was only forgotten."""
    if is_distributed():
        distributed.destroy_process_group()


class _Gather(torch.autograd.Function):
    """All ranks' rows; backward sums every rank's gradient for this rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = rows.shape[0]
        parts = [torch.empty_like(rows) for _ in range(world())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        distributed.all_reduce(total)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather(rows: Tensor) -> Tensor:
    """[G, ...] rows of all ranks in rank order, from [B, ...] with B equal on all ranks. Gradients flow back."""
    if world() == 1:
        return rows
    if rows.requires_grad:
        result: Tensor = _Gather.apply(rows)  # pyright: ignore[reportAssignmentType] (apply is untyped)
        return result
    parts = [torch.empty_like(rows) for _ in range(world())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of `values` by `weights` over the rows of all ranks, scaled so that the mean over ranks is right; a scalar.

    Ranks may hold different numbers of rows. Where no row counts the result is 0, with a zero gradient.
    """
    total = weights.sum().detach().float()
    if world() > 1:
        distributed.all_reduce(total)
        total = total / world()
    return (values * weights).sum() / total.clamp(min=1e-6)


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of equally shaped `values` of all ranks, without a gradient."""
    if world() == 1:
        return values.detach()
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total / world()


def from_first(value: float, device: torch.device) -> float:
    """Rank 0's number on every rank; what the others hold is ignored."""
    if world() == 1:
        return value
    number = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.broadcast(number, src=0)
    return number.item()


def any_of(flags: Tensor) -> Tensor:
    """Where `flags`, bool and alike in shape on all ranks, are true on any of them."""
    if world() == 1:
        return flags
    votes = flags.to(torch.uint8)
    distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
    return votes.bool()


def agree(flag: bool, device: torch.device) -> bool:
    """True on every rank where it is true on any: all ranks stop together."""
    return flag if world() == 1 else bool(any_of(torch.tensor(flag, device=device)).item())


@contextmanager
def together() -> Iterator[None]:
    """Around what a rank does alone, without waiting for others: where it raises on one, the others raise `RankError`.

    So none goes on to wait for a rank that has ended. Ctrl-C is left out: it is for this process, and at once.
    """
    if world() == 1:
        yield
        return
    try:
        yield
    except Exception:  # whatever it is: it goes on, when the others know
        any_of(torch.tensor(True))
        raise
    if any_of(torch.tensor(False)).item():
        raise RankError(ANOTHER)


@contextmanager
def answered() -> Iterator[None]:
    """Around what waits for other ranks: where one of them ended without a word, as in a forward pass that ran out of memory,
    the others raise `RankError`, not what their connections say of it."""
    try:
        yield
    except RuntimeError as error:
        # Gloo has no type of its own for a connection that was closed or reset "by peer".
        if world() == 1 or "by peer" not in str(error):
            raise
        raise RankError(ANOTHER) from error
