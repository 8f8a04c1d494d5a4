"""An episodic memory of K slots that is written, read and forgotten exactly: Larimar's, in information form.

What it computes. The memory is a matrix R [K, C] with a Gaussian belief over it: its columns are independent, and each has
the prior mean in R0 and the prior precision Λ0 (diagonal). A key k [C] addresses it at w = LayerNorm(k) A / √K, [K], where
A [C, K] is the pseudo-inverse of K learned reference addresses, the same for every write and read. A value z [C] written
there says z = w R + noise of variance σ². With S = Σ wᵀw / σ² and η = Σ wᵀz / σ² over what was written, the belief is

    R ~ mean R0 + Λ⁻¹ (η - S R0), covariance Λ⁻¹ over the slots,  Λ = Λ0 + S

S and η are the whole state. Writing adds to them and forgetting subtracts, so order does not matter, one by one equals all
at once, and what was forgotten leaves nothing behind. It is ridge regression from addresses to values.

Everything is fp32 and outside autocast, and nothing waits for the device. σ² is at least 0.01, where an address has length
about 1: below that fp32 loses the sums. Axes: E episodes, N written, Q read, K slots, C channels.

Source: arXiv 2403.11901 (Larimar, sections 3 and 4), arXiv 1804.01756 (the Bayesian update); Ben-Israel and Cohen, 1966
(the iteration).
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

NOISE_FLOOR = 1e-2
"""Of σ². With 1e-6 sums in information form are 10% off in fp32 after 64 writes; with 1e-2, three parts in a million."""


class MemoryState(NamedTuple):
    """What was written, and nothing else: all zeros is an empty memory."""

    precision: Tensor
    """S, [E, K, K]: what writing adds to the prior's precision."""
    information: Tensor
    """η, [E, K, C]."""


class Reading(NamedTuple):
    values: Tensor
    """[E, Q, C], the mean of what lies at the queries' addresses; the prior mean's where nothing was written."""
    confidence: Tensor
    """[E, Q] in [0, 1): 1 - posterior variance / prior variance of the address; exactly 0 for an empty memory."""
    novelty: Tensor
    """[E, Q], above 0: the variance of a value about to be seen at the address, noise included."""


class _Posterior(NamedTuple):
    """Of R, in units where the prior's row covariance is the identity."""

    factor: Tensor
    """[E, K, K], lower: factor factorᵀ is the precision 1 + Λ0^-½ S Λ0^-½."""
    precision: Tensor
    """[E, K, K]: Λ0^-½ S Λ0^-½."""
    shift: Tensor
    """[E, K, C]: mean minus prior mean."""


def pseudo_inverse(matrix: Tensor, steps: int) -> Tensor:
    """The Moore-Penrose inverse of [..., K, C] by Newton's iteration, [..., C, K].

    It starts at the transpose over the squared Frobenius norm, which converges at every scale of the matrix. A singular
    value s leaves the residual (1 - s²/‖A‖²)^(2^steps): 15 steps do for K = 32 and a condition number up to 10.
    """
    inverse = matrix.mT / matrix.square().sum((-2, -1), keepdim=True)
    for _ in range(steps):
        inverse = 2 * inverse - inverse @ (matrix @ inverse)
    return inverse


