"""The kernels of target `c` as C99 text: what every step of a program calls. Only those that are called get written.

Used by `c_program`. Tensors lie in an arena of bytes as ``[height][width][channel]`` without gaps, each code in the
smallest of int8, uint8, int16, uint16, int32 and int64 that holds its type; wider ones than bytes are read and written
by memcpy, so nothing needs to be aligned and no object is seen as another type. Shifts of negative numbers are spelled
out, and the quantizer needs no mathematical library.
"""

from __future__ import annotations

import re
from string import Template

__all__ = ["CODE_TYPES", "KERNELS", "STRUCTURES", "dot_kernel", "needed_helpers"]

CODE_TYPES = {"int8": 0, "uint8": 1, "int16": 2, "uint16": 3, "int32": 4, "int64": 5}
"""C types of codes, and their numbers in the program's text."""

STRUCTURES = """\
typedef struct {  /* y = clip(sum + zero_point, low, high), or the sign of it, stored at `at` of the arena */
    uint32_t at;
    uint8_t type, sign;
    int64_t zero_point, low, high;
} finish_t;

typedef struct {  /* clip(((x + before) * multiplier + rounding) >> shift, low, high); no multiplier: x + before */
    uint32_t at;
    uint8_t type, each;  /* each: one multiplier and shift a channel, else one for all */
    int64_t before, low, high;
    const int32_t* multiplier;
    const uint8_t* shift;
} branch_t;

typedef struct {  /* a window that slides over a plane */
    int32_t in_h, in_w, in_c, out_h, out_w, out_c;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
} window_t;
"""

_HELPERS = {
    "load": """\
static int64_t load(const unsigned char* x, int type, size_t i) {
    int16_t s;
    uint16_t u;
    int32_t w;
    int64_t l;
    switch (type) {
        case 0: return ((const int8_t*)x)[i];
        case 1: return x[i];
        case 2: memcpy(&s, x + 2 * i, 2); return s;
        case 3: memcpy(&u, x + 2 * i, 2); return u;
        case 4: memcpy(&w, x + 4 * i, 4); return w;
        default: memcpy(&l, x + 8 * i, 8); return l;
    }
}
""",
    "store": """\
static void store(unsigned char* y, int type, size_t i, int64_t code) {
    uint16_t u = (uint16_t)code;
    uint32_t w = (uint32_t)code;
    switch (type) {
        case 0:
        case 1: y[i] = (unsigned char)code; break;
        case 2:
        case 3: memcpy(y + 2 * i, &u, 2); break;
        case 4: memcpy(y + 4 * i, &w, 4); break;
        default: memcpy(y + 8 * i, &code, 8); break;
    }
}
""",
    "clip": """\
static int64_t clip(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }
""",
    "rescale": """\
static int64_t rescale(int64_t x, int64_t multiplier, int shift) {
    int64_t y = x * multiplier + (shift > 0 ? (int64_t)1 << (shift - 1) : 0);
    return y >= 0 ? y >> shift : ~(~y >> shift); /* towards minus infinity, whatever >> does with a sign */
}
""",
    "summand": """\
static int64_t summand(const branch_t* b, const unsigned char* arena, size_t i, size_t channel) {
    int64_t x = load(arena + b->at, b->type, i) + b->before;
    if (b->multiplier) {
        x = rescale(x, b->multiplier[b->each ? channel : 0], b->shift[b->each ? channel : 0]);
    }
    return clip(x, b->low, b->high);
}
""",
    "finish": """\
static void finish(const finish_t* f, unsigned char* arena, size_t i, int64_t sum) {
    int64_t y = sum + f->zero_point;
    store(arena + f->at, f->type, i, f->sign ? (y >= 0 ? 1 : -1) : clip(y, f->low, f->high));
}
""",
}

