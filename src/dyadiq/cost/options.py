"""Which widths each decision may take: the candidates that cost tables cover and allocation chooses from.

Used by every cost model and by `allocate.problem`, so that they agree. Plain numbers, no graph.
"""

from __future__ import annotations

from collections.abc import Sequence

from dyadiq.core.errors import ConfigError
from dyadiq.core.facts import NetworkFacts
from dyadiq.core.format import MAX_FORMAT_BITS

__all__ = ["candidate_bits"]


def candidate_bits(
    facts: NetworkFacts, weight_bits: Sequence[int], activation_bits: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Return the candidate widths of every decision, ascending; a fixed width is the only candidate.

    Widths that a tensor cannot have are left out: bipolar codes under a relu, codes too wide for a lookup table
    (`Decision.why_not`).

    Args:
        facts: The network.
        weight_bits: Candidates of weights.
        activation_bits: Candidates of activations.

    Raises:
        ConfigError: An empty list, a width that is no int in [1, 16], or no width left for a decision.

    Example:
        >>> from dyadiq.core.facts import Decision
        >>> facts = NetworkFacts((Decision("x", "activation", (4,), 8), Decision("w", "weight", (2, 4))), ())
        >>> candidate_bits(facts, [4, 2, 4], [6, 8])
        {'x': (8,), 'w': (2, 4)}
    """
    candidates = {
        "weight": _checked("weight", weight_bits),
        "activation": _checked("activation", activation_bits),
    }
    formats = {"weight": facts.config.weight, "activation": facts.config.activation}
    options = {
        d.name: tuple(b for b in candidates[d.kind] if d.allows(formats[d.kind].with_bits(b)))
        if d.fixed_bits is None
        else (d.fixed_bits,)
        for d in facts.decisions
    }
    for d in facts.decisions:
        if not options[d.name]:
            asked = candidates[d.kind]
            raise ConfigError(
                f"candidate {d.kind} widths {list(asked)}: none is left for {d.name}: "
                f"{d.why_not(formats[d.kind].with_bits(asked[0]))}"
            )
    return options


def _checked(kind: str, bits: Sequence[int]) -> tuple[int, ...]:
    if not bits:
        raise ConfigError(f"candidate {kind} widths: the list is empty. Give at least one, for example [8].")
    for b in bits:
        if isinstance(b, bool) or not isinstance(b, int) or not 1 <= b <= MAX_FORMAT_BITS:
            raise ConfigError(f"candidate {kind} widths must be ints in [1, {MAX_FORMAT_BITS}], got {b!r}.")
    return tuple(sorted(set(bits)))
