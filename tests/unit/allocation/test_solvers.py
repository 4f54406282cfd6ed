"""The solvers on instances with a story: known answers, ties, traps of floating point, limits of a method."""

import math
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from dyadiq.allocation import (
    Constraint,
    Pair,
    Problem,
    solve,
    solve_brute_force,
    solve_knapsack,
    solve_milp,
)
from dyadiq.allocation import merge as merge_module
from dyadiq.allocation import milp as milp_module
from dyadiq.allocation.knapsack import supported_choices
from dyadiq.allocation.local import cheapest_choice, improve
from dyadiq.allocation.merge import merge_pairs
from dyadiq.core.errors import ConfigError, InfeasibleError, QuantError

BITS = (2, 4, 8)


def _layers(seed, n_layers, smallest=100, largest=10_000, share=0.5):
    """A network of heavy-tailed layer sizes; the limit is ``share`` of the way from the least to the most bits."""
    rng = random.Random(seed)
    sizes = [int(smallest * (largest / smallest) ** rng.random()) for _ in range(n_layers)]
    unary = tuple(tuple(n * b for b in BITS) for n in sizes)
    loss = tuple(tuple(10 * rng.random() * 4.0**-b for b in BITS) for _ in sizes)
    limit = int(sum(2 * n + share * 6 * n for n in sizes))
    names = tuple(f"layer{i}" for i in range(n_layers))
    return Problem(names, (BITS,) * n_layers, loss, (Constraint("size", unary, limit),))


def _with_limit(problem, limit):
    return replace(problem, constraints=(replace(problem.constraints[0], limit=limit),))


def _just_out_of_reach(problem):
    """The same problem with one unit less than its best plan uses."""
    used = problem.constraints[0].total(solve_knapsack(problem).choice)
    return _with_limit(problem, used - 1)


def _float_milp(problem, unit):
    """The usual formulation, costs as floats in a large unit: what HAWQ's notebook and others do."""
    (constraint,) = problem.constraints
    n, k = len(problem.names), len(BITS)
    one_hot = np.kron(np.eye(n), np.ones(k))
    result = milp(
        np.ravel(problem.loss),
        integrality=np.ones(n * k),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_hot, 1, 1),
            LinearConstraint(np.ravel(constraint.unary)[None] / unit, -np.inf, constraint.limit / unit),
        ],
        options={"mip_rel_gap": 0},
    )
    return tuple(int(o) for o in result.x.reshape(n, k).argmax(axis=1))


