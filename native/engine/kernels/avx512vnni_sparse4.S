/* Tiles of sparse convolutions in blocks of 4 outputs by 4 inputs for AVX512-VNNI: V vectors of 16 positions times 4 outputs,
   which stay in registers over all blocks. Positions side by side find the inputs of a block side by side (sparse4.py).

   Called by avx512vnni_sparse4.cpp through the table at the end; its twin in C++ is kernels/portable_sparse4.cpp.

   rdi  places, in quads from rcx on   rsi  blocks   rdx  their weights   rcx  input of the first position
   r8   sums, [4][V * 16]   r9  4 numbers that sums begin with
   zmm0 to zmm23  sums of output o and vector v in o * V + v   zmm24 to zmm27  weights   zmm28 to zmm31  inputs */

    .intel_syntax noprefix
    .altmacro

.macro load_vector to, v
    vmovdqu64 zmm\to, [rax + 64*\v]
.endm

.macro load_weights to, o
    vpbroadcastd zmm\to, dword ptr [rdx + 4*\o]
.endm

.macro first_sum n, o
    vpbroadcastd zmm\n, dword ptr [r9 + 4*\o]
.endm

.macro copy to, from
    vmovdqa64 zmm\to, zmm\from
.endm

.macro dot sum, x, w
    vpdpbusd zmm\sum, zmm\x, zmm\w
.endm

.macro store_sum n
    vmovdqu64 [r8 + 64*\n], zmm\n
.endm

.macro tile V
    .p2align 6
.Lsparse4_\V:
    .set o, 0
    .rept 4
    .set n, o * \V
    first_sum %n, %o
    .rept \V - 1
    copy %(n + 1), %n
    .set n, n + 1
    .endr
    .set o, o + 1
    .endr
    test rsi, rsi
    jz 2f
    .p2align 5
1:  movsxd rax, dword ptr [rdi]
    lea rax, [rcx + rax*4]
    .set o, 0
    .rept 4
    load_weights %(24 + o), %o
    .set o, o + 1
    .endr
    .set v, 0
    .rept \V
    load_vector %(28 + v - v / 4 * 4), %v
    .set o, 0
    .rept 4
    dot %(o * \V + v), %(28 + v - v / 4 * 4), %(24 + o)
    .set o, o + 1
    .endr
    .set v, v + 1
    .endr
    add rdi, 4
    add rdx, 16
    dec rsi
    jnz 1b
2:
    .set n, 0
    .rept 4 * \V
    store_sum %n
    .set n, n + 1
    .endr
    ret
.endm

.macro entry V
    .quad .Lsparse4_\V
.endm

    .text
    .set V, 1
    .rept 6
    tile %V
    .set V, V + 1
    .endr

    .section .data.rel.ro, "aw", @progbits
    .p2align 6
    .globl dyadiq_avx512vnni_sparse4_tiles
    .hidden dyadiq_avx512vnni_sparse4_tiles
dyadiq_avx512vnni_sparse4_tiles:
    .set V, 1
    .rept 6
    entry %V
    .set V, V + 1
    .endr

    .section .note.GNU-stack, "", @progbits
