// One chunk of lightning attention for one head, in buffers of whole vectors.
//
// With S the state before a chunk of m tokens and i, j = 0..m-1 (see attention.py):
//
//     o_i = lambda^(i+1) S^T q_i + sum_{j<=i} lambda^(i-j) (q_i . k_j) v_j            "attend"
//     S  += sum_j lambda^(m-1-j) k_j v_j^T - (1 - lambda^m) S                         "absorb"
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <vector>

#include "gemm.h"
#include "rows.h"

namespace cispo {

// Flatter than the largest tile: less work above the diagonal. Scores have few columns, so that
// their tiles are high instead; it takes about eight sums at once to hide an addition's latency.
constexpr int kTileRows = 4;
constexpr int kScoreVectors = kVectors / 2, kScoreRows = kTileRows * kVectors / kScoreVectors;

inline int round_up(int n, int to) { return (n + to - 1) / to * to; }

struct ChunkSizes {
    int D, C;          // head size; tokens of a chunk
    int columns, depth;  // the same in whole vectors, as buffers have them
    int width;           // from row to row of `columns`: rows whose distance is a large power of
                         // two would share few sets of the L1 cache

    ChunkSizes(int D, int C)
        : D(D), C(C), columns(round_up(D, kLanes)),
          depth(round_up(C, kLanes > kScoreRows ? kLanes : kScoreRows)),
          width(columns + (columns % 128 == 0 ? kLanes : 0)) {}
};

// Powers of one head's decay; only powers >= 0 occur, so that none overflows.
struct Decay {
    double slope;
    std::vector<float> power;  // lambda^x for x = 0..C
    std::vector<float> mask;   // a score tile of any, lambda^(C-1-x) for x = 0..C-1, then zeros

    Decay(double slope, const ChunkSizes& s)
        : slope(slope), power(s.C + 1 + kTileRows), mask(kScoreRows + s.C + s.depth + kPanel) {
        for (int x = 0; x <= s.C; ++x) power[x] = static_cast<float>(std::exp(-slope * x));
        for (int x = 0; x < s.C; ++x) mask[kScoreRows + x] = power[s.C - 1 - x];
    }

    // lambda^(row-column) where column <= row, else 0; a row further down starts one place earlier
    const float* mask_at(const ChunkSizes& s, int row, int column) const {
        return mask.data() + kScoreRows + s.C - 1 - row + column;
    }
    // lambda^x - 1, exact where lambda is near one
    float loss(int x) const { return static_cast<float>(std::expm1(-slope * x)); }
};

// Brings rows of the next step into the L2 cache, a few at a time between tiles: they lie too far
// apart for the hardware to foresee them.
class Ahead {
   public:
    Ahead(const Rows* const* tensors, int num_tensors, int num_read, ptrdiff_t head,
          ptrdiff_t first, int count, int D)
        : tensors_(tensors), num_rows_(num_tensors * count), num_read_(num_read * count),
          head_(head), first_(first), count_(count), D_(D) {}

    void some() {
        for (int i = 0; i < kRowsAtOnce && next_ < num_rows_; ++i, ++next_) {
            const Rows& rows = *tensors_[next_ / count_];
            const char* at = rows.at(first_ + next_ % count_, head_);
            const char* const end = at + D_ * (rows.is_half ? 2 : 4);
            if (next_ < num_read_)
                for (; at < end; at += kLine) __builtin_prefetch(at, 0, 2);
            else if (!rows.is_streamed)
                for (; at < end; at += kLine) __builtin_prefetch(at, 1, 2);
        }
    }

   private:
    static constexpr int kRowsAtOnce = 6, kLine = 64;
    const Rows* const* tensors_;  // those to read, then those to write
    int num_rows_, num_read_;
    ptrdiff_t head_, first_;
    int count_, D_, next_ = 0;
};

// Rows of float32, `row` numbers apart.
struct Place {
    float* at;
    ptrdiff_t row;
    bool is_streamed;
};

// Calls body(tile, column) for tiles that cover the columns (whole vectors) from `begin` on.
template <int M, int N, class Body>
inline void for_columns(int begin, int columns, const Body& body) {
    for (; begin + N * kLanes <= columns; begin += N * kLanes) body(Tile<M, N>(), begin);
    if constexpr (N > 1) for_columns<M, N - 1>(begin, columns, body);
}

// `out` of m tokens, written in whole tiles; key_t is [D][depth], `state` null for zero. `lead` is
// the power of lambda by which the state has faded when the first token reads it.
inline void attend(const ChunkSizes& s, const Decay& decay, int m, int lead, Place query,
                   const float* key_t, const float* value, const float* state, float* scores,
                   Place out, Ahead& ahead) {
    for (int r = 0; r < m; r += kScoreRows) {
        const int seen = round_up(r + kScoreRows, kLanes);
        for_columns<kScoreRows, kScoreVectors>(0, seen, [&](auto tile, int column) {
            tile.zero();
            tile.multiply(s.D, query.at + r * query.row, query.row, 1, key_t + column, s.depth);
            const float* mask = decay.mask_at(s, r, column);
            tile.each([=](Vector& v, int i, int j) { v *= load(mask - i + j); });
            tile.store(scores + r * s.depth + column, s.depth);
            ahead.some();
        });
    }
    for_columns<kTileRows, kVectors>(0, s.columns, [&](auto tile, int column) {
        for (int r = 0; r < m; r += kTileRows) {
            tile.zero();
            if (state) {
                tile.multiply(s.D, query.at + r * query.row, query.row, 1, state + column, s.width);
                const float* power = decay.power.data() + lead + r;
                tile.each([=](Vector& v, int i, int) { v *= power[i]; });
            }
            const int seen = std::min(r + kTileRows, m);
            tile.multiply(seen, scores + r * s.depth, s.depth, 1, value + column, s.width);
            float* const place = out.at + r * out.row + column;
            if (out.is_streamed)
                tile.each([=](Vector& v, int i, int j) { stream(place + i * out.row + j, v); });
            else
                tile.store(place, out.row);
            ahead.some();
        }
    });
}

// `loss` is the power of lambda, less one, by which the state fades; adding loss * S keeps the
// drift of slow decays at the size of rounding, where lambda^m rounded to float32 would not.
inline void absorb(const ChunkSizes& s, const Decay& decay, int m, float loss, const float* key,
                   const float* value, float* faded, float* state, Ahead& ahead) {
    for (int j = 0; j < m; ++j) {
        const float factor = decay.power[m - 1 - j];
        for (int c = 0; c < s.columns; c += kLanes)
            store(faded + j * s.width + c, factor * load(value + j * s.width + c));
    }
    for_columns<kTileRows, kVectors>(0, s.columns, [&](auto tile, int column) {
        for (int r = 0; r < s.D; r += kTileRows) {
            tile.zero();
            tile.multiply(m, key + r, 1, s.width, faded + column, s.width);
            float* const place = state + r * s.width + column;
            tile.each([=](Vector& v, int i, int j) {
                const Vector before = load(place + i * s.width + j);
                store(place + i * s.width + j, before + (v + loss * before));
            });
            ahead.some();
        }
    });
}

}  // namespace cispo
