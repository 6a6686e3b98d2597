"""Models and losses of torch alone: architectures, losses, and the ways in which a function can hide from a tool."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from lanczos_saddle import Hessian
from zoo.entries import DOUBLE, Case, entry, usual


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def labels(count: int, classes: int = 3, seed: int = 2) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


X, Y, REAL = normal(24, 5), labels(24), normal(24, 3, seed=3)
IMAGES, SEQUENCE = normal(12, 1, 6, 6, seed=4), normal(10, 4, 5, seed=5)
TOKENS = torch.randint(1, 9, (10, 5), generator=torch.Generator().manual_seed(6))


def mlp(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 4), *(middle or (nn.Tanh(),)), nn.Linear(4, 3)).double()


class Of(nn.Module):
    """A model made of a function of (module, *inputs) and named parts."""

    def __init__(self, function, *values: Tensor, **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.values = nn.ParameterList([nn.Parameter(v.to(DOUBLE)) for v in values])
        for name, part in parts.items():
            setattr(self, name, part.double())

    def forward(self, *inputs, **named):
        return self.function(self, *inputs, **named)


for kind in (
    nn.Tanh,
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.Softplus,
    nn.LeakyReLU,
    nn.Mish,
    nn.Hardswish,
    nn.LogSigmoid,
):
    entry(f"MLP, {kind.__name__}")(lambda kind=kind: usual(mlp(kind()), F.cross_entropy, (X, Y)))

LOSSES = {
    "MSELoss": (nn.MSELoss(), REAL),
    "HuberLoss": (nn.HuberLoss(), REAL),
    "SmoothL1Loss": (nn.SmoothL1Loss(), REAL),
    "BCEWithLogitsLoss, pos_weight": (
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0, dtype=DOUBLE)),
        (REAL > 0).double(),
    ),
    "PoissonNLLLoss": (nn.PoissonNLLLoss(), REAL.square()),
    "KLDivLoss of log-softmax": (lambda z, y: F.kl_div(z.log_softmax(1), y, reduction="batchmean"), REAL.softmax(1)),
    "label smoothing, class weights": (
        nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1, 3], dtype=DOUBLE), label_smoothing=0.1),
        Y,
    ),
    "soft targets": (F.cross_entropy, REAL.softmax(1)),
    "one value per sample": (lambda z, y: F.cross_entropy(z, y, reduction="none"), Y),
    "cosine similarity": (lambda z, y: (1 - F.cosine_similarity(z, y)).mean(), REAL),
}
for name, (loss, targets) in LOSSES.items():

    @entry(f"MLP, {name}")
    def _loss(loss=loss, targets=targets) -> Case:
        model = mlp()
        case = usual(model, loss, (X, targets))
        return Case(case.build, lambda: loss(model(X), targets).mean(), case.parameters)


@entry("GaussianNLLLoss, two heads")
def _gaussian() -> Case:
    return usual(mlp(), lambda z, y: F.gaussian_nll_loss(z[:, 0], y, F.softplus(z[:, 1]) + 0.1), (X, REAL[:, 0]))


def _below_eps(eps: float) -> Case:
    def loss(z, y):
        return 1e-6 * F.gaussian_nll_loss(z[:, 0], y, 1e-8 * (2 + z[:, 1].sin()), eps=eps)

    return usual(mlp(), loss, (X, REAL[:, 0]))


entry("GaussianNLLLoss, variance below eps", expect="refused", way_out=lambda: _below_eps(1e-12))(
    lambda: _below_eps(1e-6)
)


def _hinge(written: bool) -> Case:
    def margin(z: Tensor, y: Tensor) -> Tensor:
        gaps = (1 - z.gather(1, y[:, None]) + z).clamp(min=0).square()
        return (gaps.sum(1) - 1).mean() / z.shape[1]

    return usual(mlp(), margin if written else nn.MultiMarginLoss(p=2), (X, Y))


entry("MultiMarginLoss", expect="refused", way_out=lambda: _hinge(True), note="written out it is right")(
    lambda: _hinge(False)
)


def _alignments(z: Tensor, t: tuple[Tensor, Tensor]) -> Tensor:
    """-log of the probability of the targets over all alignments, by the forward recursion in log space."""
    logs, none = z.log_softmax(-1), torch.full((len(z), 1), -1e3, dtype=z.dtype)
    states = torch.zeros(len(z), 2 * t[0].shape[1] + 1, dtype=torch.long)
    states[:, 1::2] = t[0]
    skips = (states != 0) & (states != states.roll(2, 1)) & (torch.arange(states.shape[1]) > 1)
    at = logs[:, 0].gather(1, states) + torch.where(torch.arange(states.shape[1]) < 2, 0.0, -1e3)
    for step in range(1, z.shape[1]):
        one, two = torch.cat([none, at[:, :-1]], 1), torch.cat([none, none, at[:, :-2]], 1)
        ways = torch.stack([at, one, torch.where(skips, two, -1e3)])
        at = ways.logsumexp(0) + logs[:, step].gather(1, states)
    return -at[:, -2:].logsumexp(1).mean()


def _ctc(written: bool) -> Case:
    model = Of(lambda m, x: m.net(x), net=nn.Linear(5, 4))
    targets = (torch.randint(1, 4, (10, 2), generator=torch.Generator().manual_seed(7)), torch.full((10,), 2))

    def loss(z: Tensor, t: tuple[Tensor, Tensor]) -> Tensor:
        steps = torch.full((len(z),), z.shape[1])
        return F.ctc_loss(z.log_softmax(-1).transpose(0, 1), t[0], steps, t[1], reduction="none").mean()

    return Case(
        lambda: Hessian(model, _alignments if written else loss, [(SEQUENCE, targets)]),
        lambda: loss(model(SEQUENCE), targets),
        [*model.parameters()],
    )


entry("CTC", expect="refused", way_out=lambda: _ctc(True), note="torch has no second derivative of it")(
    lambda: _ctc(False)
)


def _last(m: Of, x: Tensor) -> Tensor:
    return m.head(m.net(x)[0][:, -1])


for kind in (nn.RNN, nn.GRU, nn.LSTM):

    @entry(kind.__name__)
    def _recurrent(kind=kind) -> Case:
        model = Of(_last, net=kind(5, 3, batch_first=True), head=nn.Linear(3, 3))
        return usual(model, F.cross_entropy, (SEQUENCE, Y[:10]))


@entry("LSTM, both ways, two layers")
def _both_ways() -> Case:
    net = nn.LSTM(5, 1, num_layers=2, bidirectional=True, batch_first=True)
    return usual(Of(_last, net=net, head=nn.Linear(2, 3)), F.cross_entropy, (SEQUENCE, Y[:10]))


@entry("LSTM, float32 weights", note="oneDNN has no second derivative: switched off meanwhile")
def _lstm32() -> Case:
    model = Of(_last, net=nn.LSTM(5, 3, batch_first=True), head=nn.Linear(3, 3))
    single = Of(_last, net=nn.LSTM(5, 3, batch_first=True), head=nn.Linear(3, 3)).float()
    single.load_state_dict(model.state_dict())
    model.load_state_dict(single.state_dict())
    data = (SEQUENCE.float(), Y[:10])
    return Case(
        lambda: Hessian(single, F.cross_entropy, data, dtype=DOUBLE),
        lambda: F.cross_entropy(model(data[0].double()), data[1]),
        [*model.parameters()],
    )


@entry("GRU over packed sequences", given="model, loss, data", note="plain autograd")
def _packed() -> Case:
    def run(m: Of, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return m.head(m.net(packed)[1][0])

    lengths = torch.tensor([4, 2, 3, 1, 4, 4, 2, 3, 1, 4])
    return usual(
        Of(run, net=nn.GRU(5, 3, batch_first=True), head=nn.Linear(3, 3)),
        F.cross_entropy,
        ((SEQUENCE, lengths), Y[:10]),
    )


@entry("CNN with max-pooling")
def _cnn() -> Case:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(4, 3)
    ).double()
    return usual(model, F.cross_entropy, (IMAGES, Y[:12]))


@entry("residual block, frozen batch norm")
def _resnet() -> Case:
    body = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 3, padding=1))
    model = Of(
        lambda m, x: m.head(F.relu(x + m.body(x)).mean(2)), body=body, head=nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    )
    model.train()
    model(IMAGES)
    return usual(model.eval(), F.cross_entropy, (IMAGES, Y[:12]))


@entry("batch norm in training mode", expect="refused", way_out=lambda: _evaluated(), note="call eval()")
def _training() -> Case:
    return usual(mlp(nn.BatchNorm1d(4)).train(), F.cross_entropy, (X, Y))


def _evaluated() -> Case:
    return usual(mlp(nn.BatchNorm1d(4)).eval(), F.cross_entropy, (X, Y))


@entry(
    "dropout in training mode",
    expect="refused",
    way_out=lambda: usual(mlp(nn.Dropout(0.5)).eval(), F.cross_entropy, (X, Y)),
)
def _dropout() -> Case:
    return usual(mlp(nn.Dropout(0.5)).train(), F.cross_entropy, (X, Y))


@entry("U-Net")
def _unet() -> Case:
    model = Of(
        lambda m, x: m.up(torch.cat([x, F.interpolate(m.down(x).tanh(), scale_factor=2)], 1)),
        down=nn.Conv2d(1, 2, 2, stride=2),
        up=nn.Conv2d(3, 1, 3, padding=1),
    )
    return usual(model, F.mse_loss, (IMAGES, IMAGES.flip(2)))


for layer in ("layer norm", "group norm", "instance norm"):

    @entry(f"MLP, {layer}")
    def _norms(layer=layer) -> Case:
        made = {"layer norm": nn.LayerNorm(4), "group norm": nn.GroupNorm(2, 4), "instance norm": nn.InstanceNorm1d(4)}[
            layer
        ]
        body = (
            nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Upsample(3), nn.Flatten(1)) if layer == "instance norm" else None
        )
        if body is not None:
            made = nn.Sequential(nn.Unflatten(1, (1, 4)), nn.InstanceNorm1d(1, affine=True), nn.Flatten(1))
        return usual(mlp(made, nn.Tanh()), F.cross_entropy, (X, Y))


@entry("multi-head attention with a mask")
def _attention() -> Case:
    mask = torch.triu(torch.ones(4, 4, dtype=torch.bool), 1)
    model = Of(
        lambda m, x: m.head(m.net(x, x, x, attn_mask=mask, need_weights=False)[0][:, -1]),
        net=nn.MultiheadAttention(4, 2, batch_first=True),
        head=nn.Linear(4, 3),
    )
    return usual(model, F.cross_entropy, (SEQUENCE[..., :4].contiguous(), Y[:10]))


@entry("scaled_dot_product_attention, causal", note="fused kernels have no second derivative: the plain one is used")
def _sdpa() -> Case:
    def run(m: Of, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).chunk(3, -1)
        return m.head(F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, -1])

    return usual(Of(run, qkv=nn.Linear(5, 12), head=nn.Linear(4, 3)), F.cross_entropy, (SEQUENCE, Y[:10]))


@entry("transformer encoder with a padding mask")
def _encoder() -> Case:
    layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True)
    padding = torch.arange(4) >= torch.tensor([4, 2, 3, 4, 4, 2, 3, 4, 4, 3])[:, None]
    model = Of(
        lambda m, x, pad: m.head(m.net(x, src_key_padding_mask=pad)[:, 0]), net=layer, head=nn.Linear(4, 3)
    ).eval()
    return usual(model, F.cross_entropy, ((SEQUENCE[..., :4].contiguous(), padding), Y[:10]))


@entry("transformer decoder over an encoder's memory")
def _decoder() -> Case:
    layer = nn.TransformerDecoderLayer(4, 2, 4, dropout=0.0, batch_first=True)
    model = Of(lambda m, x, memory: m.net(x, memory)[:, 0], net=layer).eval()
    return usual(model, F.cross_entropy, ((SEQUENCE[..., :4].contiguous(), SEQUENCE[..., 1:].flip(1)), Y[:10]))


def _bag(kind: type[nn.Module]) -> Case:
    def run(m: Of, t: Tensor) -> Tensor:
        found = m.net(t)
        return m.head((found if found.ndim == 2 else found.mean(1)).tanh())

    return usual(Of(run, net=kind(9, 3), head=nn.Linear(3, 3)), F.cross_entropy, (TOKENS, Y[:10]))


entry("embedding bag", expect="refused", way_out=lambda: _bag(nn.Embedding), note="a mean of embeddings is right")(
    lambda: _bag(nn.EmbeddingBag)
)


@entry("embedding with padding_idx", note="the row of padding is left alone by torch's gradient; reverse over reverse")
def _padding() -> Case:
    tokens = TOKENS.clone()
    tokens[7, 1:] = 0
    model = Of(
        lambda m, t: m.head(m.net(t).tanh().flatten(1)), net=nn.Embedding(9, 2, padding_idx=0), head=nn.Linear(10, 3)
    )
    case = usual(model, F.cross_entropy, (tokens, Y[:10]))
    return Case(case.build, case.function, case.parameters, frozen=(0, 1))


@entry("tied embedding and output")
def _tied() -> Case:
    model = Of(lambda m, t: m.net(t).tanh() @ m.net.weight.T, net=nn.Embedding(9, 3))

    def loss(z, y):
        return F.cross_entropy(z.flatten(0, 1), y.flatten())

    return usual(model, loss, (TOKENS, TOKENS.roll(-1, 1)))


@entry("LoRA by hand", given='parameters="values.*"')
def _lora() -> Case:
    model = Of(lambda m, x: m.net(x) + x @ m.values[0] @ m.values[1], normal(5, 2), normal(2, 3, seed=9), net=mlp())
    case = usual(model, F.cross_entropy, (X, Y), parameters="values.*")
    return Case(case.build, case.function, [*model.values])


@entry("mixture of experts, soft routing")
def _experts() -> Case:
    model = Of(
        lambda m, x: (m.gate(x).softmax(-1)[..., None, :] * torch.stack([m.a(x), m.b(x)], -1)).sum(-1),
        gate=nn.Linear(5, 2),
        a=nn.Linear(5, 3),
        b=nn.Linear(5, 3),
    )
    return usual(model, F.cross_entropy, (X, Y))


@entry("mixture of experts, the best one alone", note="a branch on values")
def _top() -> Case:
    def run(m: Of, x: Tensor) -> Tensor:
        score = m.gate(x).softmax(-1)
        best = score.argmax(-1)
        return torch.where((best == 0)[:, None], m.a(x), m.b(x)) * score.gather(1, best[:, None])

    return usual(Of(run, gate=nn.Linear(5, 2), a=nn.Linear(5, 3), b=nn.Linear(5, 3)), F.cross_entropy, (X, Y))


@entry("state-space scan")
def _scan() -> Case:
    def run(m: Of, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 3)
        for t in range(x.shape[1]):
            state = torch.exp(-F.softplus(m.step(x[:, t]))) * state + m.net(x[:, t])
        return m.head(state)

    return usual(
        Of(run, step=nn.Linear(5, 3), net=nn.Linear(5, 3), head=nn.Linear(3, 3)), F.cross_entropy, (SEQUENCE, Y[:10])
    )


@entry("variational autoencoder, its noise as input", given="tuples of inputs")
def _vae() -> Case:
    def run(m: Of, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, spread = m.encode(x).chunk(2, -1)
        return m.decode(mean + noise * (spread / 2).exp()), mean, spread

    def loss(z: tuple[Tensor, ...], x: Tensor) -> Tensor:
        return F.mse_loss(z[0], x) + 0.1 * (z[1].square() + z[2].exp() - z[2]).mean()

    model = Of(run, encode=nn.Linear(5, 4), decode=nn.Linear(2, 5))
    return usual(model, loss, ((X, normal(24, 2, seed=8)), X))


@entry("noise drawn in forward", expect="refused", way_out=_vae)
def _draws() -> Case:
    return usual(Of(lambda m, x: m.net(x + torch.randn_like(x)), net=mlp()), F.cross_entropy, (X, Y))


def _wave() -> nn.Sequential:
    return nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).double()


POINTS, ENDS = normal(15, 1, seed=10).sigmoid(), torch.tensor([[0.0], [1.0]], dtype=DOUBLE)


@entry("PINN, autograd.grad in forward", note="plain autograd")
def _pinn() -> Case:
    def run(m: Of, t: Tensor) -> Tensor:
        t = t.requires_grad_()
        u = m.net(t)
        return torch.autograd.grad(u.sum(), t, create_graph=True)[0] + u

    case = usual(Of(run, net=_wave()), nn.MSELoss(), (POINTS, torch.zeros_like(POINTS)))
    return Case(case.build, case.function, case.parameters)


@entry("PINN, torch.func in forward")
def _pinn_func() -> Case:
    def run(m: Of, t: Tensor) -> Tensor:
        def u(z):
            return m.net(z[None])[0, 0]

        return torch.func.vmap(torch.func.grad(lambda z: torch.func.grad(u)(z).sum()))(t) + m.net(t)

    return usual(Of(run, net=_wave()), nn.MSELoss(), (POINTS, torch.zeros_like(POINTS)))


@entry("PINN, two sets of points", given="Hessian.of, weighted terms")
def _pinn_of() -> Case:
    net = _wave()

    def residual() -> Tensor:
        t = POINTS.clone().requires_grad_()
        return (torch.autograd.grad(net(t).sum(), t, create_graph=True)[0] + net(t)).square().mean()

    def ends():
        return (net(ENDS) - 1).square().sum()

    return Case(
        lambda: Hessian.of([(1.0, residual), (5.0, ends)], net), lambda: residual() + 5 * ends(), [*net.parameters()]
    )


def _contrast(model: nn.Module) -> Tensor:
    z = F.normalize(model(X), dim=1)
    return F.cross_entropy(z[:12] @ z[12:].T / 0.3, torch.arange(12))


def _contrastive() -> Case:
    model = mlp()
    return Case(lambda: Hessian.of(lambda: _contrast(model), model), lambda: _contrast(model), [*model.parameters()])


entry("InfoNCE over a batch", given="Hessian.of")(_contrastive)


@entry("InfoNCE as a loss of (outputs, targets)", expect="refused", way_out=_contrastive)
def _mixing() -> Case:
    return usual(mlp(), lambda z, y: F.cross_entropy(z @ z.T, torch.arange(len(y))), (X, Y))


@entry("triplet margin", given="Hessian.of(f(parameters))")
def _triplet() -> Case:
    model = mlp()

    def f(m):
        return F.triplet_margin_loss(*m(X).chunk(3), margin=3.0)

    return Case(lambda: Hessian.of(f, model), lambda: f(model), [*model.parameters()])


@entry("energy of positions", given="Hessian.of, a dict")
def _energy() -> Case:
    p = {"x": normal(6, 3, seed=11).requires_grad_()}

    def f(p):
        return (0.1 + (p["x"][:, None] - p["x"]).square().sum(-1)).sqrt().sum()

    return Case(lambda: Hessian.of(f, p), lambda: f(p), [p["x"]])


@entry("optimizer closure", given="Hessian.of", note="its zero_grad and backward leave gradients as they were")
def _closure() -> Case:
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    return Case(lambda: Hessian.of(closure, model), lambda: F.cross_entropy(model(X), Y), [*model.parameters()])


for dim in (0, 1, None):

    @entry(f"weight norm, dim {dim}", note="torch's fused one has a wrong second derivative: written out")
    def _weight_norm(dim=dim) -> Case:
        return usual(
            nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 4), dim=dim), nn.Tanh(), nn.Linear(4, 3)).double(),
            F.cross_entropy,
            (X, Y),
        )


@entry("weight norm, old style")
def _weight_norm_old() -> Case:
    return usual(
        nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)).double(),
        F.cross_entropy,
        (X, Y),
    )


@entry("weight norm, old style, last dimension")
def _weight_norm_old_last() -> Case:
    return usual(
        nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 4), dim=1), nn.Tanh(), nn.Linear(4, 3)).double(),
        F.cross_entropy,
        (X, Y),
    )


@entry("lazy modules, called once")
def _lazy() -> Case:
    model = nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(3))
    model(X.float())
    return usual(model.double(), F.cross_entropy, (X, Y))


@entry("lazy modules, not called yet", expect="refused", way_out=_lazy)
def _not_called() -> Case:
    return usual(nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(3)), F.cross_entropy, (X, Y))


@entry("meta device", expect="refused", way_out=lambda: usual(mlp(), F.cross_entropy, (X, Y)))
def _meta() -> Case:
    return usual(mlp().to("meta"), F.cross_entropy, (X, Y))


@entry("spectral norm in eval mode")
def _spectral() -> Case:
    return usual(
        nn.Sequential(parametrizations.spectral_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)).double().eval(),
        F.cross_entropy,
        (X, Y),
    )


def _orthogonal(kind: str) -> Case:
    layer = parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map=kind)
    return usual(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), layer).double(), F.cross_entropy, (X, Y))


entry(
    "orthogonal parametrization, householder",
    expect="refused",
    way_out=lambda: _orthogonal("matrix_exp"),
    note="its diagonal is cut to integers in forward: the loss jumps at the parameters",
)(lambda: _orthogonal("householder"))
entry("orthogonal parametrization, matrix exponential")(lambda: _orthogonal("matrix_exp"))
entry("orthogonal parametrization, Cayley")(lambda: _orthogonal("cayley"))


@entry("checkpoint", note="plain autograd")
def _checkpoint() -> Case:
    return usual(
        Of(lambda m, x: m.net[2](checkpoint(lambda z: m.net[1](m.net[0](z)), x, use_reentrant=False)), net=mlp()),
        F.cross_entropy,
        (X, Y),
    )


@entry("reentrant checkpoint", expect="refused", way_out=_checkpoint)
def _reentrant() -> Case:
    return usual(
        Of(lambda m, x: m.net[2](checkpoint(m.net[1], m.net[0](x), use_reentrant=True)), net=mlp()),
        F.cross_entropy,
        (X, Y),
    )


@entry("torch.compile", note="counted as written, compared with the compiled one")
def _compiled() -> Case:
    model = mlp()
    case = usual(model, F.cross_entropy, (X, Y))
    return Case(
        lambda: Hessian(torch.compile(model, backend="eager"), F.cross_entropy, (X, Y)), case.function, case.parameters
    )


@entry("DataParallel")
def _parallel() -> Case:
    model = mlp()
    case = usual(model, F.cross_entropy, (X, Y))
    return Case(lambda: Hessian(nn.DataParallel(model), F.cross_entropy, (X, Y)), case.function, case.parameters)


@entry("autocast in forward", note="float32 inside; as trained, bfloat16: said")
def _autocast() -> Case:
    def run(m: Of, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return m.net(x)

    model = Of(run, net=mlp())
    single = Of(run, net=mlp()).float()
    model.load_state_dict(single.state_dict())
    return Case(
        lambda: Hessian(single, F.cross_entropy, (X.float(), Y), dtype=DOUBLE),
        lambda: F.cross_entropy(model(X), Y),
        [*model.parameters()],
    )


@entry("bfloat16 weights", given="dtype=float64", note="the function of the weights in float64")
def _bf16() -> Case:
    half = mlp().bfloat16()
    model = mlp()
    model.load_state_dict(half.state_dict())
    return Case(
        lambda: Hessian(half, F.cross_entropy, (X, Y), dtype=DOUBLE),
        lambda: F.cross_entropy(model(X), Y),
        [*model.parameters()],
    )


@entry("bfloat16 weights as they are", expect="refused", way_out=_bf16)
def _bf16_own() -> Case:
    return usual(mlp().bfloat16(), F.cross_entropy, (X, Y))


@entry("Fourier layer")
def _fourier() -> Case:
    return usual(
        Of(
            lambda m, x: m.net(torch.fft.irfft(torch.fft.rfft(x) * torch.view_as_complex(m.values[0]), n=5)),
            normal(3, 2),
            net=mlp(),
        ),
        F.cross_entropy,
        (X, Y),
    )


@entry("complex trainable parameters", expect="refused", way_out=_fourier)
def _complex() -> Case:
    model = Of(lambda m, x: m.net((x.to(torch.cdouble) @ m.w).abs()), net=nn.Linear(3, 3))
    model.w = nn.Parameter(torch.ones(5, 3, dtype=torch.cdouble))
    return usual(model, F.cross_entropy, (X, Y))


@entry("sparse buffer")
def _sparse() -> Case:
    model = Of(lambda m, x: m.net((m.mix @ x.T).T), net=mlp())
    model.register_buffer("mix", (torch.eye(5, dtype=DOUBLE) + torch.eye(5, dtype=DOUBLE).roll(1, 0)).to_sparse_csr())
    return usual(model, F.cross_entropy, (X, Y))


@entry("numpy in forward", note="plain autograd")
def _numpy() -> Case:
    return usual(Of(lambda m, x: m.net(torch.from_numpy(abs(x.numpy()))), net=mlp()), F.cross_entropy, (X, Y))


def _penalty(parameters) -> Tensor:
    return 0.1 * sum(p.square().sum() for p in parameters)


@entry("L2 in a closure over the model")
def _decay() -> Case:
    model = mlp()
    return usual(model, lambda z, y: F.cross_entropy(z, y) + _penalty(model.parameters()), (X, Y))


@entry("L2 over a list of parameters", note="plain autograd")
def _decay_list() -> Case:
    model = mlp()
    listed = list(model.parameters())
    return usual(model, lambda z, y: F.cross_entropy(z, y) + _penalty(listed), (X, Y))


@entry("loss module that holds the model")
def _holds() -> Case:
    model = mlp()
    loss = Of(lambda m, z, y: F.cross_entropy(z, y) + _penalty(m.model.parameters()), model=model)
    return usual(model, loss, (X, Y))


@entry("loss that calls the model again")
def _again() -> Case:
    model = mlp()
    return usual(model, lambda z, y: F.cross_entropy(z, y) + model(X[:1] * 0 + 1).square().sum(), (X, Y))


def _both(freeze: bool) -> Case:
    model, loss = mlp(), Of(lambda m, z, y: F.cross_entropy(z * m.values[0], y), torch.ones(1))
    loss.requires_grad_(not freeze)
    return usual(model, loss, (X, Y))


entry("loss with parameters of its own", expect="refused", way_out=lambda: _both(True))(lambda: _both(False))


def _by_class(given: bool) -> Case:
    weights = torch.tensor([0.1, 1, 5], dtype=DOUBLE)
    model, loss = mlp(), functools.partial(F.cross_entropy, weight=weights)
    batches = [(X[c == Y], Y[c == Y]) for c in range(3)]
    options = {"batch_weight": lambda y: weights[y].sum()} if given else {}
    return Case(lambda: Hessian(model, loss, batches, **options), lambda: loss(model(X), Y), [*model.parameters()])


entry("class weights by a partial, sorted batches", given="batches", expect="refused", way_out=lambda: _by_class(True))(
    lambda: _by_class(False)
)


@entry("class weights by a lambda, sorted batches", given="batches, batch_weight=")
def _lambda_weights() -> Case:
    weights = torch.tensor([0.1, 1, 5], dtype=DOUBLE)
    model = mlp()

    def loss(z, y):
        return (weights[y] * F.cross_entropy(z, y, reduction="none")).sum() / weights[y].sum()

    batches = [(X[c == Y], Y[c == Y]) for c in range(3)]
    return Case(
        lambda: Hessian(model, loss, batches, batch_weight=lambda y: weights[y].sum()),
        lambda: F.cross_entropy(model(X), Y, weight=weights),
        [*model.parameters()],
    )


def _own_loss(shifted: bool) -> Case:
    """A model with a loss of its own, a mean over the labels that count, over batches with other numbers of them."""

    def run(m: Of, tokens: Tensor, labels: Tensor) -> dict[str, Tensor]:
        z = m.net(m.embed(tokens).tanh())
        z, y = (z[:, :-1], labels[:, 1:]) if shifted else (z, labels)
        return {"loss": F.cross_entropy(z.flatten(0, 1), y.flatten()), "logits": z}

    model = Of(run, embed=nn.Embedding(9, 3), net=nn.Linear(3, 9))
    labels = TOKENS.masked_fill(TOKENS > 6, -100)
    parts = [{"tokens": TOKENS[a:b], "labels": labels[a:b]} for a, b in ((0, 3), (3, 10))]
    return Case(
        lambda: Hessian(model, None, parts), lambda: model(TOKENS, labels=labels)["loss"], [*model.parameters()]
    )


entry("a model's own loss, labels shifted by it", given="loss=None, batches")(lambda: _own_loss(True))
entry("a model's own loss, labels as they are", given="loss=None, batches")(lambda: _own_loss(False))


@entry("class weights by the loss's module, sorted batches", given="batches")
def _module_weights() -> Case:
    model, loss = mlp(), nn.CrossEntropyLoss(weight=torch.tensor([0.1, 1, 5], dtype=DOUBLE))
    batches = [(X[c == Y], Y[c == Y]) for c in range(3)]
    return Case(lambda: Hessian(model, loss, batches), lambda: loss(model(X), Y), [*model.parameters()])


@entry("token means over uneven batches, some ignored", given="batch_weight=")
def _tokens() -> Case:
    model = nn.Embedding(9, 9).double()
    targets = TOKENS.masked_fill(TOKENS > 6, -100)

    def loss(z, y):
        return F.cross_entropy(z.flatten(0, 1), y.flatten())

    batches = [(TOKENS[:3], targets[:3]), (TOKENS[3:, :4], targets[3:, :4])]
    pairs = [(torch.cat([b[i].flatten() for b in batches])) for i in (0, 1)]
    return Case(
        lambda: Hessian(model, loss, batches, batch_weight=lambda y: (y != -100).sum()),
        lambda: F.cross_entropy(model(pairs[0]), pairs[1]),
        [*model.parameters()],
    )


@entry("tuples of inputs and targets")
def _tuples() -> Case:
    def loss(z, t):
        return F.cross_entropy(z, t[0]) + (z[:, 0] - t[1]).square().mean()

    return usual(Of(lambda m, a, b: m.net(a * b), net=mlp()), loss, ((X, X.flip(0)), (Y, REAL[:, 0])))


@entry("dicts of inputs and targets")
def _dicts() -> Case:
    def loss(z, t):
        return F.cross_entropy(z["logits"], t["label"])

    return usual(
        Of(lambda m, x, scale: {"logits": m.net(x) * scale}, net=mlp()),
        loss,
        ({"x": X, "scale": X[:, :1]}, {"label": Y}),
    )


@entry("graph with edges and a mask", given="((x, edges), (y, mask))")
def _graph() -> Case:
    edges, mask = torch.randint(24, (2, 60), generator=torch.Generator().manual_seed(12)), torch.arange(24) < 15

    def loss(z, t):
        return F.cross_entropy(z[t[1]], t[0][t[1]])

    return usual(
        Of(lambda m, x, e: m.net(x + torch.zeros_like(x).index_add(0, e[1], x[e[0]])), net=mlp()),
        loss,
        ((X, edges), (Y, mask)),
    )


@entry("ragged samples", given="collate=")
def _ragged() -> Case:
    samples = [(normal(n, 2, seed=20 + n), n % 3) for n in (2, 5, 3, 1, 4, 6)]

    def collate(chosen):
        x = nn.utils.rnn.pad_sequence([s[0] for s in chosen], batch_first=True)
        return (x, torch.tensor([len(s[0]) for s in chosen])), torch.tensor([s[1] for s in chosen])

    model = Of(
        lambda m, x, n: m.net((x * (torch.arange(x.shape[1]) < n[:, None])[..., None]).sum(1) / n[:, None]),
        net=nn.Linear(2, 3),
    )
    inputs, targets = collate(samples)
    return Case(
        lambda: Hessian(model, F.cross_entropy, samples, collate=collate),
        lambda: F.cross_entropy(model(*inputs), targets),
        [*model.parameters()],
    )


@entry("cache filled in forward")
def _cache() -> Case:
    def run(m: Of, x: Tensor) -> Tensor:
        if m.kept is None:
            m.kept = m.values[0].exp()
        return x @ m.kept

    model = Of(run, normal(5, 3))
    model.kept = None

    def fresh() -> Tensor:
        model.kept = None
        value = F.cross_entropy(model(X), Y)
        model.kept = None
        return value

    return Case(lambda: Hessian(model, F.cross_entropy, (X, Y)), fresh, [*model.parameters()])


class Old(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * g * ctx.saved_tensors[0] ** 2


class NoVmap(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx, inputs, _):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * (s * (1 + x * (1 - s)))


class Lost(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        s = torch.sigmoid(x)
        return x * s, s * (1 + x * (1 - s))

    @staticmethod
    def setup_context(ctx, _, outputs):
        ctx.mark_non_differentiable(outputs[1])
        ctx.save_for_backward(outputs[1])

    @staticmethod
    def backward(ctx, g, _):
        return g * ctx.saved_tensors[0]


class Activation(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


entry("autograd.Function, old style", note="plain autograd")(
    lambda: usual(mlp(Activation(Old.apply)), F.cross_entropy, (X, Y))
)
entry("autograd.Function without a vmap rule")(lambda: usual(mlp(Activation(NoVmap.apply)), F.cross_entropy, (X, Y)))
entry(
    "autograd.Function, second derivative lost",
    expect="refused",
    way_out=lambda: usual(mlp(nn.SiLU()), F.cross_entropy, (X, Y)),
)(lambda: usual(mlp(Activation(lambda x: Lost.apply(x)[0])), F.cross_entropy, (X, Y)))
entry("RReLU in eval mode")(lambda: usual(mlp(nn.RReLU()).eval(), F.cross_entropy, (X, Y)))


def _with(function, *values: Tensor, loss=F.cross_entropy) -> Case:
    return usual(Of(lambda m, x: function(x, *m.values), normal(5, 3), *values), loss, (X, Y))


def _added(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y) + z.mean()


ZERO = torch.zeros(3)
entry(
    "norm squared at 0",
    expect="refused",
    way_out=lambda: _with(lambda x, a, b: x @ a + b.square().sum(), ZERO, loss=_added),
)(lambda: _with(lambda x, a, b: x @ a + b.norm() ** 2, ZERO, loss=_added))
entry(
    "pairwise distance at 0, squared",
    expect="refused",
    way_out=lambda: _with(lambda x, a, b: x @ a + b.square().sum(), ZERO, loss=_added),
)(
    lambda: _with(
        lambda x, a, b: x @ a + F.pairwise_distance(b[None], 0 * b[None].detach(), eps=0.0) ** 2, ZERO, loss=_added
    )
)
entry(
    "sinc at 0", expect="refused", way_out=lambda: _with(lambda x, a, b: (x @ a) * (1 - (torch.pi * b) ** 2 / 6), ZERO)
)(lambda: _with(lambda x, a, b: (x @ a) * torch.sinc(b), ZERO))
entry("logcumsumexp")(lambda: _with(lambda x, a, b: (x @ a) * torch.logcumsumexp(b, 0), torch.tensor([0.5, 1, 2])))
entry(
    "logcumsumexp squared where it is 0",
    expect="refused",
    way_out=lambda: _with(
        lambda x, a, b: x @ a + torch.stack([b[: i + 1].logsumexp(0) for i in range(3)]).square().sum(),
        torch.tensor([0.0, 1, 2]),
        loss=_added,
    ),
    note="torch loses terms of the second derivative where the cotangent is 0",
)(
    lambda: _with(
        lambda x, a, b: x @ a + torch.logcumsumexp(b, 0).square().sum(), torch.tensor([0.0, 1, 2]), loss=_added
    )
)


def _triple(b: Tensor) -> Tensor:
    return (b[0] * torch.linalg.cross(b[1], b[2])).sum()


entry(
    "det, singular",
    expect="refused",
    way_out=lambda: _with(lambda x, a, b: x @ a + _triple(b), torch.diag(torch.tensor([0.0, 0, 1])), loss=_added),
    note="written out it is right",
)(lambda: _with(lambda x, a, b: x @ a + torch.det(b), torch.diag(torch.tensor([0.0, 0, 1])), loss=_added))
entry("det, regular")(lambda: _with(lambda x, a, b: x @ a + torch.det(b), normal(3, 3, seed=13), loss=_added))
entry("scatter_reduce, product", note="reverse over reverse")(
    lambda: _with(
        lambda x, a, b: (
            (x @ a) * torch.ones(3, dtype=DOUBLE).scatter_reduce(0, torch.tensor([0, 0, 1, 1, 2]), b, "prod")
        ),
        torch.tensor([0.5, 1.5, 2, 0.7, 1]),
    )
)
entry("cholesky_inverse", note="reverse over reverse")(
    lambda: _with(
        lambda x, a, b: x @ a @ torch.cholesky_inverse(torch.linalg.cholesky(b @ b.T + 3 * torch.eye(3, dtype=DOUBLE))),
        normal(3, 3, seed=14),
    )
)
entry("eigenvalues of a symmetric matrix")(
    lambda: _with(lambda x, a, b: x @ a * torch.linalg.eigvalsh(b + b.T), normal(3, 3, seed=15))
)
entry("linear solve")(
    lambda: _with(
        lambda x, a, b: torch.linalg.solve(b @ b.T + torch.eye(3, dtype=DOUBLE), (x @ a).T).T, normal(3, 3, seed=16)
    )
)


# A float32 model, and float32 numbers that no conversion of a module reaches; counted in float64.

SINGLE, WEIGHED = X.float(), torch.tensor([0.2, 1.0, 3.0])


def _single(make=mlp) -> tuple[nn.Module, nn.Module]:
    """A float32 model and the same in float64."""
    single = make().float()
    wide = make().double()
    wide.load_state_dict(single.state_dict())
    return single, wide


def _closed(function, make=mlp) -> Case:
    """function(model, convert), whose constants pass through convert: the identity, or into float64 for the oracle."""
    single, wide = _single(make)
    return Case(
        lambda: Hessian.of(lambda: function(single, lambda t: t), single).to(DOUBLE),
        lambda: function(wide, Tensor.double),
        list(wide.parameters()),
    )


entry("float32 data in a closure", given="Hessian.of", note="constants taken into float64")(
    lambda: _closed(lambda m, c: F.cross_entropy(m(c(SINGLE)), Y, weight=c(WEIGHED)))
)
entry("float32 points of a PINN", given="Hessian.of", note="constants taken into float64")(
    lambda: _closed(
        lambda m, c: (
            torch.autograd.grad(m(p := c(SINGLE).clone().requires_grad_()).sum(), p, create_graph=True)[0]
            .square()
            .mean()
        )
    )
)
entry("float32 data in a closure, GRU", given="Hessian.of", note="constants taken into float64")(
    lambda: _closed(
        lambda m, c: F.cross_entropy(m(c(SEQUENCE.float())), Y[:10]),
        lambda: Of(_last, net=nn.GRU(5, 2, batch_first=True), head=nn.Linear(2, 3)),
    )
)


@entry("float32 class weights in a lambda", note="constants taken into float64")
def _single_weights() -> Case:
    single, wide = _single()

    def loss(z: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(z, t, weight=WEIGHED, reduction="none")

    return Case(
        lambda: Hessian(single, loss, (SINGLE, Y), dtype=DOUBLE),
        lambda: F.cross_entropy(wide(SINGLE.double()), Y, weight=WEIGHED.double(), reduction="none").mean(),
        list(wide.parameters()),
    )


@entry("float32 attribute, zeros in forward", note="constants taken into float64")
def _single_attribute() -> Case:
    mix = normal(5, 5, seed=17).float()

    def run(m: Of, x: Tensor) -> Tensor:
        wide = x.dtype == DOUBLE and m.oracle
        start = torch.zeros(len(x), 2, dtype=DOUBLE if wide else torch.float32)
        return m.head(m.cell(F.linear(x, mix.double() if wide else mix), start))

    single, wide = _single(lambda: Of(run, cell=nn.GRUCell(5, 2), head=nn.Linear(2, 3)))
    single.oracle, wide.oracle = False, True
    return Case(
        lambda: Hessian(single, F.cross_entropy, (SINGLE, Y), dtype=DOUBLE),
        lambda: F.cross_entropy(wide(SINGLE.double()), Y),
        list(wide.parameters()),
    )


# Losses that torch.func does not see through, on a network whose closed form is known.


class OldSquare(torch.autograd.Function):
    """Without setup_context: plain autograd alone."""

    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z**2

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return 2 * g * ctx.saved_tensors[0]


def _slope_penalty(z: Tensor, t: Tensor) -> Tensor:
    slope = torch.autograd.grad(F.cross_entropy(z, t, reduction="sum"), z, create_graph=True)[0]
    return F.cross_entropy(z, t) + slope.square().sum(1).mean()


for name, loss in {
    "old-style Function": lambda z, t: F.cross_entropy(OldSquare.apply(z), t),
    "checkpoint": lambda z, t: checkpoint(F.cross_entropy, z, t, use_reentrant=False),
    "NumPy": lambda z, t: F.cross_entropy(z * torch.as_tensor(1 + (t.numpy() == 2))[:, None], t),
    "autograd.grad": _slope_penalty,
}.items():
    entry(f"{name} in the loss of an MLP")(lambda loss=loss: usual(mlp(), loss, (X, Y)))
