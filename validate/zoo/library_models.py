"""Models of other libraries, from small configurations: nothing is downloaded."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lanczos_saddle import Hessian
from zoo.entries import Case, entry, usual
from zoo.torch_models import TOKENS, X, Y, labels, normal


def some(model: nn.Module, names: list[str], build: Any, function: Any) -> Case:
    """The Hessian in a few parameters: of a model whose smallest configuration is larger than differences allow."""
    chosen = dict(model.named_parameters())
    return Case(build, function, [chosen[name] for name in names])


def own_loss(model: nn.Module, batch: dict[str, Tensor], most: int = 260, **options: Any) -> Case:
    """A model that computes its own loss, in as many of its smallest parameters as differences allow."""
    model = model.double().eval()
    names, total = [], 0
    for name, p in sorted(model.named_parameters(), key=lambda item: item[1].numel()):
        if p.requires_grad and total + p.numel() <= most:
            names, total = [*names, name], total + p.numel()
    names = [name for name, _ in model.named_parameters() if name in names]
    return some(
        model, names, lambda: Hessian(model, None, batch, parameters=names, **options), lambda: model(**batch).loss
    )


def batch(ignored: bool = True) -> dict[str, Tensor]:
    targets = TOKENS.clone()
    if ignored:
        targets[:4, 3:] = -100
    return {"input_ids": TOKENS, "attention_mask": (TOKENS > 0).long(), "labels": targets}


def gpt2(**options: Any) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=4, vocab_size=9, n_positions=6, **options))


@entry("GPT-2, causal loss with ignored labels", "transformers", "loss=None, a dict")
def _gpt2() -> Case:
    return own_loss(gpt2(), batch())


@entry("GPT-2, batches with other numbers of labels", "transformers", "loss=None, batches")
def _gpt2_batches() -> Case:
    model, whole = gpt2().double().eval(), batch()
    parts = [{k: t[a:b] for k, t in whole.items()} for a, b in ((0, 5), (5, 10))]
    names = [name for name, p in model.named_parameters() if p.numel() <= 12]
    return some(model, names, lambda: Hessian(model, None, parts, parameters=names), lambda: model(**whole).loss)


@entry("GPT-2, gradient checkpointing", "transformers", "loss=None", note="plain autograd")
def _gpt2_checkpoint() -> Case:
    model = gpt2(use_cache=False)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    case = own_loss(model, batch())
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return case


@entry("Llama", "transformers", "loss=None")
def _llama() -> Case:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=4,
        intermediate_size=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=9,
        max_position_embeddings=8,
    )
    return own_loss(LlamaForCausalLM(config), batch())


@entry("BERT, masked language model", "transformers", "loss=None")
def _bert() -> Case:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        hidden_size=4,
        intermediate_size=5,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=9,
        max_position_embeddings=6,
    )
    return own_loss(BertForMaskedLM(config), batch())


@entry("BERT, classification", "transformers", "loss=None")
def _bert_classes() -> Case:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=4,
        intermediate_size=5,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=9,
        max_position_embeddings=6,
        num_labels=3,
    )
    return own_loss(BertForSequenceClassification(config), {"input_ids": TOKENS, "labels": labels(10)})


@entry("T5", "transformers", "loss=None")
def _t5() -> Case:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        d_model=4, d_kv=2, d_ff=5, num_layers=1, num_heads=2, vocab_size=9, decoder_start_token_id=0, pad_token_id=0
    )
    return own_loss(T5ForConditionalGeneration(config), {"input_ids": TOKENS, "labels": batch()["labels"]})


@entry("Mamba", "transformers", "loss=None")
def _mamba() -> Case:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        hidden_size=4, state_size=2, num_hidden_layers=1, vocab_size=9, expand=1, time_step_rank=1, use_cache=False
    )
    return own_loss(MambaForCausalLM(config), {"input_ids": TOKENS, "labels": TOKENS})


def _mixtral(experts: str) -> Case:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=9,
        num_local_experts=2,
        num_experts_per_tok=2,
        experts_implementation=experts,
    )
    return own_loss(MixtralForCausalLM(config), batch())


entry(
    "Mixtral, grouped products",
    "transformers",
    "loss=None",
    expect="refused",
    way_out=lambda: _mixtral("eager"),
    note='torch\'s grouped product has no float64; experts_implementation="eager" is right',
)(lambda: _mixtral("grouped_mm"))


@entry("ViT, classification", "transformers", "loss=None")
def _vit() -> Case:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=4,
        intermediate_size=5,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=4,
        patch_size=2,
        num_channels=1,
        num_labels=3,
    )
    return own_loss(ViTForImageClassification(config), {"pixel_values": normal(8, 1, 4, 4), "labels": labels(8)})


@entry("LoRA on GPT-2", "peft", 'loss=None, parameters="*lora_*"')
def _peft() -> Case:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(gpt2(), LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False)).double().eval()
    whole = batch()
    chosen = [p for name, p in model.named_parameters() if "lora_" in name]
    return Case(lambda: Hessian(model, None, whole, parameters="*lora_*"), lambda: model(**whole).loss, chosen)


EDGES = torch.randint(24, (2, 60), generator=torch.Generator().manual_seed(12))


def _graph(name: str) -> Case:
    import torch_geometric.nn as pyg

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = getattr(pyg, name)
            self.a, self.b = layer(5, 4), layer(4, 3)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return self.b(self.a(x, edges).tanh(), edges)

    mask = torch.arange(24) < 15
    return usual(Net().double(), lambda z, t: F.cross_entropy(z[t[1]], t[0][t[1]]), ((X, EDGES), (Y, mask)))


for kind in ("GCNConv", "GATConv", "SAGEConv"):
    entry(f"graph network, {kind}", "torch_geometric", "((x, edges), (y, mask))")(lambda kind=kind: _graph(kind))


@entry("UNet2D, noise and steps", "diffusers", "dicts", note="a few of its parameters")
def _diffusers() -> Case:
    from diffusers import UNet2DModel

    model = (
        UNet2DModel(
            sample_size=4,
            in_channels=1,
            out_channels=1,
            block_out_channels=(4,),
            layers_per_block=1,
            norm_num_groups=2,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            add_attention=False,
        )
        .double()
        .eval()
    )
    names = [name for name, p in model.named_parameters() if p.numel() <= 8]
    names = names[:30]
    inputs, targets = {"sample": normal(5, 1, 4, 4), "timestep": torch.arange(5) * 10}, normal(5, 1, 4, 4, seed=3)

    def loss(z, y):
        return F.mse_loss(z.sample, y)

    return some(
        model,
        names,
        lambda: Hessian(model, loss, (inputs, targets), parameters=names),
        lambda: loss(model(**inputs), targets),
    )


@entry("LightningModule", "lightning", "Hessian.of(training_step)")
def _lightning() -> Case:
    import lightning

    class Net(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, pair: tuple[Tensor, Tensor], index: int) -> Tensor:  # noqa: ARG002
            return F.cross_entropy(self(pair[0]), pair[1])

    model = Net().double()

    def step():
        return model.training_step((X, Y), 0)

    return Case(lambda: Hessian.of(step, model), step, [*model.parameters()])


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds torchvision as a package of things that do nothing."""

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.startswith("torchvision") else None

    def create_module(self, spec: Any) -> Any:
        return MagicMock(name=spec.name, __name__=spec.name, __path__=[], __spec__=spec, __version__="0")

    def exec_module(self, module: Any) -> None:
        pass


