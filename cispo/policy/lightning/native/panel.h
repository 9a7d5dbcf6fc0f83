// Products of a few rows with weights that are kept in panels [out / kPanel][in][kPanel].
//
// A panel is one stream, cut into units of at most kUnit inputs; while the rows pass over one unit
// the next one is fetched into the second-level cache. As in gemm.h an output is one chain of fused
// multiply-adds over the inputs, so a row's bits do not depend on the other rows.
#pragma once

#include <algorithm>
#include <cstddef>

#include "gemm.h"

namespace cispo::step {

constexpr ptrdiff_t kUnit = 128;      // inputs; with 64 columns 32 KiB, so that tiles reread L1
constexpr ptrdiff_t kBlockRows = 96;  // rows that pass over a unit before the next one is read
constexpr int kLine = 64 / sizeof(float);
constexpr int kUnitLines = kPanel / kLine > 0 ? kPanel / kLine : 1;  // cache lines an input

inline ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t step) { return (n + step - 1) / step * step; }

// c[M][kPanel] (+)= a[M][K] b[K][kPanel], fetching `Lines` cache lines from `ahead` on per input
template <int M, int Lines>
void panel_tile(const float* const* a, ptrdiff_t offset, ptrdiff_t K, const float* b,
                const float* ahead, bool accumulate, float* c) {
    const float* row[M];
    for (int m = 0; m < M; ++m) row[m] = a[m] + offset;
    Tile<M, kVectors> tile;
    if (accumulate)
        tile.load(c, kPanel);
    else
        tile.zero();
    for (ptrdiff_t k = 0; k < K; ++k) {
        Vector weight[kVectors];
#pragma GCC unroll 8
        for (int n = 0; n < kVectors; ++n) weight[n] = load(b + n * kLanes);
#pragma GCC unroll 8
        for (int line = 0; line < Lines; ++line) __builtin_prefetch(ahead + line * kLine, 0, 2);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
            const float factor = row[m][k];
#pragma GCC unroll 8
            for (int n = 0; n < kVectors; ++n) tile.sum[m][n] += factor * weight[n];
        }
        b += kPanel;
        ahead += Lines * kLine;
    }
    tile.store(c, kPanel);
}

using PanelTile = void (*)(const float* const*, ptrdiff_t, ptrdiff_t, const float*, const float*,
                           bool, float*);

template <int Lines>
inline PanelTile panel_tile_of(ptrdiff_t rows) {
    static_assert(kRows == 6, "one entry a number of rows");
    static constexpr PanelTile tiles[] = {panel_tile<1, Lines>, panel_tile<2, Lines>,
                                          panel_tile<3, Lines>, panel_tile<4, Lines>,
                                          panel_tile<5, Lines>, panel_tile<6, Lines>};
    return tiles[rows - 1];
}

// scratch[rows][kPanel] (+)= one unit of K inputs, which is split over as few tiles as fetch as much
// from `ahead` on
inline void panel_unit(const float* const* a, ptrdiff_t rows, ptrdiff_t offset, ptrdiff_t K,
                       const float* b, const float* ahead, bool accumulate, float* scratch) {
    const ptrdiff_t tiles = (rows + kRows - 1) / kRows;
    const int lines = tiles >= kUnitLines ? 1 : tiles > 1 ? kUnitLines / 2 : kUnitLines;
    const float* const end = ahead + K * kPanel;
    for (ptrdiff_t first = 0; first < rows; first += kRows) {
        const ptrdiff_t count = std::min<ptrdiff_t>(kRows, rows - first);
        PanelTile tile = panel_tile_of<0>(count);
        if (ahead < end) {
            tile = lines == 1   ? panel_tile_of<1>(count)
                   : lines == 2 ? panel_tile_of<2>(count)
                                : panel_tile_of<kUnitLines>(count);
        }
        tile(a + first, offset, K, b, ahead, accumulate, scratch + first * kPanel);
        ahead += lines * K * kLine;
    }
}

// A matrix of weights, or some neighbouring panels of one.
struct Panels {
    const float* data;
    ptrdiff_t inputs, first, last;

    const float* panel(ptrdiff_t i) const { return data + i * inputs * kPanel; }
    const float* begin() const { return panel(first); }
};

// Multiply up to kBlockRows rows by panels; `finish(row, panel, sums)` gets every row's kPanel sums
// of every panel. Meanwhile what is read next, from `next` on, is fetched.
template <class Finish>
void panel_product(const float* const* a, ptrdiff_t rows, const Panels& panels, const float* next,
                   float* scratch, Finish finish) {
    const ptrdiff_t K = panels.inputs;
    for (ptrdiff_t panel = panels.first; panel < panels.last; ++panel) {
        const float* b = panels.panel(panel);
        for (ptrdiff_t k = 0; k < K; k += kUnit, b += kUnit * kPanel) {
            const bool is_last = k + kUnit >= K && panel + 1 == panels.last;
            const ptrdiff_t inputs = std::min(kUnit, K - k);
            panel_unit(a, rows, k, inputs, b, is_last ? next : b + inputs * kPanel, k > 0, scratch);
        }
        for (ptrdiff_t row = 0; row < rows; ++row) finish(row, panel, scratch + row * kPanel);
    }
}

}  // namespace cispo::step
