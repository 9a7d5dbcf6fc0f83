// Chunked lightning attention over packed sequences, forward and backward.
//
// With S the state before a chunk of m tokens and i, j = 0..m-1 (see attention.py):
//
//     o_i = lambda^(i+1) S^T q_i + sum_{j<=i} lambda^(i-j) (q_i . k_j) v_j            "attend"
//     S  += sum_j lambda^(m-1-j) k_j v_j^T - (1 - lambda^m) S                         "absorb"
//
// The gradients are the same two steps with other operands, so nothing is kept from the forward
// pass and no score is stored: with A(q, k, v) for the attention above and A' for it on the
// sequence read from its end,
//
//     dq = A(do, v, k), whose state is S^T;   dv = A'(k, q, do);   dk = A'(v, do, q),
//
// where the states of dv and dk are each other's transposes. A sequence's bits depend on nothing
// but its own numbers: not on its neighbours, the number of threads or the vector width's tails.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "gemm.h"
#include "rows.h"

namespace {

using namespace cispo;

constexpr int R = 4;  // rows of a tile; divides every buffer

int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Calls body(tile, column) for tiles that cover `columns` (whole vectors).
template <int N = kVectors, class Body>
inline void for_columns(int begin, int columns, const Body& body) {
    for (; begin + N * kLanes <= columns; begin += N * kLanes) body(Tile<R, N>(), begin);
    if constexpr (N > 1) for_columns<N - 1>(begin, columns, body);
}

struct Sizes {
    int D, C;          // head size; tokens of a chunk
    int width, depth;  // both in whole vectors, as buffers have them
};

struct Decay {
    double slope;
    std::vector<float> power;  // lambda^x for x = 0..C
    std::vector<float> mask;   // R of any, lambda^(C-1-x) for x = 0..C-1, then zeros

    Decay(double slope, const Sizes& s)
        : slope(slope), power(s.C + 1 + R), mask(R + s.C + s.depth + kPanel) {
        for (int x = 0; x <= s.C; ++x) power[x] = static_cast<float>(std::exp(-slope * x));
        for (int x = 0; x < s.C; ++x) mask[R + x] = power[s.C - 1 - x];
    }
};

struct Free {
    void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float[], Free>;

Buffer buffer(size_t rows, size_t width) {
    const size_t bytes = (rows * width * sizeof(float) + 63) / 64 * 64;
    return Buffer(static_cast<float*>(std::aligned_alloc(64, std::max<size_t>(bytes, 64))));
}

// out [m][width] of a chunk; key_t is [D][depth]; `state` may be null for zero. `lead` is the power
// of lambda that the state has faded by when the first token reads it.
void attend(const Sizes& s, const Decay& decay, int m, int lead, const float* query,
            const float* key_t, const float* value, const float* state, float* scores, float* out) {
    for (int r = 0; r < m; r += R)
        for_columns(0, round_up(r + R, kLanes), [&](auto tile, int column) {
            tile.zero();
            tile.multiply(s.D, query + r * s.width, s.width, 1, key_t + column, s.depth);
            const float* mask = decay.mask.data() + R + s.C - 1 - r + column;
            tile.each([=](Vector& v, int i, int j) { v *= load(mask - i + j); });
            tile.store(scores + r * s.depth + column, s.depth);
        });
    for_columns(0, s.width, [&](auto tile, int column) {
        for (int r = 0; r < m; r += R) {
            tile.zero();
            if (state) {
                tile.multiply(s.D, query + r * s.width, s.width, 1, state + column, s.width);
                const float* power = decay.power.data() + lead + r;
                tile.each([=](Vector& v, int i, int) { v *= power[i]; });
            }
            const int seen = std::min(r + R, m);
            tile.multiply(seen, scores + r * s.depth, s.depth, 1, value + column, s.width);
            tile.store(out + r * s.width + column, s.width);
        }
    });
}

// `loss` is lambda^m - 1: adding loss * S keeps the drift of slow decays at rounding's own size.
void absorb(const Sizes& s, const Decay& decay, int m, float loss, const float* key,
            const float* value, float* faded, float* state) {
    for (int j = 0; j < m; ++j) {
        const float factor = decay.power[m - 1 - j];
        for (int c = 0; c < s.width; c += kLanes)
            store(faded + j * s.width + c, factor * load(value + j * s.width + c));
    }
    for_columns(0, s.width, [&](auto tile, int column) {
        for (int r = 0; r < s.D; r += R) {
            tile.zero();
            tile.multiply(m, key + r, 1, s.width, faded + column, s.width);
            float* place = state + r * s.width + column;
            tile.each([=](Vector& v, int i, int j) {
                const Vector before = load(place + i * s.width + j);
                store(place + i * s.width + j, before + (v + loss * before));
            });
        }
    });
}

struct Workspace {
    Buffer a, b, c, d, flipped, scores, out, faded, states, turned;

