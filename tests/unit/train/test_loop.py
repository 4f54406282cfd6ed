"""Training: learns, repeats itself, resumes to the same bytes, refuses nonsense."""

import copy
import errno

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from dyadiq.core.errors import ConfigError, DataError, StorageError
from dyadiq.train import TrainConfig, accuracy, evaluate, train
from dyadiq.train import checkpoint as checkpoint_module
from dyadiq.zoo import Split
from learners import Killed, Net, blobs, same

CONFIG = TrainConfig(epochs=4, batch_size=16, learning_rate=0.01)


def test_training_learns_separable_classes():
    model, test = Net(), blobs(90, seed=1)
    result = train(model, blobs(), TrainConfig(epochs=20, batch_size=16, learning_rate=0.01))
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert accuracy(model, test) > 0.8
    assert not model.training


def test_training_repeats_itself_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    a, b, c = Net(), Net(), Net()
    first, second = train(a, blobs(), CONFIG), train(b, blobs(), CONFIG)
    train(c, blobs(), TrainConfig(**CONFIG.to_json() | {"seed": 1}))
    assert torch.equal(before, torch.get_rng_state())
    assert first == second
    assert same(a, b)
    assert not same(a, c)


def test_training_does_not_depend_on_the_state_of_the_global_generator():
    a, b = Net(), Net()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        train(a, blobs(), CONFIG)
        torch.manual_seed(2)
        train(b, blobs(), CONFIG)
    assert same(a, b)


def test_order_of_samples_follows_the_seed():
    a, b = nn.Linear(4, 3), nn.Linear(4, 3)
    b.load_state_dict(a.state_dict())
    train(a, blobs(), CONFIG)
    train(b, blobs(), TrainConfig(**CONFIG.to_json() | {"seed": 1}))
    assert not same(a, b)


def test_schedule_runs_over_all_epochs():
    result = train(Net(), blobs(), CONFIG)
    n_batches = 70 // 16
    last_steps = [(epoch + 1) * n_batches - 1 for epoch in range(4)]
    expected = [0.01 * 0.5 * (1 + np.cos(np.pi * step / (4 * n_batches))) for step in last_steps]
    assert [record["learning_rate"] for record in result.history] == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("n_done", [1, 2, 4])
def test_resumed_training_ends_with_the_same_bytes_when_killed_between_epochs(tmp_path, optimizer, n_done):
    config = TrainConfig(**CONFIG.to_json() | {"optimizer": optimizer, "freeze_bn_epoch": 2, "weight_decay": 0.01})
    options = {"validation": blobs(30, seed=2), "teacher": Net(seed=9).eval()}
    whole = Net()
    expected = train(whole, blobs(), config, checkpoint=tmp_path / "whole", **options)

    def kill(record):
        if record["epoch"] == n_done - 1:
            raise Killed

    with pytest.raises(Killed):
        train(Net(), blobs(), config, checkpoint=tmp_path / "cut", on_epoch=kill, **options)
    resumed = Net()
    result = train(resumed, blobs(), config, checkpoint=tmp_path / "cut", **options)
    assert result.n_resumed_epochs == n_done
    assert result == expected
    assert same(whole, resumed)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "cut").read_bytes()


@pytest.mark.parametrize("n_forwards", [1, 3, 6, 14])
def test_resumed_training_ends_with_the_same_bytes_when_interrupted_within_an_epoch(tmp_path, n_forwards):
    whole, cut, resumed = Net(), Net(), Net()
    train(whole, blobs(), CONFIG, checkpoint=tmp_path / "whole")
    calls = []

    def interrupt(module, arguments):
        calls.append(1)
        if len(calls) == n_forwards:
            raise KeyboardInterrupt

    cut.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(cut, blobs(), CONFIG, checkpoint=tmp_path / "cut")
    train(resumed, blobs(), CONFIG, checkpoint=tmp_path / "cut")
    assert same(whole, resumed)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "cut").read_bytes()