@contextmanager
def without_torchvision() -> Iterator[None]:
    """timm's models import torchvision, whose builds must match torch's to a digit, and use nothing of it here."""
    finder = _Absent()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]


def _timm(make: Any, size: int, channels: int = 1, most: int = 260) -> Case:
    """A model of timm at its smallest, batch norms in eval mode, in its smallest parameters."""
    with without_torchvision():
        import timm.models

        model = make(timm.models).double().eval()
    for index, p in enumerate(model.parameters()):  # layer scales of 1e-6 and zero biases: away from the initial point
        p.data += 0.1 * normal(*p.shape, seed=100 + index)
    names, total = set(), 0
    for name, p in sorted(model.named_parameters(), key=lambda item: item[1].numel()):
        if total + p.numel() <= most:
            names, total = names | {name}, total + p.numel()
    ordered = [name for name, _ in model.named_parameters() if name in names]
    images, classes = normal(6, channels, size, size), labels(6)
    return some(
        model,
        ordered,
        lambda: Hessian(model, F.cross_entropy, (images, classes), parameters=ordered),
        lambda: F.cross_entropy(model(images), classes),
    )


SMALL = {"in_chans": 1, "num_classes": 3}
TIMM = {
    "ResNet": (
        lambda m: m.resnet.ResNet(m.resnet.BasicBlock, [1, 1, 1, 1], channels=(2, 2, 3, 3), stem_width=2, **SMALL),
        32,
    ),
    "ViT": (
        lambda m: m.vision_transformer.VisionTransformer(8, 4, embed_dim=4, depth=1, num_heads=2, mlp_ratio=1, **SMALL),
        8,
    ),
    "ViT with layer scale and registers": (
        lambda m: m.vision_transformer.VisionTransformer(
            8, 4, embed_dim=4, depth=1, num_heads=2, mlp_ratio=1, init_values=0.1, reg_tokens=1, qk_norm=True, **SMALL
        ),
        8,
    ),
    "ConvNeXt": (lambda m: m.convnext.ConvNeXt(depths=(1, 1, 1, 1), dims=(2, 2, 3, 3), **SMALL), 32),
    "MLP-Mixer": (lambda m: m.mlp_mixer.MlpMixer(img_size=8, patch_size=4, num_blocks=1, embed_dim=4, **SMALL), 8),
    "MobileNet V3": (
        lambda m: m.mobilenetv3.MobileNetV3(
            m._efficientnet_builder.decode_arch_def([["ds_r1_k3_s1_e1_c4_se0.25"], ["ir_r1_k3_s2_e2_c4"]]),
            stem_size=4,
            num_features=8,
            **SMALL,
        ),
        8,
    ),
    "Swin": (
        lambda m: m.swin_transformer.SwinTransformer(
            img_size=8, patch_size=2, embed_dim=4, depths=(2,), num_heads=(2,), window_size=2, mlp_ratio=1.0, **SMALL
        ),
        8,
    ),
}
for kind, (make, size) in TIMM.items():
    entry(f"{kind} of timm", "timm", note="its smallest parameters")(lambda make=make, size=size: _timm(make, size))
