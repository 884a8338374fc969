"""How new weights take over without reshuffling people who did nothing.

A reservoir of rows is embedded by the serving weights (z_old) and by the candidate (z_new). The candidate's
space is first laid onto the serving space; then each centre becomes the mean of its own members there.
"""

from __future__ import annotations

import numpy as np

from ..stream.events import F32, F64, I32

RIDGE = 1e-3


def align(z_new: F32, z_old: F32) -> tuple[F64, F64]:
    """Matrix (e, e) and shift (e,) that lay z_new onto z_old, rotation only: distances stay what they are."""
    new, old = z_new.astype(np.float64), z_old.astype(np.float64)
    mean_new, mean_old = new.mean(axis=0), old.mean(axis=0)
    u, _, vt = np.linalg.svd((new - mean_new).T @ (old - mean_old))
    matrix: F64 = u @ vt
    return matrix, mean_old - mean_new @ matrix


def carry_over(z_new: F32, z_old: F32, members: I32, centres: F64) -> F64:
    """Centres (k, e) in the new space: where each one's members went, plus how far it was from their mean.

    A centre without members goes where a least-squares map of the whole space takes it. Always finite.
    """
    new, old = z_new.astype(np.float64), z_old.astype(np.float64)
    mean_new, mean_old = new.mean(axis=0), old.mean(axis=0)
    gram = (old - mean_old).T @ (old - mean_old)
    gram += RIDGE * max(float(np.trace(gram)) / len(gram), 1e-12) * np.eye(len(gram))
    space = np.linalg.solve(gram, (old - mean_old).T @ (new - mean_new))  # (e, e)
    carried: F64 = mean_new + (centres - mean_old) @ space
    for c in range(len(centres)):
        own = members == c
        if own.any():
            carried[c] = new[own].mean(axis=0)
    return carried
