// Mixture of experts w2(silu(w1 x) * w3 x), forward and backward, over tokens sorted by expert.
//
// Tokens of one expert are taken in blocks of at most kBlock, a block is turned so that its tokens
// lie along a vector, [features][tokens], and weights are read where they lie, one float at a time:
// a few tokens then cost one pass over an expert's weights and nothing is packed or copied. An
// expert without tokens costs nothing but the zeros of its gradient. As in gemm.h an output is one
// chain of fused multiply-adds, so a token's bits do not depend on the tokens beside it.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "elementwise.h"
#include "product.h"
#include "rows.h"
#include "threads.h"

namespace {

using namespace cispo;

constexpr ptrdiff_t kBlock = 256;  // tokens; the weights of their expert are read once for all

ptrdiff_t whole(ptrdiff_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

using Buffer = std::unique_ptr<float[]>;

// Some tokens of one expert; `width` counts them in whole vectors.
struct Block {
    ptrdiff_t expert, first, count, width, kept;  // kept: where its gate_up begins
};

// The same layout as `_Problem` in experts.py.
struct Problem {
    const float *x, *weights;       // [N][hidden], [N][top_k]
    const int64_t *order, *places;  // assignment at each place sorted by expert; its inverse
    const int64_t* ends;            // [E] end of each expert's places
    const float *gate_up_proj, *down_proj;  // [E][2 inner][hidden], [E][hidden][inner]
    float* gate_up;  // kept for the backward pass, or null
    float* rows;     // [N top_k][hidden], scratch
    float* output;
    const float* grad_output;
    float *grad_x, *grad_weights, *grad_gate_up_proj, *grad_down_proj;
    int64_t num_tokens, top_k, num_experts, hidden, inner, num_threads;

    std::vector<Block> blocks() const {
        std::vector<Block> all;
        ptrdiff_t first = 0, kept = 0;
        for (ptrdiff_t e = 0; e < num_experts; first = ends[e++])
            for (ptrdiff_t i = first; i < ends[e]; i += kBlock) {
                const ptrdiff_t count = std::min<ptrdiff_t>(kBlock, ends[e] - i);
                all.push_back({e, i, count, whole(count), kept});
                kept += 2 * inner * whole(count);
            }
        return all;
    }
    Matrix gate_up_of(ptrdiff_t e) const {
        return {gate_up_proj + e * 2 * inner * hidden, hidden, 1};
    }
    Matrix down_of(ptrdiff_t e) const { return {down_proj + e * hidden * inner, inner, 1}; }

    // to[width][whole(hidden)] = the block's tokens of `from`, zero behind them
    void gather(const Block& block, const float* from, float* to) const {
        const ptrdiff_t wide = whole(hidden);
        std::memset(to, 0, block.width * wide * sizeof(float));
        for (ptrdiff_t i = 0; i < block.count; ++i)
            std::memcpy(to + i * wide, from + order[block.first + i] / top_k * hidden,
                        hidden * sizeof(float));
    }

    // rows of the block's places = columns of from[whole(hidden)][width], by way of `turned`
    void scatter(const Block& block, const float* from, float* turned) const {
        const ptrdiff_t wide = whole(hidden);
        transpose(from, block.width, wide, block.width, turned, wide);
        for (ptrdiff_t i = 0; i < block.count; ++i)
            std::memcpy(rows + (block.first + i) * hidden, turned + i * wide,
                        hidden * sizeof(float));
    }
};

Matrix turned(Matrix a) { return {a.at, a.column, a.row}; }

Buffer buffer(ptrdiff_t rows, ptrdiff_t columns) { return Buffer(new float[rows * columns]); }

template <class Body>
void parallel(ptrdiff_t count, ptrdiff_t num_threads, const Body& body) {
    std::atomic<ptrdiff_t> next{0};
    const auto run = [&] {
        for (ptrdiff_t i; (i = next++) < count;) body(i);
    };
    share(std::min(num_threads, count), run);
}

void forward(const Problem& p, const Block& block) {
    const ptrdiff_t d = p.hidden, I = p.inner, wide = whole(d), width = block.width;
    const Buffer rows = buffer(width, wide), columns = buffer(wide, width);
    const Buffer inner = buffer(I, width), scratch = buffer(p.gate_up ? 0 : 2 * I, width);
    p.gather(block, p.x, rows.get());
    transpose(rows.get(), wide, width, wide, columns.get(), width);
    float* const gate = p.gate_up ? p.gate_up + block.kept : scratch.get();
    const float* const up = gate + I * width;
    product(2 * I, d, p.gate_up_of(block.expert), columns.get(), width, gate, width, width);
    for (ptrdiff_t i = 0; i < I * width; i += kLanes)
        store(inner.get() + i, silu(load(gate + i)) * load(up + i));
    product(d, I, p.down_of(block.expert), inner.get(), width, columns.get(), width, width);
    p.scatter(block, columns.get(), rows.get());
}

// Gradients of swiglu and of the router's weights; grad_up holds what the inner activations owe
// before the router's weight, and `inner` gets them times that weight.
void inner_backward(const Problem& p, const Block& block, float* inner, float* grad_gate,
                    float* grad_up) {
    const ptrdiff_t I = p.inner, width = block.width;
    const float *gate = p.gate_up + block.kept, *up = gate + I * width;
    float weight[kBlock] = {}, owed[kBlock] = {};
    for (ptrdiff_t i = 0; i < block.count; ++i) weight[i] = p.weights[p.order[block.first + i]];
    for (ptrdiff_t i = 0; i < I; ++i)
        for (ptrdiff_t t = 0; t < width; t += kLanes) {
            const ptrdiff_t at = i * width + t;
            const Vector share = sigmoid(load(gate + at)), active = load(gate + at) * share;
            const Vector value = active * load(up + at), back = load(grad_up + at);
            const Vector weighted = back * load(weight + t);
            store(owed + t, load(owed + t) + back * value);
            store(inner + at, value * load(weight + t));
            store(grad_gate + at, weighted * load(up + at) * silu_slope(share, active));
            store(grad_up + at, weighted * active);
        }
    for (ptrdiff_t i = 0; i < block.count; ++i)
        p.grad_weights[p.order[block.first + i]] = owed[i];
}

void backward(const Problem& p, const Block& block, Into gradients) {
    const ptrdiff_t d = p.hidden, I = p.inner, width = block.width, e = block.expert;
    const ptrdiff_t wide = whole(d), wide_inner = whole(I);
    const Buffer rows = buffer(width, wide), columns = buffer(wide, width);
    const Buffer inner = buffer(wide_inner, width), inner_rows = buffer(width, wide_inner);
    const Buffer grad_gate_up = buffer(2 * I, width);
    float *const grad_gate = grad_gate_up.get(), *const grad_up = grad_gate + I * width;

    p.gather(block, p.grad_output, rows.get());
    transpose(rows.get(), wide, width, wide, columns.get(), width);
    product(I, d, turned(p.down_of(e)), columns.get(), width, grad_up, width, width);
    std::memset(inner.get() + I * width, 0, (wide_inner - I) * width * sizeof(float));
    inner_backward(p, block, inner.get(), grad_gate, grad_up);

    transpose(inner.get(), width, wide_inner, width, inner_rows.get(), wide_inner);
    product(d, block.count, {columns.get(), width, 1}, inner_rows.get(), wide_inner,
            p.grad_down_proj + e * d * I, I, I, gradients);
    p.gather(block, p.x, rows.get());
    product(2 * I, block.count, {grad_gate, width, 1}, rows.get(), wide,
            p.grad_gate_up_proj + e * 2 * I * d, d, d, gradients);
    product(d, 2 * I, turned(p.gate_up_of(e)), grad_gate, width, columns.get(), width, width);
    p.scatter(block, columns.get(), rows.get());
}

// out[token] = sum over its places of weight * rows[place], in the order of its assignments
void combine(const Problem& p, const float* weights, float* out) {
    const ptrdiff_t d = p.hidden, k = p.top_k, share = 64;
    parallel((p.num_tokens + share - 1) / share, p.num_threads, [&](ptrdiff_t part) {
        const ptrdiff_t end = std::min<ptrdiff_t>(p.num_tokens, (part + 1) * share);
        for (ptrdiff_t a = part * share * k; a < end * k; ++a) {
            const float* const row = p.rows + p.places[a] * d;
            const float weight = weights ? weights[a] : 1.0f;
            float* const to = out + a / k * d;
            const bool is_first = a % k == 0;
            for (ptrdiff_t i = 0; i < d; ++i) to[i] = (is_first ? 0.0f : to[i]) + weight * row[i];
        }
    });
}

}  // namespace

extern "C" {

// Floats of gate_up that the forward pass keeps for the backward pass.
int64_t cispo_experts_kept(const Problem* p) {
    const std::vector<Block> blocks = p->blocks();
    return blocks.empty() ? 0 : blocks.back().kept + 2 * p->inner * blocks.back().width;
}

void cispo_experts_forward(const Problem* p) {
    const std::vector<Block> blocks = p->blocks();
    parallel(blocks.size(), p->num_threads, [&](ptrdiff_t i) { forward(*p, blocks[i]); });
    combine(*p, p->weights, p->output);
}

void cispo_experts_backward(const Problem* p) {
    const std::vector<Block> blocks = p->blocks();
    parallel(p->num_experts, p->num_threads, [&](ptrdiff_t e) {
        const ptrdiff_t begin = e ? p->ends[e - 1] : 0, count = p->ends[e] - begin;
        for (const Block& block : blocks)
            if (block.expert == e)
                backward(*p, block, block.count == count    ? Into::kMemory
                                    : block.first == begin ? Into::kReplaced
                                                           : Into::kSummed);
        end_streams();
        if (count == 0) {
            const ptrdiff_t size = p->hidden * p->inner;
            std::fill_n(p->grad_gate_up_proj + 2 * e * size, 2 * size, 0.0f);
            std::fill_n(p->grad_down_proj + e * size, size, 0.0f);
        }
    });
    combine(*p, nullptr, p->grad_x);
}
}
