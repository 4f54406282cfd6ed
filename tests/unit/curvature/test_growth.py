"""Stopping by the regret of the decision: what is measured, what stops it, and what the table says."""

import re
from pathlib import Path

import numpy as np
import pytest

from dyadiq.allocation import RegretRule, allocate
from dyadiq.core.errors import ConfigError, InfeasibleError
from dyadiq.curvature import analyze
from dyadiq.curvature.growth import GROWING_METHODS
from graphs import mlp, residual, samples

BITS = (2, 4, 8)


class Content:
    """A rule that is content with so many samples, and remembers what it was shown."""

    limit = 0.5

    def __init__(self, n):
        self.n, self.seen = n, []

    def __call__(self, table):
        self.seen.append(table)
        return 0.25 if table.n_samples >= self.n else 0.75


def data(graph, n, method):
    x = samples(graph, n)
    return [(x, np.arange(n) % 3)] if method == "fisher" else [x]


@pytest.mark.parametrize("method", sorted(GROWING_METHODS))
def test_samples_are_added_until_the_rule_is_content(method):
    graph = residual()
    rule = Content(200)
    table = analyze(graph, data(graph, 600, method), method, bits=(3,), stop=rule)
    assert [seen.n_samples for seen in rule.seen] == [128, 256]
    assert table.entries == rule.seen[-1].entries
    assert table.notes[-1] == (
        "256 of 600 samples taken: the plan is within 25 % of the best plan in 95 % of bootstraps (50 % asked for)"
    )


@pytest.mark.parametrize("method", sorted(GROWING_METHODS))
def test_all_samples_give_the_numbers_of_one_measurement(method):
    graph = residual()
    batches = data(graph, 300, method)
    grown = analyze(graph, batches, method, bits=(3,), stop=Content(1000))
    whole = analyze(graph, batches, method, bits=(3,))
    assert grown.n_samples == 300
    assert "NOT the 50 % asked for: give more" in grown.notes[-1]
    for name, row in whole.entries.items():
        for bits, entry in row.items():
            assert grown.value(name, bits) == pytest.approx(entry.value, rel=1e-9, abs=1e-18)


def test_nothing_is_measured_twice(tmp_path):
    graph, rule = residual(), Content(500)
    analyze(graph, data(graph, 600, "gram"), "gram", bits=(3,), stop=rule, folder=tmp_path)
    assert [seen.n_samples for seen in rule.seen] == [128, 256, 512]
    assert len(list(Path(tmp_path).glob("forward_passes_*"))) == 512 // 64


def test_samples_are_taken_in_an_order_of_the_seed():
    graph = mlp()
    x = np.sort(samples(graph, 600), axis=0)
    found = [analyze(graph, [x], bits=(3,), stop=Content(1), seed=seed) for seed in (0, 0, 1)]
    assert found[0].entries == found[1].entries != found[2].entries
    first = analyze(graph, [x[:128]], bits=(3,)).value("fc0.weight", 3)
    whole = analyze(graph, [x], bits=(3,)).value("fc0.weight", 3)
    assert abs(found[0].value("fc0.weight", 3) - whole) < abs(first - whole)


@pytest.mark.parametrize("method", sorted(GROWING_METHODS))
def test_samples_of_the_table_have_its_entries_as_means(method):
    graph = residual()
    table = analyze(graph, data(graph, 70, method), method, bits=BITS)
    for (name, bits), row in zip(table.samples.index, table.samples.losses, strict=True):
        assert row.mean() == pytest.approx(table.value(name, bits), rel=1e-9, abs=1e-18)
    replicas = table.samples.replicas(400, seed=0)
    spread = {key: row.std() for key, row in zip(table.samples.index, replicas, strict=True)}
    stderr = table.entries["fc.weight"][2].stderr
    assert spread["fc.weight", 2] == pytest.approx(stderr, rel=0.15)


def test_regret_falls_with_samples_and_stops_at_the_limit():
    graph = residual()
    x = samples(graph, 2000)
    budget = {"bits": 4}
    rule = RegretRule(budget, BITS, BITS, limit=0.02, n_replicas=100)
    table = analyze(graph, [x], bits=BITS, stop=rule)
    assert rule(table) <= 0.02
    assert table.n_samples < 2000
    assert rule(analyze(graph, [x[:16]], bits=BITS)) > rule(table)
    plan = allocate(table, budget, bits=BITS, activation_bits=BITS, n_replicas=100)
    assert plan.stability.regret_p95_frac == rule(table)  # The number reached is the one that the report shows.
    told = float(re.search(r"within ([\d.e-]+) %", table.notes[-1])[1])
    assert told == pytest.approx(100 * rule(table), rel=0.06)


def test_replicas_are_correlated_as_samples_are():
    graph = mlp()
    table = analyze(graph, [samples(graph, 64)], bits=BITS)
    replicas = table.samples.replicas(2000, seed=3)
    np.testing.assert_array_equal(replicas, table.samples.replicas(2000, seed=3))
    moving = table.samples.losses.std(axis=1) > 0.0
    np.testing.assert_allclose(np.corrcoef(replicas[moving]), np.corrcoef(table.samples.losses[moving]), atol=0.15)


def test_rule_is_refused_where_it_means_nothing():
    graph = mlp()
    x = samples(graph, 10)
    with pytest.raises(ConfigError, match=r"method 'eigenvalue' cannot stop by .* can: fisher, gram, kl, trace\."):
        analyze(graph, [x], "eigenvalue", stop=Content(1))
    with pytest.raises(ConfigError, match=r"the limit is a share of the loss in \(0, 1\), got 1"):
        RegretRule({"bits": 4}, BITS, limit=1)
    with pytest.raises(ConfigError, match=r"a 95th percentile needs at least 20 replicas, got 3"):
        RegretRule({"bits": 4}, BITS, n_replicas=3)
    with pytest.raises(InfeasibleError, match="no plan meets the budget of the regret rule"):
        analyze(graph, [x], bits=BITS, stop=RegretRule({"bits": 1.0}, BITS, BITS))