    Workspace(const Sizes& s, int heads)
        : a(buffer(s.depth, s.width)),
          b(buffer(s.depth, s.width)),
          c(buffer(s.depth, s.width)),
          d(buffer(s.depth, s.width)),
          flipped(buffer(s.width, s.depth)),
          scores(buffer(s.depth, s.depth)),
          out(buffer(s.depth, s.width)),
          faded(buffer(s.depth, s.width)),
          states(buffer(static_cast<size_t>(heads) * s.width, s.width)),
          turned(buffer(s.width, s.width)) {}
};

}  // namespace

// What Python hands over; the same layout as native/attention.py's `_Problem`.
struct Problem {
    const void* qkv;           // [T, H, 3, D]
    void* output;              // [T, H, D]; written by the forward pass
    const void* grad_output;   // [T, H, D]
    void* grad_qkv;            // [T, H, 3, D]; written by the backward pass
    const float* initial;      // [S, H, D, D] or null
    float* final;              // the same, or null; written by the forward pass
    const float* grad_final;   // the same, or null
    float* grad_initial;       // the same, or null; written by the backward pass
    const int64_t* starts;     // [S + 1]
    const double* slopes;      // [H]
    int64_t sequences, heads, dim, chunk, is_half, threads;
};

namespace {

struct Work {
    const Problem& p;
    Sizes sizes;
    std::vector<Decay> decays;

    explicit Work(const Problem& p) : p(p) {
        const int D = static_cast<int>(p.dim), C = static_cast<int>(p.chunk);
        sizes = {D, C, round_up(D, kLanes), round_up(C, kLanes)};
        for (int64_t h = 0; h < p.heads; ++h) decays.emplace_back(p.slopes[h], sizes);
    }

    // rows of a sequence in a tensor with `parts` x D numbers a head
    Rows rows(const void* tensor, int64_t sequence, int parts, int part, bool is_reversed) const {
        const ptrdiff_t number = p.is_half ? 2 : 4, head = parts * p.dim * number;
        const ptrdiff_t token = p.heads * head;
        const int64_t first = is_reversed ? p.starts[sequence + 1] - 1 : p.starts[sequence];
        char* base = static_cast<char*>(const_cast<void*>(tensor));
        return {base + first * token + part * p.dim * number, is_reversed ? -token : token, head,
                p.is_half != 0};
    }

    // state [D][width] from [D][D], or from its transpose; null is zero
    void load_state(const float* from, int64_t index, bool is_turned, float* state) const {
        const int D = sizes.D, width = sizes.width;
        std::fill_n(state, static_cast<size_t>(D) * width, 0.0f);
        if (!from) return;
        from += index * D * D;
        for (int i = 0; i < D; ++i)
            for (int j = 0; j < D; ++j) state[i * width + j] = from[is_turned ? j * D + i : i * D + j];
    }

