// What Python calls: each function divides its work among threads and gives it to the kernels of
// one instruction set.
#include <stdlib.h>

#include "kernels.h"
#include "pool.h"

#if defined(_WIN32)
#define NF4_API extern "C" __declspec(dllexport)
#else
#define NF4_API extern "C" __attribute__((visibility("default")))
#endif

#if defined(_MSC_VER) && defined(_M_X64)
#include <immintrin.h>
#include <intrin.h>
#endif

namespace {

enum Isa { PORTABLE, AVX2, AVX512, AVX512BF16, NEON };
enum Type { F32, BF16 };

// Weights of a task: long enough that taking it costs nothing, short enough that nobody waits long
// for the last one.
const int64_t TASK_WEIGHTS = 1 << 17;

// Rows of weights of a task at most, and rows of x: with as many of each, both are read from
// memory so seldom that it costs nothing, and there are tasks for all threads.
const int64_t TASK_ROWS = 256, TASK_PRODUCTS = 384;

const Nf4Kernels *kernels_of(int isa) {
    switch (isa) {
        case PORTABLE: return &nf4_portable;
#if defined(__x86_64__) || defined(_M_X64)
        case AVX2: return &nf4_avx2;
        case AVX512: return &nf4_avx512;
        case AVX512BF16: return &nf4_avx512bf16;
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
        case NEON: return &nf4_neon;
#endif
    }
    return nullptr;
}

Nf4Matrix matrix_of(const Nf4Stack &stack, int64_t index) {
    const int64_t size = stack.rows * stack.cols, blocks = size / NF4_BLOCK;
    const int64_t scales = (blocks + NF4_NESTED - 1) / NF4_NESTED;
    Nf4Matrix matrix = {};
    matrix.packed = stack.packed + index * (size / 2);
    if (stack.absmax) {
        matrix.absmax = stack.absmax + index * blocks;
    } else {
        matrix.codes = stack.codes + index * blocks;
        matrix.scale = stack.scale + index * scales;
        matrix.map = stack.map;
        matrix.offset = stack.offset[index];
    }
    matrix.cols = stack.cols;
    return matrix;
}

int64_t at_least(int64_t value, int64_t least) { return value > least ? value : least; }
int64_t at_most(int64_t value, int64_t most) { return value < most ? value : most; }

// Memory whose start is a multiple of a cache line, freed at the end of a call.
class Room {
  public:
    explicit Room(int64_t bytes) {
        raw_ = malloc((size_t)bytes + 64);
        start_ = raw_ ? (char *)(((uintptr_t)raw_ + 63) / 64 * 64) : nullptr;
    }
    ~Room() { free(raw_); }
    Room(const Room &) = delete;
    Room &operator=(const Room &) = delete;
    char *get() const { return start_; }

