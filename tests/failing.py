"""`python -m cli.train` as torchrun starts it, where rank 1 fails in the middle of a step."""

import os
import runpy
from itertools import count
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from bitgen.objectives.total import Objective

STEP = 7
"""In whose forward pass."""
_steps = count(1)


def _fail(module: nn.Module, inputs: Any) -> None:
    if isinstance(module, Objective) and os.environ["RANK"] == "1" and next(_steps) == STEP:
        raise MemoryError("no room for what a layer makes")


if __name__ == "__main__":
    register_module_forward_pre_hook(_fail)
    runpy.run_module("cli.train", run_name="__main__", alter_sys=True)
