"""The public face: every name resolves, stays what it is, and costs nothing before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dyadiq


@pytest.mark.parametrize("name", dyadiq.__all__)
def test_every_public_name_resolves(name):
    assert getattr(dyadiq, name).__module__.startswith("dyadiq.")


def test_functions_stay_functions_when_submodules_are_imported():
    modules = "dyadiq.allocation.allocate, dyadiq.ir.capture, dyadiq.quant.lower, dyadiq.curvature.analyze"
    code = f"import {modules}, dyadiq as d; assert all(callable(getattr(d, n)) for n in d.__all__)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_imports_no_torch():
    code = "import sys, dyadiq; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'alocate'"):
        _ = dyadiq.alocate
