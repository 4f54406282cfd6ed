"""ImageNet sample and Tiny-ImageNet: crops, channel orders, splits, refusals."""

import io

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError, ConfigError, DataError, UnknownNameError
from dyadiq.zoo import load_dataset

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Twelve images of 256 x 300 pixels: the column is the red value, the label the green one."""
    folder = tmp_path_factory.mktemp("pack")
    root = folder / "imagenet_sample"
    root.mkdir()
    lines = ["file,label,wnid,name"]
    for i in range(12):
        pixels = np.zeros((256, 300, 3), np.uint8)
        pixels[..., 0], pixels[..., 1] = np.minimum(np.arange(300), 255), 10 * i
        Image.fromarray(pixels).save(root / f"n{i}.png")
        lines.append(f"n{i}.png,{7 * i},n{i},thing {i}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


SPLITS = {"n_train": 4, "n_validation": 3}


def test_images_are_cropped_and_normalized(sample):
    data = load_dataset("imagenet_sample", data_dir=sample, **SPLITS)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [4, 3, 5]
    assert data.input_shape == (3, 224, 224)
    assert data.classes[7] == "thing 1"
    x = data.test.x[0]
    left = (300 - 224) // 2
    assert x[0, 0, 0] == np.float32((left / 255 - 0.485) / 0.229)
    assert x[1, 0, 0] == np.float32((10 * (data.test.y[0] // 7) / 255 - 0.456) / 0.224)


def test_caffe_wants_blue_first(sample):
    data = load_dataset("imagenet_sample", data_dir=sample, preparation="caffe", **SPLITS)
    assert data.input_shape == (3, 227, 227)
    assert data.test.x[0, :, 0, 0].tolist() == [-104, 10 * (data.test.y[0] // 7) - 117, (300 - 227) // 2 - 123]


def test_tensorflow_has_a_background_and_resizes_its_crop(sample):
    data = load_dataset("imagenet_sample", data_dir=sample, preparation="tensorflow", size=160, **SPLITS)
    assert data.input_shape == (3, 160, 160)
    assert len(data.classes) == 1001
    assert data.classes[8] == "thing 1"
    assert set(data.test.y) <= {7 * i + 1 for i in range(12)}
    assert np.abs(data.test.x).max() <= 1


def test_no_image_is_in_two_splits(sample):
    data = load_dataset("imagenet_sample", data_dir=sample, seed=5, **SPLITS)
    labels = [set(s.y.tolist()) for s in (data.train, data.validation, data.test)]
    assert len(set.union(*labels)) == 12
    assert labels != [set(s.y.tolist()) for s in (lambda d: (d.train, d.validation, d.test))(
        load_dataset("imagenet_sample", data_dir=sample, seed=6, **SPLITS)
    )]  # fmt: skip


def test_wrong_options_are_refused(sample, tmp_path):
    with pytest.raises(UnknownNameError, match="unknown preparation of images 'cafe'; did you mean 'caffe'"):
        load_dataset("imagenet_sample", data_dir=sample, preparation="cafe")
    with pytest.raises(ConfigError, match="expected positive numbers and at most 12 images in all"):
        load_dataset("imagenet_sample", data_dir=sample, n_train=10, n_validation=2)
    with pytest.raises(DataError, match=r"no file .*labels\.csv"):
        load_dataset("imagenet_sample", data_dir=tmp_path)
    (tmp_path / "imagenet_sample").mkdir()
    (tmp_path / "imagenet_sample/labels.csv").write_text("file,label,wnid,name\na.jpg,1000,n,x\n")
    with pytest.raises(ArtifactError, match="labels must be class indices below 1000"):
        load_dataset("imagenet_sample", data_dir=tmp_path)
    (tmp_path / "imagenet_sample/labels.csv").write_text("file,class\na.jpg,1\n")
    with pytest.raises(ArtifactError, match="expected rows with file, label, name"):
        load_dataset("imagenet_sample", data_dir=tmp_path)


def write_tiny(folder, size=64):
    root = folder / "tiny_imagenet"
    root.mkdir(exist_ok=True)
    (root / "wnids.txt").write_text("n1\nn0\n")
    (root / "words.txt").write_text("n0\tzero\nn1\tone\n")
    for part, count in (("train", 10), ("val", 4)):
        images = []
        for i in range(count):
            stream = io.BytesIO()
            Image.fromarray(np.full((size, size), 20 * i, np.uint8)).save(stream, "png")  # grey
            images.append(stream.getvalue())
        offset = np.cumsum([0, *map(len, images)])
        label = np.arange(count) % 2
        np.savez(root / f"{part}.npz", bytes=np.frombuffer(b"".join(images), np.uint8), offset=offset, label=label)
    return root


def test_tiny_imagenet_is_decoded_and_split(tmp_path):
    write_tiny(tmp_path)
    data = load_dataset("tiny_imagenet", data_dir=tmp_path)
    assert (data.classes, data.input_shape) == (("one", "zero"), (3, 64, 64))
    assert [len(s) for s in (data.train, data.validation, data.test)] == [8, 2, 4]
    assert data.test.x[3, 1, 5, 5] == np.float32((60 / 255 - 0.456) / 0.224)


def test_damaged_tiny_imagenet_is_refused(tmp_path):
    root = write_tiny(tmp_path)
    with pytest.raises(ConfigError, match=r"validation_frac must be in \(0, 1\), got 1"):
        load_dataset("tiny_imagenet", data_dir=tmp_path, validation_frac=1)
    arrays = dict(np.load(root / "val.npz"))
    np.savez(root / "val.npz", **{**arrays, "offset": arrays["offset"][:-1]})
    with pytest.raises(ArtifactError, match="4 offsets do not cut its bytes into 4 images"):
        load_dataset("tiny_imagenet", data_dir=tmp_path)
    np.savez(root / "val.npz", **{**arrays, "bytes": np.roll(arrays["bytes"], 9)})
    with pytest.raises(ArtifactError, match=r"val\.npz, image 0: cannot be read as an image"):
        load_dataset("tiny_imagenet", data_dir=tmp_path)
    write_tiny(tmp_path, size=32)
    with pytest.raises(ArtifactError, match="image 0: got 32 x 32 pixels, expected 64 x 64"):
        load_dataset("tiny_imagenet", data_dir=tmp_path)
    write_tiny(tmp_path)
    (root / "words.txt").unlink()
    with pytest.raises(DataError, match=r"no file .*words\.txt"):
        load_dataset("tiny_imagenet", data_dir=tmp_path)
