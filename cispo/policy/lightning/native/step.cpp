// One decoding step of the whole hybrid for N rows, in one call.
//
// Up to kBlockRows rows go through all layers together, and all threads work on them; see
// step_block.h. Weights are streamed once for each such block.
#include "step_block.h"
#include "threads.h"

namespace cispo::step {
namespace {

constexpr ptrdiff_t kProductsAThread = 1 << 18;  // of a layer; fewer do not pay for meeting others

ptrdiff_t block_rows(ptrdiff_t rows) {
    const ptrdiff_t blocks = std::max<ptrdiff_t>(1, (rows + kBlockRows - 1) / kBlockRows);
    return (rows + blocks - 1) / blocks;
}

ptrdiff_t workers_of(const Model& m, ptrdiff_t rows, ptrdiff_t threads) {
    const ptrdiff_t inner = m.heads * m.head_dim, width = 4 * inner + 3 * m.top_k * m.inner;
    const ptrdiff_t most = block_rows(rows) * m.width * width / kProductsAThread;
    return std::clamp<ptrdiff_t>(most, 1, std::max<ptrdiff_t>(threads, 1));
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
}  // namespace cispo::step

using namespace cispo;
using namespace cispo::step;

extern "C" {

// columns of a panel, and of a vector
int64_t cispo_panel() { return kPanel; }
int64_t cispo_lanes() { return kLanes; }

// floats of memory that a step of `rows` rows needs
int64_t cispo_step_floats(const Model* model, int64_t rows, int64_t threads) {
    return Buffers::floats(*model, block_rows(rows), workers_of(*model, rows, threads));
}

// Append one token to each of the first `rows` rows, and write their final-normed hidden states
// [rows][d]. On a fault nothing has been changed, and `where` is the first bad row.
int64_t cispo_step(const Model* model, const State* state, const int64_t* tokens, int64_t rows,
                   float* memory, int64_t threads, float* hidden, int64_t* where) {
    if (const Fault fault = check(*model, *state, tokens, rows, where)) return fault;
    const ptrdiff_t most = block_rows(rows), workers = workers_of(*model, rows, threads);
    for (ptrdiff_t from = 0; from < rows; from += most) {
        const ptrdiff_t count = std::min<ptrdiff_t>(most, rows - from);
        Buffers buffers(*model, count, memory);
        crew().run(workers, [&](Member& me) {
            Block(*model, *state, from, count, buffers, me)
                .run(tokens + from, hidden + from * model->width);
        });
    }
    for (ptrdiff_t row = 0; row < rows; ++row) ++state->lengths[row];
    return kNone;
}

// logits [rows][vocabulary] of hidden [rows][d]; threads share the vocabulary
void cispo_head(const Model* model, const float* hidden, int64_t rows, int64_t threads,
                float* logits) {
    const ptrdiff_t panels = panels_of(model->vocabulary);
    split(panels, std::min<ptrdiff_t>(panels / 4, threads), [&](ptrdiff_t first, ptrdiff_t last) {
        alignas(64) float scratch[kBlockRows * kPanel];
        const Panels part{model->head, model->width, first, last};
        for (ptrdiff_t start = 0; start < rows; start += kBlockRows) {
            const ptrdiff_t count = std::min(kBlockRows, rows - start);
            const float* row[kBlockRows];
            for (ptrdiff_t i = 0; i < count; ++i) row[i] = hidden + (start + i) * model->width;
            panel_product(row, count, part, part.begin(), scratch,
                          [&](ptrdiff_t i, ptrdiff_t panel, const float* sums) {
                              const ptrdiff_t at = panel * kPanel;
                              std::copy_n(sums, std::min<ptrdiff_t>(kPanel, model->vocabulary - at),
                                          logits + (start + i) * model->vocabulary + at);
                          });
        }
    });
}

}  // extern "C"
