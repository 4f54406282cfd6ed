"""Float ONNX import: what a graph cannot hold is refused, all of it; damaged and hostile files never crash."""

import contextlib

import numpy as np
import pytest
from onnx import TensorProto, helper

from dyadiq.core.errors import ArtifactError, CaptureError, DyadiqError, UnknownNameError
from dyadiq.ir.onnx_import import import_onnx, is_quantized_onnx
from float_onnx import FloatModel
from hostile_onnx import mutated_bytes, mutated_model


def convolutional():
    m = FloatModel(3, 8, 8)
    x = m.op("Conv", "x", m.weight("c.weight", 4, 3, 3, 3), m.weight("c.bias", 4), pads=[1, 1, 1, 1])
    x = m.op("MaxPool", m.op("Relu", x), kernel_shape=[2, 2], strides=[2, 2])
    x = m.op("Add", x, m.op("Clip", x, m.constant("low", np.float32(0)), m.constant("high", np.float32(6))))
    x = m.op("Reshape", m.op("AveragePool", x, kernel_shape=[4, 4]), m.constant("shape", np.array([0, -1])))
    m.op("Gemm", x, m.weight("fc.weight", 5, 4), m.weight("fc.bias", 5), transB=1)
    return m


VALID = convolutional().proto().SerializeToString()


def test_every_offending_node_is_listed():
    m = FloatModel(3, 8, 8)
    a = m.op("Sin", "x")
    b = m.op("Mul", "x", "x")
    c = m.op("Softmax", m.op("Relu", a))  # a consequence of the first is told by it
    d = m.op("LRN", "x", size=3)
    with pytest.raises(CaptureError, match=r"for 3 reason\(s\)") as caught:
        import_onnx(m.proto(b, c, d))
    for line in (r"Sin in 'sin_0' \(makes sin_0\): no such operator", "other than the sum of two tensors", "LRN in"):
        assert caught.match(line)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: m.op("Softmax", "x"), r"no such operator in the float dialect\. End the network before it: .*'x'"),
        (lambda m: m.op("Reshape", "x", m.constant("s", np.array([3, -1]))), "does not keep dimension 0 as the batch"),
        (lambda m: m.op("Reshape", "x", "x"), "its shape is computed by the network"),
        (lambda m: m.op("Conv", "x", "x"), "its weight is computed by the network, expected a constant"),
        (lambda m: m.op("Conv", "x", m.weight("w", 4, 3, 3)), "only two-dimensional convolution"),
        (lambda m: m.op("Conv", "x", m.weight("w", 4, 5, 3, 3)), r"shape \[4, 5, 3, 3\], expected \[O, 3 / groups"),
        (lambda m: m.op("Add", "x", m.weight("w", 8, 8)), r"constant of shape \[8, 8\]; one number a channel"),
        (lambda m: m.op("Div", m.weight("w", 3, 1, 1), "x"), "divides by a tensor"),
        (lambda m: m.op("Div", "x", m.constant("w", np.float32(0))), "divides by zero"),
        (lambda m: m.op("Concat", "x", "x", axis=2), "concatenates along dimension 2, expected 1"),
        (lambda m: m.op("Transpose", "x", perm=[0, 2, 3, 1]), "output transpose_0: its axes are in another order"),
        (lambda m: m.op("Transpose", "x", perm=[1, 0, 2, 3]), "which moves the batch"),
        (
            lambda m: m.op("MaxPool", m.op("Transpose", "x", perm=[0, 3, 1, 2]), kernel_shape=[2, 2]),
            r"MaxPool in .*in the order \['N', 2, 0, 1\].*--inputs-as-nchw",
        ),
        (
            lambda m: m.op("Reshape", m.op("Transpose", "x", perm=[0, 2, 3, 1]), m.constant("s", np.array([0, 8, -1]))),
            "only flattening is supported",
        ),
        (
            lambda m: m.op("Add", m.op("Flatten", m.op("Transpose", "x", perm=[0, 2, 3, 1])), m.op("Flatten", "x")),
            "in the order of a transposed tensor that was flattened",
        ),
        (lambda m: m.op("Erf", "x"), "no such operator"),
        (lambda m: m.op("Gemm", "x", m.weight("w", 3, 3), transA=1), "transA turns its input"),
        (lambda m: m.op("HardSigmoid", "x"), "torch's hardsigmoid has 1/6 and 0.5"),
        (lambda m: m.op("LeakyRelu", "x", alpha=0.3), r"got \{'negative_slope': 0.3\}"),
        (lambda m: m.op("Pad", "x", m.constant("p", np.zeros(8, np.int64)), mode="reflect"), "with mode 'reflect'"),
        (lambda m: m.op("MaxPool", "x", kernel_shape=[2, 2], pads=[0, 0, 0, 9]), "differ between begin and end"),
        (lambda m: m.op("AveragePool", "x", kernel_shape=[2, 2], pads=[0, 0, 1, 1]), "differ between begin and end"),
        (lambda m: m.op("MaxPool", "x", kernel_shape=[2]), "a window that is not two-dimensional"),
        (lambda m: m.op("Cast", "x", to=7), "turns values of the network into another type"),
        (lambda m: m.op("Flatten", "x", axis=2), "flattens from axis 2, expected 1"),
        (lambda m: m.op("Relu", "nobody"), "reads nobody, which nothing before it makes"),
        (lambda m: m.op("Relu"), "has no input 0"),
        (lambda m: m.op("Clip", "x", m.constant("w", np.zeros(2, np.float32))), "its min has 2 numbers"),
        (lambda m: m.op("BatchNormalization", "x"), "has no weight"),
        (lambda m: m.op("DequantizeLinear", "x"), "The model is quantized already: dyadiq import reads it"),
        (lambda m: m.op("Gemm", "x", m.constant("w", np.ones((3, 3), np.int64))), "is int64, expected float32"),
        (lambda m: m.op("ConstantOfShape", m.constant("w", np.array([1 << 40]))), "makes a constant of shape"),
    ],
)
def test_what_a_graph_cannot_hold_is_refused(build, message):
    m = FloatModel(3, 8, 8)
    build(m)
    with pytest.raises(CaptureError, match=message):
        import_onnx(m.proto())


