"""GPTQ against column-by-column surgery, descent against brute force: odd shapes, groups, every kind of format."""

import numpy as np
import pytest

from dyadiq.core.affine import AffineParams, fit_affine, quantize
from dyadiq.core.format import Format
from dyadiq.rounding.descent import descend, fitted_factor
from dyadiq.rounding.gptq import gptq_codes, row_errors
from dyadiq.rounding.grid import Grid
from oracles import best_codes, gptq_row

FORMATS = {
    "channel": Format(3, signed=True, narrow=True, granularity="channel"),
    "tensor": Format(4, signed=True),
    "asymmetric": Format(3, "asymmetric", granularity="channel"),
    "group": Format(3, signed=True, granularity="group", group_size=1),
    "pow2": Format(2, signed=True, narrow=True, granularity="channel", scale="pow2"),
}


def correlated(rng, n_groups, k):
    rows = rng.normal(size=(n_groups, 3 * k, k)) @ rng.normal(size=(n_groups, k, k))
    return np.swapaxes(rows, 1, 2) @ rows / (3 * k) + 0.01 * np.eye(k)


@pytest.mark.parametrize("k", [1, 7, 15, 17, 33])
@pytest.mark.parametrize("fmt", FORMATS)
def test_blocked_codes_equal_those_of_surgery_column_by_column(k, fmt):
    rng = np.random.default_rng(k)
    n_groups, n_rows = 2, 3
    weight, hessian = rng.normal(size=(n_groups * n_rows, k)), correlated(rng, n_groups, k)
    params = fit_affine(weight, FORMATS[fmt])
    grid = Grid.of(params, n_groups * n_rows, k, n_groups)
    codes = gptq_codes(weight.reshape(n_groups, n_rows, k), hessian, grid, block=8).reshape(-1, k)
    steps = np.broadcast_to(params.steps(weight.shape), weight.shape)
    zero = np.broadcast_to(params.zero_points(weight.shape), (len(weight), 1))
    for o, row in enumerate(weight):
        low, high = params.qtype.qmin - zero[o, 0], params.qtype.qmax - zero[o, 0]
        assert np.array_equal(codes[o], gptq_row(row, hessian[o // n_rows], steps[o], low, high))


def test_codes_do_not_depend_on_the_block_and_are_nearest_where_inputs_are_independent():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, 33))
    params = fit_affine(weight, FORMATS["channel"])
    grid, hessian = Grid.of(params, 5, 33, 1), correlated(rng, 1, 33)
    assert np.array_equal(gptq_codes(weight[None], hessian, grid), gptq_codes(weight[None], hessian, grid, block=1))
    diagonal = np.diag(rng.uniform(0.1, 9, size=33))[None]
    assert np.array_equal(gptq_codes(weight[None], diagonal, grid)[0], quantize(weight, params))


def test_bipolar_codes_are_signs():
    weight = np.array([[0.3, -0.2, 0.0]])
    params = fit_affine(weight, Format(1, signed=True, granularity="channel"))
    codes = gptq_codes(weight[None], np.eye(3)[None], Grid.of(params, 1, 3, 1))
    assert codes.tolist() == [[[1.0, -1.0, 1.0]]]


@pytest.mark.parametrize("seed", range(5))
def test_descent_ends_where_no_single_code_is_better_and_near_the_optimum(seed):
    rng = np.random.default_rng(seed)
    weight, hessian = rng.normal(size=(4, 5)), correlated(rng, 1, 5)
    params = AffineParams(np.full(4, 0.6), np.zeros(4, dtype=np.int64), FORMATS["channel"].qtype(nonnegative=False),
                          None, FORMATS["channel"])  # fmt: skip
    grid = Grid.of(params, 4, 5, 1)
    start = gptq_codes(weight[None], hessian, grid)
    codes = descend(start, weight[None], hessian, grid, sweeps=20)
    errors = row_errors(codes * grid.step - weight, hessian)[0]
    assert (errors <= row_errors(start * grid.step - weight, hessian)[0] + 1e-12).all()
    for o in range(4):
        least, _ = best_codes(weight[o], hessian[0], 0.6, -3, 3)
        assert least - 1e-12 <= errors[o]
        for k in range(5):
            for code in range(-3, 4):
                trial = codes[0, o].copy()
                trial[k] = code
                difference = trial * 0.6 - weight[o]
                assert difference @ hessian[0] @ difference >= errors[o] - 1e-12


def test_fitted_step_is_the_best_of_a_fine_search():
    rng = np.random.default_rng(1)
    weight, hessian = rng.normal(size=(1, 1, 9)), correlated(rng, 1, 9)
    grid = Grid(np.full((1, 1, 1), 0.5), np.full((1, 1, 1), -7.0), np.full((1, 1, 1), 7.0), bipolar=False)
    codes = grid.codes(weight)
    factor = fitted_factor(codes, weight, hessian, grid)[0, 0]
    trials = np.linspace(0.5, 1.5, 2001)
    best = trials[np.argmin([row_errors(codes * 0.5 * t - weight, hessian)[0, 0] for t in trials])]
    assert abs(factor - best) <= 0.0005
    assert fitted_factor(np.zeros((1, 1, 9)), weight, hessian, grid) == 1.0
