// The products, written once for every instruction set. A file includes this after it has said for
// which processor it is compiled; everything here is local to that file, so that no code of one
// instruction set is ever linked into another's.
//
// An arithmetic `A` says how a group of codes becomes vectors of weights:
//   Vector, Sum   a vector of weights, a vector of partial sums
//   Element       what x is kept as; LANES elements of it go with a Vector
//   GROUP, PARTS  columns unpacked at once; vectors of them
//   DIRECT        rows of x that are multiplied straight from the codes
//   TILE          rows of x whose sums stay in registers beside those of four rows of weights
//   SCALED        whether `unpack` gives weights (else table values, to be scaled by absmax)
//   column(i)     the column of the group whose weight is element i of its vectors
//   scaled        a vector of what `unpack` gives as weights
//   write_block   a block's weights in the order of their columns

#include <stddef.h>
#include <string.h>

#if defined(_MSC_VER)
#define NF4_INLINE __forceinline
#else
#define NF4_INLINE __attribute__((always_inline)) inline
#endif

namespace {

// Bytes of a tile's row: four rows of weights and those of x that are multiplied with them at once
// stay in the first cache.
enum { SLAB_BYTES = 4096, TILE_ROWS = 4 };

NF4_INLINE float bf16_to_float(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, 4);
    return result;
}

NF4_INLINE uint16_t float_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

// absmax of `count` blocks, in place where they are kept plainly, else undone into `room`.
NF4_INLINE const float *absmax_of(const Nf4Matrix &matrix, int64_t first, int64_t count,
                                  float *room) {
    if (matrix.absmax) return matrix.absmax + first;
    for (int64_t i = 0; i < count; i++) {
        float scaled = matrix.map[matrix.codes[first + i]] * matrix.scale[(first + i) / NF4_NESTED];
        room[i] = scaled + matrix.offset;
    }
    return room;
}

NF4_INLINE void copy_element(float value, float *to) { *to = value; }
NF4_INLINE void copy_element(uint16_t value, float *to) { *to = bf16_to_float(value); }
NF4_INLINE void copy_element(uint16_t value, uint16_t *to) { *to = value; }

// The four bytes of each table value, for instruction sets that look bytes up.
NF4_INLINE void table_bytes(uint8_t bytes[4][16]) {
    for (int code = 0; code < 16; code++) {
        uint32_t bits;
        memcpy(&bits, &nf4_table[code], 4);
        for (int plane = 0; plane < 4; plane++) bytes[plane][code] = (uint8_t)(bits >> 8 * plane);
    }
}

// The midpoints of the table, which decide a code.
struct Midpoints {
    float value[15];
};

NF4_INLINE Midpoints table_midpoints() {
    Midpoints midpoints;
    for (int i = 0; i < 15; i++) midpoints.value[i] = (nf4_table[i] + nf4_table[i + 1]) / 2;
    return midpoints;
}

// Magnitudes are compared as integers, in whose order what is no number is the largest.
template <class A, class Source>
void quantize(const Source *weights, int64_t blocks, uint8_t *packed, float *absmax) {
    const Midpoints midpoints = table_midpoints();
    for (int64_t block = 0; block < blocks; block++) {
        float values[NF4_BLOCK];
        for (int i = 0; i < NF4_BLOCK; i++) copy_element(weights[block * NF4_BLOCK + i], &values[i]);
        const float largest = A::largest_magnitude(values);
        absmax[block] = largest;
        A::quantize_block(values, 1.0f / (largest < 1e-38f ? 1e-38f : largest), midpoints,
                          packed + block * (NF4_BLOCK / 2));
    }
}

template <class A, class Out>
void dequantize(const Nf4Matrix *matrix, int64_t first, int64_t blocks, Out *out) {
    const typename A::Table table = A::load_table();
    for (int64_t block = 0; block < blocks; block++) {
        float room;
        const float absmax = *absmax_of(*matrix, first + block, 1, &room);
        A::write_block(table, matrix->packed + (first + block) * (NF4_BLOCK / 2), absmax,
                       out + block * NF4_BLOCK);
    }
}

