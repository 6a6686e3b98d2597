#!/usr/bin/env bash
# torch 2.13.0: the source text of every torch.fx graph stays in memory when the graph is gone: whoever records products in a loop
# grows, though every tensor, module and graph is freed.
#
#     make_fx of one Hessian product, 40 times, each result dropped at once
#     expected:  as many texts kept after the last as after the first
#     seen:      some more in torch.fx.graph_module._loader.eval_cache, and as many entries in linecache.cache, for every recording;
#                their size grows with the network; gc.collect() and linecache.checkcache() free none
#
# They are for tracebacks. `del torch.fx.graph_module._loader.eval_cache[name]`, and of linecache's, frees them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import gc
import linecache
import weakref

import torch
from torch.fx.experimental.proxy_tensor import make_fx

print("torch", torch.__version__)
x = torch.randn(30, 8, dtype=torch.float64)


def loss(w):
    for layer in w.view(-1, 8, 8):
        y = (x @ layer).tanh()
    return y.square().sum()


def product(w, v):
    return torch.func.jvp(torch.func.grad(loss), (w,), (v,))[1]


w, graphs, kept = torch.randn(512, dtype=torch.float64), [], []
for _ in range(40):
    graph = make_fx(product)(w, torch.ones_like(w))
    graphs.append(weakref.ref(graph))
    del graph
    gc.collect()
    linecache.checkcache()
    texts = torch.fx.graph_module._loader.eval_cache
    kept.append((len(texts), sum(map(len, texts.values())), sum(name.startswith("<eval_with_key>") for name in linecache.cache)))
alive = sum(one() is not None for one in graphs)
print(f"graphs alive: {alive}; texts after the first recording {kept[0][0]}, after the last {kept[-1][0]}, {kept[-1][1]} bytes")
assert alive == 0, "the graphs themselves are freed"
assert kept[-1][0] >= kept[0][0] + 39 and kept[-1][1] > 30 * kept[0][1], "this behaviour has changed"
assert kept[-1][2] >= 40, "this behaviour has changed"
P
