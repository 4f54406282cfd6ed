"""Cross terms: search and bound against enumeration, and the guard."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from dyadiq.allocation import Constraint, Problem, allocate
from dyadiq.allocation.quadratic import Quadratic, cross_terms, guard, solve_quadratic
from dyadiq.core.errors import ConfigError
from dyadiq.core.tables import Interactions
from plain_networks import chain_table, jet_facts

BITS = (2, 4, 8)


def gram_instance(seed, n_decisions=5, n_samples=12, share=0.5):
    """Perturbations of a few samples: a Gram matrix whose diagonal is twice the additive losses."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(50, 500, n_decisions)
    scale = 4.0 ** -np.array(BITS, dtype=float)
    u = (rng.normal(size=(n_decisions, 3, n_samples)) * scale[None, :, None]).reshape(-1, n_samples)
    gram = u @ u.T
    loss = (0.5 * np.diag(gram)).reshape(n_decisions, 3)
    cost = sizes[:, None] * np.array(BITS)
    limit = int((cost.min(1) + share * (cost.max(1) - cost.min(1))).sum())
    names = tuple(f"w{i}" for i in range(n_decisions))
    problem = Problem(
        names,
        (BITS,) * n_decisions,
        tuple(map(tuple, loss.tolist())),
        (Constraint("size", tuple(map(tuple, cost.tolist())), limit),),
    )
    return problem, Interactions(tuple((n, b) for n in names for b in BITS), gram)


def optimum(quadratic):
    choices = product(*(range(len(row)) for row in quadratic.problem.loss))
    return min((quadratic.objective(c), c) for c in choices if quadratic.problem.is_feasible(c))


@pytest.mark.parametrize("shrinkage", [0.3, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_search_finds_the_optimum_of_small_instances_and_the_bound_holds(seed, shrinkage):
    problem, interactions = gram_instance(seed)
    quadratic = cross_terms(problem, interactions, shrinkage)
    truth, _ = optimum(quadratic)
    found = solve_quadratic(quadratic, seed=seed)
    assert problem.is_feasible(found.choice)
    assert found.objective == quadratic.objective(found.choice)
    assert found.objective == pytest.approx(truth, rel=1e-9)
    assert found.lower_bound <= truth * (1 + 1e-12)
    assert found.lower_bound >= (0.9 if shrinkage < 1 else 0.1) * truth


def test_full_gram_is_half_the_norm_of_the_summed_perturbation():
    problem, interactions = gram_instance(0)
    quadratic = cross_terms(problem, interactions, 1.0)
    choice = (0, 1, 2, 1, 0)
    taken = quadratic.index(choice)
    assert quadratic.objective(choice) == pytest.approx(0.5 * interactions.matrix[np.ix_(taken, taken)].sum())


def test_bound_holds_when_the_matrix_is_not_convex():
    for seed in range(10):
        problem, _ = gram_instance(seed, n_decisions=4)
        rng = np.random.default_rng(seed)
        cross = rng.normal(size=(12, 12)) * 0.01
        cross += cross.T
        for d in range(4):
            cross[3 * d : 3 * d + 3, 3 * d : 3 * d + 3] = 0.0
        quadratic = Quadratic(problem, cross)
        found, (truth, _) = solve_quadratic(quadratic), optimum(quadratic)
        assert found.lower_bound <= truth + 1e-12 <= found.objective + 2e-12


def test_without_cross_terms_the_plan_is_the_additive_one_and_proven():
    problem, interactions = gram_instance(3)
    found = solve_quadratic(cross_terms(problem, interactions, 0.0))
    assert found.objective == pytest.approx(optimum(cross_terms(problem, interactions, 0.0))[0], rel=1e-12)
    assert found.objective - found.lower_bound <= 1e-8 * max(map(max, problem.loss))


def test_same_seed_gives_the_same_plan():
    problem, interactions = gram_instance(1, n_decisions=12)
    quadratic = cross_terms(problem, interactions, 1.0)
    assert solve_quadratic(quadratic, seed=5) == solve_quadratic(quadratic, seed=5)


def test_infeasible_problem_has_no_plan():
    problem, interactions = gram_instance(0, share=-0.5)
    assert solve_quadratic(cross_terms(problem, interactions, 1.0)) is None


def test_guard_takes_the_plan_with_cross_terms_only_when_it_measures_better():
    problem, _ = gram_instance(0)
    a, q = (0,) * 5, (1,) + (0,) * 4
    calls = []

    def measure(bits):
        calls.append(bits)
        return float(bits["w0"])

    assert guard(problem, a, q, measure).choice == a
    assert calls == [problem.bits(a), problem.bits(q)]
    better = guard(problem, a, q, lambda bits: -float(bits["w0"]))
    assert better.choice == q
    assert better.accepted
    assert guard(problem, a, q, lambda _: 1.0).choice == a  # a tie is no reason


def test_interactions_are_refused_when_they_make_no_sense():
    problem, interactions = gram_instance(0)
    with pytest.raises(ConfigError, match=r"interactions: the shrinkage must be in \[0, 1\], got 1.5"):
        cross_terms(problem, interactions, 1.5)
    with pytest.raises(ConfigError, match=r"interactions: a matrix of \[2, 2\] for 15 entries"):
        cross_terms(problem, Interactions(interactions.index, np.eye(2)), 0.5)


def _table_with_cross_terms():
    table = chain_table(jet_facts(), bits=BITS)
    weights = [n for n in table.entries if n.endswith("weight")]
    index = tuple((n, b) for n in weights for b in BITS)
    size = np.sqrt([2 * table.entries[n][b].value for n, b in index])
    # The first two layers undo each other, which the additive plan cannot see.
    sign = np.array([-1.0 if n == weights[0] else 1.0 for n, _ in index])
    return replace(table, interactions=Interactions(index, np.outer(size * sign, size * sign)))


@pytest.mark.parametrize("accept", [True, False])
def test_allocate_uses_cross_terms_only_behind_a_measurement(accept):
    table = _table_with_cross_terms()
    options = {"bits": BITS, "front_points": 0}
    plain = allocate(table, {"bits": 3}, **options)

    def measure(bits):
        return float(bits == plain.bits) if accept else float(bits != plain.bits)

    plan = allocate(table, {"bits": 3}, shrinkage=0.9, measure=measure, **options)
    assert (plan.bits != plain.bits) == accept
    assert ("accepted: measured 0 with cross terms, 1 without" in plan.certificate.method) == accept
    assert ("cross terms refused: measured 1 with cross terms, 0 without" in plan.certificate.method) != accept
    assert plan.budgets[0].used <= plan.budgets[0].limit
    assert plan.certificate.lower_bound <= plan.certificate.objective


def test_cross_terms_are_refused_without_a_measurement_or_a_matrix():
    table = _table_with_cross_terms()
    with pytest.raises(ConfigError, match=r"interactions: shrinkage and measure go together, got shrinkage=0.5 and no"):
        allocate(table, {"bits": 4}, bits=BITS, shrinkage=0.5)
    with pytest.raises(ConfigError, match=r"interactions: shrinkage and measure go together, got shrinkage=0.0"):
        allocate(table, {"bits": 4}, bits=BITS, measure=lambda bits: 0.0)
    with pytest.raises(
        ConfigError, match=r"the sensitivity table \(.*\) has no cross terms. Analyze with method 'gram'"
    ):
        allocate(chain_table(jet_facts()), {"bits": 4}, bits=BITS, shrinkage=0.5, measure=lambda bits: 0.0)
