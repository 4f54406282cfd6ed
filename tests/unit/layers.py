"""The layer rule as a program: which module may import which, and who may import torch.

Used by `test_layers`. Reads source text only (AST), so that a violation inside a function counts as well.
Source of the table: ARCHITECTURE.md, section "Layers".
"""

import ast
from pathlib import Path

# Layer of each top-level module of the package; a module may import from its own layer and from those below.
LAYERS = {
    "core": 0,
    "ir": 1,
    "cost": 1,
    "curvature": 1,
    "zero_shot": 1,
    "rounding": 1,
    "quant": 2,
    "allocation": 2,
    "fpga": 2,
    "engine": 2,
    "train": 3,
    "targets": 3,
    "zoo": 3,
    "report": 4,
    "recipe": 4,
    "recipe_sections": 4,
    "pipeline": 4,
    "files": 4,
    "": 4,  # dyadiq/__init__.py
    "cli": 5,
}
# Within one layer: the only imports allowed between different modules where the order matters.
L1_ORDER = ("curvature", "zero_shot", "rounding", "cost", "ir")  # left may import right
TORCH_FREE = ("core", "cost", "allocation", "ir", "rounding", "engine")
TORCH_EXCEPTIONS = ("ir.capture", "ir.execute")


def violations(root: Path, package: str = "dyadiq") -> list[str]:
    """Return one line per forbidden import under ``root`` (the folder of the package)."""
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        module = ".".join(parts)
        own = parts[0] if parts else ""
        if own not in LAYERS:
            found.append(f"{module}: no layer is given for {own!r}; add it to ARCHITECTURE.md and tests/unit/layers.py")
            continue
        for line, name in _imports(path, package, parts, is_package=path.name == "__init__.py"):
            if name.split(".")[0] in ("torch", "torchvision"):
                excepted = any(module == e or module.startswith((e + ".", e + "_")) for e in TORCH_EXCEPTIONS)
                if own in TORCH_FREE and not excepted:
                    found.append(f"{module}:{line}: imports torch, which {own} must not know")
            elif name == package or name.startswith(package + "."):
                target = name.split(".")[1] if "." in name else ""
                problem = _forbidden(own, target)
                if problem:
                    found.append(f"{module}:{line}: imports {name}: {problem}")
    return found


def _forbidden(own: str, target: str) -> str:
    if target not in LAYERS:
        return f"no layer is given for {target!r}"
    if LAYERS[target] > LAYERS[own]:
        return f"L{LAYERS[own]} must not import L{LAYERS[target]}"
    if own in L1_ORDER and target in L1_ORDER and L1_ORDER.index(target) < L1_ORDER.index(own):
        return f"within L1, {own} must not import {target}"
    return ""


def _imports(path: Path, package: str, parts: list[str], *, is_package: bool) -> list[tuple[int, str]]:
    """Return (line, absolute name) of every import statement; ``from dyadiq import x`` counts as ``dyadiq.x``."""
    found = []
    here = parts if is_package else parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = here[: len(here) - (node.level - 1)]
                base = ".".join([package, *above, *([base] if base else [])])
            if base == package:
                found += [(node.lineno, f"{package}.{a.name}" if a.name in LAYERS else package) for a in node.names]
            else:
                found.append((node.lineno, base))
    return found
