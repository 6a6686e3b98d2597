"""Problems that know their answer: operators and networks with spectra known by construction.

    PrescribedSpectrum   H = Q diag(lambda) Q', Q orthogonal and fast: any spectrum, O(N log N), N to 1e9
    clustered_spectrum   eigenvalues hard to count: an atom at 0, clusters at +-tau (1 +- 1e-3), outliers
    softmax_regression, two_layer_linear, relu_zero_output
                         real torch models at points where the Hessian is known in closed form

The losses are means over the samples; parameters are flattened in the order of ``model.named_parameters()``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lanczos_saddle.operators.operator import check_vector

Counts = tuple[int, int, int]  # negative, (near) zero, positive

CHUNK = 2**24  # numbers transformed at once: 128 MiB of float64, or one column where N is larger


@dataclass(frozen=True, init=False)
class PrescribedSpectrum:
    """H = Q diag(lambda) Q', Q = S C P: random signs S, the Hartley transform C, a random permutation P.

    C = (Re - Im) FFT / sqrt(N) is orthonormal, symmetric and its own inverse. P keeps H dense whatever the
    order of the eigenvalues. Cost of a product: two transforms a column, O(N log N); the memory of the result
    and of a few times `CHUNK` numbers.
    Signs and permutation are drawn on the CPU: the same operator on every device. Raises ValueError for
    eigenvalues that are not a vector of finite numbers.
    """

    eigenvalues: Tensor  # (N,) float64 on the CPU, in the order given, as rounded to the operator's type
    signs: Tensor  # (N,) int8, the diagonal of S
    shuffled: Tensor  # (N,) P lambda, in the operator's type and on its device

    def __init__(
        self,
        eigenvalues: Tensor,
        generator: torch.Generator,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        dtype = dtype or eigenvalues.dtype
        if eigenvalues.ndim != 1 or not len(eigenvalues) or not eigenvalues.isfinite().all():
            finite = int(eigenvalues.isfinite().sum())
            raise ValueError(
                "eigenvalues must be a vector of N >= 1 finite numbers; "
                f"got {finite} finite ones in shape {tuple(eigenvalues.shape)}"
            )
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"transforms work in float32 and float64; got {dtype}: pass dtype=torch.float64")
        size = len(eigenvalues)
        rounded = eigenvalues.detach().to("cpu", dtype)
        signs = torch.randint(0, 2, (size,), generator=generator, dtype=torch.int8) * 2 - 1
        order = torch.randperm(size, generator=generator)
        object.__setattr__(self, "eigenvalues", rounded.double())
        object.__setattr__(self, "signs", signs.to(device or "cpu"))
        object.__setattr__(self, "shuffled", rounded[order].to(device or "cpu"))

    dtype = property(lambda self: self.shuffled.dtype)
    device = property(lambda self: self.shuffled.device)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N)."""
        return (len(self.signs), len(self.signs))

    def __matmul__(self, v: Tensor, /) -> Tensor:
        check_vector(v, len(self.signs), self.dtype, self.device)
        block = v.reshape(len(v), -1)
        product = block.new_empty(block.shape)
        for columns, coefficients in self._coefficients(block):
            product[:, columns] = (hartley(coefficients * self.shuffled) * self.signs).mT
        return product.reshape(v.shape)

    def count(self, tau: float) -> Counts:
        """(negative, near zero, positive): eigenvalues < -tau, within [-tau, tau], > tau; exact."""
        if not tau >= 0:
            raise ValueError(f"the threshold tau must not be negative; got {tau}")
        negative, positive = int((self.eigenvalues < -tau).sum()), int((self.eigenvalues > tau).sum())
        return negative, len(self.eigenvalues) - negative - positive, positive

    def mass_below(self, probe: Tensor, t: float, *, inclusive: bool = True) -> Tensor:
        """F(t) = sum of (q_i'g)^2 / |g|^2 over lambda_i <= t (or < t), for g (N,) -> () or (N, m) -> (m,).

        float64, by one transform and no solver: what every bracket must hold, to about 1e-14.
        """
        block = probe.detach().double().reshape(len(probe), -1)
        wanted = self.shuffled <= t if inclusive else self.shuffled < t
        masses = [
            coefficients[:, wanted].square().sum(1) / coefficients.square().sum(1)
            for _, coefficients in self._coefficients(block)
        ]
        return torch.cat(masses).reshape(probe.shape[1:])

    def _coefficients(self, block: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """P Q'v = C S v as rows (k, N), a chunk of columns at a time."""
        width = max(1, CHUNK // len(block))
        for start in range(0, block.shape[1], width):
            columns = slice(start, min(start + width, block.shape[1]))
            yield columns, hartley(block[:, columns].mT * self.signs)


def hartley(rows: Tensor) -> Tensor:
    """C x = (Re - Im) FFT(x) / sqrt(N) along the last dimension: C = C' = C^-1. Bracewell 1983."""
    size = rows.shape[-1]
    half = torch.fft.rfft(rows, norm="ortho")
    mirrored = (half.real + half.imag)[..., 1 : size - size // 2].flip(-1)  # frequencies N - k
    return torch.cat([half.real - half.imag, mirrored], dim=-1)


def clustered_spectrum(size: int, tau: float, generator: torch.Generator, *, scale: float = 1.0) -> Tensor:
    """Eigenvalues (N,) float64, ascending, that a count at +-tau finds hard; none lies at +-tau.

    40 % exactly 0; 4 x 2.5 % in clusters at -tau (1 +- 1e-3) and tau (1 +- 1e-3), each within 1e-4 tau; up to
    10 outliers of magnitude in [scale / 2, scale], three in ten negative, the largest at `scale`; the rest
    log-uniform in magnitude in [tau / 1000, scale / 10], three in ten negative.
    Raises ValueError unless size >= 1 and 0 < tau < scale / 20.
    """
    if size < 1 or not 0 < tau < scale / 20:
        raise ValueError(
            f"a clustered spectrum needs size >= 1 and 0 < tau < scale / 20 = {scale / 20}; "
            f"got size = {size}, tau = {tau}"
        )
    atom, cluster, outliers = 2 * size // 5, size // 40, min(10, size // 20)
    bulk = size - atom - 4 * cluster - outliers

    def uniform(count: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)

    def signs(count: int) -> Tensor:
        return 1 - 2 * (torch.arange(count) % 10 < 3).double()

    centers = [sign * tau * (1 + offset) for sign in (-1, 1) for offset in (-1e-3, 1e-3)]
    clusters = [center + uniform(cluster, -1e-4 * tau, 1e-4 * tau) for center in centers]
    far = scale * uniform(outliers, 0.5, 1.0)
    far[-1:] = scale
    spread = uniform(bulk, math.log(tau / 1000), math.log(scale / 10)).exp()
    parts = [torch.zeros(atom, dtype=torch.float64), *clusters, far * signs(outliers), spread * signs(bulk)]
    return torch.cat(parts).sort().values
