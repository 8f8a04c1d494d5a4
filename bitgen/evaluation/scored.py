"""What retrieval, grounding and captioning ask of a model: a checkpoint's, or an exported one."""

from typing import Protocol

import torch
from torch import Tensor

from bitgen.model.bitgen import ImageStates, TextStates
from bitgen.model.grounding import Grounded


class Scored(Protocol):
    """`bitgen.model.bitgen.BitGen`, whose docstrings hold, or `bitgen.deploy.exported.Exported`."""

    @property
    def device(self) -> torch.device:
        """Where it takes tensors, and leaves them."""
        ...

    def encode_image(self, images: Tensor) -> ImageStates: ...
    def encode_text(self, token_ids: Tensor, mask: Tensor) -> TextStates: ...
    def match_tokens(self, image_start: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor: ...
    def ground(
        self,
        image: ImageStates,
        text: TextStates,
        text_image: Tensor,
        phrase_text: Tensor,
        phrase_slot: Tensor,
        phrase_tokens: Tensor,
        slots: int,
    ) -> Grounded: ...
    def caption(
        self, image: ImageStates, max_tokens: int = 24, beams: int = 1, length_penalty: float = 0.6
    ) -> list[list[int]]: ...