def _cholesky(matrix: Tensor) -> Tensor:
    """The lower factor, all NaN where `matrix` is not positive definite. torch.linalg.cholesky would wait to see that."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.where(failed[..., None, None] == 0, factor, torch.nan)


def _solve(right: Tensor, factor: Tensor) -> Tensor:
    """(L Lᵀ)⁻¹ `right`. torch.cholesky_solve takes a batch's matrices one by one on an accelerator, or in a library of its own
    that no graph can hold."""
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)


class EpisodicMemory(nn.Module):
    """Writes, forgets and reads `MemoryState`s; its parameters are the addresses, the prior and the noise.

    Args:
        slots: K, at most `width`.
        width: C, of keys and values.
        noise: initial σ², above 0.01; learned.
        pseudo_inverse: how the reference addresses become A. `reference` makes them orthonormal, so that the transpose
            is the inverse; `newton` leaves them free and iterates, as Larimar does.
        steps: of the iteration.
    """

    def __init__(
        self,
        slots: int = 32,
        width: int = 128,
        noise: float = 0.1,
        pseudo_inverse: Literal["reference", "newton"] = "reference",
        steps: int = 15,
    ) -> None:
        super().__init__()
        if not 0 < slots <= width:
            raise ValueError(f"expected 1 to {width} slots, as many as the width, came {slots}")
        if not noise > NOISE_FLOOR:
            raise ValueError(f"expected a noise variance above {NOISE_FLOOR}, came {noise}")
        if pseudo_inverse not in ("reference", "newton"):
            raise ValueError(f"expected pseudo_inverse to be reference or newton, came {pseudo_inverse!r}")
        if steps < 1:
            raise ValueError(f"expected at least 1 step, came {steps}")
        self.slots, self.width, self.pseudo_inverse, self.steps = slots, width, pseudo_inverse, steps
        self.addresses = nn.Parameter(nn.init.orthogonal_(torch.empty(slots, width)))
        self.prior_mean = nn.Parameter(torch.randn(slots, width) * 0.02)
        self.prior_log_precision = nn.Parameter(torch.zeros(slots))
        self.log_noise = nn.Parameter(torch.tensor(math.log(noise - NOISE_FLOOR)))

    def empty(self, episodes: int) -> MemoryState:
        like = self.prior_mean
        return MemoryState(
            like.new_zeros(episodes, self.slots, self.slots, dtype=torch.float32),
            like.new_zeros(episodes, self.slots, self.width, dtype=torch.float32),
        )

    def noise(self) -> Tensor:
        """σ², a scalar above 0.01."""
        return NOISE_FLOOR + self.log_noise.float().exp()

    def address(self, keys: Tensor) -> Tensor:
        """w, [..., K], of keys [..., C]: its squared length is 1 on average over random keys, and at most C / K."""
        with torch.autocast(keys.device.type, enabled=False):
            reference = self.addresses.float()
            if self.pseudo_inverse == "newton":
                map_ = pseudo_inverse(reference, self.steps)
            else:
                # Rows made orthonormal by the factor of their Gram matrix: QR's result, without its sign or its wait.
                map_ = torch.linalg.solve_triangular(_cholesky(reference @ reference.mT), reference, upper=False).mT
            return functional.layer_norm(keys.float(), (self.width,)) @ map_ * self.slots**-0.5

    def write(self, state: MemoryState, keys: Tensor, values: Tensor, mask: Tensor) -> MemoryState:
        """The state after seeing values [E, N, C] at keys [E, N, C] wherever mask [E, N] is true."""
        return self._add(state, keys, values, mask, 1.0)

    def forget(self, state: MemoryState, keys: Tensor, values: Tensor, mask: Tensor) -> MemoryState:
        """The state as if these had never been written. Forgetting what was not written may make all reads NaN."""
        return self._add(state, keys, values, mask, -1.0)

    def _add(self, state: MemoryState, keys: Tensor, values: Tensor, mask: Tensor, sign: float) -> MemoryState:
        with torch.autocast(keys.device.type, enabled=False):
            # Filled, not multiplied: whatever a masked row holds, NaN included, goes nowhere.
            hidden = ~mask.unsqueeze(-1)
            address = self.address(keys.masked_fill(hidden, 0)).masked_fill(hidden, 0)
            weighted = address.mT * (sign / self.noise())
            return MemoryState(
                state.precision + weighted @ address,
                state.information + weighted @ values.float().masked_fill(hidden, 0),
            )

    def _posterior(self, state: MemoryState) -> _Posterior:
        spread = torch.exp(-0.5 * self.prior_log_precision.float())
        precision = spread[:, None] * state.precision * spread
        factor = _cholesky(precision + torch.eye(self.slots, device=precision.device))
        surprise = state.information - state.precision @ self.prior_mean.float()
        shift = spread[:, None] * _solve(spread[:, None] * surprise, factor)
        return _Posterior(factor, precision, shift)

    def read(self, state: MemoryState, queries: Tensor) -> Reading:
        """What the memory holds at queries [E, Q, C]. Does not change the state, and adds no noise."""
        with torch.autocast(queries.device.type, enabled=False):
            posterior = self._posterior(state)
            address = self.address(queries)
            values = address @ (self.prior_mean.float() + posterior.shift)
            whitened = (address * torch.exp(-0.5 * self.prior_log_precision.float())).mT
            # Prior minus posterior variance, w (1 - (1+S)⁻¹) wᵀ = w S (1+S)⁻¹ wᵀ: exactly 0 where nothing was written.
            known = (whitened * _solve(posterior.precision @ whitened, posterior.factor)).sum(-2)
            prior = whitened.square().sum(-2)
            confidence = (known / prior.clamp_min(1e-12)).clamp(0, 1 - 1e-6)
            return Reading(values, confidence, (prior - known).clamp_min(0) + self.noise())

    def evidence(self, reading: Reading) -> Tensor:
        """How many writings of a query's own key, alone, would have left as little doubt about it: [E, Q], 0 or more.

        With the prior variance s of an address, m writings at it leave s σ² / (m s + σ²). Solved for m, with the posterior
        variance v = (1 - confidence) s = novelty - σ²:  m = σ² confidence / v. Whatever σ² and whatever else was written:

        - an empty memory has exactly 0;
        - a key that was written has 1 or more, rounding aside: other writings only lower v;
        - after one writing, a query whose address has the cosine ρ with the written one has the confidence
          ρ² s / (s + σ²); at s = 1 and σ² = 0.1 the evidence is 1 for ρ = 1, 0.46 for 0.95, 0.28 for 0.9, 0.14 for 0.8;
        - an unwritten key has some too, since its address lies partly in the span of the others: its confidence is
          `utilisation` / K on average where addresses point everywhere alike, N / K / (1 + σ²) for N writings, far apart.
        """
        with torch.autocast(reading.novelty.device.type, enabled=False):
            noise = self.noise()
            return noise * reading.confidence / (reading.novelty - noise).clamp_min(1e-12)

    def is_known(self, reading: Reading, threshold: float = 0.25) -> Tensor:
        """Whether something was written at the queries: evidence of at least `threshold` writings, above 0; [E, Q] bool.

        The default takes a query whose address has a cosine of 0.89 with a written one (at σ² = 0.1; see `evidence`) and
        holds for up to K / 2 writings: of random keys that were never written, it takes none in 1,000 after 8 writings in
        32 slots, 0.6% after 16, 15% after 24 and all after 64, when every address is in use. A NaN is not known.
        """
        if not threshold > 0:
            raise ValueError(f"expected a threshold above 0, came {threshold}")
        return self.evidence(reading) >= threshold

    def utilisation(self, state: MemoryState) -> Tensor:
        """Slots in use, [E], from exactly 0 (empty) to K: tr(S (S + Λ0)⁻¹) = K - tr(Λ0 Λ⁻¹).

        The ridge's effective degrees of freedom: N writings far apart with little noise count N, copies of one count 1.
        Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, equation 3.50; MacKay, 1992, calls
        it the number of well-determined parameters.
        """
        with torch.autocast(state.precision.device.type, enabled=False):
            return (self.slots - self._doubt(self._posterior(state))).clamp_min(0)

    def _doubt(self, posterior: _Posterior) -> Tensor:
        """tr(Λ0 Λ⁻¹), [E]: K for an empty memory, towards 0 as it fills."""
        identity = torch.eye(self.slots, device=posterior.factor.device)
        return torch.linalg.solve_triangular(posterior.factor, identity, upper=False).square().sum((-2, -1))

    def kl(self, state: MemoryState) -> Tensor:
        """KL(belief after writing ‖ prior), a scalar of at least 0: over slots times width, mean over episodes.

        ½ [C tr(Λ0 Λ⁻¹) + tr((R-R0)ᵀ Λ0 (R-R0)) - KC + C ln(det Λ / det Λ0)], the matrix normal's.
        """
        with torch.autocast(state.precision.device.type, enabled=False):
            posterior = self._posterior(state)
            trace = self._doubt(posterior)
            log_det = 2 * posterior.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            whitened = posterior.shift * torch.exp(0.5 * self.prior_log_precision.float())[:, None]
            moved = whitened.square().sum((-2, -1))
            nats = 0.5 * (self.width * (trace - self.slots + log_det) + moved)
            return (nats / (self.slots * self.width)).mean()
