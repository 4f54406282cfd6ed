"""The frames of what target `c` writes: header, program, a main program for hosts. `c_program` and `c` fill them in."""

from __future__ import annotations

__all__ = ["HEADER", "MAIN", "SOURCE"]

HEADER = """\
/* A network as integer arithmetic, written by dyadiq: {prefix}.c needs no library beyond memcpy, and allocates nothing.
 *
 * {prefix}_run returns 0, or 1 where an input is NaN or infinite. Inputs are real values [C, H, W]; outputs codes
 * [C, H, W]. `arena` is {upper}_ARENA_BYTES of any alignment, whose contents mean nothing before and after.
 */
#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

{sizes}
#define {upper}_ARENA_BYTES {arena}

/* float unless told otherwise; codes are computed in double either way. */
#ifndef {upper}_REAL
#define {upper}_REAL float
#endif
typedef {upper}_REAL {prefix}_real;

int {prefix}_run({parameters});

#ifdef __cplusplus
}}
#endif

#endif
"""

SOURCE = """\
/* Written by dyadiq; see {prefix}.h. C99. */
#include "{prefix}.h"

#include <float.h>
#include <stddef.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 1
#error "double must be computed in double: on 32-bit x86, compile with -msse2 -mfpmath=sse"
#endif
#ifdef __FAST_MATH__
#error "the input quantizer must be computed as it is written: compile without -ffast-math"
#endif

{body}
int {prefix}_run({parameters}) {{
    int strange = 0;
{calls}    return strange;
}}
"""

MAIN = """\
/* Reads samples from standard input, as {prefix}_real, and writes their codes to standard output, as int32.
 *
{shapes}
 *
 *     cc -O2 -std=c99 {prefix}.c main.c -o {prefix}
 */
#include <stdio.h>

#include "{prefix}.h"

{declared}static unsigned char arena[{upper}_ARENA_BYTES];

int main(void) {{
    for (;;) {{
{reads}        if ({prefix}_run({call})) {{
            return {status};
        }}
{writes}    }}
}}
"""
