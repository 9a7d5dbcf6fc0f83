// What the training form computes between its matrix products, in one pass over each tensor.
//
// A row's bits depend on that row alone. Sums over rows are taken in blocks of kBlockRows, and these
// added one after the other, so that they do not depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "elementwise.h"
#include "threads.h"

namespace {

using namespace cispo;

constexpr ptrdiff_t kBlockRows = 64;
constexpr ptrdiff_t kSumBlock = 1024;  // numbers that are summed in float32, and these in float64
constexpr ptrdiff_t kNumbersAThread = 1 << 14;  // fewer do not pay for a thread

Vector load_some(const float* from, ptrdiff_t count) {
    if (count >= kLanes) return load(from);
    Vector v = {};
    std::memcpy(&v, from, count * sizeof(float));
    return v;
}

void store_some(float* to, Vector v, ptrdiff_t count) {
    if (count >= kLanes) return store(to, v);
    std::memcpy(to, &v, count * sizeof(float));
}

// body(i, count): the `count` numbers from i on, at most a vector of them
template <class Body>
__attribute__((always_inline)) inline void each_vector(ptrdiff_t width, const Body& body) {
    ptrdiff_t i = 0;
    for (; i + kLanes <= width; i += kLanes) body(i, ptrdiff_t(kLanes));
    if (i < width) body(i, width - i);
}

// body(row), shared by threads
template <class Body>
void each_row(ptrdiff_t rows, ptrdiff_t width, ptrdiff_t threads, const Body& body) {
    split(rows, std::min(threads, rows * width / kNumbersAThread),
          [&](ptrdiff_t row, ptrdiff_t last) {
              for (; row < last; ++row) body(row);
          });
}

// The same layout as `_Norm` in rowwise.py. Tensors are [rows][width] unless it is said otherwise.
struct Norm {
    const float *x, *logits, *weight;  // logits of the gate, or null; weight [width]
    float *output, *inverse;           // 1 / rms, [rows]
    const float* grad;                 // of the output
    float *grad_x, *grad_logits, *grad_weight;
    int64_t rows, width, threads;
    float eps;

    void forward(ptrdiff_t row) const {
        const float* const from = x + row * width;
        float* const to = output + row * width;
        Vector sum = {};
        each_vector(width, [&](ptrdiff_t i, ptrdiff_t count) {
            const Vector part = load_some(from + i, count);
            sum += part * part;
        });
        const float factor = 1.0f / __builtin_sqrtf(lanes_sum(sum) / width + eps);
        if (inverse) inverse[row] = factor;
        each_vector(width, [&](ptrdiff_t i, ptrdiff_t count) {
            Vector y = load_some(from + i, count) * factor * load_some(weight + i, count);
            if (logits) y *= sigmoid(load_some(logits + row * width + i, count));
            store_some(to + i, y, count);
        });
    }

    // With n = x / rms and y = w n g: dn = dy w g, dx = (dn - n mean(dn n)) / rms, dw = sum dy n g,
    // and of the gate's logits dl = dy w n g (1 - g). `owed` [width] takes up the weight's.
    void backward(ptrdiff_t row, float* owed) const {
        const ptrdiff_t at = row * width;
        const float factor = inverse[row];
        Vector sum = {};
        each_vector(width, [&](ptrdiff_t i, ptrdiff_t count) {
            const Vector normed = load_some(x + at + i, count) * factor;
            const Vector w = load_some(weight + i, count);
            Vector back = load_some(grad + at + i, count);
            if (logits) {
                const Vector gate = sigmoid(load_some(logits + at + i, count));
                back *= gate;
                store_some(grad_logits + at + i, back * normed * w * (1.0f - gate), count);
            }
            store_some(owed + i, load_some(owed + i, count) + back * normed, count);
            sum += back * w * normed;
            store_some(grad_x + at + i, back * w, count);
        });
        const float mean = lanes_sum(sum) / width;
        each_vector(width, [&](ptrdiff_t i, ptrdiff_t count) {
            const Vector normed = load_some(x + at + i, count) * factor;
            const Vector back = load_some(grad_x + at + i, count);
            store_some(grad_x + at + i, (back - normed * mean) * factor, count);
        });
    }
};

// Logits of some positions; the same layout as `_Scores` in rowwise.py.
struct Scores {
    float* logits;           // [rows][width]; the backward pass puts their gradient in their place
    const int64_t* targets;  // [rows], as are all that follow
    float *top, *total;      // the highest, and the sum of e^(logit - top)
    float *chosen;           // the target's logit - top
    float *entropy;          // in nats
    const float* grad;       // of the target's log-probability
    int64_t rows, width, threads;

