#!/usr/bin/env bash
# jax 0.10.2: the Hessian of jnp.hypot(x, y)**2 = x^2 + y^2 at the origin is finite, and wrong: one flat direction where there is none.
#
#     expected:  2 I, or NaN as of jnp.linalg.norm(v)**2: the root has no derivative there
#     seen:      [[1/2, 1/2], [1/2, 1/2]], with the eigenvalues 0 and 1: a degenerate minimum. No NaN says that something is amiss
#
# Write x**2 + y**2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" - <<'P'
import jax
import numpy as np

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp

f = lambda v: jnp.hypot(v[0], v[1]) ** 2
print("jax", jax.__version__)
for at in (jnp.array([0.3, -0.4]), jnp.zeros(2)):
    found, norm = np.asarray(jax.hessian(f)(at)), np.asarray(jax.hessian(lambda v: jnp.linalg.norm(v) ** 2)(at))
    print(f"at {at.tolist()}: hypot {found.tolist()}, norm {norm.tolist()}")
    if at.any():
        assert np.allclose(found, 2 * np.eye(2)) and np.allclose(norm, found)
    else:
        assert np.isnan(norm).all()
        assert np.allclose(found, 0.5), "this behaviour has changed"
        print("eigenvalues", np.linalg.eigvalsh(found).tolist())
P
