// AVX-512 (F, BW, DQ, VL) without bfloat16 arithmetic: float32 everywhere.
#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

#include <immintrin.h>

#include "kernels.inl"

#include "avx512_f32.inl"

extern const Nf4Kernels nf4_avx512 = kernels<Avx512F32, RoundedBy<Avx512F32>>();

#if defined(__clang__)
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif

#endif