@pytest.mark.parametrize("share", [0.03, 0.2, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("seed", range(3))
def test_knapsack_equals_milp_when_brute_force_is_out_of_reach(seed, share):
    problem = _layers(seed, n_layers=40, share=share)
    assert solve_knapsack(problem).objective == pytest.approx(solve_milp(problem).objective, rel=1e-12)


def test_budget_in_megabytes_is_overrun_by_a_float_solver_and_not_by_ours():
    trapped = 0
    for seed in range(20):
        problem = _just_out_of_reach(_layers(seed, n_layers=8))
        (constraint,) = problem.constraints
        naive = _float_milp(problem, unit=8e6)
        overrun = constraint.total(naive) - constraint.limit
        if overrun > 0 and overrun / 8e6 < 1e-6:
            trapped += 1
            exact = solve_brute_force(problem)
            assert problem.objective(naive) < exact.objective
            for found in (solve_knapsack(problem), solve_milp(problem)):
                assert problem.is_feasible(found.choice)
                assert found.objective == pytest.approx(exact.objective, rel=1e-12)
    assert trapped > 0


def test_milp_cuts_off_answers_that_break_a_budget_when_costs_are_astronomical():
    problem = _just_out_of_reach(_layers(1, n_layers=6, smallest=10**12, largest=10**14))
    found = solve_milp(problem)
    assert "broke a budget inside the solver's tolerance and were cut off" in found.method
    assert problem.is_feasible(found.choice)
    assert found.objective == pytest.approx(solve_brute_force(problem).objective, rel=1e-12)


def test_milp_says_so_when_it_gives_up_cutting(monkeypatch):
    monkeypatch.setattr(milp_module, "_MAX_CUTS", 1)
    problem = _just_out_of_reach(_layers(1, n_layers=6, smallest=10**12, largest=10**14))
    found = solve_milp(problem)
    assert "stopped after 1 answers broke a budget" in found.method
    assert problem.is_feasible(found.choice)
    assert found.lower_bound <= solve_brute_force(problem).objective


@pytest.mark.parametrize("status", [1, 4])
def test_milp_raises_when_the_solver_neither_finds_nor_refutes_a_plan(monkeypatch, status):
    stopped = SimpleNamespace(x=None, status=status, mip_dual_bound=None)
    monkeypatch.setattr(milp_module, "milp", lambda **_: stopped)
    with pytest.raises(InfeasibleError, match=r"HiGHS found no plan for the budgets on size within 120 s .* Loosen"):
        solve_milp(_with_limit(_layers(0, n_layers=3), 0))


def test_milp_keeps_the_gap_open_when_time_runs_out(monkeypatch):
    stopped = SimpleNamespace(x=None, status=1, mip_dual_bound=None)
    monkeypatch.setattr(milp_module, "milp", lambda **_: stopped)
    problem = _layers(0, n_layers=3)
    found = solve_milp(problem)
    assert "stopped at the time limit of 120 s" in found.method
    assert problem.is_feasible(found.choice)
    assert found.lower_bound < found.objective


def test_milp_needs_no_cut_when_the_costs_are_ordinary():
    # Both pairs are of the same decisions, so their costs add up in one variable; 8 and 8 bits cost 64 + 32.
    square = tuple(tuple(i * j for j in BITS) for i in BITS)
    half = tuple(tuple(v // 2 for v in row) for row in square[::-1])[::-1]
    constraint = Constraint("bops", ((0,) * 3,) * 2, 95, (Pair(0, 1, square), Pair(0, 1, half)))
    problem = Problem(("w", "x"), (BITS, BITS), ((4.0, 2.0, 0.0), (4.5, 1.5, 0.0)), (constraint,))
    found = solve_milp(problem)
    assert found.choice == solve_brute_force(problem).choice == (2, 1)
    assert "cut" not in found.method


def test_losses_of_any_size_are_told_apart():
    # HiGHS stops within 1e-6 of the optimum, absolutely: raw losses of 1e-9 would all look equal.
    problem = _layers(5, n_layers=8)
    tiny = replace(problem, loss=tuple(tuple(1e-9 * v for v in row) for row in problem.loss))
    best = solve_brute_force(tiny).objective
    assert solve_milp(tiny).objective == pytest.approx(best, rel=1e-12, abs=0)
    assert solve_knapsack(tiny).objective == pytest.approx(best, rel=1e-12, abs=0)


def test_knapsack_takes_every_least_loss_when_the_budget_is_no_hindrance():
    problem = _with_limit(_layers(0, n_layers=5), 10**9)
    found = solve_knapsack(problem)
    assert found.choice == (2,) * 5
    assert found.method == "every decision at its least loss"


def test_limit_is_inclusive():
    problem = Problem(("a",), ((4, 8),), ((1.0, 0.0),), (Constraint("size", ((3, 5),), 5),))
    assert solve_knapsack(problem).choice == solve_milp(problem).choice == (1,)
    short = _with_limit(problem, 4)
    assert solve_knapsack(short).choice == solve_milp(short).choice == (0,)
    for none in (solve_knapsack, solve_milp, solve_brute_force):
        assert none(_with_limit(problem, 2)) is None


def test_fewer_bits_win_when_losses_are_equal():
    unary = ((10, 20, 30), (10, 20, 30))
    problem = Problem(("a", "b"), (BITS, BITS), ((1.0, 1.0, 1.0), (2.0, 1.0, 1.0)), (Constraint("size", unary, 100),))
    assert solve_knapsack(problem).choice == solve_brute_force(problem).choice == (0, 1)


def test_more_bits_are_not_taken_when_they_hurt():
    problem = Problem(("a",), (BITS,), ((0.5, 0.1, 0.3),), (Constraint("size", ((1, 2, 3),), 100),))
    assert solve_knapsack(problem).choice == (1,)


def test_identical_layers_are_solved_when_every_order_looks_the_same():
    n = 60
    unary, loss = ((2, 4, 8),) * n, ((0.7, 0.2, 0.1),) * n
    problem = Problem(tuple(map(str, range(n))), (BITS,) * n, loss, (Constraint("size", unary, 5 * n),))
    found = solve_knapsack(problem)
    # 45 layers at 4 bits and 15 at 8: 45 * 4 + 15 * 8 = 300.
    assert found.objective == pytest.approx(45 * 0.2 + 15 * 0.1, rel=1e-12)


def test_supported_choices_are_the_corners_of_the_hull():
    unary = ((0, 10, 20), (0, 10, 30), (0, 8, 16))
    # The middle option of b lies above its hull, and the first steps of a and c are one edge.
    loss = ((1.0, 0.375, 0.25), (0.5, 0.4375, 0.0), (0.5, 0.0, 0.0))
    problem = Problem(("a", "b", "c"), (BITS,) * 3, loss, (Constraint("size", unary, 0),))
    points = [(problem.constraints[0].total(c), problem.objective(c)) for c in supported_choices(problem)]
    assert points == [(0, 2.0), (18, 0.875), (48, 0.375), (58, 0.25)]


def test_knapsack_refuses_several_budgets_and_pairs():
    problem = _layers(0, n_layers=2)
    pair = Pair(0, 1, ((0,) * 3,) * 3)
    for constraints in (problem.constraints * 2, (replace(problem.constraints[0], pairs=(pair,)),)):
        with pytest.raises(ConfigError, match="solve_knapsack takes one budget without pair costs"):
            solve_knapsack(replace(problem, constraints=constraints))


def test_knapsack_refuses_totals_that_do_not_fit_its_integers():
    unary = ((0, 2**62 + 1), (0, 2**61))
    problem = Problem(("a", "b"), ((4, 8),) * 2, ((1.0, 0.0),) * 2, (Constraint("size", unary, 2**62),))
    with pytest.raises(ConfigError, match=r"cost 'size': totals exceed 2\^62; use a coarser unit"):
        solve_knapsack(problem)


def test_brute_force_refuses_what_it_cannot_finish():
    with pytest.raises(ConfigError, match="brute force over 1,594,323 choices is out of reach"):
        solve_brute_force(_layers(0, n_layers=13))


def test_pairs_are_left_to_the_milp_when_a_group_is_too_large_to_merge(monkeypatch):
    monkeypatch.setattr(merge_module, "_MAX_GROUP_OPTIONS", 8)
    problem = _layers(0, n_layers=3, share=1.0)
    square = tuple(tuple(i * j for j in BITS) for i in BITS)
    pairs = (Pair(0, 1, square), Pair(1, 2, square))
    problem = replace(problem, constraints=(replace(problem.constraints[0], pairs=pairs),))
    assert merge_pairs(problem) is None
    found = solve(problem)
    assert found.method.startswith("HiGHS")
    assert found.objective == pytest.approx(solve_brute_force(problem).objective, rel=1e-12)


def test_single_option_joins_no_group_when_it_shares_a_cost():
    pair = Pair(0, 1, ((5, 7),))
    twin = Pair(2, 0, ((1,), (2,)))
    constraint = Constraint("bops", ((3,), (0, 0), (0, 10)), 100, (pair, twin), fixed=1)
    problem = Problem(("x", "w", "v"), ((8,), (2, 4), (2, 4)), ((0.0,), (1.0, 0.0), (1.0, 0.0)), (constraint,))
    merged = merge_pairs(problem)
    assert merged.groups == ((0,), (1,), (2,))
    assert merged.problem.constraints[0].unary == ((3,), (5, 7), (1, 12))


def test_improve_stops_where_no_single_change_helps():
    problem = _layers(7, n_layers=30)
    start = cheapest_choice(problem)
    end = improve(problem, start)
    assert start == (0,) * 30
    assert problem.is_feasible(end)
    assert problem.objective(end) < problem.objective(start)
    assert improve(problem, end) == end


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_problem_refuses_losses_that_cannot_be_compared(value):
    with pytest.raises(QuantError, match=r"b: the expected loss at 8 bits is .*, which cannot be compared"):
        Problem(("a", "b"), ((4, 8),) * 2, ((1.0, 0.0), (1.0, value)), ())


def test_problem_refuses_rows_that_do_not_match_the_options():
    with pytest.raises(ConfigError, match=r"cost size has rows of \[2, 1\], expected \[2, 2\]"):
        Problem(("a", "b"), ((4, 8),) * 2, ((1.0, 0.0),) * 2, (Constraint("size", ((1, 2), (1,)), 3),))
