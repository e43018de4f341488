// AVX2 with FMA: processors since 2013 (Intel) and 2015 (AMD).
//
// A table of sixteen float32 does not fit a register of eight, but its four bytes do, as four
// tables of sixteen bytes: `pshufb` looks 32 codes up in each at once, and interleaving puts the
// bytes of a float32 together again. That is exact, and three shuffles for eight weights, where
// permuting halves of the table takes five steps, two of them slow on AMD's processors.
#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#include <immintrin.h>

#include "kernels.inl"

namespace {

struct Bytes {
    __m256i plane[4];
};

NF4_INLINE Bytes byte_tables() {
    uint8_t bytes[4][16];
    table_bytes(bytes);
    Bytes tables;
    for (int plane = 0; plane < 4; plane++)
        tables.plane[plane] =
            _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)bytes[plane]));
    return tables;
}

// 32 codes, one a byte, as four vectors of table values; each vector holds four columns of the
// lower half and four of the upper.
NF4_INLINE void look_up(const Bytes &tables, __m256i codes, __m256 *out) {
    __m256i b0 = _mm256_shuffle_epi8(tables.plane[0], codes);
    __m256i b1 = _mm256_shuffle_epi8(tables.plane[1], codes);
    __m256i b2 = _mm256_shuffle_epi8(tables.plane[2], codes);
    __m256i b3 = _mm256_shuffle_epi8(tables.plane[3], codes);
    __m256i low = _mm256_unpacklo_epi8(b0, b1), low_too = _mm256_unpackhi_epi8(b0, b1);
    __m256i high = _mm256_unpacklo_epi8(b2, b3), high_too = _mm256_unpackhi_epi8(b2, b3);
    out[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low, high));
    out[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low, high));
    out[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low_too, high_too));
    out[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low_too, high_too));
}

NF4_INLINE __m256 to_bf16_precision(__m256 value) {
    __m256i bits = _mm256_castps_si256(value);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i kept = _mm256_and_si256(sum, _mm256_set1_epi32((int)0xffff0000));
    __m256 nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    __m256 quiet = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    return _mm256_blendv_ps(_mm256_castsi256_ps(kept), quiet, nan);
}

// 64 weights in order: even and odd columns are interleaved before they are looked up.
NF4_INLINE void unpack_in_order(const Bytes &table, const uint8_t *codes, __m256 absmax,
                                __m256 *out) {
    const __m256i bytes = _mm256_loadu_si256((const __m256i *)codes);
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i odd = _mm256_and_si256(bytes, mask);
    const __m256i even = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    __m256 parts[8];
    look_up(table, _mm256_unpacklo_epi8(even, odd), parts);
    look_up(table, _mm256_unpackhi_epi8(even, odd), parts + 4);
    for (int i = 0; i < 4; i++) {
        __m256 first = _mm256_permute2f128_ps(parts[2 * i], parts[2 * i + 1], 0x20);
        __m256 second = _mm256_permute2f128_ps(parts[2 * i], parts[2 * i + 1], 0x31);
        out[i] = _mm256_mul_ps(first, absmax);
        out[4 + i] = _mm256_mul_ps(second, absmax);
    }
}

