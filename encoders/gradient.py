"""The gradient of the autoencoder's loss, written out: torch's own differentiation takes two and a half times as
long on a few hundred rows, most of it in keeping account of what it will have to differentiate.

The loss is the mean squared error of rows decoded from noisy ones, plus `pull` times that of their embeddings
against `towards`. `tests/test_encoders.py` holds the gradient to torch's autograd of exactly that.
"""

from __future__ import annotations

import torch
from torch import Tensor

Tensors = dict[str, Tensor]  # w1 b1 w2 b2 encode, w3 b3 w4 b4 decode; w (i, o), b (o,)


def descent(
    rows: Tensor, noisy: Tensor, pull: float, towards: Tensor | None, w: Tensors, out: Tensors
) -> Tensor:
    """Write the gradient for rows (n, d_in), noisy ones (n, d_in) and embeddings to be near to, `towards` (n, e), into
    `out`; the mean squared error of the rows. No `towards`: no pull."""
    with torch.inference_mode():
        first = _affine(noisy, w["w1"], w["b1"])
        first_slope = torch.rsqrt(1 + first * first)  # h / sqrt(1 + h^2) has the slope (1 + h^2)^-3/2
        first *= first_slope
        z = _affine(first, w["w2"], w["b2"])
        second = _affine(z, w["w3"], w["b3"])
        second_slope = torch.rsqrt(1 + second * second)
        second *= second_slope
        error = _affine(second, w["w4"], w["b4"]).sub_(rows)
        lost = (error * error).mean()

        error *= 2 / error.numel()
        error = _into(out, "4", second, error, w)
        error *= second_slope**3
        error = _into(out, "3", z, error, w)
        if towards is not None:
            error.add_(z - towards, alpha=2 * pull / z.numel())
        error = _into(out, "2", first, error, w)
        error *= first_slope**3
        torch.mm(noisy.T, error, out=out["w1"])
        torch.sum(error, 0, out=out["b1"])
        return lost


def _into(out: Tensors, layer: str, given: Tensor, error: Tensor, w: Tensors) -> Tensor:
    """The gradient of a layer that was given (n, i) and errs by (n, o); by what its input errs, (n, i)."""
    torch.mm(given.T, error, out=out[f"w{layer}"])
    torch.sum(error, 0, out=out[f"b{layer}"])
    return error @ w[f"w{layer}"].T


def _affine(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.addmm(b, x, w)
