"""The learning rate as a plain function of the step, so that resuming needs no scheduler state.

Used by `loop`. Sources: cosine, Loshchilov and Hutter 2017 (SGDR, eq. 5, one cycle, end value 0); one cycle, Smith
and Topin 2018, with the usual numbers: up linearly from 1/25 for 30 % of the steps, then cosine down to 1/10,000.
"""

from __future__ import annotations

import math

from dyadiq.train.config import ScheduleName

__all__ = ["learning_rate_factor"]

_WARMUP_FRAC, _START, _END = 0.3, 1 / 25, 1e-4


def learning_rate_factor(schedule: ScheduleName, step: int, n_steps: int) -> float:
    """Return the learning rate of a step as a fraction of its peak.

    Args:
        schedule: Which curve.
        step: 0 to ``n_steps - 1``.
        n_steps: Steps of the whole training.

    Example:
        >>> [round(learning_rate_factor("cosine", step, 4), 3) for step in range(4)]
        [1.0, 0.854, 0.5, 0.146]
        >>> [round(learning_rate_factor("onecycle", step, 10), 3) for step in (0, 3, 9)]
        [0.04, 1.0, 0.05]
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * step / n_steps))
    n_up = max(1.0, _WARMUP_FRAC * n_steps)
    if step < n_up:
        return _START + (1.0 - _START) * step / n_up
    down = (step - n_up) / max(1.0, n_steps - n_up)
    return _END + (1.0 - _END) * 0.5 * (1.0 + math.cos(math.pi * down))
