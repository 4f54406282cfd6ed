"""Our solvers beside PuLP with CBC, scipy's milp and highspy, on the same integer programs, one thread.

Instances are random networks with heavy-tailed layer sizes, as in real ones: costs in bits (and bit operations, and
nanoseconds), losses falling about fourfold per bit. Peers get the usual formulation, one binary per layer and width, in
the same integers, gap 0, at most 20 s. Every answer is checked in exact integers; a peer's answer that breaks its
budget or misses the optimum is counted, not timed away.

Times are the least of the rounds, solvers taking turns within a round: wall time, and processor time (with that of
child processes: CBC is one), which a busy machine disturbs less. OR-Tools is left out: it clashes with highspy.

    pip install pulp highspy       # in an environment of their own
    python benchmarks/allocation_vs_solvers.py [--quick] [--write]

With --write the result goes to results/allocation_vs_solvers.json. Seeds 0, 1, 2.
"""

import argparse
import json
import resource
import statistics
import time
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from environment import environment
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, kron, vstack
from scipy.sparse import eye as identity

from dyadiq.allocation import Constraint, Knapsack, Problem, solve, solve_milp
from dyadiq.allocation.pareto import pareto_front
from dyadiq.core.native import native_state
from dyadiq.core.storage import atomic_write_text

RESULTS = Path(__file__).parent / "results" / "allocation_vs_solvers.json"
WIDTHS = {3: (2, 4, 8), 4: (2, 3, 4, 8), 7: (2, 3, 4, 5, 6, 7, 8)}
LIMIT_S = 20.0
POINTS = 100
MOST_LAYERS_OF_THREE = 54  # with three budgets our own solver is HiGHS too
_REPEATS = 10  # of what takes under a millisecond
EQUAL = 1e-9  # relative; solvers in floating point stop within about this of the optimum


def random_network(n_layers, n_widths, seed, n_budgets=1, share=0.45):
    """Return a problem; its limits are ``share`` of the way from the cheapest plan to the dearest."""
    rng = np.random.default_rng([n_layers, n_widths, seed])
    bits = np.array(WIDTHS[n_widths])
    weights = np.exp(rng.normal(11, 1.6, n_layers)).astype(np.int64) + 100
    macs = weights * rng.choice([49, 196, 784, 3136], n_layers)
    loss = np.exp(rng.normal(-5, 1.5, n_layers))[:, None] * weights[:, None] ** 0.9 * 4.0 ** -bits[None]
    loss = -np.sort(-loss * np.exp(rng.normal(0, 0.15, loss.shape)), axis=1)
    speed = np.interp(bits, [2, 4, 8], [0.55, 0.65, 1.0]) * np.exp(rng.normal(0, 0.1, (n_layers, 1)))
    costs = {
        "size": weights[:, None] * bits,
        "bops": macs[:, None] * bits * 8,
        "latency": (macs[:, None] * speed / 1e3).astype(np.int64) + 2000,
    }
    constraints = []
    for name, cost in list(costs.items())[:n_budgets]:
        low, high = int(cost.min(1).sum()), int(cost.max(1).sum())
        constraints.append(Constraint(name, _rows(cost), low + int(share * (high - low))))
    return Problem(
        tuple(f"layer{i}" for i in range(n_layers)), (tuple(bits.tolist()),) * n_layers, _rows(loss), tuple(constraints)
    )


def _rows(table):
    return tuple(map(tuple, table.tolist()))


def by_pulp(problem):
    import pulp

    model = pulp.LpProblem("bits", pulp.LpMinimize)
    x = [[pulp.LpVariable(f"x{d}_{o}", cat="Binary") for o in range(len(row))] for d, row in enumerate(problem.loss)]
    model += pulp.lpSum(v * x[d][o] for d, row in enumerate(problem.loss) for o, v in enumerate(row))
    for row in x:
        model += pulp.lpSum(row) == 1
    for c in problem.constraints:
        model += pulp.lpSum(v * x[d][o] for d, row in enumerate(c.unary) for o, v in enumerate(row)) <= c.limit
    model.solve(pulp.PULP_CBC_CMD(msg=False, timeLimit=LIMIT_S, threads=1, gapRel=0))
    return tuple(max(range(len(row)), key=lambda o: row[o].value() or 0.0) for row in x)


def _matrices(problem):
    n, k = len(problem.loss), len(problem.loss[0])
    one_hot = kron(identity(n), np.ones((1, k)), format="csr")
    budget = csr_array(np.array([np.ravel(c.unary) for c in problem.constraints], dtype=np.float64))
    return np.ravel(problem.loss), one_hot, budget, np.array([float(c.limit) for c in problem.constraints])


