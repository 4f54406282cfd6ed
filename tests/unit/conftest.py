"""What tests of benchmark scripts share: a script as a module, without a run."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(request, monkeypatch):
    """The benchmark script that a test module names as SCRIPT, or a test as its parameter."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(getattr(request, "param", None) or request.module.SCRIPT)
