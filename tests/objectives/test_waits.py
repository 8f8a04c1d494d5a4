"""No loss waits for the device: neither its forward pass nor its backward pass asks for a number on the host.

On a CPU nothing waits, so what would is watched for by name: operators that read a tensor, or whose result's shape depends
on one, and the methods that hand a tensor's numbers over without an operator.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bitgen.objectives import captioning
from bitgen.objectives.total import Objective, draw
from bitgen.training.config import DataConfig
from bitgen.training.loop import to_device
from bitgen.training.optimizer import set_trainable
from tests import fakes

OPERATORS = frozenset(
    {
        "_local_scalar_dense",
        "_linalg_check_errors",
        "_unique2",
        "bincount",
        "equal",
        "is_nonzero",
        "item",
        "masked_select",
        "nonzero",
        "repeat_interleave",  # of a tensor of counts
        "unique_consecutive",
        "unique_dim",
    }
)
METHODS = frozenset({"tolist", "numpy", "item", "__bool__", "__int__", "__float__", "__index__", "__array__", "cpu"})
INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"})


class Operators(TorchDispatchMode):
    """Raises where an operator would make the host wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in OPERATORS, f"expected no wait, found {func}"
        if name in INDEXING:
            kinds = {index.dtype for index in args[1] if index is not None}
            assert not kinds & {torch.bool, torch.uint8}, f"expected no mask as an index, found one in {func}"
        if name in ("linalg_cholesky_ex", "linalg_inv_ex", "linalg_solve_ex"):
            assert not (kwargs or {}).get("check_errors", False), f"expected no check, found one in {func}"
        return func(*args, **(kwargs or {}))


class Methods(TorchFunctionMode):
    """Raises where a tensor's numbers are handed to the host."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        assert name not in METHODS, f"expected no wait, found Tensor.{name}"
        return func(*args, **(kwargs or {}))


class _Waits(torch.autograd.Function):
    """Asks for a number in its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * gradients[0].item()


MATRIX, MASK = torch.eye(3), torch.tensor([True, False, True])
WAITS: dict[str, Callable[[], Any]] = {
    "item": lambda: MATRIX.sum().item(),
    "bool": lambda: bool(MATRIX.sum() > 1),
    "list": lambda: MATRIX.tolist(),
    "numpy": lambda: MATRIX.numpy(),
    "nonzero": lambda: MASK.nonzero(),
    "where": lambda: torch.where(MASK),
    "mask as an index": lambda: MATRIX[MASK],
    "assignment by a mask": lambda: MATRIX.clone().__setitem__(MASK, MATRIX[:2]),
    "masked_select": lambda: MATRIX.masked_select(MASK),
    "a checked factor": lambda: torch.linalg.cholesky(MATRIX),
    "a checked factor by flag": lambda: torch.linalg.cholesky_ex(MATRIX, check_errors=True),
    "repeats": lambda: MATRIX.repeat_interleave(torch.tensor([1, 2, 0]), dim=0),
    "backward": lambda: _Waits.apply(torch.ones((), requires_grad=True)).backward(),  # pyright: ignore
}


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_is_seen(wait: str) -> None:
    with pytest.raises((AssertionError, RuntimeError), match="expected no"), Operators(), Methods():
        WAITS[wait]()


def _objective(negatives: str, **model: Any) -> Objective:
    """Every loss, every part that can train training."""
    weights = {"itc": 1.0, "itm": 0.5, "text": 0.5, "memory_kl": 0.1, "grounding": 0.5, "region": 1.0}
    losses = fakes.losses(**weights, episode_share=0.6, itm_negatives=negatives)
    objective = Objective(fakes.model(**model), losses, DataConfig(image_px=fakes.SIDE, max_tokens=16))
    set_trainable(objective, lora=True)
    return objective.train()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("negatives", ["batch", "queue"])
@pytest.mark.parametrize("model", [{}, {"ternary": False}, {"memory_inverse": "newton"}], ids=str)
def test_the_whole_objective_does_not_wait(
    monkeypatch: pytest.MonkeyPatch, model: dict[str, Any], negatives: str, precision: torch.dtype
) -> None:
    monkeypatch.setattr(captioning, "COUNTED", frozenset())  # as on an accelerator
    objective, cpu = _objective(negatives, **model), torch.device("cpu")
    for step in range(2):
        batch, draws = fakes.fake_batch(seed=step), draw(0, step, 4, fakes.PATCHES, cpu)
        with Operators(), Methods():
            with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
                loss = objective(to_device(batch, cpu), draws)["loss"]
            loss.backward()