def by_scipy(problem):
    loss, one_hot, budget, limit = _matrices(problem)
    result = milp(
        loss,
        constraints=[LinearConstraint(one_hot, 1, 1), LinearConstraint(budget, -np.inf, limit)],
        integrality=np.ones(loss.size),
        bounds=Bounds(0, 1),
        options={"time_limit": LIMIT_S, "mip_rel_gap": 0},
    )
    return _choice(result.x, problem)


def by_highspy(problem):
    import highspy

    loss, one_hot, budget, limit = _matrices(problem)
    n, n_layers = loss.size, one_hot.shape[0]
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = n, n_layers + len(limit)
    model.col_cost_, model.col_lower_, model.col_upper_ = loss, np.zeros(n), np.ones(n)
    model.row_lower_ = np.concatenate([np.ones(n_layers), np.full(len(limit), -highspy.kHighsInf)])
    model.row_upper_ = np.concatenate([np.ones(n_layers), limit])
    columns = vstack([one_hot, budget]).tocsc()
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_, model.a_matrix_.index_ = columns.indptr, columns.indices
    model.a_matrix_.value_ = columns.data
    model.integrality_ = [highspy.HighsVarType.kInteger] * n
    solver = highspy.Highs()
    for option, value in {"output_flag": False, "threads": 1, "time_limit": LIMIT_S, "mip_rel_gap": 0.0}.items():
        solver.setOptionValue(option, value)
    solver.passModel(model)
    solver.run()
    return _choice(np.array(solver.getSolution().col_value), problem)


def _choice(x, problem):
    return None if x is None or not len(x) else tuple(int(o) for o in np.reshape(x, (len(problem.loss), -1)).argmax(1))


def by_us(problem):
    return solve(problem).choice


def by_us_in_numpy(problem):
    return Knapsack(problem, native=False).solve().choice


PEERS = {"pulp": by_pulp, "scipy": by_scipy, "highspy": by_highspy}


def clock():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


def timed(call):
    """Return the result, wall milliseconds and processor milliseconds."""
    wall, cpu = clock()
    result = call()
    wall_end, cpu_end = clock()
    return result, 1e3 * (wall_end - wall), 1e3 * (cpu_end - cpu)


def one_optimum(n_layers, n_widths, n_budgets, seeds, rounds, solvers):
    """Return a row: per solver the least times (median over seeds), broken budgets, and missed optima."""
    cells = {name: {"ms": [], "cpu_ms": [], "broke_budget": 0, "missed_optimum": 0} for name in solvers}
    for seed in seeds:
        problem = random_network(n_layers, n_widths, seed, n_budgets)
        best = problem.objective(by_us(problem))
        took = {name: [] for name in solvers}
        for _ in range(rounds):
            for name, call in solvers.items():
                for _ in range(_REPEATS if name == "ours" and n_budgets == 1 else 1):
                    choice, *times = timed(partial(call, problem))
                    took[name].append((times, choice))
        for name, runs in took.items():
            cells[name]["ms"].append(min(times[0] for times, _ in runs))
            cells[name]["cpu_ms"].append(min(times[1] for times, _ in runs))
            choice = runs[-1][1]
            feasible = choice is not None and problem.is_feasible(choice)
            cells[name]["broke_budget"] += choice is not None and not feasible
            # An answer without a plan, or a worse one, at its time limit or within its tolerance.
            missed = choice is None or (feasible and problem.objective(choice) > best * (1 + EQUAL))
            cells[name]["missed_optimum"] += missed
            if feasible:
                assert problem.objective(choice) >= best * (1 - EQUAL), (name, seed)
    row = {"layers": n_layers, "widths": n_widths, "budgets": n_budgets, "seeds": len(seeds)}
    for name, cell in cells.items():
        row[name] = {
            "ms": round(statistics.median(cell["ms"]), 3),
            "ms_per_seed": [round(v, 3) for v in cell["ms"]],
            "cpu_ms": round(statistics.median(cell["cpu_ms"]), 3),
            "broke_budget": cell["broke_budget"],
            "missed_optimum": cell["missed_optimum"],
        }
    return row