    void save_state(const float* state, int64_t index, float factor, float* to) const {
        const int D = sizes.D, width = sizes.width;
        to += index * D * D;
        for (int i = 0; i < D; ++i)
            for (int j = 0; j < D; ++j) to[i * D + j] = factor * state[i * width + j];
    }

    float* state_of(Workspace& w, int64_t head, int64_t first) const {
        return w.states.get() + (head - first) * sizes.width * sizes.width;
    }

    // out = A(query, key, value) over a sequence, for heads first..last-1
    void attend_sequence(Workspace& w, int64_t sequence, int64_t first, int64_t last,
                         const Rows& query, const Rows& key, const Rows& value, const Rows& out,
                         bool is_turned, float* final) const {
        const Sizes& s = sizes;
        const int64_t T = p.starts[sequence + 1] - p.starts[sequence];
        for (int64_t h = first; h < last; ++h)
            load_state(p.initial, sequence * p.heads + h, is_turned, state_of(w, h, first));
        for (int64_t t = 0; t < T; t += s.C) {
            const int m = static_cast<int>(std::min<int64_t>(s.C, T - t));
            for (int64_t h = first; h < last; ++h) {
                float* state = state_of(w, h, first);
                read(query, h, t, m, s.D, w.a.get(), s.depth, s.width);
                read(key, h, t, m, s.D, w.b.get(), s.depth, s.width);
                read(value, h, t, m, s.D, w.c.get(), s.depth, s.width);
                transpose(w.b.get(), s.width, s.depth, s.width, w.flipped.get(), s.depth);
                attend(s, decays[h], m, 1, w.a.get(), w.flipped.get(), w.c.get(),
                       t || p.initial ? state : nullptr, w.scores.get(), w.out.get());
                write(out, h, t, m, s.D, w.out.get(), s.width);
                if (t + m < T || final) {
                    const float loss = static_cast<float>(std::expm1(-decays[h].slope * m));
                    absorb(s, decays[h], m, loss, w.b.get(), w.c.get(), w.faded.get(), state);
                }
            }
        }
        if (!final) return;
        for (int64_t h = first; h < last; ++h)
            save_state(state_of(w, h, first), sequence * p.heads + h, 1.0f, final);
    }

