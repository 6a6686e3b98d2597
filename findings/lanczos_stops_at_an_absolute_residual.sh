#!/usr/bin/env bash
# resona 3.2.0 and hessian-eigenthings 1.0.0a5: Lanczos ends where a residual is below an absolute number, so that what is seen of
# a spectrum depends on its unit.
#
#     one symmetric matrix, 200 x 200, 50 eigenvalues in [-2, -1] and 150 in [1, 2], as it is and times 1e-13
#     expected:  the same number of negative eigenvalues, whatever the unit: a Krylov space is that of c H for every c
#     seen:      times 1e-13 both stop after one step with the one Ritz value g'Hg / g'g, which is positive: no negative
#                eigenvalue, and resona with a standard error of 0
#
# Hessians of losses near zero, and of means over many samples, have such units. Divide by the largest |eigenvalue| first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -m pip install --quiet --no-deps resona==3.2.0 hessian-eigenthings==1.0.0a5
"$folder/venv/bin/python" - <<'P'
import numpy as np
import resona
import torch
from hessian_eigenthings.algorithms.spectral_density import spectral_density
from hessian_eigenthings.operators.base import LambdaOperator
from scipy.sparse.linalg import aslinearoperator

print("resona", resona.__version__)
rng = np.random.default_rng(0)
basis = np.linalg.qr(rng.standard_normal((200, 200)))[0]
values = np.concatenate([np.linspace(-2, -1, 50), np.linspace(1, 2, 150)])
matrix = (basis * values) @ basis.T
seen = {}
for scale in (1.0, 1e-13):
    scaled = scale * matrix
    print(f"unit {scale:.0e}: numpy finds {(np.linalg.eigvalsh(scaled) < 0).sum()} negative eigenvalues")
    spectrum = resona.of(aslinearoperator(scaled), 200, k=40, probes=8, seed=0)
    value, error = spectrum.trace(lambda x: (x < 0).astype(float), with_err=True)
    tensor = torch.from_numpy(scaled)
    found = spectral_density(LambdaOperator(lambda v: tensor @ v, 200, tensor.device, tensor.dtype), num_runs=4, lanczos_steps=40, seed=0)
    nodes = [len(np.atleast_1d(np.asarray(run))) for run in found.raw_eigenvalues]
    shares = [float((np.asarray(w) * (np.asarray(e) < 0)).sum() / np.asarray(w).sum()) for e, w in zip(found.raw_eigenvalues, found.raw_weights)]
    negative = 200 * np.mean(shares)
    print(f"    resona: {value:.1f} +- {error:.1f} negative;  hessian-eigenthings: {negative:.1f} negative, Ritz values a run: {nodes}")
    seen[scale] = (value, error, negative, max(nodes))
assert 30 < seen[1.0][0] < 70 and 30 < seen[1.0][2] < 70, "at unit 1 both see about 50"
assert seen[1e-13][:3] == (0.0, 0.0, 0.0), "this behaviour has changed"
assert seen[1e-13][3] == 1, "this behaviour has changed"
P
