// What one of several threads does for some rows on their way through all layers, one token each.
//
// A product is shared by columns, so that a weight is read by one core only; a norm by rows; memories
// by rows and heads. Between two of these the threads wait for one another.
#pragma once

#include <algorithm>

#include "product.h"
#include "rows.h"
#include "step_attention.h"
#include "step_routing.h"
#include "threads.h"

namespace cispo::step {

constexpr ptrdiff_t kHalf = kPanel / 2;  // columns of a gate, and of what it gates, in a panel

class Block {
  public:
    Block(const Model& model, const State& state, ptrdiff_t first, ptrdiff_t rows, Buffers& buffers,
          Member& me)
        : m(model), s(state), first(first), rows(rows), own(me.part(rows)), b(buffers), me(me),
          scratch(buffers.scratch + me.index * rows * kPanel) {}

    // tokens [rows] and hidden [rows][d]
    void run(const int64_t* tokens, float* hidden) {
        begin(tokens);
        ptrdiff_t seen[2] = {0, 0};
        for (const Layer* layer = m.layers; layer < m.layers + m.num_layers; ++layer) {
            norm(layer->input_norm);
            me.meet();
            if (layer->is_linear)
                attend_linear(*layer, seen[1]++);
            else
                attend_full(*layer, seen[0]++);
            me.meet();
            residual(b.attended, output(*layer), layer->attention_alpha, layer->attention_beta,
                     before_experts(*layer));
            me.meet();
            norm(layer->middle_norm);
            if (layer->router != nullptr) route(*layer);
            me.meet();
            if (layer->router == nullptr)
                feed_forward(*layer);
            else
                mix_experts(*layer);
            me.meet();
        }
        norm(m.final_norm);
        for (ptrdiff_t i = own.first; i < own.last; ++i)
            std::copy_n(b.normed[i], m.width, hidden + i * m.width);
    }

  private:
    // this thread's panels of a matrix
    Panels part(const float* data, ptrdiff_t inputs, ptrdiff_t panels) const {
        const Part mine = me.part(panels);
        return {data, inputs, mine.first, mine.last};
    }

    ptrdiff_t inner_panels() const { return panels_of(2 * round_up(m.inner, kHalf)); }

    Panels output(const Layer& layer) const {
        return part(layer.output, m.heads * m.head_dim, panels_of(m.width));
    }

    Panels projection(const Layer& layer) const {
        const ptrdiff_t heads = layer.is_linear ? 3 * m.heads : m.heads + 2 * m.kv_heads;
        return part(layer.projection, m.width, panels_of(heads * m.head_dim));
    }

    // where this thread goes on after a layer
    const float* after(const Layer& layer) const {
        const Layer* const next = &layer + 1;
        return next == m.layers + m.num_layers ? m.head : projection(*next).begin();
    }

    // where it goes on after attention
    const float* before_experts(const Layer& layer) const {
        return layer.router != nullptr ? layer.router
                                       : part(layer.gate_up, m.width, inner_panels()).begin();
    }

    void begin(const int64_t* tokens) {
        for (ptrdiff_t i = own.first; i < own.last; ++i) {
            // the panels' padding must stay zero where a norm reads it
            std::fill_n(b.x[i], b.x.stride, 0.0f);
            std::fill_n(b.attended[i], b.attended.stride, 0.0f);
            const ptrdiff_t at = tokens[i] * m.width;
            if (m.embedding_is_bfloat16)
                widen(static_cast<const uint16_t*>(m.embedding) + at, b.x[i], int(m.width));
            else
                std::copy_n(static_cast<const float*>(m.embedding) + at, m.width, b.x[i]);
            for (ptrdiff_t j = 0; j < m.rotary_half; ++j) {
                const float radians = float(s.lengths[first + i]) * m.frequency[j];
                b.angle[i][j] = float(std::cos(double(radians)));
                b.angle[i][m.rotary_half + j] = float(std::sin(double(radians)));
            }
        }
    }

    void norm(const float* weight) {
        for (ptrdiff_t i = own.first; i < own.last; ++i) {
            rms_norm(b.x[i], weight, m.width, m.eps, b.normed[i]);
            if (!m.rounds_operands) continue;
            std::copy_n(b.normed[i], m.width, b.operand[i]);
            round_floats(b.operand[i], m.width);
        }
    }

