"""A model of transformers computes its own loss: loss=None, and a batch is what the model is called with.

Needs transformers. The model here is tiny and untrained, so that nothing is downloaded.
"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lanczos_saddle import Hessian, count_eigenvalues

torch.manual_seed(0)
shape = {"n_layer": 2, "n_head": 2, "n_embd": 8, "vocab_size": 40, "n_positions": 24}
model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval()

tokens = torch.randint(40, (12, 20))
padding = torch.arange(20) >= torch.randint(10, 21, (12, 1))  # sentences of several lengths
batch = {
    "input_ids": tokens,
    "attention_mask": (~padding).long(),
    "labels": tokens.masked_fill(padding, -100),  # the mean is over the tokens that count
}

for part in ("*", "*.attn.*"):
    hessian = Hessian(model, None, batch, parameters=part, dtype=torch.float64)
    counts = count_eigenvalues(hessian, relative_threshold=1e-2, method="lanczos", probes=4, steps=40)
    print(f"parameters {part!r}\n{counts}\n")
