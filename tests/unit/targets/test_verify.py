"""verify: every integer counted, the first difference named, nothing hidden."""

import re
from types import MappingProxyType

import numpy as np
import pytest

from dyadiq.core.errors import ConfigError, DataError, ExportError, UnknownNameError, VerificationError
from dyadiq.targets import TARGETS
from dyadiq.targets.exact import ExactTarget
from dyadiq.targets.reference import ReferenceTarget
from dyadiq.targets.verify import verify
from programs import PROGRAMS, mlp, raw_inputs


class OffByOne(ReferenceTarget):
    """Adds 3 to one code of the sixth sample of a whole set."""

    name = "wrong"

    def emulate(self, path, inputs):
        codes = {k: v.copy() for k, v in super().emulate(path, inputs).items()}
        for values in codes.values():
            hit = inputs["x0"][:, 0] == 99.0
            values[hit, 1] += 3
        return codes


class Reshaped(ReferenceTarget):
    name = "reshaped"

    def emulate(self, path, inputs):
        return {k: v[:, :1] for k, v in super().emulate(path, inputs).items()}


class Unproven(OffByOne):
    name = "unproven"

    def unproven(self, program):
        problems = super().unproven(program)
        problems.add(program.graph.nodes[1], "too wide for float32")
        return problems


@pytest.fixture
def registry(monkeypatch):
    more = {t.name: t for t in (OffByOne(), Reshaped(), Unproven())}
    monkeypatch.setattr("dyadiq.targets.TARGETS", MappingProxyType(TARGETS | more))


@pytest.fixture
def program():
    return mlp(np.random.default_rng(0), dyadic=False)


@pytest.fixture
def inputs(program):
    feeds = raw_inputs(program, np.random.default_rng(0))
    feeds["x0"][5, 0] = 99.0
    return feeds


class Recorder:
    def __init__(self):
        self.events = []

    def start(self, label, total):
        self.events.append((label, total))

    def advance(self, steps=1, note=""):
        self.events.append(steps)

    def finish(self):
        self.events.append("finish")


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_exact_executor_agrees(name):
    rng = np.random.default_rng(3)
    program = PROGRAMS[name](rng)
    feeds = raw_inputs(program, rng)
    results = verify(program, feeds, ["reference", "exact", "onnx", "dyq"], chunk=10)
    n_codes = sum(int(np.prod(program.graph.tensors[o].shape)) for o in program.graph.outputs)
    for result in results.values():
        assert (result.compared, result.samples, result.mismatches, result.first) == (33 * n_codes, 33, 0, None)


def test_difference_is_named_with_counts(registry, program, inputs):
    message = r"wrong: 1 of 165 integers differ over 33 samples, by at most 3; first at sample 5, output .* at \(1,\)"
    with pytest.raises(VerificationError, match=message):
        verify(program, inputs, ["onnx", "wrong"], chunk=4)


def test_difference_is_reported_when_asked_not_to_raise(registry, program, inputs):
    results = verify(program, inputs, ["wrong", "onnx"], chunk=4, raise_on_mismatch=False)
    assert list(results) == ["wrong", "onnx"]
    wrong = results["wrong"]
    assert (wrong.mismatches, wrong.max_abs_diff, wrong.first.sample, wrong.first.index) == (1, 3, 5, (1,))
    assert wrong.first.got == wrong.first.expected + 3
    assert wrong.to_json()["first"].startswith("sample 5, output")
    assert results["onnx"].to_json() == {
        "executor": "onnx", "compared": 165, "samples": 33, "mismatches": 0, "max_abs_diff": 0, "first": None,
        "exact": True, "proven": True, "kind": "must be equal", "refusal": "", "note": "",
        "missing": "",
    }  # fmt: skip


def test_missing_codes_are_a_fault_not_a_pass(registry, program, inputs):
    with pytest.raises(VerificationError, match=r"reshaped: output .* must have shape \(33, 5\), got \(33, 1\)"):
        verify(program, inputs, ["reshaped"])


def test_bare_array_is_taken_when_there_is_one_input(program, inputs):
    assert verify(program, inputs["x0"], ["reference"])["reference"].mismatches == 0


def test_artifacts_stay_in_the_work_folder(program, inputs, tmp_path):
    verify(program, inputs, ["onnx", "qonnx"], workdir=tmp_path)
    assert sorted(f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*.onnx")) == [
        "onnx/model.onnx",
        "qonnx/model.qonnx.onnx",
    ]


def test_progress_counts_samples(program, inputs):
    recorder = Recorder()
    verify(program, inputs, ["reference"], chunk=20, progress=recorder)
    assert recorder.events == [("verify", 33), 20, 13, "finish"]


def test_bad_requests_are_refused(program, inputs):
    with pytest.raises(UnknownNameError, match="unknown target 'fpga'"):
        verify(program, inputs, ["fpga"])
    with pytest.raises(DataError, match="NaN or infinite"):
        verify(program, {"x0": np.full((2, 16), np.nan)}, ["onnx"])


def test_exact_executor_refuses_sums_beyond_float64(monkeypatch, program):
    monkeypatch.setattr("dyadiq.targets.exact._FLOAT64_BITS", 12)
    with pytest.raises(
        ExportError, match=r"target 'exact' cannot express 3 nodes.*\n  linear1 .* may reach \d+, beyond"
    ):
        ExactTarget().check(program)


def test_unproven_executor_is_refused_even_when_all_integers_are_equal(registry, program, inputs):
    with pytest.raises(ExportError, match=r"too wide for float32\nLower with product_bits=24"):
        verify(program, inputs, "unproven")
    inputs["x0"][5, 0] = 0.0
    result = verify(program, inputs, "unproven", raise_on_mismatch=False)["unproven"]
    assert (result.mismatches, result.exact, result.proven) == (0, True, False)
    assert result.kind == "must be equal; not proven for this program"
    assert result.refusal == (
        "unproven is not proven for this program, though all 165 integers compared are equal: other inputs might "
        "differ. Set quant.product_bits = 24, use power-of-two scales or fewer bits, or do not compare with it."
    )


def test_refusal_names_the_difference_and_what_to_do(registry, program, inputs):
    results = verify(program, inputs, ["wrong", "unproven", "qdq", "onnx"], raise_on_mismatch=False)
    start = r"wrong differs from the reference in 1 of 165 integers; first at sample 5, output .* at \(1,\): got .*\. "
    assert re.fullmatch(start + "The program's meaning .* fault of the executor.", results["wrong"].refusal)
    assert re.search(r"^unproven differs from .*\. Set quant.product_bits = 24", results["unproven"].refusal)
    assert (results["qdq"].refusal, results["onnx"].refusal) == ("", "")
    assert results["qdq"].kind == "not exact by nature; reported"


def test_one_name_is_taken_for_a_list_of_one(program, inputs):
    assert list(verify(program, inputs, "onnx")) == ["onnx"]


def test_empty_comparison_is_refused(program, inputs):
    with pytest.raises(ConfigError, match=r"nothing to compare: `against` is empty\. Name at least one target"):
        verify(program, inputs, [])
