// What the threads share while some rows are on their way through the layers.
#pragma once

#include <vector>

#include "panel.h"
#include "step_model.h"

namespace cispo::step {

inline ptrdiff_t padded(ptrdiff_t n) { return round_up(n, kPanel); }
inline ptrdiff_t panels_of(ptrdiff_t n) { return padded(n) / kPanel; }

// rows x stride floats, and pointers to the rows
struct Buffer {
    float* data;
    ptrdiff_t stride;
    std::vector<const float*> row;

    Buffer(float*& from, ptrdiff_t rows, ptrdiff_t width)
        : data(from), stride(padded(width)), row(rows) {
        for (ptrdiff_t i = 0; i < rows; ++i) row[i] = data + i * stride;
        from += rows * stride;
    }
    float* operator[](ptrdiff_t i) const { return data + i * stride; }
};

inline ptrdiff_t projection_width(const Model& m) {
    return std::max(3 * m.heads, m.heads + 2 * m.kv_heads) * m.head_dim;
}

struct Buffers {
    Buffer x, normed, sum, projected, attended, gate, routed, angle;
    Buffer operand;                    // normed, rounded where the model rounds operands
    Buffer inner;                      // of assignments, top_k a row
    std::vector<ptrdiff_t> expert_of;  // [rows][top_k]
    std::vector<float> share_of;
    float* scratch;  // [threads][rows][kPanel]

    static ptrdiff_t floats(const Model& m, ptrdiff_t rows, ptrdiff_t threads) {
        return rows * (4 * padded(m.width) + padded(projection_width(m)) +
                       2 * padded(m.heads * m.head_dim) + padded(m.experts) +
                       padded(2 * m.rotary_half) + m.top_k * padded(m.inner) + threads * kPanel);
    }

    Buffers(const Model& m, ptrdiff_t rows, float* memory)
        : x(memory, rows, m.width), normed(memory, rows, m.width), sum(memory, rows, m.width),
          projected(memory, rows, projection_width(m)),
          attended(memory, rows, m.heads * m.head_dim), gate(memory, rows, m.heads * m.head_dim),
          routed(memory, rows, m.experts), angle(memory, rows, 2 * m.rotary_half),
          operand(memory, rows, m.width), inner(memory, rows * m.top_k, m.inner),
          expert_of(rows * m.top_k), share_of(rows * m.top_k), scratch(memory) {
        if (!m.rounds_operands) operand = normed;
    }
};

}  // namespace cispo::step
