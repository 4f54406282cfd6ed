/* Tiles of convolutions for AVX512-VNNI: P pixels times B blocks of 16 channels, which stay in registers over all taps.

   Why assembly: a tile of 14 x 2 fills all 32 registers; written with intrinsics, g++ spills them, at less than half the
   speed. Called by avx512vnni_conv.cpp through the table at the end; its twin in C++ is kernels/portable.cpp.

   rdi  Call (avx512vnni_tiles.hpp)   rsi  input of the first pixel   rdx  output   rcx  residual
   rax, rbx  input of pixels 0 to 7 and 8 to 15   rbp  quads left of this tap
   r8  taps   r9  taps left   r10  weights of a tap   r11  bytes from one block's weights to the next
   r12 to r15  1, 3, 5, 7 pixels, in bytes; r15 is three blocks of weights where B is 4 (then P is at most 6)
   zmm0 to zmm27  sums of pixel p and block b in p * B + b, from the bias on
   zmm28 to zmm31  weights and inputs (inputs in zmm24 and zmm25 where B is 4); scales and such in the epilogue

   Packed weights: 64 bytes hold 2, 4 or 8 quads. That of the turn is shifted into the top bits of its bytes and what is
   below masked, so that it is 16 or 64 times too large, as the bias is made and sums are until all taps are done.
   rcx  shifts left (rcx itself is on the stack)   zmm31, or zmm26 where B is 4  mask
   Where B is 1 or 2, weights are stored as they are then, for tiles of bytes: rdx is where (rdx itself is on the stack),
   r9 bytes from one block's to the next (taps left are on the stack). Call says by how much rdx moves, if at all.
   Others: rcx is where weights are fetched ahead, a line for every quad (rcx itself is on the stack). */

    .intel_syntax noprefix
    .altmacro

    .set CALL_PIXEL_STEP, 0
    .set CALL_QUADS, 8
    .set CALL_WEIGHTS, 16
    .set CALL_BLOCK_BYTES, 24
    .set CALL_BIAS, 32
    .set CALL_SCALE, 40
    .set CALL_OFFSET, 48
    .set CALL_RESIDUAL_SCALE, 56
    .set CALL_RESIDUAL_OFFSET, 64
    .set CALL_OUT_STEP, 72
    .set CALL_RESIDUAL_STEP, 80
    .set CALL_SUMS, 88
    .set CALL_TAPS, 96
    .set CALL_N_TAPS, 104
    .set CALL_LOW, 112
    .set CALL_HIGH, 113
    .set CALL_ENDING, 114
    .set CALL_MAGIC, 116
    .set CALL_BEFORE, 120
    .set CALL_WIDE_LOW, 124
    .set CALL_WIDE_HIGH, 128
    .set CALL_WEIGHT_KIND, 132
    .set CALL_MASK, 136
    .set CALL_FLIP, 140
    .set CALL_SHIFTS, 144
    .set CALL_SHIFTS_END, 152
    .set CALL_SCALE_SHIFT, 160
    .set CALL_PLACES, 176
    .set CALL_N_PLACES, 184
    .set CALL_AHEAD, 192
    .set CALL_PANEL, 200
    .set CALL_PANEL_BLOCK, 208
    .set CALL_PANEL_STEP, 216

#include "avx512vnni_tile_sums.inc"
#include "avx512vnni_tile_codes.inc"

.macro load_bias n
    vmovdqu64 zmm\n, [rax + 64*\n]
    vpslld zmm\n, zmm\n, xmmword ptr [rdi + CALL_SCALE_SHIFT]
.endm

.macro unscale n
    vpsrad zmm\n, zmm\n, xmm31
.endm

.macro copy to, from
    vmovdqa64 zmm\to, zmm\from
.endm

.macro store_sum n
    vmovdqu64 [rax + 64*\n], zmm\n
.endm

.macro tile P, B
    .p2align 6
