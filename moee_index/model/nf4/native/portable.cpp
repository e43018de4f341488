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
    static Vector scaled(Vector weights, Scale scale) {
        for (int i = 0; i < 16; i++) weights.value[i] *= scale;
        return weights;
    }
    static Vector rounded(Vector weights) {
        for (int i = 0; i < 16; i++)
            weights.value[i] = bf16_to_float(float_to_bf16(weights.value[i]));
        return weights;
    }
    static void write_block(Table, const uint8_t *codes, float absmax, float *out) {
        for (int i = 0; i < NF4_BLOCK / 2; i++) {
            out[2 * i] = nf4_table[codes[i] >> 4] * absmax;
            out[2 * i + 1] = nf4_table[codes[i] & 15] * absmax;
        }
    }
    static void write_block(Table table, const uint8_t *codes, float absmax, uint16_t *out) {
        float weights[NF4_BLOCK];
        write_block(table, codes, absmax, weights);
        for (int i = 0; i < NF4_BLOCK; i++) out[i] = float_to_bf16(weights[i]);
    }
    static void store(float *to, const Vector &value) { memcpy(to, &value, sizeof value); }
    static Vector load(const float *from) {
        Vector result;
        memcpy(&result, from, sizeof result);
        return result;
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

}  // namespace

extern const Nf4Kernels nf4_portable = kernels<PortableF32, RoundedBy<PortableF32>>();
