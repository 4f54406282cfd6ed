"""Native and portable knapsack against exact fractions, against each other, and where labels run out."""

import math
import random
from dataclasses import replace
from fractions import Fraction
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from dyadiq.allocation import Constraint, Problem, solve_brute_force, solve_milp
from dyadiq.allocation import knapsack as knapsack_module
from dyadiq.allocation.knapsack import Knapsack
from dyadiq.core import native as native_parts
from dyadiq.core.native import native_module, native_state

needs_native = pytest.mark.skipif(native_module() is None, reason=f"native code: {native_state().found}")
BOTH = [pytest.param(True, marks=needs_native, id="native"), pytest.param(False, id="numpy")]


def instance(seed, n_decisions=None):
    """Losses of one kind per seed: plain, on a coarse grid (ties), of any sign and size, heavy-tailed, tiny."""
    rng = random.Random(seed)
    n = n_decisions or rng.randint(1, 6)
    draw = (
        rng.random,
        lambda: rng.randint(0, 4) / 4,
        lambda: rng.uniform(-1, 1) * 10.0 ** rng.randint(-9, 9),
        lambda: math.exp(rng.gauss(0, 6)),
        lambda: rng.randint(0, 3) * 2.0**-1000,
    )[seed % 5]
    most = rng.choice([3, 20, 10**4, 10**15])
    widths = [rng.randint(1, 4) for _ in range(n)]
    cost = tuple(tuple(rng.randint(0, most) for _ in range(k)) for k in widths)
    loss = tuple(tuple(draw() for _ in range(k)) for k in widths)
    low, high = sum(map(min, cost)), sum(map(max, cost))
    limit = low - 1 + rng.randint(0, max(1, high - low))
    return Problem(
        tuple(map(str, range(n))),
        tuple(tuple(range(k)) for k in widths),
        loss,
        (Constraint("cost", cost, limit + 7, (), 7),),
    )


def exact_optimum(problem):
    """The least (loss, cost) in fractions: no rounding anywhere."""
    (constraint,) = problem.constraints
    return min(
        (
            (sum(Fraction(row[o]) for row, o in zip(problem.loss, choice, strict=True)), constraint.total(choice))
            for choice in product(*(range(len(row)) for row in problem.loss))
            if problem.is_feasible(choice)
        ),
        default=None,
    )


@pytest.mark.parametrize("native", BOTH)
def test_answer_is_the_exact_optimum_of_hundreds_of_instances(native):
    feasible = 0
    for seed in range(250):
        problem = instance(seed)
        found, truth = Knapsack(problem, native=native).solve(), exact_optimum(problem)
        assert (found is None) == (truth is None), seed
        if found is not None:
            feasible += 1
            loss = sum(Fraction(row[o]) for row, o in zip(problem.loss, found.choice, strict=True))
            # Losses are counted in 2^-58 of what the relaxation leaves: more exact than any float sum of them.
            assert abs(loss - truth[0]) <= Fraction(2) ** -54 * sum(Fraction(max(map(abs, r))) for r in problem.loss)
            assert loss > truth[0] or problem.constraints[0].total(found.choice) == truth[1], seed
            assert found.lower_bound == found.objective == problem.objective(found.choice)
    assert feasible > 180