  private:
    void *raw_;
    char *start_;
};

struct Quantize {
    const Nf4Kernels *kernels;
    const void *weights;
    int64_t blocks;
    int type;
    uint8_t *packed;
    float *absmax;
};

void quantize_part(void *context, int64_t task, int) {
    const Quantize &job = *(const Quantize *)context;
    const int64_t first = task * (TASK_WEIGHTS / NF4_BLOCK);
    const int64_t count = at_most(TASK_WEIGHTS / NF4_BLOCK, job.blocks - first);
    uint8_t *packed = job.packed + first * (NF4_BLOCK / 2);
    float *absmax = job.absmax + first;
    if (job.type == F32)
        job.kernels->quantize_f32((const float *)job.weights + first * NF4_BLOCK, count, packed,
                                  absmax);
    else
        job.kernels->quantize_bf16((const uint16_t *)job.weights + first * NF4_BLOCK, count,
                                   packed, absmax);
}

struct Dequantize {
    const Nf4Kernels *kernels;
    const Nf4Stack *stack;
    const int64_t *index;
    int64_t first, blocks, parts, part_blocks;
    int type;
    void *out;
};

void dequantize_part(void *context, int64_t task, int) {
    const Dequantize &job = *(const Dequantize *)context;
    const int64_t which = task / job.parts, start = task % job.parts * job.part_blocks;
    const int64_t count = at_most(job.part_blocks, job.blocks - start);
    const int64_t at = (which * job.blocks + start) * NF4_BLOCK;
    const Nf4Matrix matrix = matrix_of(*job.stack, job.index[which]);
    if (job.type == F32)
        job.kernels->dequantize_f32(&matrix, job.first + start, count, (float *)job.out + at);
    else
        job.kernels->dequantize_bf16(&matrix, job.first + start, count, (uint16_t *)job.out + at);
}

// Consecutive products with one matrix.
struct Piece {
    int64_t matrix, begin, end;
};

struct Multiply {
    const Nf4Kernels *kernels;
    const Nf4Stack *stack;
    const Piece *pieces;
    const int64_t *gathered;  // the row of x that is prepared, where not all are
    const char *x;        // [rows of x, cols]
    int64_t stride;       // bytes between its rows
    char *prepared;       // the same, as the kernels want them
    int64_t row_bytes;
    const void **rows;    // the prepared row of each product
    int64_t parts, part_rows;
    int type;
    void *out;
    char *scratch;
    int64_t scratch_bytes;
};

void prepare_row(void *context, int64_t row, int) {
    const Multiply &job = *(const Multiply *)context;
    char *to = job.prepared + row * job.row_bytes;
    const char *from = job.x + (job.gathered ? job.gathered[row] : row) * job.stride;
    if (job.type == F32)
        job.kernels->prepare_f32((const float *)from, job.stack->cols, to);
    else
        job.kernels->prepare_bf16((const uint16_t *)from, job.stack->cols, to);
}

void multiply_part(void *context, int64_t number, int worker) {
    const Multiply &job = *(const Multiply *)context;
    const Piece &piece = job.pieces[number / job.parts];
    Nf4Task task = {};
    task.first = number % job.parts * job.part_rows;
    task.last = at_most(task.first + job.part_rows, job.stack->rows);
    task.count = piece.end - piece.begin;
    task.matrix = matrix_of(*job.stack, piece.matrix);
    task.x = job.rows + piece.begin;
    task.stride = job.stack->rows;
    task.out = (char *)job.out + piece.begin * job.stack->rows * (job.type == F32 ? 4 : 2);
    task.scratch = job.scratch + worker * job.scratch_bytes;
    if (job.type == F32)
        job.kernels->multiply_f32(&task);
    else
        job.kernels->multiply_bf16(&task);
}

}  // namespace

// One bit for each instruction set that this library and this processor have, by its number.
NF4_API int nf4_instruction_sets() {
    int found = 1 << PORTABLE;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found |= 1 << AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        found |= 1 << AVX512;
        if (__builtin_cpu_supports("avx512bf16")) found |= 1 << AVX512BF16;
    }
#elif defined(_MSC_VER) && defined(_M_X64)
    int leaf1[4], leaf7[4], leaf71[4];
    __cpuid(leaf1, 1);
    __cpuidex(leaf7, 7, 0);
    __cpuidex(leaf71, 7, 1);
    // The operating system must save the wide registers too (XCR0).
    const bool xsave = leaf1[2] >> 27 & 1;
    const unsigned long long saved = xsave ? _xgetbv(0) : 0;
    const bool fma = leaf1[2] >> 12 & 1, avx2 = leaf7[1] >> 5 & 1;
    if (fma && avx2 && (saved & 6) == 6) found |= 1 << AVX2;
    const int needed = 1 << 16 | 1 << 17 | 1 << 30 | 1 << 31;  // F, DQ, BW, VL
    if ((found >> AVX2 & 1) && (leaf7[1] & needed) == needed && (saved & 0xe6) == 0xe6) {
        found |= 1 << AVX512;
        if (leaf71[0] >> 5 & 1) found |= 1 << AVX512BF16;
    }
#elif defined(__aarch64__) || defined(_M_ARM64)
    found |= 1 << NEON;
#endif
    return found;
}

// `blocks` blocks of weights to packed [32 * blocks] and absmax [blocks]. Returns 0, or 1 where the
// instruction set is not in this library.
NF4_API int nf4_quantize(int isa, const void *weights, int64_t blocks, int type, uint8_t *packed,
                         float *absmax, int threads) {
    Quantize job = {kernels_of(isa), weights, blocks, type, packed, absmax};
    if (!job.kernels) return 1;
    const int64_t part = TASK_WEIGHTS / NF4_BLOCK;
    nf4_run(quantize_part, &job, (blocks + part - 1) / part, threads);
    return 0;
}

