"""Stages are kept, made again, resumed and refused as promised; shown with toy stages."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from dyadiq.core.errors import ArtifactError, ConfigError, DataError, RunInterruptedError, StorageError
from dyadiq.pipeline import runner
from dyadiq.pipeline.runner import run_stages
from dyadiq.pipeline.stage import Stage, read_json, write_json
from dyadiq.pipeline.store import RunFolder
from dyadiq.recipe import parse_recipe

RECIPE = {"name": "toy", "data": {"name": "digits"}, "model": {"name": "m"}, "allocate": {"budget": {"size": "25%"}}}


def recipe(*overrides):
    return parse_recipe(RECIPE, overrides)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


class Toy:
    """Three stages in a chain that count their calls; ``fail`` maps a stage to what it raises once."""

    def __init__(self):
        self.calls = []
        self.fail = {}
        self.stages = (
            Stage("first", "First", (), ("data",), self.make("first", lambda c: c.recipe.data.name)),
            Stage(
                "second",
                "Second",
                ("first",),
                ("train",),
                self.make("second", lambda c: read_json(c.path("first", "out.json")) + str(c.recipe.train.epochs)),
            ),
            Stage(
                "third",
                "Third",
                ("second",),
                (),
                self.make("third", lambda c: len(read_json(c.path("second", "out.json")))),
            ),
        )

    def make(self, name, compute):
        def run(context):
            self.calls.append(name)
            value = compute(context)
            (context.folder / "half").write_text("written before the failure")
            if name in self.fail:
                raise self.fail.pop(name)
            write_json(context.folder / "out.json", value)

        return run

    def go(self, folder, *overrides):
        events = []
        with folder.locked():
            records = run_stages(self.stages, recipe(*overrides), folder, listener=events.append)
        return records, events


@pytest.fixture
def toy():
    return Toy()


def test_second_run_keeps_every_stage_when_nothing_changed(toy, folder):
    first, _ = toy.go(folder)
    again, events = toy.go(folder)
    assert toy.calls == ["first", "second", "third"]
    assert again == first
    assert {e.status for e in events} == {"kept"}


def test_only_dependent_stages_run_when_a_section_changes(toy, folder):
    toy.go(folder)
    toy.go(folder, "train.epochs=3")
    # The third stage reads only the length of the second one's text, but its input file changed.
    assert toy.calls == ["first", "second", "third", "second", "third"]


def test_later_stages_are_kept_when_a_changed_stage_makes_the_same_files(toy, folder):
    toy.go(folder, "train.epochs=10")
    toy.go(folder, "train.epochs=10", "train.batch_size=8")
    assert toy.calls == ["first", "second", "third", "second"]


def test_every_stage_runs_when_the_code_of_the_package_changed(toy, folder, monkeypatch):
    toy.go(folder)
    monkeypatch.setattr(runner, "source_sha256", lambda: "another")
    toy.go(folder)
    assert len(toy.calls) == 6


def test_every_stage_runs_when_the_seed_changes(toy, folder):
    toy.go(folder)
    toy.go(folder, "seed=1")
    assert len(toy.calls) == 6


@pytest.mark.parametrize("harm", ["changed", "deleted", "folder gone"])
def test_damaged_stage_is_made_again_when_found(toy, folder, harm):
    before, _ = toy.go(folder)
    file = folder.path / "second" / "out.json"
    match harm:
        case "changed":
            file.write_text('"other"\n')
        case "deleted":
            file.unlink()
        case "folder gone":
            shutil.rmtree(file.parent)
    after, events = toy.go(folder)
    assert toy.calls == ["first", "second", "third", "second"]
    assert {n: r.files for n, r in after.items()} == {n: r.files for n, r in before.items()}
    assert "run/second/" in next(e.note for e in events if e.note)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema": "dyadiq.stage/2"}', '{"schema": "dyadiq.stage/1"}']
)
def test_stage_is_made_again_when_its_record_is_unreadable(toy, folder, text):
    toy.go(folder)
    (folder.path / "stages" / "second.json").write_text(text)
    toy.go(folder)
    assert toy.calls == ["first", "second", "third", "second"]


def test_interrupted_run_keeps_finished_stages_and_leaves_nothing_half_written(toy, folder):
    toy.fail["second"] = KeyboardInterrupt()
    with pytest.raises(RunInterruptedError, match=r"during stage 'second'; finished stages are kept in .*run"):
        toy.go(folder)
    assert not (folder.path / "second").exists()
    assert list((folder.path / ".tmp").iterdir()) == []
    toy.go(folder)
    assert toy.calls == ["first", "second", "second", "third"]


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (errno.ENOSPC, r"stage 'second': cannot write to .*: No space left on device. Free some space; the same"),
        (errno.EDQUOT, r"Free some space"),
        (errno.EFBIG, r"File too large"),
    ],
)
def test_full_disk_is_a_storage_error_when_a_stage_writes(toy, folder, code, match):
    toy.fail["second"] = OSError(code, os.strerror(code))
    with pytest.raises(StorageError, match=match):
        toy.go(folder)
    assert not (folder.path / "second").exists()
    records, _ = toy.go(folder)
    assert set(records) == {"first", "second", "third"}


def test_storage_error_of_a_writer_names_the_stage(toy, folder):
    toy.fail["third"] = StorageError("cannot write x: No space left on device.")
    with pytest.raises(StorageError, match=r"stage 'third': cannot write x: .* Free some space; the same command"):
        toy.go(folder)


def test_typed_error_says_its_stage_when_a_stage_fails(toy, folder):
    toy.fail["third"] = DataError("empty")
    with pytest.raises(DataError, match="empty") as caught:
        toy.go(folder)
    assert "stage 'third'" in caught.value.__notes__[0]


def test_own_bug_is_not_disguised_when_a_stage_raises_something_else(toy, folder):
    toy.fail["third"] = FileNotFoundError(errno.ENOENT, "gone")
    with pytest.raises(FileNotFoundError):
        toy.go(folder)


def test_scratch_survives_an_interruption_and_goes_when_the_stage_is_done(folder):
    seen = []

    def work(context):
        checkpoint = context.scratch / "checkpoint"
        seen.append(checkpoint.exists())
        checkpoint.write_text("step 1")
        if len(seen) == 1:
            raise KeyboardInterrupt
        write_json(context.folder / "out.json", 1)

    stages = (Stage("train", "Train", (), (), work),)
    with folder.locked():
        with pytest.raises(RunInterruptedError):
            run_stages(stages, recipe(), folder)
        run_stages(stages, recipe(), folder)
    assert seen == [False, True]
    assert list((folder.path / ".work").iterdir()) == []


def test_scratch_of_another_key_is_removed(folder):
    def work(context):
        (context.scratch / "checkpoint").write_text("x")
        raise KeyboardInterrupt

    stages = (Stage("train", "Train", (), (), work),)
    with folder.locked():
        for seed in (1, 2):
            with pytest.raises(RunInterruptedError):
                run_stages(stages, recipe(f"seed={seed}"), folder)
    assert len(list((folder.path / ".work").iterdir())) == 1


def test_always_stage_runs_each_time_and_dependents_only_when_its_files_change(folder):
    calls, outside = [], ["a"]

    def look(context):
        calls.append("look")
        write_json(context.folder / "out.json", outside[0])

    def use(context):
        calls.append("use")

    stages = (Stage("look", "Look", (), (), look, always=True), Stage("use", "Use", ("look",), (), use))
    with folder.locked():
        run_stages(stages, recipe(), folder)
        run_stages(stages, recipe(), folder)
        outside[0] = "b"
        run_stages(stages, recipe(), folder)
    assert calls == ["look", "use", "look", "look", "use"]


def test_foreign_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    refusal = r"exists and is not a run folder of Dyadiq; nothing was touched"
    with pytest.raises(ConfigError, match=refusal), RunFolder(tmp_path).locked():
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(ConfigError, match="is a file, a run needs a folder"), RunFolder(tmp_path / "run").locked():
        pass


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="cannot be written: Permission denied"), RunFolder(tmp_path / "x").locked():
        pass


def test_second_run_in_one_folder_is_refused_while_the_first_holds_it(folder):
    with (
        folder.locked(),
        pytest.raises(ConfigError, match="another run is working in this folder"),
        RunFolder(folder.path).locked(),
    ):
        pass
    with RunFolder(folder.path).locked():
        pass


def test_check_files_refuses_missing_stage_and_damage(toy, folder):
    toy.go(folder)
    assert set(folder.check_files("first").files) == {"out.json", "half"}
    with pytest.raises(ArtifactError, match="stage 'fourth' has not finished here"):
        folder.check_files("fourth")
    (folder.path / "first" / "out.json").write_text("1")
    with pytest.raises(ArtifactError, match=r"was changed or damaged: its hash differs from stages/first\.json"):
        folder.check_files("first")


def test_summary_and_its_stages_are_set_aside_whole_and_again(toy, folder):
    toy.go(folder)
    for text in ("one", "two"):
        folder.write_summary({"schema": text})
        (folder.path / "third").mkdir(exist_ok=True)
        (folder.path / "third" / text).write_text(text)
        (folder.path / "third.html").write_text(text)
        folder.set_aside("third")
        folder.set_aside("third")  # nothing is left to move, so nothing is lost
        previous = folder.path / "previous"
        assert json.loads((previous / "summary.json").read_text()) == {"schema": text}
        assert (previous / "third" / text).is_file()
        assert (previous / "third.html").read_text() == text
        assert folder.record("third") is None
        assert not {"summary.json", "third", "third.html"} & {p.name for p in folder.path.iterdir()}


def test_summary_that_cannot_be_set_aside_is_a_storage_error(toy, folder):
    toy.go(folder)
    folder.write_summary({})
    (folder.path / "previous").write_text("in the way")
    with pytest.raises(StorageError, match=r"run/previous: cannot be written: .*\. Nothing was deleted\."):
        folder.set_aside()


def test_check_refuses_a_folder_without_marker(tmp_path):
    with pytest.raises(ConfigError, match="not a run folder"):
        RunFolder(tmp_path).check()