struct Avx2F32 {
    typedef __m256 Vector;
    typedef __m256 Sum;
    typedef float Element;
    typedef __m256 Scale;
    typedef Bytes Table;
    enum { GROUP = 64, LANES = 8, PARTS = 8, DIRECT = 4, TILE = 3, SCALED = 0 };
    // The low halves of the bytes come first: odd columns, then even ones.
    static int column(int i) {
        int vector = i / 8 % 4, half = i / 4 % 2, byte = half * 16 + vector * 4 + i % 4;
        return 2 * byte + (i < 32 ? 1 : 0);
    }
    static NF4_INLINE float largest_magnitude(const float *values) {
        const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
        __m256i most = _mm256_setzero_si256();
        for (int i = 0; i < NF4_BLOCK; i += 8) {
            __m256i bits = _mm256_loadu_si256((const __m256i *)(values + i));
            most = _mm256_max_epi32(most, _mm256_and_si256(bits, magnitude));
        }
        __m128i four = _mm_max_epi32(_mm256_castsi256_si128(most),
                                     _mm256_extracti128_si256(most, 1));
        __m128i two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
        __m128i one = _mm_max_epi32(two, _mm_shuffle_epi32(two, 1));
        return _mm_cvtss_f32(_mm_castsi128_ps(one));
    }
    static NF4_INLINE void quantize_block(const float *values, float inverse,
                                          const Midpoints &midpoints, uint8_t *packed) {
        for (int half = 0; half < 2; half++, values += 32, packed += 16) {
            __m256 scaled[4];
            __m256i codes[4];
            for (int i = 0; i < 4; i++) {
                scaled[i] = _mm256_mul_ps(_mm256_loadu_ps(values + 8 * i), _mm256_set1_ps(inverse));
                codes[i] = _mm256_setzero_si256();
            }
            for (int t = 0; t < 15; t++) {
                const __m256 midpoint = _mm256_broadcast_ss(&midpoints.value[t]);
                for (int i = 0; i < 4; i++) {
                    __m256 above = _mm256_cmp_ps(scaled[i], midpoint, _CMP_GT_OQ);
                    codes[i] = _mm256_sub_epi32(codes[i], _mm256_castps_si256(above));
                }
            }
            __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(codes[0], codes[1]),
                                                _mm256_packs_epi32(codes[2], codes[3]));
            bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            // 16 times the even column and once the odd one
            __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(0x0110));
            pairs = _mm256_permute4x64_epi64(_mm256_packus_epi16(pairs, pairs), 0xd8);
            _mm_storeu_si128((__m128i *)packed, _mm256_castsi256_si128(pairs));
        }
    }
    static NF4_INLINE Table load_table() { return byte_tables(); }
    static NF4_INLINE Sum zero() { return _mm256_setzero_ps(); }
    static NF4_INLINE Scale scale(const float *absmax) { return _mm256_broadcast_ss(absmax); }
    static NF4_INLINE Scale last_scale(const float *absmax) { return scale(absmax); }
    static NF4_INLINE void unpack(const Table &table, const uint8_t *codes, Scale, Vector *out) {
        const __m256i bytes = _mm256_loadu_si256((const __m256i *)codes);
        const __m256i low = _mm256_set1_epi8(15);
        look_up(table, _mm256_and_si256(bytes, low), out);
        look_up(table, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low), out + 4);
    }
    static NF4_INLINE void unpack_last(const Table &table, const uint8_t *codes, Scale scale,
                                       Vector *out) {
        unpack(table, codes, scale, out);
    }
    static NF4_INLINE Vector scaled(Vector weights, Scale scale) {
        return _mm256_mul_ps(weights, scale);
    }
    static NF4_INLINE Vector rounded(Vector weights) { return to_bf16_precision(weights); }
    static NF4_INLINE void store(float *to, Vector value) { _mm256_storeu_ps(to, value); }
    static NF4_INLINE Vector load(const float *from) { return _mm256_loadu_ps(from); }
    static NF4_INLINE void write_block(const Table &table, const uint8_t *codes, float absmax,
                                       float *out) {
        Vector weights[PARTS];
        unpack_in_order(table, codes, _mm256_set1_ps(absmax), weights);
        for (int p = 0; p < PARTS; p++) store(out + LANES * p, weights[p]);
    }
    static NF4_INLINE void write_block(const Table &table, const uint8_t *codes, float absmax,
                                       uint16_t *out) {
        Vector weights[PARTS];
        unpack_in_order(table, codes, _mm256_set1_ps(absmax), weights);
        for (int p = 0; p < PARTS; p += 2, out += 2 * LANES) {
            __m256i low = _mm256_castps_si256(to_bf16_precision(weights[p]));
            __m256i high = _mm256_castps_si256(to_bf16_precision(weights[p + 1]));
            __m256i both =
                _mm256_packus_epi32(_mm256_srli_epi32(low, 16), _mm256_srli_epi32(high, 16));
            _mm256_storeu_si256((__m256i *)out, _mm256_permute4x64_epi64(both, 0xd8));
        }
    }
    static NF4_INLINE Sum add_product(Sum sum, Vector weights, const float *x) {
        return _mm256_fmadd_ps(weights, _mm256_loadu_ps(x), sum);
    }
    static NF4_INLINE Sum add_vectors(Sum sum, Vector weights, Vector x) {
        return _mm256_fmadd_ps(weights, x, sum);
    }
    static NF4_INLINE Sum add_scaled(Sum sum, Sum more, Scale scale) {
        return _mm256_fmadd_ps(more, scale, sum);
    }
    static NF4_INLINE Sum plus(Sum sum, Sum more) { return _mm256_add_ps(sum, more); }
    static NF4_INLINE float total(Sum sum) {
        __m128 four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
        __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    static NF4_INLINE void add_totals(const Sum *sums, float *to) {
        __m256 both = _mm256_hadd_ps(_mm256_hadd_ps(sums[0], sums[1]),
                                     _mm256_hadd_ps(sums[2], sums[3]));
        __m128 four = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
        _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), four));
    }
    static NF4_INLINE void put(void *out, int64_t at, float value) { ((float *)out)[at] = value; }
    static NF4_INLINE void put(void *out, int64_t at, Sum sum) { put(out, at, total(sum)); }
};

}  // namespace

extern const Nf4Kernels nf4_avx2 = kernels<Avx2F32, RoundedBy<Avx2F32>>();

#if defined(__clang__)
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif

#endif
