"""CIFAR-10 and its residual networks: names, splits, trained weights, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dyadiq.core.data_folder import data_folder
from dyadiq.core.errors import ArtifactError, ConfigError, DataError, MissingDependencyError, UnknownNameError
from dyadiq.zoo import build_model, load_dataset, load_pretrained_, pretrained_file
from dyadiq.zoo.cifar_data import CIFAR_CLASSES, _read_sheets
from dyadiq.zoo.images import normalize

PACK = data_folder()
needs_pack = pytest.mark.skipif(not (PACK / "cifar10").is_dir(), reason="the data pack (DYADIQ_DATA) has no cifar10")


def write_pack(folder: Path, n_train=120, n_test=100, seed=0):
    """A data pack of noise: one sheet of test images and two of training images, the last not full."""
    Image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(seed)
    root = folder / "cifar10"
    root.mkdir()
    images = {}
    for part, rows in (("train", (1, 1)), ("test", (1,))):
        sheets = [rng.integers(0, 256, (32 * n, 3200, 3), dtype=np.uint8) for n in rows]
        for i, sheet in enumerate(sheets):
            Image.fromarray(sheet).save(root / f"{part}_{i:02d}.webp", lossless=True, quality=0, method=0)
        images[part] = np.concatenate(
            [s.reshape(-1, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3) for s in sheets]
        )
    labels = {"train": np.arange(n_train) % 10, "test": np.arange(n_test) % 10}
    np.savez(root / "labels.npz", **{k: v.astype(np.uint8) for k, v in labels.items()})
    return {part: images[part][: len(labels[part])] for part in images}


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack")
    return folder, write_pack(folder)


def test_images_are_cut_normalized_and_split(pack):
    folder, images = pack
    data = load_dataset("cifar10", data_dir=folder, n_validation=20)
    assert (len(data.train), len(data.validation), len(data.test)) == (100, 20, 100)
    assert data.input_shape == (3, 32, 32)
    assert data.classes == CIFAR_CLASSES
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    wanted = ((images["test"] / 255.0 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    assert np.array_equal(data.test.x, wanted)
    both = np.concatenate([data.train.x, data.validation.x]).reshape(120, -1)
    all_train = normalize(images["train"], mean, std).reshape(120, -1)
    assert np.array_equal(both[np.lexsort(both.T)], all_train[np.lexsort(all_train.T)])
    assert np.bincount(data.validation.y).tolist() == [2] * 10


def test_fewer_training_images_leave_the_other_parts_alone(pack):
    folder, _ = pack
    whole = load_dataset("cifar10", data_dir=folder, n_validation=20)
    few = load_dataset("cifar10", data_dir=folder, n_validation=20, n_train=30)
    assert np.bincount(few.train.y).tolist() == [3] * 10
    assert np.array_equal(few.validation.x, whole.validation.x)
    assert np.array_equal(few.test.x, whole.test.x)
    every = load_dataset("cifar10", data_dir=folder, n_validation=20, n_train=100)
    assert np.array_equal(every.train.x, whole.train.x)


@pytest.mark.parametrize("options", [{"n_validation": 5}, {"n_validation": 120}, {"n_validation": 20, "n_train": 101}])
def test_splits_without_images_are_refused(pack, options):
    with pytest.raises(ConfigError, match="expected each to be at least 10 and both together at most the 120"):
        load_dataset("cifar10", data_dir=pack[0], **options)


def test_broken_packs_are_refused(tmp_path):
    write_pack(tmp_path)
    root = tmp_path / "cifar10"
    with pytest.raises(DataError, match="train has 99 labels, but its sheets hold 200 images"):
        _read_sheets(root, "train", 99)
    (root / "train_01.webp").write_bytes((root / "train_01.webp").read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"train_01\.webp: cannot be read as an image"):
        load_dataset("cifar10", data_dir=tmp_path, n_validation=20)
    pytest.importorskip("PIL.Image").fromarray(np.zeros((32, 64, 3), np.uint8)).save(root / "train_01.webp")
    with pytest.raises(ArtifactError, match=r"a sheet of 32 x 64 pixels, expected rows of 100 images"):
        load_dataset("cifar10", data_dir=tmp_path, n_validation=20)
    for file in root.glob("train_*.webp"):
        file.unlink()
    with pytest.raises(DataError, match=r"no sheets .*train_.*the labels name 120 images"):
        load_dataset("cifar10", data_dir=tmp_path, n_validation=20)


def test_missing_pillow_is_said(pack, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'dyadiq\[data\]'"):
        load_dataset("cifar10", data_dir=pack[0], n_validation=20)


@pytest.mark.parametrize(("name", "n_layers"), [("20", 20), ("32", 32), ("44", 44), ("56", 56)])
def test_networks_have_their_layers_and_names(name, n_layers):
    model = build_model(f"cifar_resnet{name}", width=2)
    names = set(model.state_dict())
    assert sum(1 for n in names if n.endswith("weight") and "bn" not in n) == n_layers
    assert {"conv1.weight", "bn1.running_var", f"layer3.{n_layers // 6 - 1}.conv2.weight", "linear.bias"} <= names
    assert not any("shortcut" in n for n in names)
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@needs_pack
def test_trained_weights_know_the_test_images():
    model = build_model("cifar_resnet20", pretrained=True).eval()
    labels = np.load(PACK / "cifar10/labels.npz")["test"][:200].astype(np.int64)
    from dyadiq.zoo.images import read_rgb

    sheet = (
        read_rgb(PACK / "cifar10/test_00.webp")[:64].reshape(2, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    )
    x = torch.from_numpy(normalize(sheet, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        right = int((model(x).argmax(1).numpy() == labels).sum())
    assert right >= 176  # of 200; 91.8 % of all images are, and chance gives 20


def write_state(folder, model, **changes):
    (folder / "models").mkdir(exist_ok=True)
    state = {n: t.numpy() for n, t in model.state_dict().items() if "num_batches" not in n} | changes
    np.savez(folder / "models/cifar10_resnet20.npz", **state)


def test_trained_weights_are_loaded_strictly(tmp_path):
    model = build_model("cifar_resnet20", seed=3)
    write_state(tmp_path, model)
    other = build_model("cifar_resnet20", seed=4, pretrained=True, data_dir=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(
        ConfigError, match=r"does not fit the model 'cifar_resnet20' .*conv1.weight \[16, 3, 3, 3\], exp"
    ):
        build_model("cifar_resnet20", pretrained=True, data_dir=tmp_path, width=4)
    write_state(tmp_path, model, **{"bn1.bias": np.full(16, np.nan, np.float32)})
    with pytest.raises(ArtifactError, match=r"'bn1.bias' hold NaN or infinity"):
        build_model("cifar_resnet20", pretrained=True, data_dir=tmp_path)
    with pytest.raises(DataError, match=r"no array named 'layer1\.3"):
        load_pretrained_(build_model("cifar_resnet56"), "cifar_resnet20", tmp_path)


def test_networks_without_trained_weights_say_so():
    with pytest.raises(
        UnknownNameError, match="unknown trained weights of model 'cifar_resnet32'; did you mean 'cifar_"
    ):
        pretrained_file("cifar_resnet32")


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "models").mkdir()
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "models/cifar10_resnet20.npz")
    with pytest.raises((ArtifactError, DataError), match=r"cifar10_resnet20\.npz"):
        build_model("cifar_resnet20", pretrained=True, data_dir=tmp_path)