    void round_operands(float* x, ptrdiff_t count) const {
        if (m.rounds_operands) round_floats(x, count);
    }

    // out[row] = activation(operand[row] W)
    template <class Activation>
    void project(const Panels& panels, const Buffer& out, const float* next,
                 Activation activation) {
        panel_product(b.operand.row.data(), rows, panels, next, scratch,
                      [&](ptrdiff_t row, ptrdiff_t panel, const float* sums) {
                          float* to = out[row] + panel * kPanel;
                          for (int j = 0; j < kPanel; j += kLanes)
                              store(to + j, activation(load(sums + j)));
                      });
    }

    // x = alpha normed + beta y W
    void residual(const Buffer& y, const Panels& panels, float alpha, float beta,
                  const float* next) {
        panel_product(y.row.data(), rows, panels, next, scratch,
                      [&](ptrdiff_t row, ptrdiff_t panel, const float* sums) {
                          add_residual(row, panel, sums, alpha, beta);
                      });
    }

    void add_residual(ptrdiff_t row, ptrdiff_t panel, const float* y, float alpha, float beta) {
        const float* from = b.normed[row] + panel * kPanel;
        float* to = b.x[row] + panel * kPanel;
        for (int j = 0; j < kPanel; j += kLanes)
            store(to + j, load(from + j) * alpha + load(y + j) * beta);
    }

    void attend_linear(const Layer& layer, ptrdiff_t index) {
        const ptrdiff_t D = m.head_dim, width = m.heads * D;
        const Panels gate = part(layer.gate, m.width, panels_of(width));
        project(projection(layer), b.projected, gate.begin(), [](Vector v) { return silu(v); });
        project(gate, b.gate, output(layer).begin(), [](Vector v) { return sigmoid(v); });
        me.meet();
        const Part heads = me.part(rows * m.heads);
        for (ptrdiff_t at = heads.first; at < heads.last; ++at) {
            const ptrdiff_t i = at / m.heads, h = at % m.heads;
            float* state = s.linear + (((index * s.rows) + first + i) * m.heads + h) * D * D;
            float *const q = b.projected[i] + 3 * h * D, *const o = b.attended[i] + h * D;
            round_operands(q, 3 * D);
            update_state(state, D, q, q + D, q + 2 * D, layer.loss[h], o);
            round_operands(o, D);
        }
        me.meet();
        for (ptrdiff_t i = own.first; i < own.last; ++i) {
            float* const to = b.attended[i];
            const float inverse = inverse_rms(to, width, m.inner_eps);
            for (ptrdiff_t j = 0; j < width; j += kLanes)
                store(to + j, load(to + j) * inverse * load(layer.inner_norm + j) *
                                  load(b.gate[i] + j));
            round_operands(to, width);
        }
    }

    void attend_full(const Layer& layer, ptrdiff_t index) {
        const ptrdiff_t D = m.head_dim, half = m.rotary_half, group = m.heads / m.kv_heads;
        project(projection(layer), b.projected, output(layer).begin(), [](Vector v) { return v; });
        me.meet();
        const float scale = 1.0f / std::sqrt(float(D));
        const Part groups = me.part(rows * m.kv_heads);
        for (ptrdiff_t at = groups.first; at < groups.last; ++at) {
            const ptrdiff_t i = at / m.kv_heads, g = at % m.kv_heads;
            float* const queries = b.projected[i] + g * group * D;
            float* const key = b.projected[i] + (m.heads + g) * D;
            const float *const cosine = b.angle[i], *const sine = cosine + half;
            for (ptrdiff_t h = 0; h < group; ++h) rotate(queries + h * D, half, cosine, sine);
            round_operands(queries, group * D);
            for (ptrdiff_t j = 0; j < group * D; ++j) queries[j] *= scale;
            rotate(key, half, cosine, sine);
            round_operands(key, D);
            round_operands(key + m.kv_heads * D, D);
            const Pages pages(m, s, index, first + i, g);
            pages.append(key, key + m.kv_heads * D);
            pages.attend(queries, group, b.attended[i] + g * group * D);
            round_operands(b.attended[i] + g * group * D, group * D);
        }
    }

