// Upper bounds of similarities by leading components (search/leading.py), which a compiler turns
// into instructions for sixteen bits on any processor: as fast as memory is read, so there is
// nothing to choose for one or another (LAB.md).
#include <stdint.h>

#if defined(_WIN32)
#define BOUNDS_API extern "C" __declspec(dllexport)
#else
#define BOUNDS_API extern "C" __attribute__((visibility("default")))
#endif

// out[i] = (sum of weights[j] * codes[i, j], less `zero`) * scale + rest[i] * query_rest + added.
// codes: [rows, width], weights: [width]; the sum is below 2^31 once `zero` is taken off, and may
// pass that before, for it is counted modulo 2^32.
BOUNDS_API void upper_bounds(const uint8_t *codes, int64_t rows, int64_t width,
                             const int16_t *weights, uint32_t zero, float scale, const float *rest,
                             float query_rest, float added, float *out) {
    for (int64_t row = 0; row < rows; row++, codes += width) {
        uint32_t sum = 0;
        for (int64_t j = 0; j < width; j++) sum += (uint32_t)((int)weights[j] * (int)codes[j]);
        out[row] = (float)(int32_t)(sum - zero) * scale + rest[row] * query_rest + added;
    }
}
