import pytest

from dyadiq.core.errors import ConfigError
from dyadiq.core.units import format_amount, parse_budget


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1000, "byte", 1000),
        (1000.9, "byte", 1000),
        ("1000", "byte", 1000),
        ("8kB", "byte", 8000),
        ("8 KiB", "byte", 8192),
        ("1.5MB", "byte", 1_500_000),
        (".5MiB", "byte", 524_288),
        ("12 B", "byte", 12),
        ("3e8", "bop", 300_000_000),
        ("300M", "bop", 300_000_000),
        ("0.3 G", "bop", 300_000_000),
        ("5 bop", "bop", 5),
        ("2.5pJ", "fJ", 2500),
        ("1uJ", "fJ", 10**9),
        ("25%", "byte", 1000),
        ("12.5 %", "byte", 500),
        ("200%", "byte", 8002),
        ("0.1%", "byte", 4),
    ],
)
def test_amount_is_an_exact_integer_rounded_down(value, unit, expected):
    assert parse_budget(value, metric="m", unit=unit, reference=4001) == expected


def test_percentage_is_exact_when_floats_would_not_be():
    assert parse_budget("0.3%", metric="m", unit="bop", reference=10**18) == 3 * 10**15


@pytest.mark.parametrize("value", [True, None, float("nan"), float("inf"), [1]])
def test_budget_is_refused_when_it_is_no_finite_number(value):
    with pytest.raises(ConfigError, match="budget size: expected a finite number or a text such as '25%', got"):
        parse_budget(value, metric="size", unit="byte")


@pytest.mark.parametrize("value", ["", "kB", "-5kB", "five", "1,000", "1e9999"])
def test_budget_is_refused_when_the_text_is_no_amount(value):
    with pytest.raises(ConfigError, match=r"budget size: .*Give a number in byte"):
        parse_budget(value, metric="size", unit="byte")


@pytest.mark.parametrize("value", [0, -1, "0", "0%", 0.0])
def test_budget_is_refused_when_it_is_not_above_zero(value):
    with pytest.raises(ConfigError, match="budget size: must be above zero"):
        parse_budget(value, metric="size", unit="byte", reference=100)


def test_wrong_suffix_is_explained_when_its_letter_is_known():
    with pytest.raises(ConfigError, match=r"ends in 'KB', which is no suffix of byte. Did you mean kB or KiB\?"):
        parse_budget("8KB", metric="size", unit="byte")


def test_wrong_suffix_lists_the_known_ones():
    with pytest.raises(
        ConfigError, match=r"ends in 'xyz', which is no suffix of bop. Give a number in bop, .*k, M, G, T"
    ):
        parse_budget("8xyz", metric="bops", unit="bop")


def test_percentage_is_refused_when_the_reference_is_unknown():
    with pytest.raises(ConfigError, match="is a percentage of the float32 network, whose latency is not known"):
        parse_budget("25%", metric="latency", unit="ns")


def test_percentage_of_nothing_is_refused_when_the_network_has_no_such_cost():
    with pytest.raises(ConfigError, match=r"budget bops: '10%' .* which has no bops: 0 bop, .*Leave bops out"):
        parse_budget("10%", metric="bops", unit="bop", reference=0)


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [
        (0, "byte", "0 byte"),
        (999, "byte", "999 byte"),
        (1_500_000, "byte", "1,500,000 byte (1.5 MB)"),
        (2500, "fJ", "2,500 fJ (2.5 pJ)"),
        (10**7, "bop", "10,000,000 bop (10 M)"),
    ],
)
def test_amount_is_written_exactly_and_shortly(amount, unit, text):
    assert format_amount(amount, unit) == text
