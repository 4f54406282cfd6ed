"""Which kernels run a dot product, and so how its weights lie in the file.

Used by `compile`; the layouts are those of `layout`, the kinds those of docs/spec/engine.md. `find_weights` says what
is possible, `choose_weights` takes one: the one that is named, or that of a rule which looks at the program alone, so
that a file depends on no machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ConfigError
from dyadiq.core.qtype import QType
from dyadiq.engine.binary import BinaryWeights, binary_weights, pack_words, refuse_binary
from dyadiq.engine.codebook import pack_places, refuse_codebook
from dyadiq.engine.layout import (
    INT8,
    as_rows,
    by_blocks,
    find_places,
    pack_dense,
    pack_depthwise,
    pack_generic,
    weight_type,
)
from dyadiq.engine.plan import INT32_RANGE
from dyadiq.engine.sparse4 import QuadPlane, find_blocks
from dyadiq.engine.winograd import WINOGRAD_AXES, refuse_winograd

__all__ = ["ALGORITHMS", "Dot", "KernelWeights", "choose_weights", "find_weights"]

# Kinds of convolutions by name, in the order of the specification.
ALGORITHMS = ("direct", "depthwise", "generic", "sparse", "winograd", "binary", "codebook", "sparse4x4", "winograd1d")
_MAX_PLACES = 8192  # quads of a block
_PLACE = QType(4, signed=False)
# Share of quads that are not all zero, up to which sparse weights are worth it: benchmarks/engine_sparse.py.
_DENSEST = 0.6
# Of blocks of 4 by 4: positions come eight at once, ends cost as much as so many blocks, and one output without others
# beside it as much as twice its weights.
_LANES, _BLOCKS_MORE, _WORK_ALONE = 8, 10, 2
# Channels, and outputs of a plane, from which on Winograd is worth it: benchmarks/engine_winograd.py; and outputs from
# which on places in a table cost little: benchmarks/engine_codebook.py.
_LEAST_CHANNELS, _LEAST_PLANE = 32, 49
# For one axis: channels, outputs of a plane, and inputs times rows of the kernel.
_LEAST_CHANNELS_1D, _LEAST_PLANE_1D, _LEAST_LINE = 64, 64, 128
# Products of an output, of at least a word of channels, from which on bits are worth it: benchmarks/engine_binary.py.
_LEAST_BITS, _WORD = 256, 32


@dataclass(frozen=True)
class Dot:
    """A convolution, as far as its kernels depend on it; a linear layer is one over its whole plane.

    Attributes:
        weight: ``[O, I/g, KH, KW]``.
        bias: By output.
        groups: Of the convolution.
        wide: Whether its input lies in int32.
        code_offset: What codes of its input have more in memory.
        stride: Of rows and columns.
        dilation: Of rows and columns.
        codes: Least and greatest code of its input, padding included.
        plane: Rows and columns of its output.
        dense: Whether pixels of its input are no whole quads: then rows of the kernel are, as far as they can be.
        only_ends: Whether its input has no codes between these two.
        row: Columns of margins before its input, and of its input; None: all that windows see.
    """

    weight: NDArray[np.int64]
    bias: NDArray[np.int64]
    groups: int = 1
    wide: bool = False
    code_offset: int = 0
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    codes: tuple[int, int] = (0, 255)
    plane: tuple[int, int] = (1, 1)
    dense: bool = False
    only_ends: bool = False
    row: tuple[int, int] | None = None

    @property
    def quad_plane(self) -> QuadPlane:
        """The pixels under its windows."""
        before, columns = self.row or (0, None)
        kernel = self.weight.shape[2], self.weight.shape[3]
        return QuadPlane(kernel, self.stride, self.dilation, self.plane, before, columns)

    @property
    def largest_sum(self) -> int:
        """Magnitude that no sum of products with codes as they lie in memory exceeds, bias included."""
        sums = np.abs(self.weight).reshape(len(self.weight), -1).sum(axis=1)
        return int((np.abs(self.bias) + (255 + self.code_offset) * sums).max())


@dataclass(frozen=True)
class KernelWeights:
    """Weights of one dot product as its kernels read them.

    Attributes:
        algorithm: Of `ALGORITHMS`.
        groups: Of the convolution.
        values: In the order of the layout.
        qtype: How values are packed; None: as they are.
        places: Of sparse weights: where each block's quads begin among all, then every quad.
        binary: Of weights that are bits: what counts become.
        table: Of weights that are places in it: 16 values.
    """

    algorithm: str
    groups: int
    values: NDArray[np.int8] | NDArray[np.int32]
    qtype: QType | None = None
    places: NDArray[np.int32] | None = None
    binary: BinaryWeights | None = None
    table: NDArray[np.int8] | None = None

    @property
    def kind(self) -> int:
        """The algorithm as a word of a plan."""
        return ALGORITHMS.index(self.algorithm)

    @property
    def reads_memory(self) -> bool:
        """Whether kernels read codes as they lie in memory, with the offset that is there."""
        return self.algorithm != "generic"

    def bias(self, dot: Dot) -> NDArray[np.int64]:
        """Return the bias by output, with what kernels do not do themselves."""
        if self.binary is not None:
            return dot.bias + self.binary.before
        if not self.reads_memory:
            return dot.bias
        sums: NDArray[np.int64] = dot.weight.reshape(len(dot.weight), -1).sum(axis=1)
        return dot.bias - dot.code_offset * sums

    @property
    def n_bytes(self) -> int:
        """Size in the file."""
        places = 0 if self.places is None else self.places.nbytes
        bits = 8 * self.values.itemsize if self.qtype is None else self.qtype.bits
        return self.values.size * bits // 8 + places

    def ordered(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return one value an output channel in the order of the kernels."""
        in_blocks = self.algorithm in ("direct", "sparse", "binary", "codebook", "sparse4x4", *WINOGRAD_AXES)
        return by_blocks(values, self.groups).astype(np.int64) if in_blocks else values