def test_checkpoint_before_stays_when_the_disk_is_full(tmp_path, monkeypatch):
    whole, resumed = Net(), Net()
    train(whole, blobs(), CONFIG)
    write = checkpoint_module.write_artifact

    def write_once(path, *arguments):
        if path.exists():
            raise StorageError(errno.ENOSPC, "no space left")
        return write(path, *arguments)

    monkeypatch.setattr(checkpoint_module, "write_artifact", write_once)
    with pytest.raises(StorageError, match="no space left"):
        train(Net(), blobs(), CONFIG, checkpoint=tmp_path / "c")
    monkeypatch.undo()
    assert train(resumed, blobs(), CONFIG, checkpoint=tmp_path / "c").n_resumed_epochs == 1
    assert same(whole, resumed)


@pytest.mark.parametrize("change", ["config", "data", "validation", "model", "teacher"])
def test_checkpoint_is_refused_when_anything_differs(tmp_path, change):
    options = {"validation": blobs(30, seed=2), "teacher": Net(seed=9)}
    train(Net(), blobs(), CONFIG, checkpoint=tmp_path / "c", **options)
    model, split, config = Net(), blobs(), CONFIG
    if change == "config":
        config = TrainConfig(**CONFIG.to_json() | {"learning_rate": 0.02})
    elif change == "data":
        split = blobs(seed=5)
    elif change == "validation":
        options["validation"] = None
    elif change == "model":
        model = Net(seed=1)
    else:
        options["teacher"] = None
    with pytest.raises(ConfigError, match="belongs to another training"):
        train(model, split, config, checkpoint=tmp_path / "c", **options)


def test_best_epoch_on_validation_is_kept():
    model, validation = Net(), blobs(30, seed=2)
    # A rate that rises and ruins: later epochs are worse than early ones.
    config = TrainConfig(epochs=8, batch_size=16, learning_rate=1.0, schedule="constant")
    result = train(model, blobs(), config, validation=validation)
    best = max(result.history, key=lambda r: (r["validation_accuracy"], -r["validation_loss"]))
    assert result.best_epoch == best["epoch"]
    assert result.validation_accuracy == best["validation_accuracy"] == accuracy(model, validation)
    assert evaluate(model, validation).loss == best["validation_loss"]


def test_lower_loss_decides_when_accuracies_are_equal():
    x = np.eye(3, dtype=np.float32).repeat(8, axis=0)
    split, model = Split(x, x.argmax(axis=1)), nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
        model.bias.zero_()
    result = train(model, split, TrainConfig(epochs=3, batch_size=8, learning_rate=0.01), validation=split)
    assert {record["validation_accuracy"] for record in result.history} == {1.0}
    assert result.best_epoch == 2


def test_last_epoch_is_kept_when_asked():
    model, validation = Net(), blobs(30, seed=2)
    config = TrainConfig(epochs=8, batch_size=16, learning_rate=1.0, schedule="constant", keep_best=False)
    result = train(model, blobs(), config, validation=validation)
    assert result.best_epoch is None
    assert result.validation_accuracy == result.history[-1]["validation_accuracy"] == accuracy(model, validation)


