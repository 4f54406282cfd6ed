"""Dependencies point down: checked on the package, and shown to catch planted violations."""

import importlib.util
import re
from pathlib import Path

import pytest

import dyadiq

_spec = importlib.util.spec_from_file_location("layers", Path(__file__).with_name("layers.py"))
layers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(layers)

PACKAGE = Path(dyadiq.__file__).parent


def test_package_keeps_its_layers():
    assert layers.violations(PACKAGE) == []


def test_table_is_that_of_the_architecture():
    text = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^L(\d)  ([\w >]+?)(?:   .*)?$", text, re.M)
    written = {module: int(level) for level, names in rows for module in re.findall(r"\w+", names)}
    assert {"" if module == "__init__" else module: level for module, level in written.items()} == layers.LAYERS


def plant(root, module, text):
    path = root.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("module", "text", "message"),
    [
        ("core.bad", "from dyadiq.ir.graph import Graph\n", "L0 must not import L1"),
        ("ir.bad", "import dyadiq.quant.module\n", "L1 must not import L2"),
        ("ir.bad", "from dyadiq.cost import size\n", "within L1, ir must not import cost"),
        ("cost.bad", "from dyadiq import curvature\n", "within L1, cost must not import curvature"),
        ("quant.bad", "from dyadiq import allocation, cli\n", "L2 must not import L5"),
        ("quant.bad", "def f():\n    from dyadiq.train import loop\n", "L2 must not import L3"),
        ("report.bad", "from ..cli import app\n", "L4 must not import L5"),
        ("report.bad", "from dyadiq.tooling import x\n", "no layer is given for 'tooling'"),
        ("allocation.bad", "import torch\n", "imports torch"),
        ("cost.bad", "from torch.nn import Module\n", "imports torch"),
        ("ir.passes.bad", "import torch.fx\n", "imports torch"),
        ("utils.bad", "\n", "no layer is given for 'utils'"),
    ],
)
def test_checker_reports_when_a_violation_is_planted(tmp_path, module, text, message):
    plant(tmp_path, module, text)
    found = layers.violations(tmp_path)
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("ir.capture", "import torch\nfrom dyadiq.core import errors\n"),
        ("ir.execute", "import torch\n"),
        ("curvature.gram", "import torch\nfrom dyadiq.cost.facts import network_facts\nfrom ..ir import graph\n"),
        ("cli.app", "from dyadiq.recipe import load_recipe\nimport dyadiq\n"),
        ("allocation.ok", "import numpy\nfrom dyadiq.core.plan import BitPlan\n"),
    ],
)
def test_checker_is_silent_when_imports_point_down(tmp_path, module, text):
    plant(tmp_path, module, text)
    assert layers.violations(tmp_path) == []
