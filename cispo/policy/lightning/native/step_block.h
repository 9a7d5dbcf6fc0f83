// Some rows on their way through all layers of the hybrid, one token each.
#pragma once

#include <algorithm>
#include <vector>

#include "panel.h"
#include "rows.h"
#include "step_attention.h"
#include "step_model.h"

namespace cispo::step {

inline ptrdiff_t padded(ptrdiff_t n) { return round_up(n, kPanel); }
inline ptrdiff_t panels_of(ptrdiff_t n) { return padded(n) / kPanel; }

// rows x stride floats, and pointers to the rows
struct Buffer {
    float* data;
    ptrdiff_t stride;
    const float* row[kBlockRows];

    Buffer(float*& from, ptrdiff_t rows, ptrdiff_t width) : data(from), stride(padded(width)) {
        for (ptrdiff_t i = 0; i < rows; ++i) row[i] = data + i * stride;
        from += rows * stride;
    }
    float* operator[](ptrdiff_t i) const { return data + i * stride; }
};

inline ptrdiff_t projection_width(const Model& m) {
    return std::max(3 * m.heads, m.heads + 2 * m.kv_heads) * m.head_dim;
}

// A thread's rows on their way through the layers.
class Block {
  public:
    static ptrdiff_t floats(const Model& m, ptrdiff_t rows) {
        return rows * (3 * padded(m.width) + padded(projection_width(m)) +
                       2 * padded(m.heads * m.head_dim) + padded(m.inner) + padded(m.experts) +
                       padded(2 * m.rotary_half) + kPanel);
    }

    Block(const Model& model, const State& state, ptrdiff_t first, ptrdiff_t rows, float* memory)
        : m(model), s(state), first(first), rows(rows),
          x(memory, rows, m.width), normed(memory, rows, m.width), sum(memory, rows, m.width),
          projected(memory, rows, projection_width(m)),
          attended(memory, rows, m.heads * m.head_dim), gate(memory, rows, m.heads * m.head_dim),
          inner(memory, rows, m.inner), routed(memory, rows, m.experts),
          angle(memory, rows, 2 * m.rotary_half), scratch(memory) {
        // the panels' padding must stay zero where a norm reads it
        for (ptrdiff_t i = 0; i < rows; ++i) {
            std::fill_n(x[i], x.stride, 0.0f);
            std::fill_n(attended[i], attended.stride, 0.0f);
            for (ptrdiff_t j = 0; j < m.rotary_half; ++j) {
                const float radians = float(s.lengths[first + i]) * m.frequency[j];
                angle[i][j] = float(std::cos(double(radians)));
                angle[i][m.rotary_half + j] = float(std::sin(double(radians)));
            }
        }
        if (m.experts > 1) {
            expert_of.resize(rows * m.top_k);
            share_of.resize(rows * m.top_k);
        }
    }

    void embed(const int64_t* tokens) {
        for (ptrdiff_t i = 0; i < rows; ++i) {
            const ptrdiff_t at = tokens[i] * m.width;
            if (m.embedding_is_bfloat16) {
                widen(static_cast<const uint16_t*>(m.embedding) + at, x[i], int(m.width));
            } else {
                std::copy_n(static_cast<const float*>(m.embedding) + at, m.width, x[i]);
            }
        }
    }

    void run(const Layer& layer, ptrdiff_t index_of_kind) {
        norm(layer.input_norm);
        if (layer.is_linear)
            attend_linear(layer, index_of_kind);
        else
            attend_full(layer, index_of_kind);
        residual(attended, layer.output, m.heads * m.head_dim, layer.attention_alpha,
                 layer.attention_beta);
        norm(layer.middle_norm);
        if (layer.router == nullptr) {
            expand(layer.gate_up, normed.row, rows);
            residual(inner, layer.down, m.inner, layer.expert_alpha, layer.expert_beta);
        } else {
            mix_experts(layer);
        }
    }

    void finish(float* hidden) {
        norm(m.final_norm);
        for (ptrdiff_t i = 0; i < rows; ++i)
            std::copy_n(normed[i], m.width, hidden + i * m.width);
    }

  private:
    void norm(const float* weight) {
        for (ptrdiff_t i = 0; i < rows; ++i) rms_norm(x[i], weight, m.width, m.eps, normed[i]);
    }

