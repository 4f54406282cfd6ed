"""What the engine's benchmark scripts read from the command line: rounds, where results lie, and `--table`."""

import argparse
import json
from pathlib import Path


def parser_of(doc, rounds, results):
    """A parser with the arguments of all, described by the first line of a script's text."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, default=results)
    parser.add_argument("--table", action="store_true", help="print what is stored, and measure nothing")
    return parser


def read_results(path, empty):
    """Return what is stored, to which a run adds."""
    return json.loads(path.read_text()) if path.is_file() else empty


def write_results(path, document):
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