    void forward(ptrdiff_t row) const {
        const float* const x = logits + row * width;
        const float most = highest(x, width);
        double sum = 0.0, products = 0.0;
        for (ptrdiff_t start = 0; start < width; start += kSumBlock) {
            Vector masses = {}, weighted = {};
            const ptrdiff_t length = std::min<ptrdiff_t>(kSumBlock, width - start);
            each_vector(length, [&](ptrdiff_t i, ptrdiff_t count) {
                const Vector less = load_some(x + start + i, count) - most;
                Vector mass = exp(less);
                for (ptrdiff_t lane = count; lane < kLanes; ++lane) mass[lane] = 0.0f;
                masses += mass;
                weighted += mass * less;
            });
            sum += lanes_sum(masses);
            products += lanes_sum(weighted);
        }
        top[row] = most;
        total[row] = static_cast<float>(sum);
        chosen[row] = x[targets[row]] - most;
        // H = -sum p log p with log p = logit - top - log(total)
        entropy[row] = static_cast<float>(std::log(sum) - products / sum);
    }

    // d log p(target) / d logits = onehot(target) - softmax
    void backward(ptrdiff_t row) const {
        float* const x = logits + row * width;
        const float most = top[row], factor = -grad[row] / total[row];
        each_vector(width, [&](ptrdiff_t i, ptrdiff_t count) {
            store_some(x + i, exp(load_some(x + i, count) - most) * factor, count);
        });
        x[targets[row]] += grad[row];
    }
};

}  // namespace

extern "C" {

void cispo_scores(const Scores* scores) {
    each_row(scores->rows, scores->width, scores->threads,
             [&](ptrdiff_t row) { scores->forward(row); });
}

void cispo_scores_backward(const Scores* scores) {
    each_row(scores->rows, scores->width, scores->threads,
             [&](ptrdiff_t row) { scores->backward(row); });
}

// output [rows][inner] = silu(gate) * up of gate_up [rows][2 inner], gate before up
void cispo_swiglu(const float* gate_up, int64_t rows, int64_t inner, int64_t threads,
                  float* output) {
    each_row(rows, inner, threads, [&](ptrdiff_t row) {
        const float *gate = gate_up + 2 * row * inner, *up = gate + inner;
        each_vector(inner, [&](ptrdiff_t i, ptrdiff_t count) {
            const Vector active = silu(load_some(gate + i, count));
            store_some(output + row * inner + i, active * load_some(up + i, count), count);
        });
    });
}

// the gradient of gate_up, and the output again, of the output's gradient
void cispo_swiglu_backward(const float* grad, const float* gate_up, int64_t rows, int64_t inner,
                           int64_t threads, float* grad_gate_up, float* output) {
    each_row(rows, inner, threads, [&](ptrdiff_t row) {
        const float *gate = gate_up + 2 * row * inner, *up = gate + inner;
        float *grad_gate = grad_gate_up + 2 * row * inner, *grad_up = grad_gate + inner;
        each_vector(inner, [&](ptrdiff_t i, ptrdiff_t count) {
            const Vector x = load_some(gate + i, count), u = load_some(up + i, count);
            const Vector back = load_some(grad + row * inner + i, count);
            const Vector share = sigmoid(x), active = x * share;
            store_some(grad_gate + i, back * u * silu_slope(share, active), count);
            store_some(grad_up + i, back * active, count);
            store_some(output + row * inner + i, active * u, count);
        });
    });
}

void cispo_norm(const Norm* norm) {
    each_row(norm->rows, norm->width, norm->threads, [&](ptrdiff_t row) { norm->forward(row); });
}

void cispo_norm_backward(const Norm* norm) {
    const ptrdiff_t width = norm->width, blocks = (norm->rows + kBlockRows - 1) / kBlockRows;
    std::vector<float> owed(blocks * width);
    each_row(blocks, kBlockRows * width, norm->threads, [&](ptrdiff_t block) {
        const ptrdiff_t end = std::min<ptrdiff_t>((block + 1) * kBlockRows, norm->rows);
        for (ptrdiff_t row = block * kBlockRows; row < end; ++row)
            norm->backward(row, owed.data() + block * width);
    });
    std::fill_n(norm->grad_weight, width, 0.0f);
    for (ptrdiff_t i = 0; i < blocks * width; ++i) norm->grad_weight[i % width] += owed[i];
}
}
