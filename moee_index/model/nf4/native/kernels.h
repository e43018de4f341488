// What the files of this folder share: how a stack of 4-bit matrices lies in memory, and the
// functions that each instruction set provides.
#pragma once

#include <stdint.h>

// Weights that share one absmax, and blocks whose absmax share one scale (double quantization).
enum { NF4_BLOCK = 64, NF4_NESTED = 256 };

// The sixteen values of NF4 (QLoRA, Dettmers et al. 2023, appendix E), as bitsandbytes has them.
extern "C" const float nf4_table[16];

// n matrices [rows, cols] in the standard layout: two codes a byte, the even column in the high
// half, row by row. Either absmax [n, blocks] is set, or codes [n, blocks] with scale
// [n, ceil(blocks / 256)], offset [n] and the 256 values of the 8-bit type.
struct Nf4Stack {
    const uint8_t *packed;
    const float *absmax;
    const uint8_t *codes;
    const float *scale;
    const float *offset;
    const float *map;
    int64_t rows;
    int64_t cols;
};

// One matrix of a stack, and its blocks' absmax.
struct Nf4Matrix {
    const uint8_t *packed;
    const float *absmax;
    const uint8_t *codes;
    const float *scale;
    const float *map;
    float offset;
    int64_t cols;
};

// A product's part for one thread: rows first..last of a matrix times `count` rows of x.
// x: rows as `prepare_*` laid them. out: out[i * stride + row]. scratch: 64-byte aligned, of
// `scratch_bytes`.
struct Nf4Task {
    Nf4Matrix matrix;
    int64_t first, last;
    const void *const *x;
    int64_t count;
    void *out;
    int64_t stride;
    char *scratch;
};

// The functions of one instruction set. bf16 is bfloat16, rounded to nearest even; its products
// round weights to bfloat16 and sum in float32.
struct Nf4Kernels {
    // Blocks of 64 weights to codes and absmax, as bitsandbytes has them: a code counts the
    // midpoints of the table that weight / absmax is above. A weight that is not finite makes its
    // block's absmax so.
    void (*quantize_f32)(const float *weights, int64_t blocks, uint8_t *packed, float *absmax);
    void (*quantize_bf16)(const uint16_t *weights, int64_t blocks, uint8_t *packed, float *absmax);
    // Blocks first_block.. of a matrix, `blocks` of them, in order.
    void (*dequantize_f32)(const Nf4Matrix *, int64_t first_block, int64_t blocks, float *out);
    void (*dequantize_bf16)(const Nf4Matrix *, int64_t first_block, int64_t blocks, uint16_t *out);
    // Bytes of a prepared row of `cols` elements, a multiple of 64.
    int64_t (*row_bytes_f32)(int64_t cols);
    int64_t (*row_bytes_bf16)(int64_t cols);
    // One row of x in the order in which weights are unpacked.
    void (*prepare_f32)(const float *x, int64_t cols, void *out);
    void (*prepare_bf16)(const uint16_t *x, int64_t cols, void *out);
    void (*multiply_f32)(const Nf4Task *);
    void (*multiply_bf16)(const Nf4Task *);
    // For a task of `rows` rows of weights.
    int64_t (*scratch_bytes)(int64_t cols, int64_t rows);
};

extern const Nf4Kernels nf4_portable;
#if defined(__x86_64__) || defined(_M_X64)
extern const Nf4Kernels nf4_avx2;
extern const Nf4Kernels nf4_avx512;
extern const Nf4Kernels nf4_avx512bf16;
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
extern const Nf4Kernels nf4_neon;
#endif
