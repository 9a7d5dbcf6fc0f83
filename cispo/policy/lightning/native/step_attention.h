// What one new token does to one head's memory: a lightning state, or pages of keys and values.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "elementwise.h"
#include "rows.h"
#include "step_model.h"

namespace cispo::step {

constexpr int kFew = kLanes < 8 ? kLanes : 8;  // head sizes are multiples of it
typedef float Few __attribute__((vector_size(kFew * sizeof(float))));

template <class V>
inline V load_as(const float* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

template <class V>
inline void store_as(float* to, V v) {
    std::memcpy(to, &v, sizeof v);
}

constexpr ptrdiff_t kStateAhead = 2048;  // floats between what is updated and what is fetched

// `Count` vectors of columns of S += k v^T + loss S and of o = S^T q, in one pass over S [D][D];
// loss = e^-s - 1, because the decay e^-s itself, rounded to float32, drifts over long sequences
template <class V, int Count>
inline void update_columns(float* state, ptrdiff_t D, const float* q, const float* k,
                           const float* v, float loss, float* o) {
    constexpr int lanes = sizeof(V) / sizeof(float);
    V value[Count], output[Count];
    for (int n = 0; n < Count; ++n) value[n] = load_as<V>(v + n * lanes), output[n] = V{};
    for (ptrdiff_t i = 0; i < D; ++i) {
        const float key = k[i], query = q[i];
#pragma GCC unroll 8
        for (int n = 0; n < Count; ++n) {
            __builtin_prefetch(state + kStateAhead + n * lanes, 0, 2);
            V s = load_as<V>(state + n * lanes);
            s += loss * s;
            s += key * value[n];
            store_as(state + n * lanes, s);
            output[n] += query * s;
        }
        state += D;
    }
    for (int n = 0; n < Count; ++n) store_as(o + n * lanes, output[n]);
}

// D is a multiple of 8
inline void update_state(float* state, ptrdiff_t D, const float* q, const float* k, const float* v,
                         float loss, float* o) {
    ptrdiff_t d = 0;
    if constexpr (kVectors == 4)  // there are 32 registers
        for (; d + 8 * kLanes <= D; d += 8 * kLanes)
            update_columns<Vector, 8>(state + d, D, q, k, v + d, loss, o + d);
    for (; d + 4 * kLanes <= D; d += 4 * kLanes)
        update_columns<Vector, 4>(state + d, D, q, k, v + d, loss, o + d);
    for (; d + kLanes <= D; d += kLanes)
        update_columns<Vector, 1>(state + d, D, q, k, v + d, loss, o + d);
    for (; d + kFew <= D; d += kFew)
        update_columns<Few, 1>(state + d, D, q, k, v + d, loss, o + d);
}

// pairs (i, i + half) of one head; the dimensions behind stay
inline void rotate(float* x, ptrdiff_t half, const float* cosine, const float* sine) {
    for (ptrdiff_t i = 0; i < half; ++i) {
        const float first = x[i], second = x[i + half];
        x[i] = first * cosine[i] - second * sine[i];
        x[i + half] = second * cosine[i] + first * sine[i];
    }
}

// sums of the lanes of kLanes vectors, which are used up
inline Vector sums_of_each(Vector* v) {
    constexpr auto lanes = std::make_integer_sequence<int, kLanes>();
#pragma GCC unroll 4
    for (int n = kLanes / 2; n > 0; n /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < n; ++i)
            v[i] = interleaved<0>(v[i], v[i + n], lanes) + interleaved<1>(v[i], v[i + n], lanes);
    return v[0];
}

// q . key of kLanes keys [D] that follow each other
inline Vector scores_of(const float* q, const float* keys, ptrdiff_t D) {
    Vector sum[kLanes];
#pragma GCC unroll 16
    for (int t = 0; t < kLanes; ++t) sum[t] = Vector{};
    ptrdiff_t d = 0;
    for (; d + kLanes <= D; d += kLanes) {
        const Vector query = load(q + d);
#pragma GCC unroll 16
        for (int t = 0; t < kLanes; ++t) sum[t] += query * load(keys + t * D + d);
    }
    for (; d < D; d += kFew) {  // the other lanes stay as they are
        Vector query = {}, key = {};
        std::memcpy(&query, q + d, sizeof(Few));
#pragma GCC unroll 16
        for (int t = 0; t < kLanes; ++t) {
            std::memcpy(&key, keys + t * D + d, sizeof(Few));
            sum[t] += query * key;
        }
    }
    return sums_of_each(sum);
}

// `Count` vectors of columns of o = scale o + sum_t weight[t] value[t], value [tokens][D]
template <class V, int Count>
inline void add_values(const float* value, ptrdiff_t D, const float* weight, ptrdiff_t tokens,
                       float scale, float* o) {
    constexpr int lanes = sizeof(V) / sizeof(float);
    V sum[Count];
    for (int n = 0; n < Count; ++n) sum[n] = load_as<V>(o + n * lanes) * scale;
    for (ptrdiff_t t = 0; t < tokens; ++t)
#pragma GCC unroll 8
        for (int n = 0; n < Count; ++n) sum[n] += weight[t] * load_as<V>(value + t * D + n * lanes);
    for (int n = 0; n < Count; ++n) store_as(o + n * lanes, sum[n]);
}

constexpr ptrdiff_t kPage = 64;

// One query head's attention so far: o = sum_t e^(score_t - peak) value_t, mass = the weights' sum.
struct OnlineSoftmax {
    float peak = -INFINITY, mass = 0.0f;

    // read the first `tokens` of a page of keys and values [kPage][D]
    void read(const float* q, const float* keys, const float* values, ptrdiff_t D,
              ptrdiff_t tokens, float* o) {
        alignas(64) float weight[kPage];
        Vector highest = broadcast(peak);
        for (ptrdiff_t t = 0; t < tokens; t += kLanes) {  // pages are whole, whatever is in them
            store(weight + t, scores_of(q, keys + t * D, D));
            std::fill(weight + std::min(tokens, t + kLanes), weight + t + kLanes, -INFINITY);
            const Vector score = load(weight + t);
            highest = score > highest ? score : highest;
        }
        const float old = peak;
        for (int lane = 0; lane < kLanes; ++lane) peak = std::max(peak, highest[lane]);
        Vector sum = {};
        for (ptrdiff_t t = 0; t < tokens; t += kLanes) {
            const Vector score = load(weight + t), share = exp(score - peak);
            store(weight + t, score == -INFINITY ? Vector{} : share);
            sum += load(weight + t);
        }
        const float scale = old == peak ? 1.0f : exp(old - peak);
        mass = mass * scale + lanes_sum(sum);
        ptrdiff_t d = 0;
        for (; d + 4 * kLanes <= D; d += 4 * kLanes)
            add_values<Vector, 4>(values + d, D, weight, tokens, scale, o + d);
        for (; d + kLanes <= D; d += kLanes)
            add_values<Vector, 1>(values + d, D, weight, tokens, scale, o + d);
        for (; d + kFew <= D; d += kFew)
            add_values<Few, 1>(values + d, D, weight, tokens, scale, o + d);
    }
};

// Keys and values of one head of one row, in a softmax layer.
class Pages {
  public:
    // of the index-th softmax layer
    Pages(const Model& model, const State& state, ptrdiff_t index, ptrdiff_t row, ptrdiff_t head)
        : table_(state.page_table + row * state.columns), seen_(state.lengths[row]),
          D_(model.head_dim), kind_(model.kv_heads * kPage * D_),
          base_(state.pages + index * state.num_pages * 2 * kind_ + head * kPage * D_) {}

    // keep the key and the value [D] of the row's new token
    void append(const float* key, const float* value) const {
        const ptrdiff_t place = seen_ % kPage * D_;
        std::copy_n(key, D_, keys(seen_) + place);
        std::copy_n(value, D_, keys(seen_) + kind_ + place);
    }

    // attention [queries][D] of some query heads [queries][D] to all tokens up to the new one
    void attend(const float* q, ptrdiff_t queries, float* o) const {
        std::fill_n(o, queries * D_, 0.0f);
        std::vector<OnlineSoftmax> softmax(queries);
        for (ptrdiff_t token = 0; token <= seen_; token += kPage)
            for (ptrdiff_t h = 0; h < queries; ++h)
                softmax[h].read(q + h * D_, keys(token), keys(token) + kind_, D_,
                                std::min(kPage, seen_ + 1 - token), o + h * D_);
        for (ptrdiff_t h = 0; h < queries; ++h)
            for (ptrdiff_t d = 0; d < D_; ++d) o[h * D_ + d] /= softmax[h].mass;
    }

  private:
    float* keys(ptrdiff_t token) const { return base_ + table_[token / kPage] * 2 * kind_; }

    const int32_t* table_;
    const ptrdiff_t seen_, D_, kind_;  // kind_: floats from keys to values
    float* base_;
};

}  // namespace cispo::step
