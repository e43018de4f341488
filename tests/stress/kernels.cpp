// The kernels without Python, for sanitizers and for processors that are emulated: every
// instruction set against sums in double precision, in buffers that end where their data end.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmath>
#include <vector>

#include "../../moee_index/model/nf4/native/kernels.h"

extern "C" int nf4_instruction_sets();
extern "C" int nf4_quantize(int isa, const void *weights, int64_t blocks, int type,
                            uint8_t *packed, float *absmax, int threads);
extern "C" int nf4_dequantize(int isa, const Nf4Stack *stack, const int64_t *index, int64_t count,
                              int64_t first, int64_t blocks, int type, void *out, int threads);
extern "C" int nf4_multiply(int isa, const Nf4Stack *stack, const int64_t *index,
                            const int64_t *starts, int64_t count, const void *x, int64_t rows,
                            int64_t stride, const int64_t *source, int type, void *out,
                            int threads);

namespace {

unsigned long long state = 1;
double uniform() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(state >> 33) / 2147483648.0;
}

float from_bf16(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, 4);
    return result;
}

uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

int failures = 0;
void check(bool good, const char *what, int isa, int64_t rows, int64_t cols, int64_t count) {
    if (good) return;
    failures++;
    printf("wrong: %s, instruction set %d, %lld x %lld, %lld rows\n", what, isa, (long long)rows,
           (long long)cols, (long long)count);
}

void test_codes(int isa, int64_t blocks, int type) {
    std::vector<float> weights(blocks * 64), absmax(blocks);
    std::vector<uint16_t> short_weights(weights.size());
    std::vector<uint8_t> packed(blocks * 32);
    for (size_t i = 0; i < weights.size(); i++) {
        weights[i] = (float)(uniform() * 2 - 1);
        short_weights[i] = to_bf16(weights[i]);
        if (type) weights[i] = from_bf16(short_weights[i]);
    }
    nf4_quantize(isa, type ? (void *)short_weights.data() : (void *)weights.data(), blocks, type,
                 packed.data(), absmax.data(), 3);
    bool same = true;
    for (int64_t block = 0; block < blocks; block++) {
        const float *values = weights.data() + block * 64;
        float most = 0;
        for (int i = 0; i < 64; i++) most = std::fmax(most, std::fabs(values[i]));
        same = same && absmax[block] == most;
        for (int i = 0; i < 64; i++) {
            int code = 0;
            for (int t = 0; t < 15; t++)
                code += values[i] * (1.0f / most) > (nf4_table[t] + nf4_table[t + 1]) / 2;
            const uint8_t byte = packed[block * 32 + i / 2];
            same = same && code == (i % 2 ? byte & 15 : byte >> 4);
        }
    }
    check(same, "codes", isa, blocks, 64, type);
}

