"""How the transformer layers run in training: compiled, or without keeping what the backward pass can compute again.

Both change how a layer is called and nothing that a checkpoint holds: no parameter gets another name. With neither, layers run
as they are written.

Compiled are the vision tower's layers, each by itself: all of one shape share a graph, so a tower of any depth is compiled once
for images without a gradient, and twice more at the thaw (the lowest layer's input has no gradient, the others' have). Our own
layers stay as they are: a ternary product in bytes is faster than what a compiler may fuse it into, and they see a shape for
every text bucket, alone and fused, each of which would be compiled anew.

Recomputed are all of them: a layer keeps its input, and its backward pass runs it forward once more. Source: arXiv 1604.06174.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from bitgen.model.bitgen import BitGen
from bitgen.training.config import RunConfig

_again: ContextVar[bool] = ContextVar("_again", default=False)


def is_again() -> bool:
    """Whether what runs now is a layer's second forward pass, within its backward pass."""
    return _again.get()


def prepare_layers(model: BitGen, config: RunConfig) -> None:
    """Compile the tower's layers and let all layers be recomputed, as `config` asks. Call it once, before DDP wraps the model."""
    if config.compile:
        for layer in model.vision.layers():
            layer.forward = torch.compile(layer.forward)
    if config.recompute:
        own = (model.image_layers, model.text.layers, model.text.fused_layers, model.decoder.layers)
        for layer in (each for layers in (model.vision.layers(), *own) for each in layers):
            # Around what is compiled, not within it: one graph then does for both passes.
            layer.forward = _recomputed(layer.forward)


def as_written(config: RunConfig) -> AbstractContextManager[Any]:
    """Within it, what is compiled runs as it is written: for other shapes than training's, such as those of a validation."""
    # Only where something may be compiled: asking for it imports the compiler.
    return torch.compiler.set_stance("force_eager") if config.compile else nullcontext()


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def kept(*inputs: Any, **more: Any) -> Any:
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=_contexts, **more)

    return kept


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _second()


@contextmanager
def _second() -> Iterator[None]:
    token = _again.set(True)
    try:
        yield
    finally:
        _again.reset(token)