KERNELS = {
    "quantize": """\
/* Returns 1 where a value is NaN or infinite. `grid`: shift, low and high end of every channel, or null. */
static int quantize(const REAL* x, double scale, int64_t zero_point, const int32_t* grid, int32_t h, int32_t w,
                    int32_t c, const finish_t* f, unsigned char* arena) {
    int strange = 0;
    size_t plane = (size_t)h * (size_t)w, p, k;
    for (k = 0; k < (size_t)c; ++k) {
        int32_t shift = grid ? grid[k] : 0;
        double low = (double)(grid ? grid[(size_t)c + k] : f->low - zero_point);
        double high = (double)(grid ? grid[2 * (size_t)c + k] : f->high - zero_point);
        double step = scale * (double)((int64_t)1 << shift);
        for (p = 0; p < plane; ++p) {
            double v = (double)x[k * plane + p], code = v / step + 0.5;
            int64_t whole;
            strange |= !(v - v == 0);
            if (f->sign) {
                store(arena + f->at, f->type, p * (size_t)c + k, v >= 0 ? 1 : -1);
                continue;
            }
            whole = (int64_t)(code >= low ? (code <= high + 1 ? code : high) : low);
            whole -= (double)whole > code && whole > (int64_t)low; /* floor */
            whole = clip(whole, (int64_t)low, (int64_t)high) * ((int64_t)1 << shift);
            store(arena + f->at, f->type, p * (size_t)c + k, whole + (grid ? 0 : zero_point));
        }
    }
    return strange;
}
""",
    "join": """\
static void join(const branch_t* branches, int n, size_t pixels, size_t channels, const finish_t* f,
                 unsigned char* arena) {
    size_t p, c;
    int b;
    for (p = 0; p < pixels; ++p) {
        for (c = 0; c < channels; ++c) {
            int64_t sum = 0;
            for (b = 0; b < n; ++b) {
                sum += summand(&branches[b], arena, p * channels + c, c);
            }
            finish(f, arena, p * channels + c, sum);
        }
    }
}
""",
    "max_pool": """\
static void max_pool(const window_t* s, const unsigned char* x, unsigned char* y, int type) {
    int32_t i, j, c, a, b;
    for (i = 0; i < s->out_h; ++i) {
        for (j = 0; j < s->out_w; ++j) {
            for (c = 0; c < s->out_c; ++c) {
                int64_t most = INT64_MIN;
                for (a = 0; a < s->kernel_h; ++a) {
                    int32_t row = i * s->stride_h - s->pad_h + a * s->dilation_h;
                    for (b = 0; b < s->kernel_w; ++b) {
                        int32_t column = j * s->stride_w - s->pad_w + b * s->dilation_w;
                        if (row >= 0 && row < s->in_h && column >= 0 && column < s->in_w) {
                            int64_t code = load(x, type, ((size_t)row * s->in_w + column) * s->in_c + c);
                            most = code > most ? code : most;
                        }
                    }
                }
                store(y, type, ((size_t)i * s->out_w + j) * s->out_c + c, most);
            }
        }
    }
}
""",
    "sum_pool": """\
static void sum_pool(const window_t* s, int64_t pad_value, int64_t bias, const int32_t* factor, const unsigned char* x,
                     int x_type, unsigned char* y, int y_type) {
    int32_t i, j, c, a, b;
    for (i = 0; i < s->out_h; ++i) {
        for (j = 0; j < s->out_w; ++j) {
            for (c = 0; c < s->out_c; ++c) {
                int64_t sum = bias;
                for (a = 0; a < s->kernel_h; ++a) {
                    int32_t row = i * s->stride_h - s->pad_h + a;
                    for (b = 0; b < s->kernel_w; ++b) {
                        int32_t column = j * s->stride_w - s->pad_w + b;
                        int inside = row >= 0 && row < s->in_h && column >= 0 && column < s->in_w;
                        sum += inside ? load(x, x_type, ((size_t)row * s->in_w + column) * s->in_c + c) : pad_value;
                    }
                }
                sum *= factor ? factor[i * s->out_w + j] : 1;
                store(y, y_type, ((size_t)i * s->out_w + j) * s->out_c + c, sum);
            }
        }
    }
}
""",
    "lookup": """\
static void lookup(const int32_t* table, int64_t first, size_t n, const unsigned char* x, int x_type, unsigned char* y,
                   int y_type) {
    size_t i;
    for (i = 0; i < n; ++i) {
        store(y, y_type, i, table[load(x, x_type, i) - first]);
    }
}
""",
    "pad": """\
/* [h][w][c] into the middle of [out_h][out_w][out_c] that is full of `value`. */
static void pad(const window_t* s, int32_t before_c, int64_t value, const unsigned char* x, unsigned char* y,
                int type) {
    int32_t i, j, c;
    for (i = 0; i < s->out_h; ++i) {
        for (j = 0; j < s->out_w; ++j) {
            for (c = 0; c < s->out_c; ++c) {
                int32_t row = i - s->pad_h, column = j - s->pad_w, k = c - before_c;
                int inside = row >= 0 && row < s->in_h && column >= 0 && column < s->in_w && k >= 0 && k < s->in_c;
                store(y, type, ((size_t)i * s->out_w + j) * s->out_c + c,
                      inside ? load(x, type, ((size_t)row * s->in_w + column) * s->in_c + k) : value);
            }
        }
    }
}
""",
    "place": """\
/* Channels of one tensor among those of another, from `first` on. */
static void place(size_t pixels, size_t from, size_t to, size_t first, const unsigned char* x, unsigned char* y,
                  int type) {
    size_t p, c;
    for (p = 0; p < pixels; ++p) {
        for (c = 0; c < from; ++c) {
            store(y, type, p * to + first + c, load(x, type, p * from + c));
        }
    }
}
""",
    "flatten": """\
/* [pixel][channel] into [channel][pixel]. */
static void flatten(size_t pixels, size_t channels, const unsigned char* x, unsigned char* y, int type) {
    size_t p, c;
    for (p = 0; p < pixels; ++p) {
        for (c = 0; c < channels; ++c) {
            store(y, type, c * pixels + p, load(x, type, p * channels + c));
        }
    }
}
""",
    "give": """\
static void give(size_t pixels, size_t channels, const unsigned char* x, int type, int32_t* codes) {
    size_t p, c;
    for (p = 0; p < pixels; ++p) {
        for (c = 0; c < channels; ++c) {
            codes[c * pixels + p] = (int32_t)load(x, type, p * channels + c);
        }
    }
}
""",
}