def test_loss_is_what_the_formula_says():
    model, teacher, split = nn.Linear(4, 3), Net(seed=9).eval(), blobs(12)
    config = TrainConfig(
        epochs=1, batch_size=12, label_smoothing=0.1, l1=0.01, distill_weight=0.3, temperature=4.0, learning_rate=1e-3
    )
    x, y = torch.tensor(split.x), torch.tensor(split.y)
    with torch.no_grad():
        logits, soft = model(x), F.softmax(teacher(x) / 4.0, dim=1)
        log_p = F.log_softmax(logits, dim=1)
        target = 0.9 * F.one_hot(y, 3) + 0.1 / 3
        hard = -(target * log_p).sum(dim=1).mean()
        kl = (soft * (soft.log() - F.log_softmax(logits / 4.0, dim=1))).sum(dim=1).mean()
        expected = 0.7 * hard + 0.3 * 16.0 * kl + 0.01 * model.weight.abs().sum()
    result = train(model, split, config, teacher=teacher)
    assert result.history[0]["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_teacher_is_left_as_it_was():
    teacher = Net(seed=9).train()
    before = copy.deepcopy(teacher.state_dict())
    train(Net(), blobs(), CONFIG, teacher=teacher)
    assert teacher.training
    assert same(teacher, before)


def test_batchnorm_statistics_stop_when_frozen():
    live, frozen = Net(), Net()
    before = frozen.bn1.running_mean.clone()
    train(live, blobs(), CONFIG)
    train(frozen, blobs(), TrainConfig(**CONFIG.to_json() | {"freeze_bn_epoch": 0}))
    assert not torch.equal(live.bn1.running_mean, before)
    assert torch.equal(frozen.bn1.running_mean, before)


def test_one_batch_is_made_when_there_are_fewer_samples_than_asked():
    result = train(Net(), blobs(9), TrainConfig(epochs=1, batch_size=64))
    assert len(result.history) == 1


def test_diverging_training_says_where_and_what_to_do():
    class Exploding(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * (torch.inf if self.calls == 6 else 1.0)

    with pytest.raises(DataError, match=r"the loss is nan in epoch 1, batch 1\. The learning rate is 0\.01; try a te"):
        train(Exploding(4, 3), blobs(), CONFIG)


def test_weights_that_overflow_in_the_last_step_are_found():
    model = nn.Linear(4, 3)
    config = TrainConfig(epochs=1, batch_size=70, learning_rate=1e38, optimizer="sgd", weight_decay=1e10)
    with pytest.raises(DataError, match=r"weight 'weight' is not finite after epoch 0"):
        train(model, blobs(), config)


def test_non_finite_weights_are_refused_by_name():
    model = Net()
    model.bn1.running_var[2] = torch.nan
    with pytest.raises(DataError, match=r"'bn1\.running_var' of Net holds NaN or infinity before the first step"):
        train(model, blobs(), CONFIG)


def test_non_finite_samples_are_refused():
    split = blobs()
    split.x[3, 1] = np.inf
    with pytest.raises(DataError, match=r"the samples hold NaN or infinity"):
        train(Net(), split, CONFIG)


def test_labels_beyond_the_classes_are_refused():
    with pytest.raises(DataError, match=r"returns shape \[16, 2\], but labels go up to 2"):
        train(nn.Linear(4, 2), blobs(), CONFIG)


def test_progress_sees_every_epoch_and_ends_when_interrupted():
    class Recorder:
        def __init__(self):
            self.events = []

        def start(self, label, total):
            self.events.append((label, total))

        def advance(self, steps=1, note=""):
            self.events.append((steps, note.split(" ")[0]))

        def finish(self):
            self.events.append("end")

    recorder = Recorder()
    train(Net(), blobs(), TrainConfig(epochs=2, batch_size=16), progress=recorder)
    assert recorder.events == [("train", 2), (1, "loss"), (1, "loss"), "end"]
    recorder = Recorder()

    def kill(record):
        raise Killed

    with pytest.raises(Killed):
        train(Net(), blobs(), CONFIG, progress=recorder, on_epoch=kill)
    assert recorder.events[-1] == "end"


def test_what_happens_before_an_epoch_is_in_its_record():
    seen = []
    result = train(Net(), blobs(), TrainConfig(epochs=2, batch_size=16), before_epoch=lambda e: {"noted": 10 * e})
    assert [(r["epoch"], r["noted"]) for r in result.history] == [(0, 0), (1, 10)]
    train(Net(), blobs(), TrainConfig(epochs=2, batch_size=16), before_epoch=lambda e: seen.append(e) or {})
    assert seen == [0, 1]


def test_best_epoch_is_one_that_may_be_kept():
    options = {"validation": blobs(30, seed=1)}
    free = train(Net(), blobs(), CONFIG, **options)
    late = train(Net(), blobs(), CONFIG, **options, keep_from=3)
    assert free.history == late.history
    assert late.best_epoch == 3
    none = train(Net(), blobs(), CONFIG, **options, keep_from=99)  # no such epoch: the last one is kept
    assert none.best_epoch is None
    assert none.validation_accuracy == none.history[-1]["validation_accuracy"]