def find_weights(dot: Dot) -> dict[str, KernelWeights]:
    """Return weights for all kernels that can run a dot product, by algorithm: those on bytes need int8, sums int32."""
    weight, groups, n_in = dot.weight, dot.groups, dot.weight.shape[1]
    fits = weight.min() >= -128 and weight.max() <= 127 and dot.largest_sum <= INT32_RANGE[1]
    depthwise = groups > 1 and groups == len(weight) and n_in == 1
    if dot.wide or not fits or (groups > 1 and n_in % 4 and not depthwise):
        return {"generic": KernelWeights("generic", groups, pack_generic(weight))}
    if depthwise:
        return {"depthwise": KernelWeights("depthwise", groups, pack_depthwise(weight))}
    taps = as_rows(weight) if dot.dense else weight
    qtype = weight_type(taps, dot.largest_sum)
    found = {"direct": KernelWeights("direct", groups, pack_dense(taps, groups, qtype), qtype)}
    if groups == 1:
        values, places = find_places(pack_dense(weight, 1), len(weight))
        if int(np.diff(places[: -(-len(weight) // 16) + 1]).max()) <= _MAX_PLACES:
            found["sparse"] = KernelWeights("sparse", 1, values, None, places)
    for name, n_axes in WINOGRAD_AXES.items():
        if _refuse_winograd(dot, n_axes) is None:
            qtype = weight_type(weight, dot.largest_sum)
            found[name] = KernelWeights(name, 1, pack_dense(weight, 1, qtype), qtype)
    if _refuse_binary(dot) is None:
        bits = binary_weights(dot.weight, dot.codes)
        found["binary"] = KernelWeights("binary", 1, pack_words(bits.bits), binary=bits)
    if found["direct"].qtype == INT8 and refuse_codebook(taps, groups) is None:
        in_table, table = pack_places(taps)
        found["codebook"] = KernelWeights("codebook", 1, in_table, _PLACE, table=table)
    if groups == 1:
        values, places = find_blocks(weight, dot.quad_plane)
        if int(np.diff(places[: -(-len(weight) // 16) * 4 + 1]).max()) <= _MAX_PLACES:
            found["sparse4x4"] = KernelWeights("sparse4x4", 1, values, None, places)
    return found


def choose_weights(dot: Dot, found: Mapping[str, KernelWeights], algorithm: str | None = None) -> KernelWeights:
    """Return weights for the kernels of an algorithm; None: of the rule's.

    The rule: sparse where at most 0.6 of the quads are not all zero, and the file is no larger for it, and in blocks of
    4 by 4 where those are less work, on planes of at least 49 outputs, or of one; binary where
    inputs are proven to have two codes and weights have two values, with at least 32 channels and 256 products an
    output; Winograd where that is proven to give the same integers, with at least 32 channels on both sides and 49
    outputs a plane; along one axis, with 64 channels, 64 outputs and 128 inputs times rows that are not transformed;
    places in a table where weights have few values and would be int8, with as many outputs; else
    direct.

    Args:
        dot: The convolution.
        found: What `find_weights` has for it.
        algorithm: Of `ALGORITHMS`.

    Raises:
        ConfigError: The algorithm cannot run it.

    Example:
        >>> zeros = np.zeros((16, 64, 1, 1), dtype=np.int64)
        >>> dots = [Dot(weight, zeros[:, 0, 0, 0]) for weight in (zeros + 99, zeros)]
        >>> [choose_weights(dot, find_weights(dot)).algorithm for dot in dots]
        ['direct', 'sparse']
    """
    if algorithm is not None and algorithm not in found:
        refusals: dict[str, Callable[[Dot], str | None]] = {
            "binary": _refuse_binary,
            "codebook": _refuse_codebook,
            **{name: partial(_refuse_winograd, n_axes=n_axes) for name, n_axes in WINOGRAD_AXES.items()},
        }
        refuse = refusals.get(algorithm)
        reason = (refuse(dot) if refuse is not None else None) or "its kernels are for other layers"
        raise ConfigError(f"{algorithm!r} cannot run it: {reason}. Take one of: {', '.join(found)}.")
    return found[algorithm or _rule(dot, found)]


def _rule(dot: Dot, found: Mapping[str, KernelWeights]) -> str:
    first = next(iter(found))
    work = {name: _work(dot, found, name) for name in ("sparse", "sparse4x4") if name in found}
    worth = [name for name in work if work[name] <= _DENSEST and found[name].n_bytes < found["direct"].n_bytes]
    if worth:
        return min(worth, key=work.__getitem__)
    if "binary" in found and dot.weight.shape[1] >= _WORD and dot.weight[0].size >= _LEAST_BITS:
        return "binary"
    outputs = dot.plane[0] * dot.plane[1]
    large = min(dot.weight.shape[:2]) >= _LEAST_CHANNELS and outputs >= _LEAST_PLANE
    if "winograd" in found and large:
        return "winograd"
    large = min(dot.weight.shape[:2]) >= _LEAST_CHANNELS_1D and outputs >= _LEAST_PLANE_1D
    if "winograd1d" in found and large and dot.weight[0].size // 3 >= _LEAST_LINE:
        return "winograd1d"
    return "codebook" if "codebook" in found and outputs >= _LEAST_PLANE else first


def _work(dot: Dot, found: Mapping[str, KernelWeights], name: str) -> float:
    """Return what sparse kernels take, in times of direct ones, as their quads and lanes count it."""
    share = found[name].values.size / found["direct"].values.size
    outputs = dot.plane[0] * dot.plane[1]
    if name == "sparse":
        return share
    if outputs == 1:
        return _WORK_ALONE * share
    if outputs < _LEAST_PLANE:
        return float("inf")
    lanes = -(-dot.quad_plane.n_positions // _LANES) * _LANES
    blocks_of_row = dot.weight.size / len(dot.weight) / 4
    return (share + _BLOCKS_MORE / blocks_of_row) * lanes / outputs


def _refuse_winograd(dot: Dot, n_axes: int) -> str | None:
    if dot.wide:
        return "its input lies in 32 bits"
    return refuse_winograd(
        dot.weight, dot.bias, n_axes=n_axes, groups=dot.groups, stride=dot.stride, dilation=dot.dilation,
        codes=dot.codes, largest_sum=dot.largest_sum,
    )  # fmt: skip


def _refuse_binary(dot: Dot) -> str | None:
    if dot.wide:
        return "its input lies in 32 bits"
    return refuse_binary(dot.weight, dot.bias, groups=dot.groups, codes=dot.codes, only_ends=dot.only_ends)


def _refuse_codebook(dot: Dot) -> str | None:
    if dot.wide or dot.weight.min() < INT8.qmin or dot.weight.max() > INT8.qmax:
        return "its input or weights have more than 8 bits"
    return refuse_codebook(dot.weight, dot.groups) or "its weights have 4 bits or less as they are"
