// Draws a token a row by inverting its cumulative distribution, in one pass over the logits.
//
// Masses are summed in blocks of kBlock, the blocks in float64; the drawn token is looked for among
// the blocks first and then inside of one, as rollout/sampling.py does it in torch.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "elementwise.h"
#include "threads.h"

namespace {

using namespace cispo;

constexpr int64_t kBlock = 128;
constexpr int64_t kLogitsAThread = 1 << 20;  // fewer do not pay for a thread

// e^(logit / temperature - peak) of up to kBlock logits, zero behind `count` and below e^-87
void masses(const float* logits, int64_t count, float temperature, float peak, float* mass) {
    alignas(64) float padded[kBlock];
    const float* from = logits;
    if (count < kBlock) {
        std::copy_n(logits, count, padded);
        std::fill(padded + count, padded + kBlock, -INFINITY);
        from = padded;
    }
    for (int64_t i = 0; i < kBlock; i += kLanes) {
        const Vector x = load(from + i) / temperature - peak;
        store(mass + i, x < -87.0f ? Vector{} : exp(x));
    }
}

float highest(const float* logits, int64_t count, float temperature) {
    Vector most = broadcast(-INFINITY);
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        const Vector x = load(logits + i);
        most = x > most ? x : most;
    }
    float peak = -INFINITY;
    for (int lane = 0; lane < kLanes; ++lane) peak = std::max(peak, most[lane]);
    for (; i < count; ++i) peak = std::max(peak, logits[i]);
    return peak / temperature;
}

struct Row {
    int64_t token;
    double logprob, total;
};

// the first of `count` masses with which the cumulative one exceeds the target; it has mass itself
template <class Mass>
int64_t first_above(const Mass* mass, int64_t count, double target, double* before) {
    double sum = 0.0;
    int64_t last = 0;
    *before = 0.0;
    for (int64_t i = 0; i < count; ++i) {
        if (!(mass[i] > 0)) continue;
        last = i;
        *before = sum;
        sum += mass[i];
        if (sum > target) break;
    }
    return last;
}

Row draw(const float* logits, int64_t vocabulary, double noise, float temperature,
         std::vector<float>& sums) {
    alignas(64) float mass[kBlock];
    const float peak = highest(logits, vocabulary, temperature);
    double total = 0.0;
    for (int64_t block = 0; block < static_cast<int64_t>(sums.size()); ++block) {
        const int64_t start = block * kBlock;
        masses(logits + start, std::min(kBlock, vocabulary - start), temperature, peak, mass);
        Vector sum = {};
        for (int64_t i = 0; i < kBlock; i += kLanes) sum += load(mass + i);
        sums[block] = lanes_sum(sum);
        total += sums[block];
    }
    double before, ignored;
    const int64_t start = kBlock * first_above(sums.data(), sums.size(), noise * total, &before);
    const int64_t count = std::min(kBlock, vocabulary - start);
    masses(logits + start, count, temperature, peak, mass);
    const int64_t token = start + first_above(mass, count, noise * total - before, &ignored);
    const float above = logits[token] / temperature - peak;
    return {token, above - std::log(total), total};
}

}  // namespace

extern "C" {

// logits [rows][vocabulary], noise [rows] in [0, 1), settings [rows]; returns the first row whose
// logits are no distribution, or -1. `truncates` becomes whether a row keeps only likely tokens,
// which is left to the caller.
int64_t cispo_draw(const float* logits, int64_t rows, int64_t vocabulary, const double* noise,
                   const float* temperature, const double* top_p, const int64_t* top_k,
                   const float* min_p, int64_t threads, int64_t* tokens, double* logprobs,
                   double* totals, int64_t* truncates) {
    const int64_t most = std::max<int64_t>(1, rows * vocabulary / kLogitsAThread);
    const int64_t workers = std::max<int64_t>(1, std::min({threads, most, rows}));
    split(rows, workers, [&](ptrdiff_t first, ptrdiff_t last) {
        std::vector<float> sums((vocabulary + kBlock - 1) / kBlock);
        for (ptrdiff_t row = first; row < last; ++row) {
            const Row drawn = draw(logits + row * vocabulary, vocabulary, noise[row],
                                   temperature[row], sums);
            tokens[row] = drawn.token;
            logprobs[row] = drawn.logprob;
            totals[row] = drawn.total;
        }
    });
    *truncates = 0;
    for (int64_t row = 0; row < rows; ++row) {
        if (!std::isfinite(totals[row])) return row;
        *truncates |= top_p[row] < 1.0 || top_k[row] > 0 || min_p[row] > 0.0f;
    }
    return -1;
}

// SplitMix64 (Steele, Lea and Flood, 2014) of each seed at a position: 53 bits in [0, 1)
void cispo_uniforms(const int64_t* seeds, const int64_t* positions, int64_t rows, double* noise) {
    for (int64_t row = 0; row < rows; ++row) {
        uint64_t z = static_cast<uint64_t>(seeds[row]) +
                     (static_cast<uint64_t>(positions[row]) + 1) * 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z ^= z >> 31;
        noise[row] = static_cast<double>(z >> 11) * 0x1p-53;
    }
}

}  // extern "C"
