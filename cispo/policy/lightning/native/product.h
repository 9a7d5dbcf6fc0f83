// Products c (+)= a b of matrices that lie anywhere: `a` with any strides, `b` in whole vectors.
//
// As in gemm.h an output is one chain of fused multiply-adds, whatever the sizes.
#pragma once

#include <algorithm>
#include <cstring>

#include "gemm.h"
#include "outputs.h"

namespace cispo {

constexpr ptrdiff_t kDepth = 128;  // of a part of b, so that it stays in the first-level cache
constexpr ptrdiff_t kAhead = 16;   // inputs ahead of which the weights of few columns are fetched

// Whether a product replaces what c holds, is added to it, or replaces it on a way past the caches,
// which saves reading c first; for results that are large and not read soon.
enum class Into { kReplaced, kSummed, kMemory };

struct Matrix {
    const float* at;
    ptrdiff_t row, column;  // strides
};

// Rows of c[rows][columns] (+)= a[rows][K] b[K][N vectors] from `row` on, as many as fill tiles.
template <int M, int N>
ptrdiff_t strip(ptrdiff_t row, ptrdiff_t rows, ptrdiff_t K, Matrix a, const float* b, ptrdiff_t b_k,
                float* c, ptrdiff_t c_row, ptrdiff_t columns, Into into) {
    constexpr ptrdiff_t width = N * kLanes;
    for (; row + M <= rows; row += M) {
        const bool is_edge = columns < width;  // a row of c ends inside of the last vector
        float edge[M * width];
        float* const to = c + row * c_row;
        const auto copy = [&](float* out, ptrdiff_t out_row, const float* in, ptrdiff_t in_row) {
            for (int m = 0; m < M; ++m)
                std::memcpy(out + m * out_row, in + m * in_row, columns * sizeof(float));
        };
        Tile<M, N> tile;
        tile.zero();
        if (into == Into::kSummed) {
            if (is_edge) copy(edge, width, to, c_row);
            tile.load(is_edge ? edge : to, is_edge ? width : c_row);
        }
        const float* const from = a.at + row * a.row;
        if constexpr (N <= 2) {
            // few tokens: the weights come from memory, so they are fetched before they are needed
            for (ptrdiff_t k = 0; k < K; k += kAhead) {
                const ptrdiff_t here = std::min(kAhead, K - k);
                const float* const at = from + k * a.column;
                if (a.column == 1)
                    for (int m = 0; m < M; ++m) __builtin_prefetch(at + (M + m) * a.row, 0, 3);
                else
                    for (ptrdiff_t i = 0; i < here; ++i)
                        __builtin_prefetch(at + (kAhead + i) * a.column, 0, 3);
                tile.multiply(here, at, a.row, a.column, b + k * b_k, b_k);
            }
        } else {
            tile.multiply(K, from, a.row, a.column, b, b_k);
        }
        if (into == Into::kMemory && !is_edge) {
            tile.each([=](Vector& v, int m, int n) { stream(to + m * c_row + n, v); });
            continue;
        }
        tile.store(is_edge ? edge : to, is_edge ? width : c_row);
        if (is_edge) copy(to, c_row, edge, width);
    }
    return row;
}

// c[rows][columns] (+)= a[rows][K] b[K][columns], b in whole vectors; b is copied in parts that
// stay in the first-level cache
template <int N = kVectors>
void product(ptrdiff_t rows, ptrdiff_t K, Matrix a, const float* b, ptrdiff_t b_k, float* c,
             ptrdiff_t c_row, ptrdiff_t columns, Into into = Into::kReplaced) {
    constexpr int height = kRows * kVectors / N < 8 ? kRows * kVectors / N : 8;
    constexpr ptrdiff_t width = N * kLanes;
    alignas(64) float near[kDepth * width];
    while (columns > (N - 1) * kLanes) {
        const ptrdiff_t here = std::min(columns, width);
        for (ptrdiff_t k = 0; k < K; k += kDepth) {
            const ptrdiff_t depth = std::min(kDepth, K - k);
            const float* part = b + k * b_k;
            const bool is_near = b_k == width;
            for (ptrdiff_t i = 0; i < depth && !is_near; ++i)
                std::memcpy(near + i * width, part + i * b_k, width * sizeof(float));
            const float* const operand = is_near ? part : near;
            const Matrix from{a.at + k * a.column, a.row, a.column};
            Into to = k > 0 ? Into::kSummed : into;
            if (to == Into::kMemory && (K > kDepth || !can_stream(c, c_row))) to = Into::kReplaced;
            ptrdiff_t row = 0;
            row = strip<height, N>(row, rows, depth, from, operand, width, c, c_row, here, to);
            row = strip<4, N>(row, rows, depth, from, operand, width, c, c_row, here, to);
            strip<1, N>(row, rows, depth, from, operand, width, c, c_row, here, to);
        }
        b += here;
        c += here;
        columns -= here;
    }
    if constexpr (N > 1)
        if (columns > 0) product<N - 1>(rows, K, a, b, b_k, c, c_row, columns, into);
}

}  // namespace cispo
