"""Steps whose figures are not finite: left out where that is asked for, on all ranks alike, as if they had never been.

What a step had put into the queues of past features is taken out again, weights and moments stay as they were, and the step's
samples are passed over. It costs what a run without it does not: the device is waited for in every step.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from bitgen.objectives.total import Objective
from bitgen.training.checkpoint import State
from bitgen.training.distributed import agree, rank
from bitgen.training.metrics import TrainingError, not_finite

log = logging.getLogger(__name__)


class Guard:
    """Looks at every step of a run.

    Args:
        most: steps in a row that may be left out; 0: no step is looked at, and the figures' own check ends the run.
    """

    def __init__(self, objective: Objective, most: int) -> None:
        self.most = most
        queues = [queue for queue in (objective.queue, objective.token_queue) if queue is not None and most]
        self._buffers = [buffer for queue in queues for buffer in queue.buffers()]
        self._before: list[Tensor] = []

    def begin(self) -> None:
        """Call it before a step."""
        self._before = [buffer.clone() for buffer in self._buffers]

    def refuses(self, figures: Mapping[str, Tensor]) -> bool:
        """Whether a step is to be left out, for its figures of any rank; if so the queues are as they were."""
        if not self.most or not agree(bool(not_finite(figures)), figures["loss"].device):
            return False
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)
        return True

    def count(self, state: State, figures: Mapping[str, Tensor], keys: tuple[str, ...]) -> State:
        """The state after a step that was left out. Raises `TrainingError` on all ranks where there were too many in a row."""
        row = state.skipped_in_a_row + 1
        names = not_finite(figures)
        found = f"{', '.join(names) or 'nothing on this rank'} not finite at step {state.step}: {', '.join(keys)}"
        if row > self.most:
            raise TrainingError(f"expected finite losses again after {self.most} steps left out, found {found}")
        if names or rank() == 0:
            log.warning("left out: %s", found)
        return replace(state, skipped=state.skipped + 1, skipped_in_a_row=row)