    // out[row] = activation(normed[row] W)
    template <class Activation>
    void project(const float* panels, ptrdiff_t columns, const Buffer& out, Activation activation) {
        panel_product(normed.row, rows, panels, m.width, 0, panels_of(columns), scratch,
                      [&](ptrdiff_t row, ptrdiff_t panel, const float* sums) {
                          float* to = out[row] + panel * kPanel;
                          for (int j = 0; j < kPanel; j += kLanes)
                              store(to + j, activation(load(sums + j)));
                      });
    }

    // x = alpha normed + beta y W
    void residual(const Buffer& y, const float* panels, ptrdiff_t K, float alpha, float beta) {
        panel_product(y.row, rows, panels, K, 0, panels_of(m.width), scratch,
                      [&](ptrdiff_t row, ptrdiff_t panel, const float* sums) {
                          add_residual(row, panel, sums, alpha, beta);
                      });
    }

    void add_residual(ptrdiff_t row, ptrdiff_t panel, const float* y, float alpha, float beta) {
        const float* from = normed[row] + panel * kPanel;
        float* to = x[row] + panel * kPanel;
        for (int j = 0; j < kPanel; j += kLanes)
            store(to + j, load(from + j) * alpha + load(y + j) * beta);
    }

    void attend_linear(const Layer& layer, ptrdiff_t index) {
        const ptrdiff_t D = m.head_dim, width = m.heads * D;
        project(layer.projection, 3 * width, projected, [](Vector v) { return silu(v); });
        project(layer.gate, width, gate, [](Vector v) { return sigmoid(v); });
        for (ptrdiff_t i = 0; i < rows; ++i) {
            float* states = s.linear + (index * s.rows + first + i) * m.heads * D * D;
            for (ptrdiff_t h = 0; h < m.heads; ++h) {
                const float* q = projected[i] + 3 * h * D;
                update_state(states + h * D * D, D, q, q + D, q + 2 * D, layer.loss[h],
                             attended[i] + h * D);
            }
            const float inverse = inverse_rms(attended[i], width, m.inner_eps);
            for (ptrdiff_t j = 0; j < width; j += kLanes)
                store(attended[i] + j, load(attended[i] + j) * inverse *
                                           load(layer.inner_norm + j) * load(gate[i] + j));
        }
    }

    void attend_full(const Layer& layer, ptrdiff_t index) {
        const ptrdiff_t D = m.head_dim;
        project(layer.projection, (m.heads + 2 * m.kv_heads) * D, projected,
                [](Vector v) { return v; });
        for (ptrdiff_t i = 0; i < rows; ++i) {
            float* heads = projected[i];
            const ptrdiff_t row = first + i, half = m.rotary_half;
            for (ptrdiff_t h = 0; h < m.heads + m.kv_heads; ++h)
                rotate(heads + h * D, half, angle[i], angle[i] + half);
            const float scale = 1.0f / std::sqrt(float(D));
            for (ptrdiff_t j = 0; j < m.heads * D; ++j) heads[j] *= scale;
            append(index, row, heads + m.heads * D);
            attend_pages(index, row, heads, attended[i]);
        }
    }

    // head [kPage][D] of the keys (0) or values (1) on the page of a row's token
    float* page(ptrdiff_t index, ptrdiff_t row, ptrdiff_t token, int kind, ptrdiff_t head) const {
        const ptrdiff_t id = s.page_table[row * s.columns + token / kPage];
        return s.pages +
               (((index * s.num_pages + id) * 2 + kind) * m.kv_heads + head) * kPage * m.head_dim;
    }

    void append(ptrdiff_t index, ptrdiff_t row, const float* keys_and_values) {
        const ptrdiff_t D = m.head_dim, token = s.lengths[row];
        for (int kind = 0; kind < 2; ++kind)
            for (ptrdiff_t g = 0; g < m.kv_heads; ++g)
                std::copy_n(keys_and_values + (kind * m.kv_heads + g) * D, D,
                            page(index, row, token, kind, g) + token % kPage * D);
    }