def test_tensor_to_end_at_must_exist():
    with pytest.raises(UnknownNameError, match="unknown tensor 'logit'"):
        import_onnx(VALID, outputs=["logit"])


@pytest.mark.parametrize(
    ("shape", "message"),
    [(["N", 3, "H", "W"], r"\['N', 3, 'H', 'W'\]"), (["N", 3, 1 << 40, 8], "of at most"), ([], "")],
)
def test_inputs_need_sizes(shape, message):
    m = convolutional()
    m.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    with pytest.raises(CaptureError, match=f"input x: its shape is .*{message}"):
        import_onnx(m.proto())


def test_other_precisions_are_refused_by_name():
    m = convolutional()
    m.input = helper.make_tensor_value_info("x", TensorProto.BFLOAT16, ["N", 3, 8, 8])
    with pytest.raises(CaptureError, match="Export the model in float32"):
        import_onnx(m.proto())


# -- damaged and hostile files ---------------------------------------------------------------------


def test_files_that_are_no_models(tmp_path):
    for content, message in (
        (b"", "no nodes"),
        (b"\xff" * 50, "not an ONNX file"),
        (VALID[:-40], "|".join(("not", "data"))),
    ):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises((ArtifactError, CaptureError), match=message):
            import_onnx(tmp_path / "bad.onnx")
    with pytest.raises(ArtifactError, match="cannot be read: No such file"):
        import_onnx(tmp_path / "absent.onnx")


def test_circles_are_refused():
    m = FloatModel(3, 8, 8)
    m.op("Add", "x", "later", output="sooner")
    m.op("Relu", "sooner", output="later")
    with pytest.raises(CaptureError, match="reads later, which nothing before it makes"):
        import_onnx(m.proto())


def test_names_made_twice_are_refused():
    m = FloatModel(3, 8, 8)
    m.op("Relu", "x", output="a")
    m.op("Relu", "x", output="a")
    with pytest.raises(CaptureError, match="tensor a: made 2 times"):
        import_onnx(m.proto())


@pytest.mark.parametrize("dims", [[1 << 40, 1 << 40], [-4, 3, 3, 3], [4, 3, 3, 4]])
def test_constants_larger_than_their_data_are_refused(dims):
    proto = convolutional().proto()
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)
    with pytest.raises(CaptureError, match=r"constant c\.weight: (its shape|its data are damaged)"):
        import_onnx(proto)


def outside(path, n_bytes=4 * 3 * 9 * 4, offset=0):
    """The valid model with its first weight in another file."""
    proto = convolutional().proto()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", str(path)), ("offset", str(offset)), ("length", str(n_bytes))):
        tensor.external_data.add(key=key, value=value)
    return proto.SerializeToString()


def test_weights_beside_the_model_are_read(tmp_path):
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "all.bin").write_bytes(b"1234" + weight.tobytes())
    (tmp_path / "net.onnx").write_bytes(outside("weights/all.bin", offset=4))
    assert np.array_equal(import_onnx(tmp_path / "net.onnx").params["c.weight"], weight)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../secret.bin", "'../secret.bin', which is not inside the model's folder"),
        ("weights/../../secret.bin", "which is not inside the model's folder"),
        ("{root}/secret.bin", "which is not inside the model's folder"),
        ("link.bin", "which is not inside the model's folder"),
        ("", "which is not inside the model's folder"),
        ("absent.bin", "are not there"),
        ("short.bin", "432 bytes from 0 of 'short.bin', are not there"),
        ("folder", "are not there"),
    ],
)
def test_weights_elsewhere_are_refused(tmp_path, location, message):
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(432))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "short.bin").write_bytes(bytes(431))
    content = outside(location.replace("{root}", str(tmp_path)))
    (folder / "net.onnx").write_bytes(content)
    with pytest.raises(CaptureError, match=f"constant c.weight: its data.*{message}"):
        import_onnx(folder / "net.onnx")
    with pytest.raises(CaptureError, match="its data lie in another file"):
        import_onnx(content)  # bytes have no folder


@pytest.mark.parametrize(("offset", "n_bytes"), [(-4, 432), (0, 1 << 62), (1 << 62, 432), (0, -1), ("x", 432)])
def test_places_of_weights_that_make_no_sense_are_refused(tmp_path, offset, n_bytes):
    (tmp_path / "w.bin").write_bytes(bytes(432))
    (tmp_path / "net.onnx").write_bytes(outside("w.bin", n_bytes, offset))
    with pytest.raises(CaptureError, match=r"constant c\.weight: its data"):
        import_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("mutate", [mutated_bytes, mutated_model])
def test_hostile_models_are_refused_or_read_but_never_crash(mutate):
    read = 0
    for seed in range(300):
        with contextlib.suppress(DyadiqError):
            import_onnx(mutate(VALID, np.random.default_rng(seed)))
            read += 1
    assert 0 < read < 300


def test_quantized_models_are_told_apart():
    assert not is_quantized_onnx(VALID)
    m = FloatModel(3)
    m.op("QuantizeLinear", "x", m.constant("s", np.float32(0.5)))
    assert is_quantized_onnx(m.proto())
