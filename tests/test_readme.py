"""README and docs do what they say: Python blocks are run, command lines are parsed, links lead somewhere.

Python blocks of one file share their names and run in order, in an empty folder. A block after a comment
``<!-- not run: reason -->`` is left out. Of shell blocks, every ``dyadiq`` line must be a command with known options,
and every ``make`` line a target of the Makefile; they are not run (the commands have tests of their own).
"""

import doctest
import re
import shlex
from pathlib import Path

import pytest

from dyadiq.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted(p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
BLOCK = re.compile(r"(?P<skip><!-- not run: [^>]+-->\s*)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?P<target>[^)#\s]+)[^)]*\)")


def blocks(page, *languages):
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if match["language"] in languages and not match["skip"]:
            line = page.read_text(encoding="utf-8").count("\n", 0, match.start("text")) + 1
            yield line, match["text"]


def pages_with(*languages):
    found = [p for p in PAGES if any(True for _ in blocks(p, *languages))]
    return pytest.mark.parametrize("page", found, ids=lambda p: str(p.relative_to(ROOT)))


@pages_with("python")
def test_python_blocks_run(page, tmp_path, monkeypatch):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    for line, text in blocks(page, "python"):
        if ">>>" in text:
            example = doctest.DocTestParser().get_doctest(text, names, page.name, str(page), line - 1)
            report = []
            runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
            runner.run(example, out=report.append, clear_globs=False)
            assert runner.summarize(verbose=False).failed == 0, "".join(report)
            names.update(example.globs)
        else:
            exec(compile("\n" * (line - 1) + text, str(page), "exec"), names)


@pages_with("sh", "bash", "console", "shell")
def test_command_lines_are_commands(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for line, text in blocks(page, "sh", "bash", "console", "shell"):
        for command in text.replace("\\\n", " ").splitlines():
            words = shlex.split(command.removeprefix("$ "), comments=True)
            where = f"{page.name}:{line}: {command}"
            if words[:1] == ["dyadiq"] and len(words) > 1 and not words[1].startswith("-"):
                assert words[1] in app.commands, where
                with app.make_context("dyadiq", ["list"]) as context:
                    app.commands[words[1]].make_context(words[1], words[2:], parent=context)
            if words[:1] == ["make"]:
                assert set(words[1:]) <= targets, where


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(page):
    targets = (m["target"] for m in LINK.finditer(page.read_text(encoding="utf-8")))
    local = [t for t in targets if not re.match(r"[a-z]+:", t)]
    assert [t for t in local if not (page.parent / t).exists()] == []


def test_readme_is_among_the_pages():
    assert ROOT / "README.md" in PAGES