    // inner[place] = silu(a W_gate) * a W_up, for `count` places from `place` on
    void expand(const Panels& panels, const float* const* a, ptrdiff_t count, ptrdiff_t place,
                const float* next) {
        panel_product(a, count, panels, next, scratch,
                      [&](ptrdiff_t row, ptrdiff_t panel, const float* sums) {
                          float* out = b.inner[place + row] + panel * kHalf;
                          for (int j = 0; j < kHalf; j += kLanes)
                              store(out + j, silu(load(sums + j)) * load(sums + kHalf + j));
                          round_operands(out, kHalf);
                      });
    }

    void feed_forward(const Layer& layer) {
        const Panels up = part(layer.gate_up, m.width, inner_panels());
        const Panels down = part(layer.down, m.inner, panels_of(m.width));
        expand(up, b.operand.row.data(), rows, 0, down.begin());
        me.meet();
        residual(b.inner, down, layer.expert_alpha, layer.expert_beta, after(layer));
    }

    // softmax over all experts, the likeliest few, renormalised; of equals the first one
    void route(const Layer& layer) {
        product<1>(own.last - own.first, m.width, {b.normed[own.first], b.normed.stride, 1},
                   layer.router, round_up(m.experts, kLanes), b.routed[own.first], b.routed.stride,
                   m.experts);
        for (ptrdiff_t i = own.first; i < own.last; ++i) {
            ptrdiff_t* const chosen = &b.expert_of[i * m.top_k];
            choose_experts(b.routed[i], m.experts, m.top_k, chosen, &b.share_of[i * m.top_k]);
            if (s.routes != nullptr) {
                const ptrdiff_t place = (first + i) * m.num_layers + (&layer - m.layers);
                std::copy_n(chosen, m.top_k, s.routes + place * m.top_k);
            }
        }
    }

    void mix_experts(const Layer& layer) {
        const Routed routed(b, m, rows);
        const auto up = [&](ptrdiff_t e) {
            const ptrdiff_t size = inner_panels() * kPanel * m.width;
            return part(layer.gate_up + e * size, m.width, inner_panels());
        };
        const auto down = [&](ptrdiff_t e) {
            const ptrdiff_t size = padded(m.width) * m.inner;
            return part(layer.down + e * size, m.inner, panels_of(m.width));
        };
        for (size_t n = 0; n < routed.shares.size(); ++n) {
            const ExpertShare& share = routed.shares[n];
            const bool is_last = n + 1 == routed.shares.size();
            const Panels next = is_last ? down(routed.shares[0].expert)
                                        : up(routed.shares[n + 1].expert);
            expand(up(share.expert), &routed.row[share.first], share.count, share.first,
                   next.begin());
        }
        me.meet();
        const Part columns = me.part(panels_of(m.width));
        const ptrdiff_t from = columns.first * kPanel, to = columns.last * kPanel;
        for (ptrdiff_t i = 0; i < rows; ++i) std::fill(b.sum[i] + from, b.sum[i] + to, 0.0f);
        for (size_t n = 0; n < routed.shares.size(); ++n) {
            const ExpertShare& share = routed.shares[n];
            const bool is_last = n + 1 == routed.shares.size();
            panel_product(b.inner.row.data() + share.first, share.count, down(share.expert),
                          is_last ? after(layer) : down(routed.shares[n + 1].expert).begin(),
                          scratch, [&](ptrdiff_t row, ptrdiff_t panel, const float* sums) {
                              const ptrdiff_t a = routed.order[share.first + row];
                              float* out = b.sum[a / m.top_k] + panel * kPanel;
                              for (int j = 0; j < kPanel; j += kLanes)
                                  store(out + j, load(out + j) + b.share_of[a] * load(sums + j));
                          });
        }
        for (ptrdiff_t i = 0; i < rows; ++i)
            for (ptrdiff_t panel = columns.first; panel < columns.last; ++panel)
                add_residual(i, panel, b.sum[i] + panel * kPanel, layer.expert_alpha,
                             layer.expert_beta);
    }

    const Model& m;
    const State& s;
    const ptrdiff_t first, rows;
    const Part own;  // this thread's rows
    Buffers& b;
    Member& me;
    float* const scratch;
};

}  // namespace cispo::step