def front(n_layers, n_widths, seeds, rounds):
    """Return a row: the front of 100 points by native code and by numpy; proven, mutually non-dominated."""
    row = {
        "layers": n_layers,
        "widths": n_widths,
        "asked": POINTS,
        "ms": [],
        "cpu_ms": [],
        "numpy_ms": [],
        "points": [],
    }
    for seed in seeds:
        problem = random_network(n_layers, n_widths, seed)
        runs = [timed(partial(pareto_front, problem, "size", POINTS)) for _ in range(rounds)]
        points = runs[0][0]
        assert max(p.gap for p in points) == 0.0
        assert all(a.cost < b.cost and a.objective > b.objective for a, b in pairwise(points))
        row["points"].append(len(points))
        row["ms"].append(round(min(r[1] for r in runs), 2))
        row["cpu_ms"].append(round(min(r[2] for r in runs), 2))
        if n_layers <= 54:
            low, high = points[0].cost, points[-1].cost
            slow = Knapsack(problem, native=False)
            limits = [low + (high - low) * i // (POINTS - 1) for i in range(POINTS)]
            _, wall, _ = timed(lambda slow=slow, limits=limits: [slow.solve(limit) for limit in limits])
            row["numpy_ms"].append(round(wall, 1))
    return row


def agreement(n_instances, seed=0):
    """Return how our knapsack and HiGHS agree on small random instances; objectives are compared as exact fractions.

    HiGHS stops within a tolerance of the optimum, so its objective may be above ours; ``theirs_lower`` counts what
    would refute our proofs.
    """
    rng = np.random.default_rng(seed)
    row = {"instances": n_instances, "feasible": 0, "equal": 0, "both_infeasible": 0, "ours_lower": 0}
    row |= {"theirs_lower": 0, "infeasible_for_one": 0, "worst_relative_difference": 0.0}
    for i in range(n_instances):
        n_layers, n_widths = int(rng.integers(2, 61)), int(rng.choice(list(WIDTHS)))
        problem = random_network(n_layers, n_widths, i, share=float(rng.uniform(-0.05, 1.02)))
        ours, theirs = Knapsack(problem).solve(), solve_milp(problem)
        if ours is None or theirs is None:
            row["both_infeasible" if ours is theirs else "infeasible_for_one"] += 1
            continue
        row["feasible"] += 1
        assert problem.is_feasible(ours.choice)
        assert problem.is_feasible(theirs.choice)
        assert ours.lower_bound == ours.objective
        mine, other = (_exact_loss(problem, found.choice) for found in (ours, theirs))
        row["equal" if mine == other else "ours_lower" if mine < other else "theirs_lower"] += 1
        row["worst_relative_difference"] = max(row["worst_relative_difference"], float(abs(other - mine) / abs(mine)))
    return row


def _exact_loss(problem, choice):
    return sum(Fraction(row[o]) for row, o in zip(problem.loss, choice, strict=True))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small sizes, one seed, for tests")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    sizes = (20,) if arguments.quick else (20, 54, 200, 1000)
    seeds, rounds = ((0,), 1) if arguments.quick else ((0, 1, 2), 3)
    peers = {}
    for name, call in PEERS.items():
        try:
            call(random_network(3, 3, 0))
            peers[name] = call
        except ImportError:
            print(f"{name}: not installed, left out")
    result = {"native": native_state().module is not None, "front": [], "one": [], "agreement": None}

    def keep(row, complete=False):
        """Show a row; what is done so far is written, so that a run that is cut off is not lost."""
        print(json.dumps(row), flush=True)
        if arguments.write:
            document = {"environment": environment(), "peers": _versions(peers), "complete": False, **result}
            document["complete"] = complete
            atomic_write_text(RESULTS, json.dumps(document, indent=1) + "\n")

    result["agreement"] = agreement(50 if arguments.quick else 5000)
    keep(result["agreement"])
    for n_layers in sizes:
        for n_widths in WIDTHS:
            result["front"].append(front(n_layers, n_widths, seeds, rounds))
            keep(result["front"][-1])
    for n_layers in sizes:
        for n_widths in WIDTHS:
            for n_budgets in (1, 3) if n_layers <= MOST_LAYERS_OF_THREE else (1,):
                solvers = {"ours": by_us, **({"ours_numpy": by_us_in_numpy} if n_budgets == 1 else {}), **peers}
                few = 1 if n_layers > 54 else rounds
                result["one"].append(one_optimum(n_layers, n_widths, n_budgets, seeds, few, solvers))
                keep(result["one"][-1])
    keep({}, complete=True)


def _versions(peers):
    from importlib.metadata import version

    return {name: version(name) for name in peers}


if __name__ == "__main__":
    main()
