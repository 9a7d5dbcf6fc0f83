// Register-blocked float32 matrix products on the vector extensions of gcc and clang.
//
// Everything is built from Tile<M, N>: M rows by N vectors of accumulators that live in registers.
//
//     Tile<6, 4> tile;                        // 6 x 64 floats with AVX-512
//     tile.zero();                            // or tile.load(c, c_row)
//     tile.multiply(K, a, a_row, a_k, b, b_k) // += sum_k a[m * a_row + k * a_k] * b[k * b_k + n]
//     tile.store(c, c_row);
//
// `a` is read one float at a time with any two strides, so that a matrix and its transpose cost the
// same; `b` and `c` are read in whole vectors along a row, N * kLanes floats from the pointer on
// (no alignment needed, but pad rows to whole vectors). A weight matrix that is used often is best
// kept in panels [out / kPanel][k][kPanel], so that `b` is one contiguous stream with b_k = kPanel.
//
// An output is one chain of fused multiply-adds over k = 0, 1, .. K-1, in every tile of any shape:
// its bits depend neither on M and N nor on the place in the tile.
#pragma once

#include <cstddef>

namespace cispo {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kVectors = 4, kRows = 6;
#elif defined(__AVX__)
constexpr int kLanes = 8, kVectors = 2, kRows = 6;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kVectors = 4, kRows = 6;
#else
constexpr int kLanes = 4, kVectors = 2, kRows = 6;
#endif
// kLanes floats a vector; kRows x kVectors is the largest tile that fits the registers
constexpr int kPanel = kLanes * kVectors;

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef float LooseVector
    __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const LooseVector*>(from); }
inline void store(float* to, Vector v) { *reinterpret_cast<LooseVector*>(to) = v; }

template <int M, int N>
struct Tile {
    static constexpr int rows = M, columns = N * kLanes;
    Vector sum[M][N];

    // body(vector, row, column) for each vector of sums
    template <class Body>
    __attribute__((always_inline)) void each(const Body& body) {
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) body(sum[m][n], m, n * kLanes);
    }

    void zero() {
        each([](Vector& v, int, int) { v = Vector{}; });
    }

    void load(const float* c, ptrdiff_t c_row) {
        each([=](Vector& v, int m, int n) { v = cispo::load(c + m * c_row + n); });
    }

    void store(float* c, ptrdiff_t c_row) {
        each([=](Vector& v, int m, int n) { cispo::store(c + m * c_row + n, v); });
    }

    __attribute__((always_inline)) void multiply(ptrdiff_t K, const float* a, ptrdiff_t a_row,
                                                 ptrdiff_t a_k, const float* b, ptrdiff_t b_k) {
        for (ptrdiff_t k = 0; k < K; ++k) {
            Vector row[N];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) row[n] = cispo::load(b + n * kLanes);
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) {
                const float factor = a[m * a_row];
#pragma GCC unroll 8
                for (int n = 0; n < N; ++n) sum[m][n] += factor * row[n];
            }
            a += a_k;
            b += b_k;
        }
    }
};

}  // namespace cispo
