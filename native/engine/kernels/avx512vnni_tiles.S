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

/* The four bytes of pixel i of eight, in every lane. */
.macro broadcast_from to, base, i
  .if \i == 0
    vpbroadcastd zmm\to, dword ptr [\base]
  .elseif \i == 1
    vpbroadcastd zmm\to, dword ptr [\base + r12]
  .elseif \i == 2
    vpbroadcastd zmm\to, dword ptr [\base + r12*2]
  .elseif \i == 3
    vpbroadcastd zmm\to, dword ptr [\base + r13]
  .elseif \i == 4
    vpbroadcastd zmm\to, dword ptr [\base + r12*4]
  .elseif \i == 5
    vpbroadcastd zmm\to, dword ptr [\base + r14]
  .elseif \i == 6
    vpbroadcastd zmm\to, dword ptr [\base + r13*2]
  .else
    vpbroadcastd zmm\to, dword ptr [\base + r15]
  .endif
.endm

.macro broadcast to, i
  .if \i < 8
    broadcast_from \to, rax, \i
  .else
    broadcast_from \to, rbx, %(\i - 8)
  .endif
.endm

.macro dot sum, x, w
    vpdpbusd zmm\sum, zmm\x, zmm\w
.endm

.macro pixel p, B, x
    broadcast \x, \p
    dot %(\p * \B), \x, 28
  .if \B > 1
    dot %(\p * \B + 1), \x, 29
  .endif
  .if \B > 2
    dot %(\p * \B + 2), \x, 30
    dot %(\p * \B + 3), \x, 31
  .endif
.endm

/* Pixels from one to before another, of one quad of inputs. */
.macro pixels from, to, B, packed
    .set p, \from
    .rept \to - \from
    .if \B == 4
      pixel %p, \B, %(24 + p - p / 2 * 2)
    .elseif \packed
      pixel %p, \B, 30
    .else
      pixel %p, \B, %(30 + p - p / 2 * 2)
    .endif
    .set p, p + 1
    .endr
.endm

.macro load_weights B
    vmovdqu64 zmm28, [r10]
  .if \B > 1
    vmovdqu64 zmm29, [r10 + r11]
  .endif
  .if \B > 2
    vmovdqu64 zmm30, [r10 + r11*2]
    vmovdqu64 zmm31, [r10 + r15]
  .endif
.endm

/* (shifted & mask) ^ flip */
.macro unpack w, mask
    vpsllvd zmm\w, zmm\w, dword ptr [rcx]{1to16}
    vpternlogd zmm\w, zmm\mask, dword ptr [rdi + CALL_FLIP]{1to16}, 0x6A
.endm

.macro unpack_weights B
  .if \B == 4
    unpack 28, 26
    unpack 29, 26
    unpack 30, 26
    unpack 31, 26
  .else
    unpack 28, 31
    vmovdqu64 [rdx], zmm28
    .if \B == 2
    unpack 29, 31
    vmovdqu64 [rdx + r9], zmm29
    .endif
    add rdx, [rdi + CALL_PANEL_STEP]
  .endif
.endm

/* All quads of one tap. */
.macro tap from, to, B, packed
    .p2align 5
2:  load_weights \B
  .if \packed
    unpack_weights \B
  .endif
    pixels \from, \to, \B, \packed
    add rax, 4
  .if \to > 8
    add rbx, 4
  .endif
  .if \packed
    add rcx, 16
    cmp rcx, [rdi + CALL_SHIFTS_END]
    jb 8f
    mov rcx, [rdi + CALL_SHIFTS]
    add r10, 64
8:
  .else
    prefetcht1 [rcx]
    add rcx, 64
    add r10, 64
  .endif
    dec rbp
    jnz 2b
.endm

/* All taps, in the order of their weights, which are read ahead best like that. */
.macro all_taps P, B, packed
    mov r8, [rdi + CALL_TAPS]
    mov r9, [rdi + CALL_N_TAPS]
  .if \packed && \B < 4
    push rdx
    push r9
    mov rdx, [rdi + CALL_PANEL]
    mov r9, [rdi + CALL_PANEL_BLOCK]
  .endif
