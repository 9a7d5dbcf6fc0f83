// Draws a token a row by inverting its cumulative distribution, in one pass over the logits.
//
// Masses are summed in blocks of kBlock, the blocks in float64; the drawn token is looked for among
// the blocks first and then inside of one, as rollout/sampling.py does it in torch. Rows that keep
// only likely tokens go through truncation.h.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "elementwise.h"
#include "threads.h"
#include "truncation.h"

namespace {

using namespace cispo;

constexpr int64_t kBlock = 128;
constexpr int64_t kLogitsAThread = 1 << 16;  // fewer do not pay for a thread

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

struct Drawn {
    int64_t token;
    double logprob, full_logprob;  // after and before truncation; NaN if there is no distribution
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

// Draws from one row of logits after the other.
class Draw {
  public:
    Draw(int64_t vocabulary, bool truncates)
        : vocabulary_(vocabulary), sums_((vocabulary + kBlock - 1) / kBlock),
          mass_(truncates ? sums_.size() * kBlock : 0), ranking_(truncates ? vocabulary : 0) {}

    Drawn operator()(const float* logits, double noise, float temperature, const Truncation& keep) {
        const float peak = highest(logits, vocabulary_) / temperature;
        const double total = sum(logits, temperature, peak, keep.cuts());
        if (!std::isfinite(total)) return {0, NAN, NAN};
        double kept = total;
        const int64_t token =
            keep.cuts() ? ranking_.draw(mass_.data(), total, noise, keep, &kept)
                        : find(logits, noise * total, temperature, peak);
        const double full = double(logits[token] / temperature - peak) - std::log(total);
        const double logprob = keep.cuts() ? full - std::log(kept / total) : full;
        return {token, std::min(logprob, 0.0), std::min(full, 0.0)};
    }

  private:
    int64_t length(int64_t start) const { return std::min(kBlock, vocabulary_ - start); }

    // of all masses, which are kept if need be
    double sum(const float* logits, float temperature, float peak, bool keeps) {
        alignas(64) float block[kBlock];
        double total = 0.0;
        for (size_t n = 0; n < sums_.size(); ++n) {
            const int64_t start = n * kBlock;
            float* const mass = keeps ? mass_.data() + start : block;
            masses(logits + start, length(start), temperature, peak, mass);
            Vector part = {};
            for (int64_t i = 0; i < kBlock; i += kLanes) part += load(mass + i);
            sums_[n] = lanes_sum(part);
            total += sums_[n];
        }
        return total;
    }

    // the token in which the cumulative mass passes the target
    int64_t find(const float* logits, double target, float temperature, float peak) const {
        alignas(64) float mass[kBlock];
        double before, ignored;
        const int64_t start = kBlock * first_above(sums_.data(), sums_.size(), target, &before);
        masses(logits + start, length(start), temperature, peak, mass);
        return start + first_above(mass, length(start), target - before, &ignored);
    }

    const int64_t vocabulary_;
    std::vector<float> sums_, mass_;
    Ranking ranking_;
};

}  // namespace

extern "C" {

// logits [rows][vocabulary], noise [rows] in [0, 1), settings [rows]; returns the first row whose
// logits are no distribution, or -1
int64_t cispo_draw(const float* logits, int64_t rows, int64_t vocabulary, const double* noise,
                   const float* temperature, const double* top_p, const int64_t* top_k,
                   const float* min_p, int64_t threads, int64_t* tokens, float* logprobs,
                   float* full_logprobs) {
    const auto keep = [&](int64_t row) { return Truncation{top_p[row], top_k[row], min_p[row]}; };
    bool truncates = false;
    for (int64_t row = 0; row < rows; ++row) truncates |= keep(row).cuts();
    const int64_t workers = std::min({threads, rows * vocabulary / kLogitsAThread, rows});
    split(rows, workers, [&](ptrdiff_t first, ptrdiff_t last) {
        Draw draw(vocabulary, truncates);
        for (ptrdiff_t row = first; row < last; ++row) {
            const Drawn drawn =
                draw(logits + row * vocabulary, noise[row], temperature[row], keep(row));
            tokens[row] = drawn.token;
            logprobs[row] = float(drawn.logprob);
            full_logprobs[row] = float(drawn.full_logprob);
        }
    });
    const float* const bad = std::find_if(logprobs, logprobs + rows, [](float x) { return x != x; });
    return bad == logprobs + rows ? -1 : bad - logprobs;
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
