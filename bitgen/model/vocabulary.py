"""Which of GPT-2's tokens a model has rows for: all of them, or those of its corpora.

With 50,257 classes the head takes most of a small model's step. Where the corpora use few of them, the others are left out:
one more row, which is read and never predicted, stands for any of them. Batches hold GPT-2's ids in any case; only
`TokenEmbedding` knows which row is whose.

Axes: T texts, L tokens, V classes (the tokens that have a row of their own), d width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitgen.tokens import EOT, VOCABULARY


class TokenEmbedding(nn.Embedding):
    """Token ids become vectors; the rows are the caption decoder's head, too.

    Args:
        width: d.
        classes: V, `VOCABULARY` for all tokens; with fewer, `weight` is [V + 1, d], else [V, d].
        kept: the V ids, ascending, end-of-text among them. Without them (and with fewer than all) a checkpoint must fill
            `kept`, the buffer that they are in. Raises `ValueError` for any other.
    """

    kept: Tensor | None
    """[V] int64; None where all tokens have a row, which is that of their id."""

    def __init__(self, width: int, classes: int = VOCABULARY, kept: Sequence[int] | None = None) -> None:
        is_whole = classes == VOCABULARY
        super().__init__(classes + (not is_whole), width)
        self.classes = classes
        if kept is not None:
            _check(kept, classes)
        ids = torch.full((classes,), EOT) if kept is None else torch.tensor(kept)
        self.register_buffer("kept", None if is_whole else ids)

    def forward(self, input: Tensor) -> Tensor:
        """Vectors [..., d] of ids [...]."""
        return super().forward(self.rows(input))

    def rows(self, token_ids: Tensor) -> Tensor:
        """The row of each id, alike in shape; V for tokens that have none of their own."""
        if self.kept is None:
            return token_ids
        nearest = torch.searchsorted(self.kept, token_ids.contiguous())
        return torch.where(self.kept[nearest] == token_ids, nearest, self.classes)

    @property
    def head(self) -> Tensor:
        """[V, d], what a state is compared with for the logits of the V classes."""
        return self.weight if self.kept is None else self.weight[:-1]

    @property
    def end(self) -> int:
        """The class of end-of-text, the largest id."""
        return self.classes - 1

    def targets(self, token_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Classes [T, L] of ids [T, L], and `mask` [T, L] without the tokens that have no class; theirs is given as 0."""
        if self.kept is None:
            return token_ids, mask
        rows = self.rows(token_ids)
        is_class = rows < self.classes
        return torch.where(is_class, rows, 0), mask & is_class

    def ids(self, classes: Tensor) -> Tensor:
        """The ids of classes, alike in shape."""
        return classes if self.kept is None else self.kept[classes]

    def listed(self, classes: list[list[int]]) -> list[list[int]]:
        """The ids of lists of classes."""
        if self.kept is None:
            return classes
        kept = self.kept.tolist()
        return [[kept[each] for each in row] for row in classes]

    def check(self) -> None:
        """Raises `ValueError` where `kept`, which came from a file, cannot be."""
        if self.kept is not None:
            _check(self.kept.tolist(), self.classes)


def _check(kept: Sequence[int], classes: int) -> None:
    if len(kept) != classes:
        raise ValueError(f"expected {classes} token ids, found {len(kept)}")
    if list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] != EOT:
        raise ValueError(f"expected ascending token ids from 0, the last {EOT}, found {str(list(kept))[:60]}")
