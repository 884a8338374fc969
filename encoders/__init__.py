"""Encoders turn a feature row into an embedding; a publisher says when new weights may serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..stream import config
from ..stream.ports import Publisher

if TYPE_CHECKING:
    from .base import Published


def make_publisher(config: config.Encoder, d_in: int) -> Publisher:
    """The configured encoder for rows of d_in values, with its reservoir. torch is imported only if used."""
    from .publication import ReplayPublisher

    return ReplayPublisher(make_encoder(config, d_in), config)


def make_encoder(config: config.Encoder, d_in: int) -> Published:
    match config.kind:
        case "identity":
            from .identity import Identity

            return Identity(d_in)
        case "linear":
            from .linear import Linear

            return Linear(d_in, config.dim)
        case "autoencoder":
            from .autoencoder import Autoencoder

            return Autoencoder(d_in, config.hidden, config.dim, config.learning_rate, config.seed)
