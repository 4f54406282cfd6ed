"""Every noun through `dq.save` and `dq.load`, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dyadiq as dq
from cases import build
from dyadiq.core.errors import ArtifactError, ConfigError


@pytest.fixture(scope="module")
def nouns():
    model, example = build("mlp")
    graph = dq.capture(model, example)
    batches = [torch.randn(16, *example[0].shape[1:], generator=torch.Generator().manual_seed(0))]
    table = dq.analyze(graph, batches, bits=(2, 4, 8))
    plan = dq.allocate(table, {"weight_bits": "20%"}, bits=(2, 4, 8))
    module = dq.quantize(graph, plan, batches)
    return batches[0], {
        "graph": graph,
        "table": table,
        "facts": table.facts,
        "plan": plan,
        "distilled": dq.Distilled(batches[0].numpy(), {"bn.running_mean": 0.5}, (2.0, 0.5), seed=3, notes=("a note",)),
        "module": module,
        "program": dq.lower(module),
    }


@pytest.mark.parametrize("name", ["graph", "table", "facts", "plan", "distilled", "module", "program"])
def test_every_noun_comes_back_when_saved(nouns, name, tmp_path):
    noun = nouns[1][name]
    digest = dq.save(noun, tmp_path / "noun")
    back = dq.load(tmp_path / "noun")
    assert type(back) is type(noun)
    assert dq.save(back, tmp_path / "again") == digest
    assert (tmp_path / "again").read_bytes() == (tmp_path / "noun").read_bytes()


def test_loaded_program_gives_the_same_integers(nouns, tmp_path):
    x, made = nouns
    dq.save(made["program"], tmp_path / "p")
    ours, theirs = dq.run_reference(made["program"], x.numpy()), dq.run_reference(dq.load(tmp_path / "p"), x.numpy())
    assert all(np.array_equal(ours[k], theirs[k]) for k in ours)


def test_other_objects_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"save: got a dict, expected one of Graph, IntegerProgram"):
        dq.save({}, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_files_that_hold_no_noun_are_refused(tmp_path):
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(ArtifactError, match="no schema in the document"):
        dq.load(tmp_path / "other.json")
    (tmp_path / "run.json").write_text('{"schema": "dyadiq.run/1", "payload": {}, "sha256": ""}')
    with pytest.raises(ArtifactError, match="holds a run; load reads graph, program"):
        dq.load(tmp_path / "run.json")