// Blocks first.. of `count` matrices, `blocks` of each, one after the other into out.
// Returns 0 or 1, as above.
NF4_API int nf4_dequantize(int isa, const Nf4Stack *stack, const int64_t *index, int64_t count,
                           int64_t first, int64_t blocks, int type, void *out, int threads) {
    Dequantize job = {};
    job.kernels = kernels_of(isa);
    if (!job.kernels) return 1;
    job.stack = stack;
    job.index = index;
    job.first = first;
    job.blocks = blocks;
    job.part_blocks = TASK_WEIGHTS / NF4_BLOCK;
    job.parts = (blocks + job.part_blocks - 1) / job.part_blocks;
    job.type = type;
    job.out = out;
    nf4_run(dequantize_part, &job, count * job.parts, threads);
    return 0;
}

// Rows of x times the transposes of `count` matrices, whose columns are a multiple of 64: products
// starts[i]..starts[i + 1] are those of matrix index[i]. x: `rows` rows, `stride` elements apart.
// source: the row of x of each product, or null where they are in order. out: [products, matrix
// rows]. Returns 0, 1 as above, or 2 where memory is lacking.
NF4_API int nf4_multiply(int isa, const Nf4Stack *stack, const int64_t *index,
                         const int64_t *starts, int64_t count, const void *x, int64_t rows,
                         int64_t stride, const int64_t *source, int type, void *out, int threads) {
    Multiply job = {};
    job.kernels = kernels_of(isa);
    if (!job.kernels) return 1;
    const int64_t products = starts[count];
    if (products == 0) return 0;
    int64_t most = 0, pieces = 0;
    for (int64_t i = 0; i < count; i++) {
        most = at_least(starts[i + 1] - starts[i], most);
        pieces += (starts[i + 1] - starts[i] + TASK_PRODUCTS - 1) / TASK_PRODUCTS;
    }
    job.stack = stack;
    job.x = (const char *)x;
    job.stride = stride * (type == F32 ? 4 : 2);
    job.type = type;
    job.out = out;
    job.row_bytes = type == F32 ? job.kernels->row_bytes_f32(stack->cols)
                                : job.kernels->row_bytes_bf16(stack->cols);
    // Whole tiles of four rows, and at least one.
    job.part_rows = most > TASK_PRODUCTS / 4 ? TASK_ROWS : at_least(TASK_WEIGHTS / stack->cols, 4);
    job.part_rows = at_most(job.part_rows / 4 * 4, TASK_ROWS);
    job.parts = (stack->rows + job.part_rows - 1) / job.part_rows;
    job.scratch_bytes = (job.kernels->scratch_bytes(stack->cols, job.part_rows) + 63) / 64 * 64;
    threads = (int)at_least(threads, 1);
    // Where several products share a row it is prepared once.
    if (source && products <= rows) {
        job.gathered = source;
        rows = products;
    }
    Room prepared(rows * job.row_bytes), scratch(threads * job.scratch_bytes);
    Room pointers(products * (int64_t)sizeof(void *)), divided(pieces * (int64_t)sizeof(Piece));
    if (!prepared.get() || !scratch.get() || !pointers.get() || !divided.get()) return 2;
    Piece *piece = (Piece *)divided.get();
    job.pieces = piece;
    for (int64_t i = 0; i < count; i++)
        for (int64_t begin = starts[i]; begin < starts[i + 1]; begin += TASK_PRODUCTS)
            *piece++ = {index[i], begin, at_most(begin + TASK_PRODUCTS, starts[i + 1])};
    job.prepared = prepared.get();
    job.scratch = scratch.get();
    job.rows = (const void **)pointers.get();
    for (int64_t i = 0; i < products; i++)
        job.rows[i] = job.prepared + (source && !job.gathered ? source[i] : i) * job.row_bytes;
    nf4_run(prepare_row, &job, rows, rows * stack->cols > TASK_WEIGHTS ? threads : 1);
    nf4_run(multiply_part, &job, pieces * job.parts, threads);
    return 0;
}
