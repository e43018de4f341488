// AVX-512 with BF16: products of bfloat16 pairs, summed in float32.
#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)

#if defined(__clang__)
#pragma clang attribute push(                                                           \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
    apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif

#include <immintrin.h>

#include "kernels.inl"

#include "avx512_f32.inl"

namespace {

// The same bits under another of the compiler's names for a register.
template <class To, class From>
NF4_INLINE To as(From from) {
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

struct Avx512Bf16 {
    typedef __m512i Vector;
    typedef __m512 Sum;
    typedef uint16_t Element;
    typedef __m512i Scale;
    typedef __m512 Table;
    enum { GROUP = 128, LANES = 32, PARTS = 4, DIRECT = 6, TILE = 6, SCALED = 1 };
    // Vector p holds the p-th of the four codes of each of 32 words.
    static int column(int i) { return i % 32 * 4 + (i / 32 ^ 1); }
    static NF4_INLINE Table load_table() { return Avx512F32::load_table(); }
    static NF4_INLINE Sum zero() { return _mm512_setzero_ps(); }
    // All weights that two blocks can have, rounded: sixteen of the first, sixteen of the second.
    static NF4_INLINE Scale scale(const float *absmax) {
        const __m512 table = load_table();
        return as<Scale>(_mm512_cvtne2ps_pbh(_mm512_mul_ps(table, _mm512_set1_ps(absmax[1])),
                                             _mm512_mul_ps(table, _mm512_set1_ps(absmax[0]))));
    }
    static NF4_INLINE Scale last_scale(const float *absmax) {
        const __m512 weights = _mm512_mul_ps(load_table(), _mm512_set1_ps(absmax[0]));
        return as<Scale>(_mm512_cvtne2ps_pbh(_mm512_setzero_ps(), weights));
    }
    static NF4_INLINE void look_up(Scale weights, __m512i words, Vector *out) {
        const __m512i mask = _mm512_set1_epi16(15);
        const __m512i second = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(16), 1);
        for (int p = 0; p < PARTS; p++) {
            // (shifted & mask) | second
            __m512i codes = _mm512_ternarylogic_epi32(_mm512_srli_epi16(words, 4 * p), mask,
                                                      second, 0xea);
            out[p] = _mm512_permutexvar_epi16(codes, weights);
        }
    }
    static NF4_INLINE void unpack(Table, const uint8_t *codes, Scale weights, Vector *out) {
        look_up(weights, _mm512_loadu_si512(codes), out);
    }
    static NF4_INLINE void unpack_last(Table, const uint8_t *codes, Scale weights, Vector *out) {
        look_up(weights, _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)codes)), out);
    }
    static NF4_INLINE Vector load(const uint16_t *from) { return _mm512_loadu_si512(from); }
    static NF4_INLINE void store(uint16_t *to, Vector value) { _mm512_storeu_si512(to, value); }
    static NF4_INLINE Vector scaled(Vector weights, Scale) { return weights; }
    static NF4_INLINE Sum add_product(Sum sum, Vector weights, const uint16_t *x) {
        return _mm512_dpbf16_ps(sum, as<__m512bh>(weights), as<__m512bh>(_mm512_loadu_si512(x)));
    }
    static NF4_INLINE Sum add_vectors(Sum sum, Vector weights, Vector x) {
        return _mm512_dpbf16_ps(sum, as<__m512bh>(weights), as<__m512bh>(x));
    }
    static NF4_INLINE Sum add_scaled(Sum sum, Sum, Scale) { return sum; }
    static NF4_INLINE Sum plus(Sum sum, Sum more) { return _mm512_add_ps(sum, more); }
    static NF4_INLINE float total(Sum sum) { return _mm512_reduce_add_ps(sum); }
    static NF4_INLINE void add_totals(const Sum *sums, float *to) {
        Avx512F32::add_totals(sums, to);
    }
    static NF4_INLINE void put(void *out, int64_t at, float value) {
        ((uint16_t *)out)[at] = float_to_bf16(value);
    }
    static NF4_INLINE void put(void *out, int64_t at, Sum sum) { put(out, at, total(sum)); }
};

}  // namespace

extern const Nf4Kernels nf4_avx512bf16 = kernels<Avx512F32, Avx512Bf16>();

#if defined(__clang__)
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif

#endif
