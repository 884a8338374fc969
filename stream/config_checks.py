"""What keys must be to each other; each key's own bounds stand with the key, in `config.py`."""

from __future__ import annotations

from typing import Any

from .ports import ConfigError

Section = Any
"""Of `config.py`, which imports this module."""


def check_together(config: Section) -> None:
    """Raises ConfigError for what no single key can know."""
    _check_horizons(config.features.horizons)
    _check_sizes(config)
    _check_segmenter(config.segmenter)
    _check_privacy(config.privacy)


def _check_horizons(horizons: tuple[Section, ...]) -> None:
    if not horizons:
        raise ConfigError("features.horizons: at least one sliding window is needed")
    if [h.window_ms for h in horizons] != sorted({h.window_ms for h in horizons}):
        raise ConfigError("features.horizons: spans must be different, shortest first")
    if len({h.name for h in horizons}) != len(horizons):
        raise ConfigError("features.horizons: two windows have the same name")
    for horizon in horizons:
        if horizons[-1].window_ms * horizon.tiles >= 2**31 * horizon.window_ms:
            raise ConfigError(
                f"features.horizons: a tile of {horizon.name} is {horizon.window_ms / horizon.tiles:g} ms, too fine "
                f"beside a window of {horizons[-1].window_ms} ms; choose fewer tiles"
            )
        if horizon.window_ms % horizon.tiles:
            raise ConfigError(
                f"features.horizons: {horizon.name}: {horizon.window_ms} ms is not a multiple of "
                f"{horizon.tiles} tiles; choose a span that the tiles divide"
            )


def _check_sizes(config: Section) -> None:
    if config.engine.step_records_max > config.features.users_max:
        raise ConfigError(
            f"engine.step_records_max = {config.engine.step_records_max} is larger than features.users_max = "
            f"{config.features.users_max}: one step could touch more users than can be kept"
        )
    if config.segmenter.warmup_rows < config.segmenter.segments:
        raise ConfigError(
            f"segmenter.warmup_rows = {config.segmenter.warmup_rows} is less than segmenter.segments = "
            f"{config.segmenter.segments}: every centre needs a row to start from"
        )


def _check_segmenter(segmenter: Section) -> None:
    adaptive = segmenter.mode == "adaptive"
    if adaptive and segmenter.backend == "river":
        raise ConfigError('segmenter.backend = "river" has one step for all: set segmenter.mode = "constant"')
    if segmenter.segments_min > (most := segmenter.segments if adaptive else 0):
        wanted = f"wanted at most {most} (segmenter.segments; 0 in constant mode)"
        raise ConfigError(f"segmenter.segments_min = {segmenter.segments_min}: {wanted}")


def _check_privacy(privacy: Section) -> None:
    epsilon, per_day = privacy.size_epsilon, privacy.size_epsilon_per_day
    if epsilon and not 0.001 <= epsilon <= per_day:
        raise ConfigError(
            f"privacy.size_epsilon = {epsilon:g}: wanted 0, or 0.001 to {per_day:g} (privacy.size_epsilon_per_day): a "
            f"day's budget must pay for one publication"
        )
