"""H v = d/ds grad L(theta + s v) at s = 0, exact over all samples; L is the mean loss of `problem`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import grad, jvp

from lanczos_saddle.networks.batches import Batch
from lanczos_saddle.networks.comparison.differences import own_difference
from lanczos_saddle.networks.curvature import MEMORY, Curvature, Product, pullback
from lanczos_saddle.networks.function_objective import Function, FunctionObjective
from lanczos_saddle.networks.objective import derivatives, transposed


class Hessian(Curvature):
    """The Hessian of the mean loss, an `Operator` (N, N): `H @ v` for v (N,) or (N, k).

        H = Hessian(model, loss, (inputs, targets))
        H @ torch.randn(H.shape[0], 16)

    Args:
        model: called as model(inputs), model(*inputs) for a tuple or list, model(**inputs) for a dict; in eval mode
            where it has dropout or batch statistics.
        loss: a function or module of (outputs, targets): a mean, a sum (with .reduction = "sum") or one value
            per sample. None: the model returns its own loss, as models of transformers do.
        data: a pair (inputs, targets) of tensors or nests of them, kept on the device, or a re-iterable of such pairs.
            With loss=None what the model is called with: a dict or tuple of tensors, or a re-iterable of them.
        parameters: a name pattern, or several, as in fnmatch ("*", "layer1.*"), or a function of (name, parameter);
            of the trainable parameters.
        dtype: float32 or float64; the parameters' own when None.
        device: the parameters' own when None.
        batch_weight: batch_weight(targets) -> what the mean over these targets weighs, such as the number of
            tokens that count; the number of samples when None (class means: of targets that are not ignored).
        collate: makes a batch of a list of samples; `data` is then a sequence of samples.
        memory: bytes that a product may use for activations and tangents, beside the block and its product.
        fidelity: compare products with differences of the model's own gradients, lightly here and thoroughly before the
            first count (`fidelity`). False: the counts say that it was not done.

    Weights are copied: training the model further does not change H. At kinks (ReLU) the product is that of
    the piece that torch's derivative belongs to.

    Cost of a product: one pass over the data, about 4 evaluations of the loss; in a block, about 3 a column.
    `mode` says how it is computed: "forward" (over reverse), "reverse" (over reverse) or "autograd" (plain autograd
    twice, column by column, with theta in the model's own tensors meanwhile).

    Raises ValueError for misuse, before work starts, and where products differ from the model's own function; values
    that overflow come back as arithmetic gives them.
    """

    def forward(self, batch: Batch) -> Product:
        """Gives v -> d/ds grad s_b(theta + s v)."""
        problem = self.problem
        gradient = grad(lambda theta: problem.share(theta, batch))
        return lambda v: jvp(gradient, (problem.theta,), (v,))[1]

    def reverse(self, batch: Batch) -> Product:
        """Gives v -> grad <grad s_b(theta), v>; the graph of the gradient is shared by all v."""
        problem = self.problem
        return pullback(grad(lambda theta: problem.share(theta, batch)), problem.theta)[1]

    def plainly(self, batch: Batch, leaves: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
        """Gives V -> the gradient of <gradient, V>; the graph of the gradient is shared by all V."""
        slopes = derivatives(self.problem.own_share(batch), leaves, keep=True)
        return lambda parts: transposed(slopes, leaves, parts)

    def differences(self, theta: Tensor, batch: Batch, v: Tensor, step: float) -> Tensor:
        """(gradient at theta + h v - gradient at theta - h v) / 2h."""
        with self.problem.evaluating():
            return own_difference(self.problem, theta, batch, v, step)

    @classmethod
    def of(
        cls,
        function: Function | Sequence[Function] | Sequence[tuple[float, Function]],
        parameters: nn.Module | Mapping[str, Tensor] | Iterable[Tensor],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        memory: int = MEMORY,
        fidelity: bool = True,
    ) -> Self:
        """The Hessian of any scalar function of the parameters, at what they hold now.

            H = Hessian.of(lambda: loss(model(x), y) + 1e-4 * sum(p.square().sum() for p in model.parameters()), model)
            H = Hessian.of(lambda p: energy(p["positions"]), {"positions": positions})
            H = Hessian.of([(1.0, residual), (10.0, boundary)], network)

        Args:
            function: f() or f(parameters) -> 0-d tensor: a penalty, a physics-informed or contrastive loss, an energy,
                an optimizer's closure. Or a list of functions, or of (weight, function), to be summed.
            parameters: a module (its trainable parameters), or a list or dict of leaf tensors.
            dtype, device, memory, fidelity: as of `Hessian`. What a function closes over
                has the type of the parameters, or the one asked for.

        A function is evaluated whole: cut what is too large into several terms. Cost of a product: about 4 evaluations.

        Raises ValueError where `FunctionObjective` does, and where no way to differentiate twice agrees with
        differences of the function's own gradients.
        """
        hessian = cls.__new__(cls)
        hessian._begin(FunctionObjective(function, parameters, dtype=dtype, device=device), memory, fidelity)
        return hessian