template <class A>
int64_t row_bytes(int64_t cols) {
    int64_t groups = (cols + A::GROUP - 1) / A::GROUP;
    return groups * A::GROUP * (int64_t)sizeof(typename A::Element);
}

template <class A, class Source>
void prepare(const Source *x, int64_t cols, void *out) {
    typename A::Element *to = (typename A::Element *)out;
    int64_t start = 0;
    for (; start + A::GROUP <= cols; start += A::GROUP)
        for (int i = 0; i < A::GROUP; i++) copy_element(x[start + A::column(i)], &to[start + i]);
    if (start == cols) return;
    for (int i = 0; i < A::GROUP; i++) {
        int64_t column = start + A::column(i);
        copy_element(column < cols ? x[column] : Source(0), &to[start + i]);
    }
}

// A group's weights, or its table values where arithmetic is not SCALED, and its scale. last: less
// than a group is left.
template <class A>
NF4_INLINE typename A::Scale unpack_group(const typename A::Table &table, const uint8_t *codes,
                                          const float *absmax, bool last,
                                          typename A::Vector *weights) {
    const typename A::Scale scale = last ? A::last_scale(absmax) : A::scale(absmax);
    if (last)
        A::unpack_last(table, codes, scale, weights);
    else
        A::unpack(table, codes, scale, weights);
    return scale;
}

// M rows of x straight from the codes: each weight is unpacked once and stays in a register.
template <class A, int M>
void direct(const Nf4Task &task) {
    const Nf4Matrix &matrix = task.matrix;
    const int64_t blocks = matrix.cols / NF4_BLOCK, whole = matrix.cols / A::GROUP * A::GROUP;
    // Sums that do not wait for each other; those that are scaled by absmax begin anew each time.
    enum { CHAINS = !A::SCALED ? 1 : M > 2 ? 2 : 4 };
    const typename A::Element *x[M];
    for (int m = 0; m < M; m++) x[m] = (const typename A::Element *)task.x[m];
    const typename A::Table table = A::load_table();
    for (int64_t row = task.first; row < task.last; row++) {
        const uint8_t *codes = matrix.packed + row * matrix.cols / 2;
        const float *absmax = absmax_of(matrix, row * blocks, blocks, (float *)task.scratch);
        typename A::Sum sums[M][CHAINS];
        for (int m = 0; m < M; m++)
            for (int c = 0; c < CHAINS; c++) sums[m][c] = A::zero();
        for (int64_t column = 0; column < matrix.cols; column += A::GROUP) {
            typename A::Vector weights[A::PARTS];
            const typename A::Scale scale = unpack_group<A>(
                table, codes + column / 2, absmax + column / NF4_BLOCK, column >= whole, weights);
            for (int m = 0; m < M; m++) {
                const typename A::Element *at = x[m] + column;
                if (A::SCALED) {
                    for (int p = 0; p < A::PARTS; p++)
                        sums[m][p % CHAINS] =
                            A::add_product(sums[m][p % CHAINS], weights[p], at + p * A::LANES);
                } else {
                    typename A::Sum sum = A::zero();
                    for (int p = 0; p < A::PARTS; p++)
                        sum = A::add_product(sum, weights[p], at + p * A::LANES);
                    sums[m][0] = A::add_scaled(sums[m][0], sum, scale);
                }
            }
        }
        for (int m = 0; m < M; m++) {
            for (int c = 1; c < CHAINS; c++) sums[m][0] = A::plus(sums[m][0], sums[m][c]);
            A::put(task.out, m * task.stride + row, sums[m][0]);
        }
    }
}

