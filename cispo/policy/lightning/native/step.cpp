// One decoding step of the whole hybrid for N rows, in one call.
//
// Rows are split over threads, each of which takes its rows through all layers on its own, so that
// nobody waits for anybody; within a thread, weights are streamed once for up to kBlockRows rows.
#include <algorithm>
#include <thread>
#include <vector>

#include "panel.h"
#include "step_attention.h"
#include "step_model.h"

namespace cispo {
namespace {

constexpr ptrdiff_t kRowsAThread = 4;  // fewer do not pay for streaming all weights once more

ptrdiff_t padded(ptrdiff_t n) { return round_up(n, kPanel); }
ptrdiff_t panels_of(ptrdiff_t n) { return padded(n) / kPanel; }

// rows x stride floats, and pointers to the rows
struct Rows {
    float* data;
    ptrdiff_t stride;
    const float* row[kBlockRows];

    Rows(float*& from, ptrdiff_t rows, ptrdiff_t width) : data(from), stride(padded(width)) {
        for (ptrdiff_t i = 0; i < rows; ++i) row[i] = data + i * stride;
        from += rows * stride;
    }
    float* operator[](ptrdiff_t i) const { return data + i * stride; }
};

ptrdiff_t projection_width(const Model& m) {
    return std::max(3 * m.heads, m.heads + 2 * m.kv_heads) * m.head_dim;
}

// A thread's rows on their way through the layers.
class Block {
  public:
    static ptrdiff_t floats(const Model& m, ptrdiff_t rows) {
        return rows * (3 * padded(m.width) + padded(projection_width(m)) +
                       2 * padded(m.heads * m.head_dim) + padded(m.inner) + padded(m.experts) +
                       kPanel);
    }

