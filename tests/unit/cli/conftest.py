"""A tiny run that the command line tests share, and the snapshot comparison."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from dyadiq.cli.app import app
from tiny_run import write_tiny_recipe

GOLDEN = Path(__file__).parents[2] / "golden" / "cli"


@dataclass
class Result:
    args: list
    exit_code: int
    stdout: str
    stderr: str

    def document(self, schema):
        """The one JSON document on stdout."""
        found = json.loads(self.stdout)
        assert found["schema"] == schema
        return found


@pytest.fixture(scope="session")
def cli():
    """Call the command line in this process; a pytest traceback shows what it raised on purpose or not."""

    def call(*args):
        args = [str(a) for a in args]
        outcome = CliRunner().invoke(app, args, env={"COLUMNS": "100"}, prog_name="dyadiq")
        return Result(args, outcome.exit_code, outcome.stdout, outcome.stderr)

    return call


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, cli):
    """A finished tiny run: (recipe, run folder, result of the command)."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = write_tiny_recipe(folder)
    result = cli("run", recipe, "--set", f"out={folder / 'run'}")
    assert result.exit_code == 0, result.stderr
    return recipe, folder / "run", result


@pytest.fixture
def snapshot(request):
    """Compare args, exit code, stdout and stderr with a golden file; UPDATE_GOLDEN=1 rewrites it."""

    def compare(result, *, numbers=True, paths=()):
        text = _text(result, numbers=numbers, paths=paths)
        name = re.sub(r"[^a-z]+", "_", request.node.name.removeprefix("test_")).strip("_")
        file = GOLDEN / f"{name}.txt"
        if os.environ.get("UPDATE_GOLDEN"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        assert file.is_file(), f"no snapshot {file.name}; run with UPDATE_GOLDEN=1 and look at it"
        assert text == file.read_text()

    return compare


def _text(result, *, numbers, paths):
    text = f"-- stdout\n{result.stdout}-- stderr\n{result.stderr}"
    if not numbers:  # values of trained networks differ between machines
        text = re.sub(r" +\d+\.\d s", " <seconds> s", text)
        text = re.sub(r"(?<![\w./-])[+±-]?\d[\w,.-]*", "#", _named(text, paths))
        text = re.sub(r"\bu?int\d+n?\b", "int#", text)
        text = re.sub(r"\(gap .*\)", "(certificate)", text)
        text = re.sub(r"next best: \S+", "next best: <tensor>", text)
        text = re.sub(r"\n next best  .*?(?=regret:)", "\n<next best plans, unsure widths>\n", text, flags=re.DOTALL)
        text = re.sub(r"[ ─]{2,}", "  ", text)
    args = " ".join(result.args)
    text = _named(f"$ dyadiq {args}\n-- exit code {result.exit_code}\n{text}", paths)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _named(text, paths):
    for place, name in paths:
        text = re.sub(r"\n? *".join(re.escape(c) for c in str(place)), name, text)  # tables wrap long paths
    return text
