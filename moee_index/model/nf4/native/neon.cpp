// NEON (64-bit ARM): tables of bytes as in avx2.cpp, in vectors of four.
#include "kernels.h"

#if defined(__aarch64__) || defined(_M_ARM64)

#include <arm_neon.h>

#include "kernels.inl"

namespace {

struct Bytes {
    uint8x16_t plane[4];
};

NF4_INLINE Bytes byte_tables() {
    uint8_t bytes[4][16];
    table_bytes(bytes);
    Bytes tables;
    for (int plane = 0; plane < 4; plane++) tables.plane[plane] = vld1q_u8(bytes[plane]);
    return tables;
}

// Sixteen codes as four vectors of table values, in order.
NF4_INLINE void look_up(const Bytes &tables, uint8x16_t codes, float32x4_t *out) {
    uint8x16_t b0 = vqtbl1q_u8(tables.plane[0], codes), b1 = vqtbl1q_u8(tables.plane[1], codes);
    uint8x16_t b2 = vqtbl1q_u8(tables.plane[2], codes), b3 = vqtbl1q_u8(tables.plane[3], codes);
    uint16x8_t low = vreinterpretq_u16_u8(vzip1q_u8(b0, b1));
    uint16x8_t low_too = vreinterpretq_u16_u8(vzip2q_u8(b0, b1));
    uint16x8_t high = vreinterpretq_u16_u8(vzip1q_u8(b2, b3));
    uint16x8_t high_too = vreinterpretq_u16_u8(vzip2q_u8(b2, b3));
    out[0] = vreinterpretq_f32_u16(vzip1q_u16(low, high));
    out[1] = vreinterpretq_f32_u16(vzip2q_u16(low, high));
    out[2] = vreinterpretq_f32_u16(vzip1q_u16(low_too, high_too));
    out[3] = vreinterpretq_f32_u16(vzip2q_u16(low_too, high_too));
}

NF4_INLINE float32x4_t to_bf16_precision(float32x4_t value) {
    uint32x4_t bits = vreinterpretq_u32_f32(value);
    uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t sum = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    uint32x4_t kept = vandq_u32(sum, vdupq_n_u32(0xffff0000u));
    uint32x4_t number = vceqq_f32(value, value);
    return vreinterpretq_f32_u32(vbslq_u32(number, kept, vdupq_n_u32(0x7fc00000u)));
}

// 32 weights in order.
NF4_INLINE void unpack_in_order(const Bytes &table, const uint8_t *codes, float absmax,
                                float32x4_t *out) {
    uint8x16_t bytes = vld1q_u8(codes);
    uint8x16_t odd = vandq_u8(bytes, vdupq_n_u8(15)), even = vshrq_n_u8(bytes, 4);
    look_up(table, vzip1q_u8(even, odd), out);
    look_up(table, vzip2q_u8(even, odd), out + 4);
    for (int p = 0; p < 8; p++) out[p] = vmulq_n_f32(out[p], absmax);
}

struct NeonF32 {
    typedef float32x4_t Vector;
    typedef float32x4_t Sum;
    typedef float Element;
    typedef float Scale;
    typedef Bytes Table;
    enum { GROUP = 64, LANES = 4, PARTS = 16, DIRECT = 4, TILE = 4, SCALED = 0 };
    static int column(int i) {
        int part = i / 4, byte = part / 8 * 16 + part % 4 * 4 + i % 4;
        return 2 * byte + (part / 4 % 2 == 0 ? 1 : 0);
    }
    static NF4_INLINE float largest_magnitude(const float *values) {
        uint32x4_t most = vdupq_n_u32(0);
        for (int i = 0; i < NF4_BLOCK; i += 4) {
            uint32x4_t bits = vreinterpretq_u32_f32(vld1q_f32(values + i));
            most = vmaxq_u32(most, vandq_u32(bits, vdupq_n_u32(0x7fffffffu)));
        }
        const uint32_t bits = vmaxvq_u32(most);
        float largest;
        memcpy(&largest, &bits, 4);
        return largest;
    }
    static NF4_INLINE void quantize_block(const float *values, float inverse,
                                          const Midpoints &midpoints, uint8_t *packed) {
        for (int part = 0; part < 4; part++, values += 16, packed += 8) {
            uint32x4_t codes[4];
            for (int i = 0; i < 4; i++) {
                const float32x4_t scaled = vmulq_n_f32(vld1q_f32(values + 4 * i), inverse);
                codes[i] = vdupq_n_u32(0);
                for (int t = 0; t < 15; t++)
                    codes[i] = vsubq_u32(codes[i],
                                         vcgtq_f32(scaled, vdupq_n_f32(midpoints.value[t])));
            }
            uint8x8_t low = vmovn_u16(vcombine_u16(vmovn_u32(codes[0]), vmovn_u32(codes[1])));
            uint8x8_t high = vmovn_u16(vcombine_u16(vmovn_u32(codes[2]), vmovn_u32(codes[3])));
            uint8x8_t even = vuzp1_u8(low, high), odd = vuzp2_u8(low, high);
            vst1_u8(packed, vorr_u8(vshl_n_u8(even, 4), odd));
        }
    }
    static NF4_INLINE Table load_table() { return byte_tables(); }
    static NF4_INLINE Sum zero() { return vdupq_n_f32(0); }
    static NF4_INLINE Scale scale(const float *absmax) { return *absmax; }
    static NF4_INLINE Scale last_scale(const float *absmax) { return *absmax; }
    static NF4_INLINE void unpack(const Table &table, const uint8_t *codes, Scale, Vector *out) {
        for (int half = 0; half < 2; half++) {
            uint8x16_t bytes = vld1q_u8(codes + 16 * half);
            look_up(table, vandq_u8(bytes, vdupq_n_u8(15)), out + 8 * half);
            look_up(table, vshrq_n_u8(bytes, 4), out + 8 * half + 4);
        }
    }
    static NF4_INLINE void unpack_last(const Table &table, const uint8_t *codes, Scale scale,
                                       Vector *out) {
        unpack(table, codes, scale, out);
    }
    static NF4_INLINE Vector scaled(Vector weights, Scale scale) {
        return vmulq_n_f32(weights, scale);
    }
    static NF4_INLINE Vector rounded(Vector weights) { return to_bf16_precision(weights); }
    static NF4_INLINE void store(float *to, Vector value) { vst1q_f32(to, value); }
    static NF4_INLINE Vector load(const float *from) { return vld1q_f32(from); }
    static NF4_INLINE void write_block(const Table &table, const uint8_t *codes, float absmax,
                                       float *out) {
        Vector weights[PARTS];
        unpack_in_order(table, codes, absmax, weights);
        unpack_in_order(table, codes + 16, absmax, weights + 8);
        for (int p = 0; p < PARTS; p++) store(out + LANES * p, weights[p]);
    }
    static NF4_INLINE void write_block(const Table &table, const uint8_t *codes, float absmax,
                                       uint16_t *out) {
        Vector weights[PARTS];
        unpack_in_order(table, codes, absmax, weights);
        unpack_in_order(table, codes + 16, absmax, weights + 8);
        for (int p = 0; p < PARTS; p += 2, out += 2 * LANES) {
            uint32x4_t low = vreinterpretq_u32_f32(to_bf16_precision(weights[p]));
            uint32x4_t high = vreinterpretq_u32_f32(to_bf16_precision(weights[p + 1]));
            vst1q_u16(out, vcombine_u16(vshrn_n_u32(low, 16), vshrn_n_u32(high, 16)));
        }
    }
    static NF4_INLINE Sum add_product(Sum sum, Vector weights, const float *x) {
        return vfmaq_f32(sum, weights, vld1q_f32(x));
    }
    static NF4_INLINE Sum add_vectors(Sum sum, Vector weights, Vector x) {
        return vfmaq_f32(sum, weights, x);
    }
    static NF4_INLINE Sum add_scaled(Sum sum, Sum more, Scale scale) {
        return vfmaq_n_f32(sum, more, scale);
    }
    static NF4_INLINE Sum plus(Sum sum, Sum more) { return vaddq_f32(sum, more); }
    static NF4_INLINE float total(Sum sum) { return vaddvq_f32(sum); }
    static NF4_INLINE void add_totals(const Sum *sums, float *to) {
        float32x4_t low = vpaddq_f32(sums[0], sums[1]), high = vpaddq_f32(sums[2], sums[3]);
        vst1q_f32(to, vaddq_f32(vld1q_f32(to), vpaddq_f32(low, high)));
    }
    static NF4_INLINE void put(void *out, int64_t at, float value) { ((float *)out)[at] = value; }
    static NF4_INLINE void put(void *out, int64_t at, Sum sum) { put(out, at, total(sum)); }
};

}  // namespace

extern const Nf4Kernels nf4_neon = kernels<NeonF32, RoundedBy<NeonF32>>();

#endif