    Block(const Model& model, const State& state, const float* cosine, const float* sine,
          ptrdiff_t first, ptrdiff_t rows, float* memory)
        : m(model), s(state), cosine(cosine), sine(sine), first(first), rows(rows),
          x(memory, rows, m.width), normed(memory, rows, m.width), sum(memory, rows, m.width),
          projected(memory, rows, projection_width(m)),
          attended(memory, rows, m.heads * m.head_dim), gate(memory, rows, m.heads * m.head_dim),
          inner(memory, rows, m.inner), routed(memory, rows, m.experts), scratch(memory) {
        // the panels' padding must stay zero where a norm reads it
        for (ptrdiff_t i = 0; i < rows; ++i) {
            std::fill_n(x[i], x.stride, 0.0f);
            std::fill_n(attended[i], attended.stride, 0.0f);
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
                const uint16_t* from = static_cast<const uint16_t*>(m.embedding) + at;
                for (ptrdiff_t j = 0; j < m.width; ++j) {
                    const uint32_t bits = uint32_t(from[j]) << 16;
                    std::memcpy(x[i] + j, &bits, sizeof bits);
                }
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
    void project(const float* panels, ptrdiff_t columns, const Rows& out, Activation activation) {
        panel_product(normed.row, rows, panels, m.width, 0, panels_of(columns), scratch,
                      [&](ptrdiff_t row, ptrdiff_t panel, const float* sums) {
                          float* to = out[row] + panel * kPanel;
                          for (int j = 0; j < kPanel; j += kLanes)
                              store(to + j, activation(load(sums + j)));
                      });
    }

    // x = alpha normed + beta y W
    void residual(const Rows& y, const float* panels, ptrdiff_t K, float alpha, float beta) {
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
                rotate(heads + h * D, half, cosine + row * half, sine + row * half);
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
    const float *cosine, *sine;
    const ptrdiff_t first, rows;
    Rows x, normed, sum, projected, attended, gate, inner, routed;
    float* scratch;
    std::vector<ptrdiff_t> expert_of;  // [rows][top_k]
    std::vector<float> share_of;
};

// run `work(first, last, worker)` on parts of [0, n), one a thread; this thread is the first one
template <class Work>
void split(ptrdiff_t n, ptrdiff_t workers, Work work) {
    std::vector<std::thread> others;
    for (ptrdiff_t w = 1; w < workers; ++w)
        others.emplace_back(work, n * w / workers, n * (w + 1) / workers, w);
    work(0, n / workers, 0);
    for (std::thread& other : others) other.join();
}

ptrdiff_t workers_of(ptrdiff_t rows, ptrdiff_t threads) {
    return std::clamp<ptrdiff_t>(rows / kRowsAThread, 1, std::max<ptrdiff_t>(threads, 1));
}

ptrdiff_t block_rows(ptrdiff_t rows, ptrdiff_t workers) {
    return std::min((rows + workers - 1) / workers, kBlockRows);
}

// whatever the caller's tensors hold, nothing outside of them is read or written
Fault check(const Model& m, const State& s, const int64_t* tokens, ptrdiff_t rows, int64_t* where) {
    bool has_pages = false;
    for (ptrdiff_t l = 0; l < m.num_layers; ++l) has_pages |= !m.layers[l].is_linear;
    for (ptrdiff_t row = 0; row < rows; ++row) {
        *where = row;
        if (tokens[row] < 0 || tokens[row] >= m.vocabulary) return kBadToken;
        if (!has_pages) continue;
        const int64_t last = s.lengths[row] / kPage;
        if (s.lengths[row] < 0 || last >= s.columns) return kBadLength;
        const int32_t* pages = s.page_table + row * s.columns;
        for (int64_t c = 0; c <= last; ++c)
            if (pages[c] < 1 || pages[c] >= s.num_pages) return kBadPage;
    }
    return kNone;
}

}  // namespace
}  // namespace cispo

using namespace cispo;

extern "C" {

int64_t cispo_panel() { return kPanel; }

// floats of memory that a step or a head of `rows` rows needs
int64_t cispo_step_floats(const Model* model, int64_t rows, int64_t threads) {
    const ptrdiff_t workers = workers_of(rows, threads);
    return workers * Block::floats(*model, block_rows(rows, workers));
}

// Append one token to each of the first `rows` rows, and write their final-normed hidden states
// [rows][d]. Cosines and sines are [rows][rotary_half]. On a fault nothing has been changed, and
// `where` is the first bad row.
int64_t cispo_step(const Model* model, const State* state, const int64_t* tokens, int64_t rows,
                   const float* cosine, const float* sine, float* memory, int64_t threads,
                   float* hidden, int64_t* where) {
    if (const Fault fault = check(*model, *state, tokens, rows, where)) return fault;
    const ptrdiff_t workers = workers_of(rows, threads), most = block_rows(rows, workers);
    const ptrdiff_t floats = Block::floats(*model, most);
    split(rows, workers, [&](ptrdiff_t first, ptrdiff_t last, ptrdiff_t worker) {
        const ptrdiff_t blocks = (last - first + most - 1) / most;
        for (ptrdiff_t b = 0; b < blocks; ++b) {
            const ptrdiff_t from = first + (last - first) * b / blocks;
            const ptrdiff_t to = first + (last - first) * (b + 1) / blocks;
            Block block(*model, *state, cosine, sine, from, to - from, memory + worker * floats);
            block.embed(tokens + from);
            ptrdiff_t seen[2] = {0, 0};
            for (ptrdiff_t l = 0; l < model->num_layers; ++l)
                block.run(model->layers[l], seen[model->layers[l].is_linear]++);
            block.finish(hidden + from * model->width);
        }
    });
    for (ptrdiff_t row = 0; row < rows; ++row) ++state->lengths[row];
    return kNone;
}

// logits [rows][vocabulary] of hidden [rows][d]; threads share the vocabulary
void cispo_head(const Model* model, const float* hidden, int64_t rows, int64_t threads,
                float* logits) {
    const ptrdiff_t panels = panels_of(model->vocabulary);
    const ptrdiff_t workers = std::clamp<ptrdiff_t>(panels / 8, 1, std::max<int64_t>(threads, 1));
    split(panels, workers, [&](ptrdiff_t first, ptrdiff_t last, ptrdiff_t) {
        alignas(64) float scratch[kBlockRows * kPanel];
        for (ptrdiff_t start = 0; start < rows; start += kBlockRows) {
            const ptrdiff_t count = std::min(kBlockRows, rows - start);
            const float* row[kBlockRows];
            for (ptrdiff_t i = 0; i < count; ++i) row[i] = hidden + (start + i) * model->width;
            panel_product(row, count, model->head, model->width, first, last, scratch,
                          [&](ptrdiff_t i, ptrdiff_t panel, const float* sums) {
                              const ptrdiff_t at = panel * kPanel;
                              std::copy_n(sums, std::min<ptrdiff_t>(kPanel, model->vocabulary - at),
                                          logits + (start + i) * model->vocabulary + at);
                          });
        }
    });
}

}  // extern "C"
