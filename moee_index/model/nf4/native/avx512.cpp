// AVX-512 (F, BW, DQ, VL) without bfloat16 arithmetic: float32 everywhere.
#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

#include <immintrin.h>

#include "kernels.inl"

#include "avx512_f32.inl"

namespace {

// Products of bfloat16 as float32 whose lower half is rounded away.
struct Avx512RoundedF32 : Avx512F32 {
    enum { SCALED = 1 };
    static NF4_INLINE void round_all(Scale scale, Vector *weights) {
        for (int p = 0; p < PARTS; p++) {
            __m512i bits = rounded_to_bf16(_mm512_mul_ps(weights[p], scale));
            weights[p] = _mm512_castsi512_ps(
                _mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000)));
        }
    }
    static NF4_INLINE void unpack(Table table, const uint8_t *codes, Scale scale, Vector *out) {
        Avx512F32::unpack(table, codes, scale, out);
        round_all(scale, out);
    }
    static NF4_INLINE void unpack_last(Table table, const uint8_t *codes, Scale scale,
                                       Vector *out) {
        Avx512F32::unpack_last(table, codes, scale, out);
        round_all(scale, out);
    }
    static NF4_INLINE void store_unpacked(Table table, const uint8_t *codes, Scale scale,
                                          float *out, bool last) {
        Vector weights[PARTS];
        if (last)
            unpack_last(table, codes, scale, weights);
        else
            unpack(table, codes, scale, weights);
        for (int p = 0; p < PARTS; p++) _mm512_storeu_ps(out + LANES * p, weights[p]);
    }
    static NF4_INLINE void put(void *out, int64_t at, float value) {
        ((uint16_t *)out)[at] = float_to_bf16(value);
    }
    static NF4_INLINE void put(void *out, int64_t at, Sum sum) { put(out, at, total(sum)); }
};

}  // namespace

extern const Nf4Kernels nf4_avx512 = {
    quantize<Avx512F32, float>,
    quantize<Avx512F32, uint16_t>,
    dequantize_f32,
    dequantize_bf16,
    row_bytes<Avx512F32>,
    row_bytes<Avx512RoundedF32>,
    prepare<Avx512F32, float>,
    prepare<Avx512RoundedF32, uint16_t>,
    multiply<Avx512F32>,
    multiply<Avx512RoundedF32>,
    scratch_bytes<Avx512F32>,
};

#if defined(__clang__)
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif

#endif
