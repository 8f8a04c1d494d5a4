"""A next-token function becomes sequences: the likeliest token at every step, or the likeliest of many sequences.

Greedy search takes argmax P(y_l | y_<l) until end-of-text. Beam search looks for the sequence Y of the greatest

    s(Y) = log P(Y) / ((5 + |Y|) / 6)^α        (Source: arXiv 1609.08144, equation 14, without its coverage term)

where |Y| counts end-of-text too, unless the sequence was cut at the most tokens. At every step the K likeliest extensions of the
live sequences are taken; those that end are put aside, where only a better one replaces them, and the others live on. The search
stops when no live sequence can come to a better s: log P only falls, so log P over the largest divisor bounds it. No image's
search depends on another's. With K large enough nothing is left out; with K = 1 it is greedy search.

Axes: T images, K sequences an image, L tokens, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bitgen.tokens import EOT

NextToken = Callable[[Tensor, Tensor], Tensor]
"""Called step by step with the newest tokens [T, K] and, [T, K], which of the last step's sequences each one extends (0 at the
first step); gives logits of the next ones, [T, K, V]."""


def decode(
    next_token: NextToken, first: Tensor, max_tokens: int, beams: int, length_penalty: float, end: int = EOT
) -> list[list[int]]:
    """Tokens for each of T images, `max_tokens` at most, without the first and without end-of-texts.

    Args:
        next_token: a fresh one.
        first: [T, 1] tokens that sequences open with.
        max_tokens: 1 or more.
        beams: K; 1 is greedy search.
        length_penalty: α, 0 or more. 0 compares log-probabilities, which favours short sequences; more favours longer ones.
        end: the end-of-text.
    """
    if max_tokens < 1 or beams < 1:
        raise ValueError(f"expected at least 1 token and 1 beam, came max_tokens={max_tokens} and beams={beams}")
    if not length_penalty >= 0:
        raise ValueError(f"expected a length penalty of 0 or more, came {length_penalty}")
    if beams == 1:
        return greedy(next_token, first, max_tokens, end)
    return beam_search(next_token, first, max_tokens, beams, length_penalty, end)


@torch.no_grad()
def greedy(next_token: NextToken, first: Tensor, max_tokens: int, end: int = EOT) -> list[list[int]]:
    """The likeliest token at every step until end-of-text. Arguments and result as in `decode`."""
    tokens, parents = first, torch.zeros_like(first)
    done = torch.zeros_like(first, dtype=torch.bool)
    steps = []
    for _ in range(max_tokens):
        tokens = next_token(tokens, parents).argmax(dim=-1).masked_fill(done, end)
        steps.append(tokens)
        done = tokens == end
        if bool(done.all()):
            break
    return _until_end(torch.cat(steps, dim=1), end)


@torch.no_grad()
def beam_search(
    next_token: NextToken, first: Tensor, max_tokens: int, beams: int, length_penalty: float, end: int = EOT
) -> list[list[int]]:
    """The best sequence that the search meets, by s(Y). Arguments and result as in `decode`."""
    images = torch.arange(first.shape[0], device=first.device)
    tokens, parents = first, torch.zeros_like(first)
    log_p = torch.zeros_like(first, dtype=torch.float32)
    written = first.new_empty((first.shape[0], 1, 0))  # [T, K, L]
    best = first.new_full((first.shape[0], max_tokens), end)
    best_score = torch.full_like(log_p[:, 0], -torch.inf)
    for length in range(1, max_tokens + 1):
        log_p, parents, tokens = _extend(log_p, next_token(tokens, parents), beams)
        written = torch.cat([written[images[:, None], parents], tokens[..., None]], dim=2)
        ended = (tokens == end) | (length == max_tokens)
        score, which = (log_p / _divisor(length, length_penalty)).masked_fill(~ended, -torch.inf).max(dim=1)
        better = score > best_score
        best_score = torch.where(better, score, best_score)
        best[:, :length] = torch.where(better[:, None], written[images, which], best[:, :length])
        log_p = log_p.masked_fill(ended, -torch.inf)
        if bool((log_p.amax(dim=1) / _divisor(max_tokens, length_penalty) <= best_score).all()):
            break
    return _until_end(best, end)


def _extend(log_p: Tensor, logits: Tensor, beams: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of sequences with `log_p` [T, K] the likeliest `beams` extensions: log-probability, parent and token, [T, beams] each,
    or fewer where there are not as many. `logits` [T, K, V]."""
    logits = logits.float()
    likeliest, ids = logits.topk(min(beams, logits.shape[-1]), dim=-1)  # of one sequence no more can be among the best
    extended = log_p[..., None] + likeliest - logits.logsumexp(dim=-1, keepdim=True)
    log_p, chosen = extended.flatten(1).topk(min(beams, extended[0].numel()), dim=1)
    return log_p, chosen // ids.shape[-1], ids.flatten(1).gather(1, chosen)


def _divisor(length: int, length_penalty: float) -> float:
    return ((5 + length) / 6) ** length_penalty


def _until_end(tokens: Tensor, end: int) -> list[list[int]]:
    return [row[: row.index(end)] if end in row else row for row in tokens.tolist()]