@needs_native
@pytest.mark.parametrize("n_decisions", [1, 7, 15, 33])
def test_native_and_numpy_give_the_same_plans(n_decisions):
    for seed in range(20):
        problem = instance(seed, n_decisions)
        fast, slow = Knapsack(problem, native=True), Knapsack(problem, native=False)
        (constraint,) = problem.constraints
        for limit in (constraint.limit, constraint.limit * 2 // 3):
            a, b = fast.solve(limit), slow.solve(limit)
            assert (a is None) == (b is None)
            assert a is None or a.choice == b.choice
            assert fast.price(limit) == slow.price(limit)
        assert fast.corners() == slow.corners()
        assert fast.corners(3) == slow.corners(3)


@pytest.mark.parametrize("native", BOTH)
def test_corners_are_thinned_evenly_with_both_ends(native):
    knapsack = Knapsack(instance(0, 33), native=native)
    every, few = knapsack.corners(), knapsack.corners(5)
    assert len(every) > 5
    assert few == [every[i * (len(every) - 1) // 4] for i in range(5)]
    assert knapsack.corners(len(every)) == every


@pytest.mark.parametrize("native", BOTH)
@pytest.mark.parametrize("seed", range(4))
def test_bound_stays_open_and_true_when_labels_run_out(monkeypatch, native, seed):
    # Losses almost proportional to costs: bounds say little, and many labels are needed.
    rng = np.random.default_rng(seed)
    cost = rng.integers(10**8, 10**9, size=(8, 3)).cumsum(axis=1)
    loss = (cost.max(axis=1, keepdims=True) - cost) * (1 + 1e-3 * rng.random((8, 3)))
    problem = Problem(
        tuple(map(str, range(8))),
        ((0, 1, 2),) * 8,
        tuple(map(tuple, loss.tolist())),
        (Constraint("cost", tuple(map(tuple, cost.tolist())), int(cost[:, 1].sum())),),
    )
    best = solve_brute_force(problem).objective
    monkeypatch.setattr(knapsack_module, "_MAX_LABELS", 3)
    monkeypatch.setattr(knapsack_module, "_FEW_LABELS", 3)
    monkeypatch.setattr(knapsack_module, "_BRANCHINGS", 0)
    found = Knapsack(problem, native=native).solve()
    assert "the proof needs more than 3 labels at once" in found.method
    assert problem.is_feasible(found.choice)
    assert found.lower_bound < found.objective
    assert found.lower_bound <= best * (1 + 1e-12)
    assert best <= found.objective * (1 + 1e-12)


@pytest.mark.parametrize("native", BOTH)
@pytest.mark.parametrize("few", [1, 3])
def test_branching_changes_no_answer(monkeypatch, native, few):
    wanted = [Knapsack(instance(seed, 20), native=native).solve() for seed in range(120)]
    monkeypatch.setattr(knapsack_module, "_FEW_LABELS", few)
    branched = 0
    for seed, truth in enumerate(wanted):
        found = Knapsack(instance(seed, 20), native=native).solve()
        assert (found is None) == (truth is None)
        if found is not None:
            branched += "branches" in found.method
            assert found.objective == pytest.approx(truth.objective, rel=1e-15)
            assert found.lower_bound == found.objective
    assert branched > 0


@pytest.mark.parametrize("native", BOTH)
@pytest.mark.parametrize("seed", range(12))
def test_one_decision_that_outweighs_the_others_is_branched_on(monkeypatch, native, seed):
    rng = np.random.default_rng(seed)
    cost = rng.integers(1, 1000, size=(7, 3)).cumsum(axis=1)
    cost[0] *= 100
    loss = np.sort(rng.random((7, 3)), axis=1)[:, ::-1] * cost[:, -1:]
    problem = Problem(
        tuple(map(str, range(7))),
        ((0, 1, 2),) * 7,
        tuple(map(tuple, loss.tolist())),
        (Constraint("cost", tuple(map(tuple, cost.tolist())), int(cost[:, 1].sum() + rng.integers(0, 3000))),),
    )
    monkeypatch.setattr(knapsack_module, "_FEW_LABELS", 1)
    found, best = Knapsack(problem, native=native).solve(), solve_brute_force(problem)
    assert found.objective == pytest.approx(best.objective, rel=1e-15)
    assert found.lower_bound == found.objective


def _with_a_giant(seed, n_decisions=40):
    """Heavy-tailed layers, one of them a third of all cost: at its cliffs the relaxation is far from any plan."""
    rng = np.random.default_rng(seed)
    weights = np.exp(rng.normal(11, 1.6, n_decisions)).astype(np.int64) + 100
    weights[seed % n_decisions] = weights.sum() // 2
    bits = np.array([2, 3, 4, 8])
    loss = np.exp(rng.normal(-5, 1.5, n_decisions))[:, None] * weights[:, None] ** 0.9 * 4.0 ** -bits[None]
    cost = weights[:, None] * bits
    return Problem(
        tuple(map(str, range(n_decisions))),
        (tuple(bits.tolist()),) * n_decisions,
        tuple(map(tuple, loss.tolist())),
        (Constraint("cost", tuple(map(tuple, cost.tolist())), 0),),
    )


@pytest.mark.parametrize("native", BOTH)
def test_options_of_a_dominating_decision_are_solved_one_by_one_to_the_optimum(monkeypatch, native):
    monkeypatch.setattr(knapsack_module, "_FEW_LABELS", 20)
    branched = 0
    for seed in range(4):
        problem = _with_a_giant(seed)
        (constraint,) = problem.constraints
        low, high = sum(map(min, constraint.unary)), sum(map(max, constraint.unary))
        knapsack = Knapsack(problem, native=native)
        for share in (3, 5, 6):
            limit = low + (high - low) * share // 16
            found = knapsack.solve(limit)
            with_limit = replace(problem, constraints=(replace(constraint, limit=limit),))
            assert with_limit.is_feasible(found.choice)
            assert found.lower_bound == found.objective == pytest.approx(solve_milp(with_limit).objective, rel=1e-9)
            branched += "branches" in found.method
    assert branched > 3


@needs_native
def test_native_and_numpy_branch_alike(monkeypatch):
    monkeypatch.setattr(knapsack_module, "_FEW_LABELS", 10)
    for seed in range(3):
        problem = _with_a_giant(seed, 33)
        low, high = (sum(map(f, problem.constraints[0].unary)) for f in (min, max))
        fast, slow = Knapsack(problem, native=True), Knapsack(problem, native=False)
        for share in range(1, 16, 2):
            limit = low + (high - low) * share // 16
            a, b = fast.solve(limit), slow.solve(limit)
            assert a.choice == b.choice
            assert a.method.partition(":")[2] == b.method.partition(":")[2]


@pytest.mark.parametrize("native", BOTH)
def test_bound_of_a_part_is_never_above_its_best_choice(native):
    for seed in range(60):
        problem = instance(seed, 5)
        (constraint,) = problem.constraints
        knapsack = Knapsack(problem, native=native)
        core, capacity = knapsack._core, knapsack._capacity(None)
        if capacity < 0:
            continue
        least = [min(row) for row in problem.loss]
        for position in range(core.solve(capacity, 1, False, [], math.inf).positions):
            fixed = [(core.solve(capacity, 1, False, [], math.inf).widest, position)]
            found = core.solve(capacity, 10**6, False, fixed, math.inf)
            bound = core.bound(capacity, fixed)
            assert found.feasible == (bound < math.inf)
            if found.feasible:
                loss = sum(
                    Fraction(row[o]) - Fraction(low)
                    for row, o, low in zip(problem.loss, found.choice, least, strict=True)
                )
                assert bound <= float(loss) * (1 + 1e-12), (seed, constraint.limit)


@pytest.mark.parametrize("native", BOTH)
def test_price_is_the_saving_of_the_step_that_does_not_fit(native):
    problem = Problem(("a", "b"), ((4, 8),) * 2, ((0.5, 0.0), (0.25, 0.0)), (Constraint("c", ((20, 40), (8, 16)), 0),))
    knapsack = Knapsack(problem, native=native)
    assert [knapsack.price(limit) for limit in (27, 28, 36, 55, 56)] == [0.0, 0.25 / 8, 0.5 / 20, 0.5 / 20, 0.0]


def test_module_of_other_sources_counts_as_missing(monkeypatch):
    native_state.cache_clear()
    monkeypatch.setattr(native_parts.importlib, "import_module", lambda _: SimpleNamespace(INTERFACE=0))
    try:
        assert native_state().module is None
        assert native_state().found == f"built from other sources (interface 0, expected {native_parts.INTERFACE})"
    finally:
        native_state.cache_clear()


def test_allocation_works_when_native_code_is_not_built(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    native_state.cache_clear()
    monkeypatch.setattr(native_parts.importlib, "import_module", missing)
    try:
        assert native_state().found == "not built"
        assert "knapsack (numpy)" in Knapsack(instance(3, 15)).solve().method
    finally:
        native_state.cache_clear()
