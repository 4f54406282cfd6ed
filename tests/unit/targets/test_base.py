"""Targets: the registry, and the pieces they share."""

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError, DataError, ExportError, MissingDependencyError, UnknownNameError
from dyadiq.ir.graph import Node
from dyadiq.targets import TARGETS, get_target
from dyadiq.targets.base import Problems, checked_feeds, require, save_bytes


def test_registry_holds_every_target_under_its_own_name():
    assert list(TARGETS) == [
        *("reference", "exact", "onnx", "qonnx", "qdq", "dyq", "engine", "c", "hls4ml", "verilog", "verilog_stream")
    ]
    assert all(target.name == name for name, target in TARGETS.items())
    assert [name for name, target in TARGETS.items() if not target.exact] == ["qdq"]


def test_unknown_target_is_answered_with_near_names():
    with pytest.raises(UnknownNameError, match="unknown target 'qonx'; did you mean 'qonnx'"):
        get_target("qonx")


def test_problems_are_listed_together_with_source_and_advice():
    problems = Problems("onnx")
    assert not problems
    problems.raise_if_any()
    problems.add(Node("a", "linear", (), "a", source="net.py:3"), "too wide")
    problems.add(Node("b", "conv2d", (), "b"), "too long")
    assert problems
    with pytest.raises(
        ExportError, match=r"cannot express 2 nodes.*\n  a \(linear\) at net.py:3: too wide\n  b .*\nAsk"
    ):
        problems.raise_if_any("Ask for less.")


def test_missing_package_names_the_extra():
    with pytest.raises(MissingDependencyError, match=r"'no_such_package' is not installed. Run: .*dyadiq\[onnx\]"):
        require("no_such_package.inner")


@pytest.mark.parametrize("name", TARGETS)
def test_path_may_be_a_folder_or_the_file_itself(name, tmp_path):
    target = TARGETS[name]
    assert target.file(tmp_path) == tmp_path / target.filename
    assert target.file(tmp_path / target.filename) == tmp_path / target.filename


@pytest.mark.parametrize("name", TARGETS)
def test_emulate_refuses_when_nothing_was_written(name, tmp_path):
    with pytest.raises(ArtifactError, match=f"target '{name}': there is no file .*Write the program first"):
        TARGETS[name].emulate(tmp_path, {"x": np.zeros((1, 1))})


def test_input_codes_are_for_on_grid_targets_only(tmp_path):
    with pytest.raises(NotImplementedError, match="target 'onnx' takes raw data"):
        TARGETS["onnx"].input_codes(tmp_path, {})


def test_save_bytes_makes_the_folder(tmp_path):
    assert save_bytes(tmp_path / "a" / "b.bin", b"12").read_bytes() == b"12"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"y": np.zeros((2, 3))}, r"has inputs \['x'\], got \['y'\]"),
        ({"x": np.zeros((2, 4))}, r"input 'x': expected shape \[N, 3\], got \(2, 4\)"),
        ({"x": np.zeros(())}, r"expected shape \[N, 3\], got \(\)"),
        ({"x": np.zeros((0, 3))}, "at least one; got"),
    ],
)
def test_feeds_are_refused_when_names_or_shapes_differ(inputs, message):
    with pytest.raises(DataError, match=message):
        checked_feeds({"x": (3,)}, inputs)