_DOT = Template("""\
/* Sums of $code codes times $weight weights. Weights: [output][row][column][input of the group]. */
static void $name(const window_t* s, int32_t groups, int64_t pad_value, const $weight* weights, const $sum* bias,
                  const int32_t* multiplier, const uint8_t* shift, int each, const branch_t* residual,
                  const finish_t* f, const unsigned char* x, unsigned char* arena) {
    int32_t n_in = s->in_c / groups, n_out = s->out_c / groups, i, j, o, a, b, k;
    for (i = 0; i < s->out_h; ++i) {
        for (j = 0; j < s->out_w; ++j) {
            const $weight* w = weights;
            for (o = 0; o < s->out_c; ++o) {
                size_t at = ((size_t)i * s->out_w + j) * s->out_c + o;
                $sum sum = bias[o];
                int64_t total;
                for (a = 0; a < s->kernel_h; ++a) {
                    int32_t row = i * s->stride_h - s->pad_h + a * s->dilation_h;
                    for (b = 0; b < s->kernel_w; ++b, w += n_in) {
                        int32_t column = j * s->stride_w - s->pad_w + b * s->dilation_w;
                        if (row >= 0 && row < s->in_h && column >= 0 && column < s->in_w) {
                            size_t first = ((size_t)row * s->in_w + column) * s->in_c + (size_t)(o / n_out) * n_in;
                            for (k = 0; k < n_in; ++k) {
                                sum += ($sum)$read * w[k];
                            }
                        } else if (pad_value != 0) {
                            for (k = 0; k < n_in; ++k) {
                                sum += ($sum)pad_value * w[k];
                            }
                        }
                    }
                }
                total = multiplier ? rescale(sum, multiplier[each ? o : 0], shift[each ? o : 0]) : sum;
                finish(f, arena, at, residual ? total + summand(residual, arena, at, (size_t)o) : total);
            }
        }
    }
}
""")
_READS = {"int8": "((const int8_t*)x)[first + k]", "uint8": "x[first + k]"}


def dot_kernel(code: str, weight: str, total: str) -> tuple[str, str]:
    """Return name and text of the convolution of these types of codes, weights and sums.

    Example:
        >>> dot_kernel("uint8", "int8", "int32")[0]
        'dot_uint8_int8_int32'
    """
    name = f"dot_{code}_{weight}_{total}"
    read = _READS.get(code, f"load(x, {CODE_TYPES[code]}, first + k)")
    return name, _DOT.substitute(name=name, code=code, weight=f"{weight}_t", sum=f"{total}_t", read=read)


def needed_helpers(text: str) -> list[str]:
    """Return the helpers that a text calls, and those that these call, in order of definition.

    Example:
        >>> [helper.split("(")[0].split()[-1] for helper in needed_helpers("finish(f, arena, 0, 1);")]
        ['store', 'clip', 'finish']
    """
    needed: list[str] = []
    for name, helper in reversed(_HELPERS.items()):
        if re.search(rf"\b{name}\(", "".join((text, *needed))):
            needed.insert(0, helper)
    return needed
