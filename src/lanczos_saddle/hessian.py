"""H v = d/ds grad L(theta + s v) at s = 0, exact over all samples; L is the mean loss of `problem`."""

from __future__ import annotations

from torch.func import grad, jvp

from lanczos_saddle.batches import Batch
from lanczos_saddle.curvature import Curvature, Product, pullback


class Hessian(Curvature):
    """The Hessian of the mean loss, an `Operator` (N, N): `H @ v` for v (N,) or (N, k).

        H = Hessian(model, loss, (inputs, targets))
        H @ torch.randn(H.shape[0], 16)

    Args:
        model: called as model(inputs), model(*inputs) for a tuple or list, model(**inputs) for a dict; in eval mode
            where it has dropout or batch statistics.
        loss: a function or module of (outputs, targets): a mean, a sum (with .reduction = "sum") or one value
            per sample.
        data: a pair (inputs, targets) of tensors, kept on the device, or a re-iterable of such pairs.
        parameters: a name pattern, or several, as in fnmatch ("*", "layer1.*"); of the trainable parameters.
        dtype: float32 or float64; the parameters' own when None.
        device: the parameters' own when None.
        batch_weight: batch_weight(targets) -> what the mean over these targets weighs, such as the number of
            tokens that count; the number of samples when None (class means: of targets that are not ignored).
        memory: bytes that a product may use for activations and tangents, beside the block and its product.

    Weights are copied: training the model further does not change H. At kinks (ReLU) the product is that of
    the piece that torch's derivative belongs to.

    Cost of a product: one pass over the data, about 4 evaluations of the loss; in a block, about 3 a column.
    `mode` says how it is computed: "forward" (over reverse) or "reverse" (over reverse).

    Raises ValueError for misuse, before work starts; values that overflow come back as arithmetic gives them.
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
