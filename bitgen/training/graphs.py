"""Micro-steps as CUDA graphs: captured once for each shape, replayed afterwards with one call.

A step of this model is thousands of short kernels, and a host takes longer to start them than the device to run them. In a graph
all of a micro-step is one launch: forward, losses and backward, queues included, on inputs that are copied to where the graph
reads them. The optimizer stays outside: a graph would keep its learning rate.

A shape's first steps run as written, which compiles kernels and counts operations. Texts are padded to one row or two or more
for every image, with rows that no loss looks at, so that a text bucket has few shapes. In the coarse phase that is all; phrases
and boxes come in numbers of their own, and phases that use them run as written.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from bitgen.batch import Batch
from bitgen.model.bitlinear import ternarised_once
from bitgen.objectives.total import Draws, Objective
from bitgen.training.config import TrainConfig
from bitgen.training.distributed import world
from bitgen.training.precision import autocast

WRITTEN = 3
"""Micro-steps of a shape that run as written before it is captured."""
MOST = 8
"""Shapes that are captured: as many as text buckets. Each keeps its gradients, and all share one pool for the rest."""
_OF_PHRASES = ("phrase_text", "phrase_slot", "phrase_tokens", "boxes", "box_phrase")
Forward = Callable[[Batch, Draws], Mapping[str, Tensor]]


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    batch: Batch
    """What it reads, as are `draws`."""
    draws: Draws
    names: tuple[str, ...]
    values: Tensor
    """[len(names)] what it writes, beside the gradients."""
    gradients: tuple[tuple[nn.Parameter, Tensor], ...]


def build_graphs(objective: Objective, config: TrainConfig, device: torch.device) -> "Graphs | None":
    """What captures the micro-steps of a run, if anything does."""
    if not captures(config, device):
        return None

    def forward(batch: Batch, draws: Draws) -> Mapping[str, Tensor]:
        with autocast(config, device):
            return objective(batch, draws)

    return Graphs(forward, list(objective.parameters()), config.optim.accumulation)


def captures(config: TrainConfig, device: torch.device) -> bool:
    """Whether a run's micro-steps are captured."""
    loss, run = config.loss, config.run
    is_static = not (loss.grounding or loss.region or loss.words)
    return run.graphs and device.type == "cuda" and world() == 1 and is_static and not run.recompute


class Graphs:
    """Forward and backward of a micro-step, as written or replayed.

    Args:
        forward: gives the parts of a micro-step, on the device, `loss` among them; under autocast as it is to be.
        share: how many micro-steps make a step, by which their losses are divided.
    """

    def __init__(self, forward: Forward, parameters: list[nn.Parameter], share: int) -> None:
        self._forward, self._parameters, self._share = forward, parameters, share
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._captured: dict[tuple[object, ...], _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._trained: tuple[bool, ...] = ()

    def __call__(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """The parts of a micro-step, whose gradients are added to those of the parameters. `batch` may lie on the host."""
        trained = tuple(p.requires_grad for p in self._parameters)
        if trained != self._trained:  # at the thaw
            self._captured.clear()
            self._seen.clear()
            # With its last graph a pool is gone.
            self._trained, self._pool = trained, torch.cuda.graph_pool_handle()
        batch = _static(batch)
        shape = _shape(batch)
        found = self._captured.get(shape)
        if found is None and self._seen[shape] >= WRITTEN and len(self._captured) < MOST:
            found = self._captured[shape] = self._capture(batch, draws)
        if found is not None:
            return self._replay(found, batch, draws)
        self._seen[shape] += 1
        parts = self._forward(batch.moved(_to_device), draws)
        (parts["loss"] / self._share).backward()
        return dict(parts)

    def _capture(self, batch: Batch, draws: Draws) -> _Captured:
        """Nothing runs; the gradients that are there stay."""
        kept = [p.grad for p in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        batch = batch.moved(lambda tensor: _to_device(tensor).clone())
        draws = Draws(*(tensor.clone() for tensor in _tensors(draws)))
        graph = torch.cuda.CUDAGraph()
        # Threads that lock memory for batches may go on meanwhile. Codes of weights that were made before are not the graph's.
        with ternarised_once(), torch.cuda.graph(graph, self._pool, capture_error_mode="thread_local"):
            parts = self._forward(batch, draws)
            (parts["loss"] / self._share).backward()
            values = torch.stack([value.detach().float() for value in parts.values()])
        gradients = tuple((p, p.grad) for p in self._parameters if p.grad is not None)
        for parameter, gradient in zip(self._parameters, kept, strict=True):
            parameter.grad = gradient
        return _Captured(graph, batch, draws, tuple(parts), values, gradients)

    def _replay(self, found: _Captured, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        for name, tensor in _named(found.batch):
            tensor.copy_(getattr(batch, name), non_blocking=True)
        for tensor, new in zip(_tensors(found.draws), _tensors(draws), strict=True):
            tensor.copy_(new)
        found.graph.replay()
        fresh = [gradient for _, gradient in found.gradients]
        if self._share > 1:  # the next replay writes where this one did
            fresh = list(torch._foreach_add(fresh, 0.0))  # pyright: ignore[reportPrivateImportUsage] (public in all but name)
            sums = [(new, p.grad) for new, (p, _) in zip(fresh, found.gradients, strict=True) if p.grad is not None]
            if sums:
                torch._foreach_add_(*map(list, zip(*sums, strict=True)))  # pyright: ignore[reportPrivateImportUsage] (public in all but name)
        for (parameter, _), gradient in zip(found.gradients, fresh, strict=True):
            parameter.grad = gradient
        return dict(zip(found.names, found.values.clone(), strict=True))


def _static(batch: Batch) -> Batch:
    """`batch` without phrases and boxes, its texts padded to a multiple of its images with copies of the first, of which nothing
    is asked."""
    missing = -len(batch.token_ids) % max(1, len(batch.keys))
    rows = {name: getattr(batch, name) for name in ("token_ids", "token_mask", "text_image")}
    if missing > 0:
        padded = {name: torch.cat([each, each[:1].expand(missing, *each.shape[1:])]) for name, each in rows.items()}
        rows = {name: each.pin_memory() if rows[name].is_pinned() else each for name, each in padded.items()}
    return replace(batch, **rows, **{name: getattr(batch, name)[:0] for name in _OF_PHRASES})


def _shape(batch: Batch) -> tuple[object, ...]:
    return tuple((name, tensor.shape, tensor.dtype) for name, tensor in _named(batch))


def _named(batch: Batch) -> list[tuple[str, Tensor]]:
    return [(f.name, value) for f in fields(batch) if isinstance(value := getattr(batch, f.name), Tensor)]


def _tensors(draws: Draws) -> list[Tensor]:
    return [getattr(draws, f.name) for f in fields(draws)]


def _to_device(tensor: Tensor) -> Tensor:
    return tensor.to("cuda", non_blocking=True)
