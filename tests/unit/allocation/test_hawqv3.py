"""The published HAWQ-V3 instances: proven optima as in the golden table, and the one published answer that is none."""

import importlib.util
import sys
from pathlib import Path

import pytest

from dyadiq.allocation import Knapsack, solve_brute_force
from dyadiq.core.data_folder import data_folder

DATA = data_folder() / "hawqv3_ilp.json"
pytestmark = pytest.mark.skipif(not DATA.is_file(), reason="hawqv3_ilp.json is not there (set DYADIQ_DATA)")

# limit, cost and loss of the optimum as solved independently, rounded as printed; seventeen are the published answers.
GOLDEN = {
    "resnet18_modelsize_0.75": (9.311, 9.234, 0.0334),
    "resnet18_modelsize_0.5": (7.980, 7.266, 0.0745),
    "resnet18_modelsize_0.25": (6.650, 6.641, 0.1183),
    "resnet18_bops_0.75": (86.102, 84.296, 0.0800),
    "resnet18_bops_0.5": (66.232, 65.028, 0.2157),
    "resnet18_bops_0.25": (46.363, 45.761, 0.4604),
    "resnet18_latency_0.75": (4.795, 4.706, 0.0800),
    "resnet18_latency_0.5": (4.246, 4.220, 0.2027),
    "resnet18_latency_0.25": (3.697, 3.615, 0.4604),
    "resnet50_modelsize_0.75": (20.515, 19.907, 0.01222),
    "resnet50_modelsize_0.5": (17.584, 17.547, 0.03102),
    "resnet50_modelsize_0.25": (14.653, 14.598, 0.07495),
    "resnet50_bops_0.75": (189.816, 187.859, 0.02411),
    "resnet50_bops_0.5": (146.012, 145.711, 0.05644),
    "resnet50_bops_0.25": (102.209, 101.155, 0.14895),
    "resnet50_latency_0.75": (10.814, 10.799, 0.02266),
    "resnet50_latency_0.5": (9.763, 9.759, 0.05486),
    "resnet50_latency_0.25": (8.711, 8.709, 0.13751),
}
SUBOPTIMAL = "resnet50_modelsize_0.25"


@pytest.fixture(scope="module")
def instances():
    folder = Path(__file__).parents[3] / "benchmarks"
    spec = importlib.util.spec_from_file_location("hawqv3_instances", folder / "hawqv3_instances.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))  # for its sibling `environment`
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


@pytest.mark.parametrize("name", GOLDEN)
def test_optimum_is_proven_and_as_solved_independently(instances, name):
    row = instances.solve_instance(instances.load_instances(), name, check=False)
    limit, cost, omega = GOLDEN[name]
    digits = 4 if name.startswith("resnet18") else 5
    assert row["gap"] == 0.0
    assert row["limit"] == pytest.approx(limit, abs=6e-4)
    assert row["cost"] == pytest.approx(cost, abs=6e-4)
    assert round(row["omega"], digits) == omega
    assert row["published_feasible"]
    assert row["published_optimal"] == (name != SUBOPTIMAL)


def test_one_published_answer_is_a_tenth_worse_than_the_optimum(instances):
    row = instances.solve_instance(instances.load_instances(), SUBOPTIMAL, check=False)
    assert row["layers_that_differ"] == 1
    assert round(row["published_omega"], 5) == 0.08311
    assert row["published_cost"] == pytest.approx(14.467, abs=6e-4)
    assert 1 - row["omega"] / row["published_omega"] == pytest.approx(0.098, abs=1e-3)


@pytest.mark.parametrize("name", ["resnet18_modelsize_0.5", "resnet18_bops_0.25"])
def test_brute_force_over_all_plans_agrees(instances, name):
    problem, _, _ = instances.build_instance(instances.load_instances(), name)
    assert problem.n_candidates == 2**16
    truth = solve_brute_force(problem)
    for native in (None, False):
        assert Knapsack(problem, native=native).solve().choice == truth.choice
