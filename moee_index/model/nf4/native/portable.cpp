// Plain C++ for every processor: the reference that the other instruction sets are compared with.
#include "kernels.h"

#include "kernels.inl"

extern "C" const float nf4_table[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

namespace {

// Sixteen partial sums, which compilers keep in whatever vectors there are.
struct Lanes {
    float value[16];
};

struct PortableF32 {
    typedef Lanes Vector;
    typedef Lanes Sum;
    typedef float Element;
    typedef float Scale;
    typedef int Table;
    enum { GROUP = 64, LANES = 16, PARTS = 4, DIRECT = 2, TILE = 2, SCALED = 0 };
    static int column(int i) { return i; }
    static float element(float x) { return x; }
    static float element(uint16_t x) { return bf16_to_float(x); }
    static float largest_magnitude(const float *values) {
        uint32_t most = 0;
        for (int i = 0; i < NF4_BLOCK; i++) {
            uint32_t bits;
            memcpy(&bits, &values[i], 4);
            bits &= 0x7fffffffu;
            most = bits > most ? bits : most;
        }
        float largest;
        memcpy(&largest, &most, 4);
        return largest;
    }
    static void quantize_block(const float *values, float inverse, const Midpoints &midpoints,
                               uint8_t *packed) {
        for (int i = 0; i < NF4_BLOCK / 2; i++) {
            int codes[2] = {0, 0};
            for (int half = 0; half < 2; half++)
                for (float midpoint : midpoints.value)
                    codes[half] += values[2 * i + half] * inverse > midpoint;
            packed[i] = (uint8_t)(codes[0] << 4 | codes[1]);
        }
    }
    static Table load_table() { return 0; }
    static Sum zero() { return Sum(); }
    static Scale scale(const float *absmax) { return *absmax; }
    static Scale last_scale(const float *absmax) { return *absmax; }
    static void unpack(Table, const uint8_t *codes, Scale, Vector *out) {
        for (int i = 0; i < 32; i++) {
            float *pair = &out[i / 8].value[i % 8 * 2];
            pair[0] = nf4_table[codes[i] >> 4];
            pair[1] = nf4_table[codes[i] & 15];
        }
    }
    static void unpack_last(Table table, const uint8_t *codes, Scale scale, Vector *out) {
        unpack(table, codes, scale, out);
    }
    static Vector rounded_product(Vector weights, Scale scale) {
        for (int i = 0; i < 16; i++)
            weights.value[i] = bf16_to_float(float_to_bf16(weights.value[i] * scale));
        return weights;
    }
    static void store(float *to, const Vector &value) { memcpy(to, &value, sizeof value); }
    static Vector load(const float *from) {
        Vector result;
        memcpy(&result, from, sizeof result);
        return result;
    }
    static void store_unpacked(Table table, const uint8_t *codes, Scale scale, float *out, bool) {
        Vector weights[PARTS];
        unpack(table, codes, scale, weights);
        for (int i = 0; i < GROUP; i++) out[i] = weights[i / 16].value[i % 16] * scale;
    }
    static Sum add_product(Sum sum, const Vector &weights, const float *x) {
        for (int i = 0; i < 16; i++) sum.value[i] += weights.value[i] * x[i];
        return sum;
    }
    static Sum add_vectors(Sum sum, const Vector &weights, const Vector &x) {
        return add_product(sum, weights, x.value);
    }
    static Sum add_scaled(Sum sum, const Sum &more, Scale scale) {
        for (int i = 0; i < 16; i++) sum.value[i] += more.value[i] * scale;
        return sum;
    }
    static Sum plus(Sum sum, const Sum &more) {
        for (int i = 0; i < 16; i++) sum.value[i] += more.value[i];
        return sum;
    }
    static float total(const Sum &sum) {
        float result = 0;
        for (int i = 0; i < 16; i++) result += sum.value[i];
        return result;
    }
    static void add_totals(const Sum *sums, float *to) {
        for (int r = 0; r < TILE_ROWS; r++) to[r] += total(sums[r]);
    }
    static void put(void *out, int64_t at, float value) { ((float *)out)[at] = value; }
    static void put(void *out, int64_t at, const Sum &sum) { put(out, at, total(sum)); }
};

template <class Out, Out (*as)(float)>
void dequantize(const Nf4Matrix *matrix, int64_t first, int64_t blocks, Out *out) {
    for (int64_t block = 0; block < blocks; block++) {
        float room;
        const float absmax = *absmax_of(*matrix, first + block, 1, &room);
        const uint8_t *codes = matrix->packed + (first + block) * (NF4_BLOCK / 2);
        Out *to = out + block * NF4_BLOCK;
        for (int i = 0; i < NF4_BLOCK / 2; i++) {
            to[2 * i] = as(nf4_table[codes[i] >> 4] * absmax);
            to[2 * i + 1] = as(nf4_table[codes[i] & 15] * absmax);
        }
    }
}

float same(float value) { return value; }
uint16_t rounded(float value) { return float_to_bf16(value); }

}  // namespace

extern const Nf4Kernels nf4_portable = {
    quantize<PortableF32, float>,
    quantize<PortableF32, uint16_t>,
    dequantize<float, same>,
    dequantize<uint16_t, rounded>,
    row_bytes<PortableF32>,
    row_bytes<RoundedBy<PortableF32>>,
    prepare<PortableF32, float>,
    prepare<RoundedBy<PortableF32>, uint16_t>,
    multiply<PortableF32>,
    multiply<RoundedBy<PortableF32>>,
    scratch_bytes<PortableF32>,
};