.Ltile_\B\()_\P:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov r12, [rdi + CALL_PIXEL_STEP]
    mov r11, [rdi + CALL_BLOCK_BYTES]
    mov rax, [rdi + CALL_BIAS]
    lea r13, [r12 + r12*2]
    lea r14, [r12 + r12*4]
  .if \B == 4
    lea r15, [r11 + r11*2]
  .else
    lea r15, [r13 + r12*4]
  .endif
    .set n, 0
    .rept \B
    load_bias %n
    .set n, n + 1
    .endr
    .rept (\P - 1) * \B
    copy %n, %(n - \B)
    .set n, n + 1
    .endr
    cmp dword ptr [rdi + CALL_WEIGHT_KIND], 1
    jb 10f
  .if \B == 1
    ja 12f
  .endif
    push rcx
    mov rcx, [rdi + CALL_SHIFTS]
  .if \B == 4
    vpbroadcastd zmm26, dword ptr [rdi + CALL_MASK]
  .else
    vpbroadcastd zmm31, dword ptr [rdi + CALL_MASK]
  .endif
    all_taps \P, \B, 1
    pop rcx
    vmovdqu64 xmm31, xmmword ptr [rdi + CALL_SCALE_SHIFT]
    .set n, 0
    .rept \P * \B
    unscale %n
    .set n, n + 1
    .endr
    jmp 11f
  .if \B == 1
12: all_places \P
    jmp 11f
  .endif
10: push rcx
    mov rcx, [rdi + CALL_AHEAD]
    all_taps \P, \B, 0
    pop rcx

11:
    cmp byte ptr [rdi + CALL_ENDING], 0
    jne 3f
    mov rax, [rdi + CALL_SUMS]
    .set n, 0
    .rept \P * \B
    store_sum %n
    .set n, n + 1
    .endr
    jmp 5f

3:  mov rax, [rdi + CALL_SCALE]
    mov rbx, [rdi + CALL_OFFSET]
    vpbroadcastd zmm31, dword ptr [rdi + CALL_MAGIC]
    .set b, 0
    .rept \B
    load_dyadic %b
    .set n, b
    .rept \P
    rescale %n
    .set n, n + \B
    .endr
    .set b, b + 1
    .endr
    mov r8, [rdi + CALL_RESIDUAL_STEP]
    cmp byte ptr [rdi + CALL_ENDING], 2
    jb 4f
    ja 6f
    mov rax, [rdi + CALL_RESIDUAL_SCALE]
    mov rbx, [rdi + CALL_RESIDUAL_OFFSET]
    vpbroadcastd zmm31, dword ptr [rdi + CALL_BEFORE]
    .set b, 0
    .rept \B
    load_dyadic %b
    mov rbp, rcx
    .set n, b
    .rept \P
    add_residual %n, %b
    add rbp, r8
    .set n, n + \B
    .endr
    .set b, b + 1
    .endr
4:  vpbroadcastb zmm29, byte ptr [rdi + CALL_LOW]
    vpbroadcastb zmm30, byte ptr [rdi + CALL_HIGH]
    vmovdqu64 zmm31, [rip + .Lorder]
    mov rax, [rdi + CALL_OUT_STEP]
    lea rbx, [rax + rax*2]
    .set n, 0
    .rept (\P * \B) / 4
    finish_pixels %n, \B, 4
    .set n, n + 4
    .endr
  .if \P * \B - \P * \B / 4 * 4
    finish_pixels %n, \B, %(\P - n / \B)
  .endif
    jmp 5f

6:  cmp byte ptr [rdi + CALL_ENDING], 4
    je 7f
    .set b, 0
    .rept \B
    mov rbp, rcx
    .set n, b
    .rept \P
    add_wide %n, %b
    add rbp, r8
    .set n, n + \B
    .endr
    .set b, b + 1
    .endr
    jmp 4b

7:  vpbroadcastd zmm29, dword ptr [rdi + CALL_WIDE_LOW]
    vpbroadcastd zmm30, dword ptr [rdi + CALL_WIDE_HIGH]
    mov rax, [rdi + CALL_OUT_STEP]
    .set n, 0
    .rept \P
    .set b, 0
    .rept \B
    store_wide %n, %b
    .set n, n + 1
    .set b, b + 1
    .endr
    add rdx, rax
    .endr

5:  pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
.endm

.macro entry P, B
    .quad .Ltile_\B\()_\P
.endm

/* Call `what` for 1 to n pixels. */
.macro each what, n, B
    .set P, 1
    .rept \n
    \what %P, \B
    .set P, P + 1
    .endr
.endm

    .text
    each tile, 16, 1
    each tile, 14, 2
    each tile, 6, 4

/* Packing leaves the four bytes of lane i of vector j in place 4 i + j. */
    .section .rodata
    .p2align 6
.Lorder:
    .long 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15

    .section .data.rel.ro, "aw", @progbits
    .p2align 6
    .globl dyadiq_avx512vnni_tiles
    .hidden dyadiq_avx512vnni_tiles
dyadiq_avx512vnni_tiles:
    each entry, 16, 1
    each entry, 14, 2
    each entry, 6, 4

    .section .note.GNU-stack, "", @progbits