    void attend_pages(ptrdiff_t index, ptrdiff_t row, const float* q, float* o) const {
        const ptrdiff_t D = m.head_dim, group = m.heads / m.kv_heads, seen = s.lengths[row] + 1;
        std::fill_n(o, m.heads * D, 0.0f);
        std::vector<OnlineSoftmax> softmax(m.heads);
        for (ptrdiff_t token = 0; token < seen; token += kPage)
            for (ptrdiff_t h = 0; h < m.heads; ++h)
                softmax[h].read(q + h * D, page(index, row, token, 0, h / group),
                                page(index, row, token, 1, h / group), D,
                                std::min(kPage, seen - token), o + h * D);
        for (ptrdiff_t h = 0; h < m.heads; ++h)
            for (ptrdiff_t d = 0; d < D; ++d) o[h * D + d] /= softmax[h].mass;
    }

    // inner = silu(a W_gate) * a W_up
    void expand(const float* panels, const float* const* a, ptrdiff_t count) {
        constexpr int half = kPanel / 2;
        panel_product(a, count, panels, m.width, 0, panels_of(2 * round_up(m.inner, half)),
                      scratch, [&](ptrdiff_t row, ptrdiff_t panel, const float* sums) {
                          float* to = inner[row] + panel * half;
                          for (int j = 0; j < half; j += kLanes)
                              store(to + j, silu(load(sums + j)) * load(sums + half + j));
                      });
    }

    void mix_experts(const Layer& layer) {
        route(layer);
        for (ptrdiff_t i = 0; i < rows; ++i) std::fill_n(sum[i], sum.stride, 0.0f);
        const ptrdiff_t half = kPanel / 2;
        const ptrdiff_t up = 2 * round_up(m.inner, half) * m.width, down = padded(m.width) * m.inner;
        for (ptrdiff_t e = 0; e < m.experts; ++e) {
            const float* chosen[kBlockRows];
            ptrdiff_t assignment[kBlockRows], count = 0;
            for (ptrdiff_t a = 0; a < rows * m.top_k; ++a) {
                if (expert_of[a] != e) continue;
                chosen[count] = normed[a / m.top_k];
                assignment[count++] = a;
            }
            if (count == 0) continue;
            expand(layer.gate_up + e * up, chosen, count);
            panel_product(inner.row, count, layer.down + e * down, m.inner, 0, panels_of(m.width),
                          scratch, [&](ptrdiff_t row, ptrdiff_t panel, const float* sums) {
                              const ptrdiff_t a = assignment[row];
                              float* to = sum[a / m.top_k] + panel * kPanel;
                              for (int j = 0; j < kPanel; j += kLanes)
                                  store(to + j, load(to + j) + share_of[a] * load(sums + j));
                          });
        }
        for (ptrdiff_t i = 0; i < rows; ++i)
            for (ptrdiff_t panel = 0; panel < panels_of(m.width); ++panel)
                add_residual(i, panel, sum[i] + panel * kPanel, layer.expert_alpha,
                             layer.expert_beta);
    }

    // softmax over all experts, the likeliest few, renormalised; of equals the first one
    void route(const Layer& layer) {
        project(layer.router, m.experts, routed, [](Vector v) { return v; });
        for (ptrdiff_t i = 0; i < rows; ++i) {
            const float* const logit = routed[i];
            float total = 0.0f;
            ptrdiff_t* const experts = &expert_of[i * m.top_k];
            for (ptrdiff_t rank = 0; rank < m.top_k; ++rank) {
                ptrdiff_t best = -1;
                for (ptrdiff_t e = 0; e < m.experts; ++e) {
                    if (std::find(experts, experts + rank, e) != experts + rank) continue;
                    if (best < 0 || logit[e] > logit[best]) best = e;
                }
                experts[rank] = best;
                share_of[i * m.top_k + rank] = logit[best];
            }
            for (ptrdiff_t rank = m.top_k - 1; rank >= 0; --rank) {
                float& share = share_of[i * m.top_k + rank];
                share = exp(share - share_of[i * m.top_k]);
                total += share;
            }
            for (ptrdiff_t rank = 0; rank < m.top_k; ++rank) share_of[i * m.top_k + rank] /= total;
        }
    }

    const Model& m;
    const State& s;
    const ptrdiff_t first, rows;
    Buffer x, normed, sum, projected, attended, gate, inner, routed, angle;
    float* scratch;
    std::vector<ptrdiff_t> expert_of;  // [rows][top_k]
    std::vector<float> share_of;
};

}  // namespace cispo::step
