// float32 arithmetic of both AVX-512 files. All sixteen table values are one register, and a
// permutation reads the lowest four bits of each index: a shift brings the next codes there.

namespace {

NF4_INLINE __m512i rounded_to_bf16(__m512 value) {
    __m512i bits = _mm512_castps_si512(value);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    return _mm512_mask_set1_epi32(sum, nan, 0x7fc00000);
}

// Sixteen weights in order from eight bytes: each byte becomes a 64-bit word, its high half (the
// even column) the index of the lower 32 bits, its low half that of the upper.
NF4_INLINE __m512 sixteen_in_order(__m512 table, const uint8_t *codes) {
    __m512i words = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)codes));
    __m512i both = _mm512_or_si512(_mm512_srli_epi64(words, 4), _mm512_slli_epi64(words, 32));
    return _mm512_permutexvar_ps(both, table);
}

struct Avx512F32 {
    typedef __m512 Vector;
    typedef __m512 Sum;
    typedef float Element;
    typedef __m512 Scale;
    typedef __m512 Table;
    enum { GROUP = 128, LANES = 16, PARTS = 8, DIRECT = 6, TILE = 6, SCALED = 0 };
    // Vector p holds the p-th of the eight codes of each of sixteen 32-bit words.
    static int column(int i) {
        int part = i / 16, byte = i % 16 * 4 + part / 2;
        return 2 * byte + (part % 2 == 0 ? 1 : 0);
    }
    static NF4_INLINE float largest_magnitude(const float *values) {
        __m512i most = _mm512_setzero_si512();
        for (int i = 0; i < NF4_BLOCK; i += 16) {
            __m512i bits = _mm512_loadu_si512(values + i);
            most = _mm512_max_epi32(most, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
        }
        const int bits = _mm512_reduce_max_epi32(most);
        return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(bits)));
    }
    static NF4_INLINE void quantize_block(const float *values, float inverse,
                                          const Midpoints &midpoints, uint8_t *packed) {
        const __m512i one = _mm512_set1_epi32(1);
        __m512 scaled[4];
        __m512i codes[4];
        for (int i = 0; i < 4; i++) {
            scaled[i] = _mm512_mul_ps(_mm512_loadu_ps(values + 16 * i), _mm512_set1_ps(inverse));
            codes[i] = _mm512_setzero_si512();
        }
        for (int t = 0; t < 15; t++) {
            const __m512 midpoint = _mm512_set1_ps(midpoints.value[t]);
            for (int i = 0; i < 4; i++) {
                __mmask16 above = _mm512_cmp_ps_mask(scaled[i], midpoint, _CMP_GT_OQ);
                codes[i] = _mm512_mask_add_epi32(codes[i], above, codes[i], one);
            }
        }
        for (int i = 0; i < 4; i++) {
            // 16 times the even column and once the odd one
            __m128i pairs = _mm_maddubs_epi16(_mm512_cvtepi32_epi8(codes[i]),
                                              _mm_set1_epi16(0x0110));
            _mm_storel_epi64((__m128i *)(packed + 8 * i), _mm_packus_epi16(pairs, pairs));
        }
    }
    static NF4_INLINE Table load_table() { return _mm512_loadu_ps(nf4_table); }
    static NF4_INLINE Sum zero() { return _mm512_setzero_ps(); }
    static NF4_INLINE Scale scale(const float *absmax) {
        __m512 second = _mm512_set1_ps(absmax[1]);
        return _mm512_mask_mov_ps(second, 0x00ff, _mm512_set1_ps(absmax[0]));
    }
    static NF4_INLINE Scale last_scale(const float *absmax) { return _mm512_set1_ps(absmax[0]); }
    static NF4_INLINE void look_up(Table table, __m512i words, Vector *out) {
        for (int p = 0; p < PARTS; p++)
            out[p] = _mm512_permutexvar_ps(_mm512_srli_epi32(words, 4 * p), table);
    }
    static NF4_INLINE void unpack(Table table, const uint8_t *codes, Scale, Vector *out) {
        look_up(table, _mm512_loadu_si512(codes), out);
    }
    static NF4_INLINE void unpack_last(Table table, const uint8_t *codes, Scale, Vector *out) {
        look_up(table, _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)codes)), out);
    }
    static NF4_INLINE Vector scaled(Vector weights, Scale scale) {
        return _mm512_mul_ps(weights, scale);
    }
    static NF4_INLINE Vector rounded(Vector weights) {
        __m512i bits = rounded_to_bf16(weights);
        return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000)));
    }
    static NF4_INLINE void store(float *to, Vector value) { _mm512_storeu_ps(to, value); }
    static NF4_INLINE Vector load(const float *from) { return _mm512_loadu_ps(from); }
    static NF4_INLINE void write_block(Table table, const uint8_t *codes, float absmax,
                                       float *out) {
        for (int i = 0; i < 4; i++)
            store(out + 16 * i,
                  _mm512_mul_ps(sixteen_in_order(table, codes + 8 * i), _mm512_set1_ps(absmax)));
    }
    static NF4_INLINE void write_block(Table table, const uint8_t *codes, float absmax,
                                       uint16_t *out) {
        for (int i = 0; i < 4; i++) {
            __m512 weights =
                _mm512_mul_ps(sixteen_in_order(table, codes + 8 * i), _mm512_set1_ps(absmax));
            __m512i words = _mm512_srli_epi32(rounded_to_bf16(weights), 16);
            _mm256_storeu_si256((__m256i *)(out + 16 * i), _mm512_cvtepi32_epi16(words));
        }
    }
    static NF4_INLINE Sum add_product(Sum sum, Vector weights, const float *x) {
        return _mm512_fmadd_ps(weights, _mm512_loadu_ps(x), sum);
    }
    static NF4_INLINE Sum add_vectors(Sum sum, Vector weights, Vector x) {
        return _mm512_fmadd_ps(weights, x, sum);
    }
    static NF4_INLINE Sum add_scaled(Sum sum, Sum more, Scale scale) {
        return _mm512_fmadd_ps(more, scale, sum);
    }
    static NF4_INLINE Sum plus(Sum sum, Sum more) { return _mm512_add_ps(sum, more); }
    static NF4_INLINE float total(Sum sum) { return _mm512_reduce_add_ps(sum); }
    static NF4_INLINE __m256 halved(Sum sum) {
        return _mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps(sum, 1));
    }
    static NF4_INLINE void add_totals(const Sum *sums, float *to) {
        __m256 both = _mm256_hadd_ps(_mm256_hadd_ps(halved(sums[0]), halved(sums[1])),
                                     _mm256_hadd_ps(halved(sums[2]), halved(sums[3])));
        __m128 four = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
        _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), four));
    }
    static NF4_INLINE void put(void *out, int64_t at, float value) { ((float *)out)[at] = value; }
    static NF4_INLINE void put(void *out, int64_t at, Sum sum) { put(out, at, total(sum)); }
};

}  // namespace