// M rows of x times four rows of unpacked weights, added to sums[m][4].
template <class A, int M>
NF4_INLINE void tile(const typename A::Element *weights, int64_t pitch, const void *const *x,
                     int64_t start, int64_t width, float *sums) {
    typename A::Sum partial[M][TILE_ROWS];
    for (int m = 0; m < M; m++)
        for (int r = 0; r < TILE_ROWS; r++) partial[m][r] = A::zero();
    const typename A::Element *at[M];
    for (int m = 0; m < M; m++) at[m] = (const typename A::Element *)x[m] + start;
    for (int64_t i = 0; i < width; i += A::LANES) {
        typename A::Vector rows[M];
        for (int m = 0; m < M; m++) rows[m] = A::load(at[m] + i);
        for (int r = 0; r < TILE_ROWS; r++) {
            const typename A::Vector w = A::load(weights + r * pitch + i);
            for (int m = 0; m < M; m++) partial[m][r] = A::add_vectors(partial[m][r], w, rows[m]);
        }
    }
    for (int m = 0; m < M; m++) A::add_totals(partial[m], sums + m * TILE_ROWS);
}

// Rows of x whose slabs stay in a core's second cache while rows of weights pass by.
enum { TILED_ROWS = 96 };

// Four rows of weights, `width` columns from `start` on, as vectors in `weights`.
template <class A>
NF4_INLINE void unpack_slab(const Nf4Matrix &matrix, int64_t row, int rows, int64_t start,
                            int64_t end, float *statistics, typename A::Element *weights,
                            int64_t pitch) {
    const typename A::Table table = A::load_table();
    const int64_t blocks = (end - start) / NF4_BLOCK;
    for (int r = 0; r < rows; r++) {
        const int64_t first = (row + r) * matrix.cols + start;
        const float *absmax = absmax_of(matrix, first / NF4_BLOCK, blocks, statistics);
        const uint8_t *codes = matrix.packed + first / 2;
        typename A::Element *to = weights + r * pitch;
        for (int64_t column = 0; column < end - start; column += A::GROUP) {
            typename A::Vector unpacked[A::PARTS];
            const typename A::Scale scale =
                unpack_group<A>(table, codes + column / 2, absmax + column / NF4_BLOCK,
                                column + A::GROUP > end - start, unpacked);
            for (int p = 0; p < A::PARTS; p++)
                A::store(to + column + p * A::LANES, A::scaled(unpacked[p], scale));
        }
    }
    for (int r = rows; r < TILE_ROWS; r++)
        memset((void *)(weights + r * pitch), 0, (size_t)pitch * sizeof *weights);
}

// `count` rows of x times four rows of unpacked weights, added to sums[count][4].
template <class A>
NF4_INLINE void all_tiles(const typename A::Element *weights, int64_t pitch, const void *const *x,
                          int64_t count, int64_t start, int64_t width, float *sums) {
    for (; count >= A::TILE; count -= A::TILE, x += A::TILE, sums += A::TILE * TILE_ROWS)
        tile<A, A::TILE>(weights, pitch, x, start, width, sums);
    switch (count) {
        case 1: tile<A, 1>(weights, pitch, x, start, width, sums); break;
        case 2: tile<A, 2>(weights, pitch, x, start, width, sums); break;
        case 3: tile<A, 3>(weights, pitch, x, start, width, sums); break;
        case 4: tile<A, 4>(weights, pitch, x, start, width, sums); break;
        case 5: tile<A, 5>(weights, pitch, x, start, width, sums); break;
    }
}

