/* Tiles of sparse convolutions in blocks of 4 outputs by 4 inputs for AVX512-VNNI: V vectors of 16 positions times 4 outputs,
   which stay in registers over all blocks. Positions side by side find the inputs of a block side by side (sparse4.py).
   Where a tile ends with a half vector, two outputs share one: 8 positions each.

   Called by avx512vnni_sparse4.cpp through the table at the end; its twin in C++ is kernels/portable_sparse4.cpp.

   rdi  places, in quads from rcx on   rsi  blocks   rdx  their weights   rcx  input of the first position
   r8   sums, [4][V * 16]   r9  4 numbers that sums begin with
   zmm0 to zmm23  sums of output o and vector v in o * V + v, then those of halves   zmm24 to zmm31  weights and inputs
   k1  the upper half */

    .intel_syntax noprefix
    .altmacro

.macro first_sum n, o
    vpbroadcastd zmm\n, dword ptr [r9 + 4*\o]
.endm

.macro first_sum_above n, o
    vpbroadcastd zmm\n{k1}, dword ptr [r9 + 4*\o]
.endm

.macro copy to, from
    vmovdqa64 zmm\to, zmm\from
.endm

.macro load_weights to, o
    vpbroadcastd zmm\to, dword ptr [rdx + 4*\o]
.endm

.macro load_weights_above to, o
    vpbroadcastd zmm\to{k1}, dword ptr [rdx + 4*\o]
.endm

.macro load_vector to, v
    vmovdqu64 zmm\to, [rax + 64*\v]
.endm

.macro load_half to, v
    vbroadcasti64x4 zmm\to, [rax + 64*\v]
.endm

.macro dot sum, x, w
    vpdpbusd zmm\sum, zmm\x, zmm\w
.endm

.macro store_sum n, at
    vmovdqu64 [r8 + 64*\at], zmm\n
.endm

.macro store_halves n, at, above
    vmovdqu64 [r8 + 64*\at], ymm\n
    vextracti64x4 [r8 + 64*\above], zmm\n, 1
.endm

/* V whole vectors; H is 1 where a half follows. */
.macro tile V, H
    .p2align 6
.Lsparse4_\V\()_\H:
    .set o, 0
    .rept 4
  .if \V
    .set n, o * \V
    first_sum %n, %o
    .rept \V - 1
    copy %(n + 1), %n
    .set n, n + 1
    .endr
  .endif
    .set o, o + 1
    .endr
  .if \H
    mov eax, 0xFF00
    kmovd k1, eax
    first_sum %(4 * \V), 0
    first_sum_above %(4 * \V), 1
    first_sum %(4 * \V + 1), 2
    first_sum_above %(4 * \V + 1), 3
  .endif
    test rsi, rsi
    jz 2f
    .p2align 5
1:  movsxd rax, dword ptr [rdi]
    lea rax, [rcx + rax*4]
  .if \H
    load_half 30, \V
    load_weights 28, 0
    load_weights_above 28, 1
    load_weights 29, 2
    load_weights_above 29, 3
    dot %(4 * \V), 30, 28
    dot %(4 * \V + 1), 30, 29
  .endif
    .set o, 0
    .rept 4
    load_weights %(24 + o), %o
    .set o, o + 1
    .endr
    .set v, 0
    .rept \V
    load_vector %(31 - v + v / 2 * 2), %v
    .set o, 0
    .rept 4
    dot %(o * \V + v), %(31 - v + v / 2 * 2), %(24 + o)
    .set o, o + 1
    .endr
    .set v, v + 1
    .endr
    add rdi, 4
    add rdx, 16
    dec rsi
    jnz 1b
2:
    .set o, 0
    .rept 4
    .set v, 0
    .rept \V
    store_sum %(o * \V + v), %(o * (\V + \H) + v)
    .set v, v + 1
    .endr
    .set o, o + 1
    .endr
  .if \H
    store_halves %(4 * \V), \V, %(2 * \V + 1)
    store_halves %(4 * \V + 1), %(3 * \V + 2), %(4 * \V + 3)
  .endif
    ret
.endm

.macro entry V, H
    .quad .Lsparse4_\V\()_\H
.endm

/* Call `what` for 1 to 6 vectors, of which the last is a half where H is 1. */
.macro each what, H
    .set V, 1 - \H
    .rept 6
    \what %V, \H
    .set V, V + 1
    .endr
.endm

    .text
    each tile, 0
    each tile, 1

    .section .data.rel.ro, "aw", @progbits
    .p2align 6
    .globl dyadiq_avx512vnni_sparse4_tiles
    .hidden dyadiq_avx512vnni_sparse4_tiles
dyadiq_avx512vnni_sparse4_tiles:
    each entry, 0
    each entry, 1

    .section .note.GNU-stack, "", @progbits
