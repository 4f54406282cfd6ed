"""Float ONNX models between ONNX's own quantizers, as onnxruntime's quantize_static leaves them; for tests."""

import numpy as np

from float_onnx import FloatModel

__all__ = ["ARBITRARY", "POWERS", "Quantized", "body"]

ARBITRARY = (0.0371, 0.0119, 0.0613, 0.0277)
POWERS = (2.0**-4, 2.0**-6, 2.0**-3, 2.0**-5)


class Quantized(FloatModel):
    """Float nodes between quantizers of one type; scales in turn, odd and even zero points."""

    def __init__(self, *shape, scales=ARBITRARY, dtype=np.uint8, seed=0, **more):
        super().__init__(*shape, seed=seed, **more)
        self.scales, self.dtype, self.count = scales, dtype, 0

    def q(self, x, scale=None, zero=None):
        i = self.count
        self.count += 1
        middle = 128 if self.dtype == np.uint8 else 0
        s = self.constant(f"s{i}", np.float32(self.scales[i % len(self.scales)] if scale is None else scale))
        z = self.constant(f"z{i}", self.dtype(middle + (1, -7, 0)[i % 3] if zero is None else zero))
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, s, z), s, z)

    def w(self, *shape, axis=0):
        """Weights of 8 bits, one scale for each entry of an axis; powers of two if the scales are."""
        name = f"w{len(self.constants)}"
        codes = self.constant(name, self.rng.integers(-127, 128, shape).astype(np.int8))
        steps = np.float32(2.0) ** self.rng.integers(-9, -6, shape[axis]).astype(np.float32)
        if self.scales is ARBITRARY:
            steps *= self.rng.uniform(0.6, 1.4, shape[axis]).astype(np.float32)
        zeros = self.constant(f"{name}_zero", np.zeros(shape[axis], np.int8))
        return self.op("DequantizeLinear", codes, self.constant(f"{name}_scale", steps), zeros, axis=axis)

    def bias(self, n):
        """On a grid of 2^-12."""
        return self.constant(f"b{len(self.constants)}", (self.rng.integers(-4000, 4000, n) / 4096).astype(np.float32))


def body(m):
    """Convolutions, a sum, a concatenation, pools, a linear layer, as quantize_static leaves them."""
    x = m.q("x")
    a = m.q(m.op("Relu", m.op("Conv", x, m.w(6, 3, 3, 3), m.bias(6),
                              pads=[1, 1, 1, 1])))  # fmt: skip
    b = m.q(m.op("Conv", a, m.w(6, 1, 3, 3), pads=[1, 1, 1, 1], group=6))
    c = m.q(m.op("Relu", m.op("Add", a, b)))
    d = m.q(m.op("Concat", m.q(m.op("MaxPool", c, kernel_shape=[2, 2], strides=[2, 2])),
                 m.op("Slice", b, *(m.constant(f"sl{i}", np.array(v)) for i, v in
                                    enumerate(([0, 0], [99, 99], [2, 3], [2, 2])))), axis=1))  # fmt: skip
    e = m.q(m.op("GlobalAveragePool", m.op("Pad", d, m.constant("pads", np.array([0, 0, 1, 0, 0, 0, 0, 2])))))
    m.q(m.op("Gemm", m.op("Flatten", e), m.w(12, 7, axis=1), m.bias(7)), scale=m.scales[0] * 2)