// Many rows of x: four rows of weights are unpacked, a slab of columns at a time, and used by
// TILED_ROWS of x. scratch: sums [rows of weights / 4, TILED_ROWS, 4], then one slab of weights,
// then its statistics.
template <class A>
void tiled(const Nf4Task &task) {
    typedef typename A::Element Element;
    const Nf4Matrix &matrix = task.matrix;
    const int64_t slab = SLAB_BYTES / sizeof(Element), pitch = slab + A::GROUP;
    const int64_t quads = (task.last - task.first + TILE_ROWS - 1) / TILE_ROWS;
    float *sums = (float *)task.scratch;
    Element *weights = (Element *)(sums + quads * TILED_ROWS * TILE_ROWS);
    float *statistics = (float *)(weights + TILE_ROWS * pitch);
    for (int64_t token = 0; token < task.count; token += TILED_ROWS) {
        const int64_t left = task.count - token, count = left < TILED_ROWS ? left : +TILED_ROWS;
        memset(sums, 0, (size_t)(quads * TILED_ROWS * TILE_ROWS) * sizeof *sums);
        for (int64_t start = 0; start < matrix.cols; start += slab) {
            const int64_t end = start + slab < matrix.cols ? start + slab : matrix.cols;
            const int64_t width = (end - start + A::GROUP - 1) / A::GROUP * A::GROUP;
            for (int64_t quad = 0; quad < quads; quad++) {
                const int64_t row = task.first + quad * TILE_ROWS, rows = task.last - row;
                unpack_slab<A>(matrix, row, rows < TILE_ROWS ? (int)rows : +TILE_ROWS, start, end,
                               statistics, weights, pitch);
                all_tiles<A>(weights, pitch, task.x + token, count, start, width,
                             sums + quad * TILED_ROWS * TILE_ROWS);
            }
        }
        for (int64_t i = 0; i < count; i++)
            for (int64_t row = task.first; row < task.last; row++) {
                const int64_t at = row - task.first, quad = at / TILE_ROWS;
                A::put(task.out, (token + i) * task.stride + row,
                       sums[(quad * TILED_ROWS + i) * TILE_ROWS + at % TILE_ROWS]);
            }
    }
}

// Bytes that a task of `rows` rows needs beside its operands: a row's statistics, or what `tiled`
// keeps.
template <class A>
int64_t scratch_bytes(int64_t cols, int64_t rows) {
    int64_t row_statistics = cols / NF4_BLOCK * 4;
    int64_t sums = (rows + TILE_ROWS) * TILED_ROWS * 4;
    int64_t weights = TILE_ROWS * (int64_t)(SLAB_BYTES + A::GROUP * 4);
    return row_statistics + sums + weights + SLAB_BYTES + 256;
}

// Products of bfloat16 by float32 arithmetic `F`: weights are rounded, x and the sums are what they
// are, and what comes out is rounded.
template <class F>
struct RoundedBy : F {
    typedef typename F::Vector Vector;
    enum { SCALED = 1 };
    static NF4_INLINE void round_all(typename F::Scale scale, Vector *weights) {
        for (int p = 0; p < F::PARTS; p++) weights[p] = F::rounded(F::scaled(weights[p], scale));
    }
    static NF4_INLINE void unpack(const typename F::Table &table, const uint8_t *codes,
                                  typename F::Scale scale, Vector *out) {
        F::unpack(table, codes, scale, out);
        round_all(scale, out);
    }
    static NF4_INLINE void unpack_last(const typename F::Table &table, const uint8_t *codes,
                                       typename F::Scale scale, Vector *out) {
        F::unpack_last(table, codes, scale, out);
        round_all(scale, out);
    }
    static NF4_INLINE Vector scaled(Vector weights, typename F::Scale) { return weights; }
    static NF4_INLINE void put(void *out, int64_t at, float value) {
        ((uint16_t *)out)[at] = float_to_bf16(value);
    }
    static NF4_INLINE void put(void *out, int64_t at, const typename F::Sum &sum) {
        put(out, at, F::total(sum));
    }
};

template <class A>
void multiply(const Nf4Task *task) {
    if (task->count > A::DIRECT) {
        tiled<A>(*task);
        return;
    }
    switch (task->count) {
        case 1: direct<A, 1>(*task); break;
        case 2: direct<A, 2>(*task); break;
        case 3: direct<A, 3>(*task); break;
        case 4: direct<A, 4>(*task); break;
        case 5: direct<A, 5>(*task); break;
        case 6: direct<A, 6>(*task); break;
    }
}

// The functions of an instruction set: float32 arithmetic `F`, bfloat16 arithmetic `B`.
template <class F, class B>
constexpr Nf4Kernels kernels() {
    return {
        quantize<F, float>, quantize<F, uint16_t>, dequantize<F, float>, dequantize<F, uint16_t>,
        row_bytes<F>,       row_bytes<B>,          prepare<F, float>,    prepare<B, uint16_t>,
        multiply<F>,        multiply<B>,           scratch_bytes<F>,
    };
}

}  // namespace
