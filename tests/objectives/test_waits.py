"""No loss and no step waits for the device: neither the forward pass nor the backward pass nor the optimizer asks for a number
on the host.

On a CPU nothing waits, so what would is watched for by name: operators that read a tensor, or whose result's shape depends
on one, and the methods that hand a tensor's numbers over without an operator.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bitgen.objectives import captioning
from bitgen.objectives.total import Objective, draw
from bitgen.training.config import DataConfig
from bitgen.training.guard import Guard
from bitgen.training.layers import prepare_layers
from bitgen.training.loop import _step, to_device
from bitgen.training.operations import Utilisation
from bitgen.training.optimizer import build_optimizer, set_trainable
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
FORMULAS = frozenset({"ProdBackward0", "ProdBackward1"})
"""Of autograd, that ask for a number only where no dispatch mode watches: there `prod`'s goes another way."""
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


def _formulas(result: Tensor) -> set[str]:
    """The names of all nodes that the backward pass of `result` goes through."""
    waiting, seen = [result.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return {node.name() for node in seen}


def test_a_formula_that_would_wait_is_seen() -> None:
    assert _formulas(2 * torch.ones(3, 2, requires_grad=True).prod(dim=1)) & FORMULAS


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
            assert not _formulas(loss) & FORMULAS
            loss.backward()


def _steps(device: torch.device, recompute: bool, watch: Callable[[], AbstractContextManager[Any]]) -> None:
    """Two steps of two micro-steps to get everything in place, and two that are watched."""
    config = fakes.config("joint", optim={"accumulation": 2}, run={"recompute": recompute, "precision": "bf16"})
    objective = fakes.objective(config).to(device)
    set_trainable(objective, lora=True)
    prepare_layers(objective.model, config.run)
    optimizer, guard = build_optimizer(objective.train(), config.optim), Guard(objective, 0)
    batches = iter([fakes.fake_batch(seed=micro) for micro in range(8)])
    utilisation = Utilisation(device)
    for step in range(4):
        with watch() if step > 1 else nullcontext():
            _step(objective, objective, optimizer, batches, config, step, device, guard, utilisation)


def test_a_whole_step_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captioning, "COUNTED", frozenset())  # as on an accelerator

    @contextmanager
    def watched() -> Iterator[None]:
        with Operators(), Methods():
            yield

    _steps(torch.device("cpu"), True, watched)


@pytest.mark.gpu
@pytest.mark.parametrize("recompute", [False, True])
def test_a_whole_step_on_an_accelerator_does_not_wait(recompute: bool) -> None:
    @contextmanager
    def watched() -> Iterator[None]:
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    _steps(torch.device("cuda"), recompute, watched)