1:  mov rax, [r8]
    mov r10, [r8 + 8]
    add rax, rsi
    add r10, [rdi + CALL_WEIGHTS]
  .if \P > 8
    lea rbx, [rax + r12*8]
  .endif
    mov rbp, [rdi + CALL_QUADS]
  .if \P > 1
    cmp qword ptr [r8 + 16], 1
    je 3f
    ja 4f
  .endif
    tap 0, \P, \B, \packed
  .if \P > 1
    jmp 5f
3:  tap 1, \P, \B, \packed
    jmp 5f
4:  tap 0, %(\P - 1), \B, \packed
5:
  .endif
    add r8, 24
  .if \packed && \B < 4
    dec qword ptr [rsp]
    jnz 1b
    pop r9
    pop rdx
  .else
    dec r9
    jnz 1b
  .endif
.endm

/* The quads of sparse weights, each where its place says. */
.macro all_places P
    mov r8, [rdi + CALL_PLACES]
    mov r9, [rdi + CALL_N_PLACES]
    mov r10, [rdi + CALL_WEIGHTS]
    test r9, r9
    jz 2f
    .p2align 5
1:  movsxd rax, dword ptr [r8]
    add rax, rsi
  .if \P > 8
    lea rbx, [rax + r12*8]
  .endif
    vmovdqu64 zmm28, [r10]
    pixels 0, \P, 1, 0
    add r8, 4
    add r10, 64
    dec r9
    jnz 1b
2:
.endm

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

.macro load_dyadic b
    vmovups zmm28, [rax + 64*\b]
    vmovups zmm29, [rbx + 64*\b]
.endm

/* dyadiq/engine/single.py: an integer, rounded down, in the low bits of a single; zmm31 is taken away from its bits. */
.macro rescale n
    vcvtdq2ps zmm\n, zmm\n, {rn-sae}
    vfmadd213ps zmm\n, zmm28, zmm29, {rd-sae}
    vpsubd zmm\n, zmm\n, zmm31
.endm

.macro add_residual n, b
    vpmovzxbd zmm30, xmmword ptr [rbp + 16*\b]
    vpaddd zmm30, zmm30, zmm31
    vcvtdq2ps zmm30, zmm30, {rn-sae}
    vfmadd213ps zmm30, zmm28, zmm29, {rn-sae}
    vpaddd zmm\n, zmm\n, zmm30
.endm

.macro add_wide n, b
    vpaddd zmm\n, zmm\n, [rbp + 64*\b]
.endm

.macro store_wide n, b
    vpmaxsd zmm\n, zmm\n, zmm29
    vpminsd zmm\n, zmm\n, zmm30
    vmovdqu64 [rdx + 64*\b], zmm\n
.endm

/* Four sums as 64 bytes, clipped and in order. */
.macro pack a, b, c, d
    vpackssdw zmm28, zmm\c, zmm\d
    vpackssdw zmm\a, zmm\a, zmm\b
    vpackuswb zmm\a, zmm\a, zmm28
    vpmaxub zmm\a, zmm\a, zmm29
    vpminub zmm\a, zmm\a, zmm30
    vpermd zmm\a, zmm31, zmm\a
.endm

/* Store the first n pixels of what was packed. */
.macro store_pixels a, B, n
  .if \B == 1
    vmovdqu64 [rdx], xmm\a
    .if \n > 1
    vextracti32x4 [rdx + rax], zmm\a, 1
    .endif
    .if \n > 2
    vextracti32x4 [rdx + rax*2], zmm\a, 2
    .endif
    .if \n > 3
    vextracti32x4 [rdx + rbx], zmm\a, 3
    .endif
    lea rdx, [rdx + rax*4]
  .elseif \B == 2
    vmovdqu64 [rdx], ymm\a
    .if \n > 1
    vextracti64x4 [rdx + rax], zmm\a, 1
    .endif
    lea rdx, [rdx + rax*2]
  .else
    vmovdqu64 [rdx], zmm\a
    add rdx, rax
  .endif
.endm

.macro finish_pixels a, B, n
    pack \a, %(\a + 1), %(\a + 2), %(\a + 3)
    store_pixels \a, \B, \n
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
