"""BitPlan: what a plan must name, and that it chooses bits and nothing else."""

from dataclasses import replace

import pytest

from dyadiq.core.errors import ConfigError
from dyadiq.core.facts import Decision, NetworkFacts, QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.plan import BitPlan, uniform_plan

CONFIG = QuantConfig(weight=Format(8, signed=True, granularity="channel"), activation=Format(8, scheme="asymmetric"))
FACTS = NetworkFacts(
    (Decision("x", "activation", (4,), 8), Decision("w", "weight", (2, 4)), Decision("y", "activation", (2,))),
    (),
    config=CONFIG,
)


def changed(**formats):
    plan = uniform_plan(FACTS, 4, 6)
    return BitPlan({**plan.formats, **{n: replace(plan.formats[n], **f) for n, f in formats.items()}})


def test_plan_of_other_bits_fits():
    changed(w={"bits": 2}, y={"bits": 3}).check(FACTS)


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        (
            {"w": {"granularity": "tensor"}},
            r"\n  w: granularity is 'tensor', expected 'channel'\nA plan chooses bits only",
        ),
        (
            {"w": {"granularity": "group", "group_size": 2}},
            r"w: granularity is 'group', .*; group_size is 2, expected None",
        ),
        ({"y": {"scheme": "symmetric"}}, r"\n  y: scheme is 'symmetric', expected 'asymmetric'\n"),
        (
            {"w": {"scale": "pow2"}, "y": {"narrow": True}},
            r"\n  w: scale is 'pow2'.*\n  y: narrow is True, expected False",
        ),
        ({"x": {"range_method": "minmax"}}, r"Give the configuration that the plan was made with"),
    ],
)
def test_format_that_differs_in_more_than_bits_is_refused(formats, message):
    with pytest.raises(ConfigError, match="(?s)the plan differs from the configuration in more than bits:.*" + message):
        changed(**formats).check(FACTS)


def test_names_that_are_missing_or_unknown_are_listed():
    with pytest.raises(ConfigError, match=r"missing \['w', 'x', 'y'\], unknown \['z'\]"):
        BitPlan({"z": Format(8)}).check(FACTS)


def test_fixed_width_cannot_be_chosen():
    with pytest.raises(ConfigError, match="x: its width is fixed at 8 bits, the plan says 4"):
        changed(x={"bits": 4}).check(FACTS)
