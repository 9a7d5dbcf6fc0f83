// One decoding step of the whole hybrid for N rows, in one call.
//
// Rows are split over threads, each of which takes its rows through all layers on its own, so that
// nobody waits for anybody; within a thread, weights are streamed once for up to kBlockRows rows.
#include "step_block.h"
#include "threads.h"

namespace cispo::step {
namespace {

constexpr ptrdiff_t kRowsAThread = 4;  // fewer do not pay for streaming all weights once more

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
}  // namespace cispo::step

using namespace cispo;
using namespace cispo::step;

extern "C" {

int64_t cispo_panel() { return kPanel; }

// floats of memory that a step or a head of `rows` rows needs
int64_t cispo_step_floats(const Model* model, int64_t rows, int64_t threads) {
    const ptrdiff_t workers = workers_of(rows, threads);
    return workers * Block::floats(*model, block_rows(rows, workers));
}

// Append one token to each of the first `rows` rows, and write their final-normed hidden states
// [rows][d]. On a fault nothing has been changed, and `where` is the first bad row.
int64_t cispo_step(const Model* model, const State* state, const int64_t* tokens, int64_t rows,
                   float* memory, int64_t threads, float* hidden, int64_t* where) {
    if (const Fault fault = check(*model, *state, tokens, rows, where)) return fault;
    const ptrdiff_t workers = workers_of(rows, threads), most = block_rows(rows, workers);
    const ptrdiff_t floats = Block::floats(*model, most);
    split(rows, workers, [&](ptrdiff_t first, ptrdiff_t last, ptrdiff_t worker) {
        const ptrdiff_t blocks = (last - first + most - 1) / most;
        for (ptrdiff_t b = 0; b < blocks; ++b) {
            const ptrdiff_t from = first + (last - first) * b / blocks;
            const ptrdiff_t to = first + (last - first) * (b + 1) / blocks;
            Block block(*model, *state, from, to - from, memory + worker * floats);
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
