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

// logits [rows][vocabulary], noise [rows] in [0, 1), temperature [rows]; a row whose logits are no
// distribution gets a total that is not finite
void cispo_draw(const float* logits, int64_t rows, int64_t vocabulary, const double* noise,
                const float* temperature, int64_t threads, int64_t* tokens, double* logprobs,
                double* totals) {
    const int64_t most = std::max<int64_t>(1, rows * vocabulary / kLogitsAThread);
    const int64_t workers = std::max<int64_t>(1, std::min({threads, most, rows}));
    split(rows, workers, [&](ptrdiff_t first, ptrdiff_t last, ptrdiff_t) {
        std::vector<float> sums((vocabulary + kBlock - 1) / kBlock);
        for (ptrdiff_t row = first; row < last; ++row) {
            const Row drawn = draw(logits + row * vocabulary, vocabulary, noise[row],
                                   temperature[row], sums);
            tokens[row] = drawn.token;
            logprobs[row] = drawn.logprob;
            totals[row] = drawn.total;
        }
    });
}

}  // extern "C"