void test(int isa, int64_t rows, int64_t cols, bool nested, int64_t count) {
    const int64_t n = 2, blocks = rows * cols / 64, scales = (blocks + 255) / 256;
    std::vector<uint8_t> packed(n * rows * cols / 2), codes(n * blocks);
    std::vector<float> absmax(n * blocks), scale(n * scales), offset(n), map(256);
    for (auto &byte : packed) byte = (uint8_t)(uniform() * 256);
    for (auto &code : codes) code = (uint8_t)(uniform() * 256);
    for (auto &value : absmax) value = (float)uniform();
    for (auto &value : scale) value = (float)uniform();
    for (auto &value : offset) value = (float)uniform();
    for (auto &value : map) value = (float)(uniform() * 2 - 1);
    Nf4Stack stack = {};
    stack.packed = packed.data();
    stack.rows = rows;
    stack.cols = cols;
    if (nested) {
        stack.codes = codes.data();
        stack.scale = scale.data();
        stack.offset = offset.data();
        stack.map = map.data();
    } else {
        stack.absmax = absmax.data();
    }
    const int64_t index[2] = {1, 0};
    std::vector<float> exact(n * rows * cols), weights(n * rows * cols);
    std::vector<uint16_t> short_weights(n * rows * cols);
    for (int64_t i = 0; i < n * rows * cols; i++) {
        const int64_t matrix = index[i / (rows * cols)], at = i % (rows * cols);
        const uint8_t byte = packed[(matrix * rows * cols + at) / 2];
        float factor = absmax[matrix * blocks + at / 64];
        if (nested) {
            volatile float product = map[codes[matrix * blocks + at / 64]] *
                                     scale[matrix * scales + at / 64 / 256];
            factor = product + offset[matrix];
        }
        exact[i] = nf4_table[at % 2 ? byte & 15 : byte >> 4] * factor;
    }
    nf4_dequantize(isa, &stack, index, n, 0, blocks, 0, weights.data(), 3);
    nf4_dequantize(isa, &stack, index, n, 0, blocks, 1, short_weights.data(), 3);
    bool same = true, rounded = true;
    for (size_t i = 0; i < exact.size(); i++) {
        same = same && weights[i] == exact[i];
        rounded = rounded && short_weights[i] == to_bf16(exact[i]);
    }
    check(same, "float32 weights", isa, rows, cols, 0);
    check(rounded, "bfloat16 weights", isa, rows, cols, 0);
    if (cols % 64) return;
    const int64_t starts[3] = {0, count, 2 * count + 1}, products = starts[2];
    std::vector<float> x((count + 2) * cols), out(products * rows);
    std::vector<uint16_t> short_x(x.size()), short_out(out.size());
    std::vector<int64_t> source(products);
    for (size_t i = 0; i < x.size(); i++) {
        x[i] = (float)(uniform() * 2 - 1);
        short_x[i] = to_bf16(x[i]);
    }
    for (auto &row : source) row = (int64_t)(uniform() * (double)(count + 2));
    nf4_multiply(isa, &stack, index, starts, n, x.data(), count + 2, cols, source.data(), 0,
                 out.data(), 3);
    nf4_multiply(isa, &stack, index, starts, n, short_x.data(), count + 2, cols, source.data(), 1,
                 short_out.data(), 3);
    double largest = 0, error = 0, short_error = 0;
    for (int64_t product = 0; product < products; product++)
        for (int64_t row = 0; row < rows; row++) {
            const float *w = exact.data() + ((product >= count ? rows : 0) + row) * cols;
            double sum = 0, short_sum = 0;
            for (int64_t column = 0; column < cols; column++) {
                const int64_t at = source[product] * cols + column;
                sum += (double)w[column] * x[at];
                short_sum += (double)from_bf16(to_bf16(w[column])) * from_bf16(short_x[at]);
            }
            const int64_t at = product * rows + row;
            largest = std::fmax(largest, std::fabs(sum));
            error = std::fmax(error, std::fabs(out[at] - sum));
            short_error = std::fmax(short_error, std::fabs(from_bf16(short_out[at]) - short_sum) -
                                                     std::fabs(short_sum) / 256);
        }
    check(error <= 1e-6 * largest, "float32 products", isa, rows, cols, count);
    check(short_error <= 1e-4 * largest, "bfloat16 products", isa, rows, cols, count);
}

}  // namespace

int main() {
    const int64_t shapes[][2] = {{64, 64}, {7, 192}, {130, 64},  {64, 48},
                                 {4, 80},  {5, 1088}, {12, 2112}, {6, 4160}};
    const int64_t counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 97, 500};
    int tried = 0;
    for (int isa = 0; isa < 8; isa++) {
        if (!(nf4_instruction_sets() >> isa & 1)) continue;
        for (int64_t blocks : {1, 3, 2049})
            for (int type : {0, 1}) test_codes(isa, blocks, type);
        for (auto &shape : shapes) {
            if (shape[0] * shape[1] % 64) continue;
            for (int64_t count : counts)
                for (bool nested : {false, true}) test(isa, shape[0], shape[1], nested, count);
        }
        printf("instruction set %d: tried\n", isa);
        tried++;
    }
    printf("%d instruction sets, %d failures\n", tried, failures);
    return failures != 0;
}