    // dv = A'(k, q, do) and dk = A'(v, do, q), from the sequence's end
    void keys_and_values(Workspace& w, int64_t sequence, int64_t first, int64_t last) const {
        const Sizes& s = sizes;
        const int64_t T = p.starts[sequence + 1] - p.starts[sequence];
        const Rows q = rows(p.qkv, sequence, 3, 0, true), k = rows(p.qkv, sequence, 3, 1, true),
                   v = rows(p.qkv, sequence, 3, 2, true),
                   grad = rows(p.grad_output, sequence, 1, 0, true),
                   grad_k = rows(p.grad_qkv, sequence, 3, 1, true),
                   grad_v = rows(p.grad_qkv, sequence, 3, 2, true);
        for (int64_t h = first; h < last; ++h)
            load_state(p.grad_final, sequence * p.heads + h, false, state_of(w, h, first));
        for (int64_t t = 0; t < T; t += s.C) {
            const int m = static_cast<int>(std::min<int64_t>(s.C, T - t));
            const int lead = t ? 1 : 0;  // the last token owes the final state without any decay
            const bool has_state = t || p.grad_final;
            for (int64_t h = first; h < last; ++h) {
                float* state = state_of(w, h, first);
                read(q, h, t, m, s.D, w.a.get(), s.depth, s.width);
                read(k, h, t, m, s.D, w.b.get(), s.depth, s.width);
                read(v, h, t, m, s.D, w.c.get(), s.depth, s.width);
                read(grad, h, t, m, s.D, w.d.get(), s.depth, s.width);
                transpose(w.a.get(), s.width, s.depth, s.width, w.flipped.get(), s.depth);
                attend(s, decays[h], m, lead, w.b.get(), w.flipped.get(), w.d.get(),
                       has_state ? state : nullptr, w.scores.get(), w.out.get());
                write(grad_v, h, t, m, s.D, w.out.get(), s.width);
                transpose(w.d.get(), s.width, s.depth, s.width, w.flipped.get(), s.depth);
                if (has_state) transpose(state, s.width, s.width, s.width, w.turned.get(), s.width);
                attend(s, decays[h], m, lead, w.c.get(), w.flipped.get(), w.a.get(),
                       has_state ? w.turned.get() : nullptr, w.scores.get(), w.out.get());
                write(grad_k, h, t, m, s.D, w.out.get(), s.width);
                if (t + m < T || p.grad_initial) {
                    const double faded = -decays[h].slope * (m - 1 + lead);
                    absorb(s, decays[h], m, static_cast<float>(std::expm1(faded)), w.a.get(),
                           w.d.get(), w.faded.get(), state);
                }
            }
        }
        if (!p.grad_initial) return;
        for (int64_t h = first; h < last; ++h) {
            const float decay = T ? decays[h].power[1] : 1.0f;
            save_state(state_of(w, h, first), sequence * p.heads + h, decay, p.grad_initial);
        }
    }
};

// Calls job(workspace, pass, sequence, first head, last head) for all of them, the longest
// sequences first. Heads go in groups whose rows lie side by side in memory.
template <class Job>
void run(const Work& work, int passes, const Job& job) {
    const Problem& p = work.p;
    std::vector<int64_t> order(p.sequences);
    for (int64_t i = 0; i < p.sequences; ++i) order[i] = i;
    const auto length = [&](int64_t i) { return p.starts[i + 1] - p.starts[i]; };
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return length(a) > length(b); });
    const int64_t share = p.sequences * p.heads * passes / std::max<int64_t>(p.threads, 1);
    const int64_t group = std::clamp<int64_t>(share, 1, std::min<int64_t>(p.heads, 4));
    const int64_t groups = (p.heads + group - 1) / group, jobs = p.sequences * groups * passes;
    std::atomic<int64_t> next{0};
    const auto loop = [&] {
        Workspace workspace(work.sizes, static_cast<int>(group));
        for (int64_t i; (i = next++) < jobs;) {
            const int64_t first = i / passes % groups * group;
            job(workspace, static_cast<int>(i % passes), order[i / passes / groups], first,
                std::min(first + group, p.heads));
        }
    };
    std::vector<std::thread> others;
    for (int64_t i = 1; i < std::min(p.threads, jobs); ++i) others.emplace_back(loop);
    loop();
    for (auto& thread : others) thread.join();
}

}  // namespace

extern "C" {

int cispo_vector_bytes() { return kLanes * sizeof(float); }

void cispo_attention_forward(const Problem* p) {
    const Work work(*p);
    run(work, 1, [&](Workspace& w, int, int64_t sequence, int64_t first, int64_t last) {
        work.attend_sequence(w, sequence, first, last, work.rows(p->qkv, sequence, 3, 0, false),
                             work.rows(p->qkv, sequence, 3, 1, false),
                             work.rows(p->qkv, sequence, 3, 2, false),
                             work.rows(p->output, sequence, 1, 0, false), false, p->final);
    });
}

void cispo_attention_backward(const Problem* p) {
    const Work work(*p);
    run(work, 2, [&](Workspace& w, int pass, int64_t sequence, int64_t first, int64_t last) {
        if (pass == 0)
            work.keys_and_values(w, sequence, first, last);
        else
            work.attend_sequence(w, sequence, first, last,
                                 work.rows(p->grad_output, sequence, 1, 0, false),
                                 work.rows(p->qkv, sequence, 3, 2, false),
                                 work.rows(p->qkv, sequence, 3, 1, false),
                                 work.rows(p->grad_qkv, sequence, 3, 0, false), true, nullptr);
    });
}
}
