// Lightning attention over packed sequences, forward and backward, chunk by chunk.
//
// The gradients are the attention itself with other operands, so nothing is kept from the forward
// pass and no score is stored. With A(q, k, v) for the attention and A' for it on the sequence read
// from its end:
//
//     dq = A(do, v, k), whose state is S^T;   dv = A'(k, q, do);   dk = A'(v, do, q),
//
// where the states of dv and dk are each other's transposes. A sequence's bits depend on nothing
// but its own numbers: neither on its neighbours nor on the number of threads.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <vector>

#include "chunk.h"
#include "threads.h"

namespace {

using namespace cispo;

constexpr int64_t kMostHeads = 8;  // of a job

// What Python hands over; the same layout as `_Problem` in attention.py. Null states are zero.
struct Problem {
    const void* qkv;          // [T, H, 3, D]
    void* output;             // [T, H, D]; written by the forward pass
    const void* grad_output;  // [T, H, D]
    void* grad_qkv;           // [T, H, 3, D]; written by the backward pass
    const float* initial;     // [S, H, D, D]
    float* final;             // [S, H, D, D]; written by the forward pass
    const float* grad_final;  // [S, H, D, D]
    float* grad_initial;      // [S, H, D, D]; written by the backward pass
    const int64_t* starts;    // [S + 1]
    const double* slopes;     // [H]
    int64_t sequences, heads, dim, chunk, is_half, threads;

    int64_t length(int64_t sequence) const { return starts[sequence + 1] - starts[sequence]; }

    // rows of a sequence in a tensor of `parts` x D numbers a head
    Rows rows(const void* tensor, int64_t sequence, int parts, int part, bool is_reversed) const {
        const ptrdiff_t row = dim * (is_half ? 2 : 4), token = heads * parts * row;
        const int64_t first = is_reversed ? starts[sequence + 1] - 1 : starts[sequence];
        char* base = static_cast<char*>(const_cast<void*>(tensor)) + first * token + part * row;
        const bool is_streamed = !is_half && bytes(1) >= kLargeBytes && can_stream(tensor, dim);
        return {base, is_reversed ? -token : token, parts * row, is_half != 0, is_streamed};
    }

    // of a tensor of `parts` x D numbers a head
    size_t bytes(int parts) const {
        return starts[sequences] * heads * parts * dim * (is_half ? 2 : 4);
    }
};

struct Free {
    void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float[], Free>;

Buffer buffer(size_t rows, size_t width) {
    const size_t bytes = (rows * width * sizeof(float) + 63) / 64 * 64;
    return Buffer(static_cast<float*>(std::aligned_alloc(64, bytes)));
}

// Buffers of one thread.
struct Workspace {
    Buffer query, key, value, flipped, scores, out, faded, turned, states;

    Workspace(const ChunkSizes& s, int64_t heads)
        : query(buffer(s.depth, s.width)), key(buffer(s.depth, s.width)),
          value(buffer(s.depth, s.width)), flipped(buffer(s.columns, s.depth)),
          scores(buffer(s.depth, s.depth)), out(buffer(s.depth, s.width)),
          faded(buffer(s.depth, s.width)), turned(buffer(s.columns, s.width)),
          states(buffer(heads * s.columns, s.width)) {}
};

// Heads first..last-1 of one sequence, by one thread.
class Job {
   public:
    Job(const Problem& p, const ChunkSizes& s, const std::vector<Decay>& decays, Workspace& w,
        int64_t sequence, int64_t first, int64_t last)
        : p(p), s(s), decays(decays), w(w), sequence(sequence), first(first), last(last),
          T(p.length(sequence)) {}

    void outputs() {
        attention(part(p.qkv, 0, false), part(p.qkv, 1, false), part(p.qkv, 2, false),
                  p.rows(p.output, sequence, 1, 0, false), false, p.final);
    }

    // dq = A(do, v, k)
    void queries() {
        attention(p.rows(p.grad_output, sequence, 1, 0, false), part(p.qkv, 2, false),
                  part(p.qkv, 1, false), part(p.grad_qkv, 0, false), true, nullptr);
    }

    // dv = A'(k, q, do) and dk = A'(v, do, q); both states start as the final state's gradient
    void keys_and_values() {
        const Rows q = part(p.qkv, 0, true), k = part(p.qkv, 1, true), v = part(p.qkv, 2, true),
                   grad = p.rows(p.grad_output, sequence, 1, 0, true),
                   grad_k = part(p.grad_qkv, 1, true), grad_v = part(p.grad_qkv, 2, true);
        load_states(p.grad_final, false);
        const Rows* tensors[] = {&q, &k, &v, &grad, &grad_k, &grad_v};
        for_steps(tensors, 6, 4, [&](int64_t t, int m, int64_t h, Ahead& ahead) {
            const int lead = t > 0;  // what the last token owes the final state has not faded
            const bool has_state = t > 0 || p.grad_final;
            read_chunk(q, h, t, m, w.key.get());
            read_chunk(grad, h, t, m, w.value.get());
            attend_chunk(h, t, m, lead, k, w.key.get(), w.value.get(),
                         has_state ? state(h) : nullptr, grad_v, ahead);
            if (has_state)
                transpose(state(h), s.width, s.columns, s.columns, w.turned.get(), s.width);
            attend_chunk(h, t, m, lead, v, w.value.get(), w.key.get(),
                         has_state ? w.turned.get() : nullptr, grad_k, ahead);
            if (t + m < T || p.grad_initial)
                absorb(s, decays[h], m, decays[h].loss(m - 1 + lead), w.key.get(), w.value.get(),
                       w.faded.get(), state(h), ahead);
        });
        if (p.grad_initial) save_states(T > 0 ? 1 : 0, p.grad_initial);
    }

   private:
    const Problem& p;
    const ChunkSizes& s;
    const std::vector<Decay>& decays;
    Workspace& w;
    const int64_t sequence, first, last, T;

    // queries, keys or values of the sequence in qkv or its gradient
    Rows part(const void* tensor, int index, bool is_reversed) const {
        return p.rows(tensor, sequence, 3, index, is_reversed);
    }

    // out = A(query, key, value), whose state starts as `initial` or its transpose
    void attention(const Rows& query, const Rows& key, const Rows& value, const Rows& out,
                   bool is_turned, float* final) {
        load_states(p.initial, is_turned);
        const Rows* tensors[] = {&query, &key, &value, &out};
        for_steps(tensors, 4, 3, [&](int64_t t, int m, int64_t h, Ahead& ahead) {
            read_chunk(key, h, t, m, w.key.get());
            read_chunk(value, h, t, m, w.value.get());
            attend_chunk(h, t, m, 1, query, w.key.get(), w.value.get(),
                         t > 0 || p.initial ? state(h) : nullptr, out, ahead);
            if (t + m < T || final)
                absorb(s, decays[h], m, decays[h].loss(m), w.key.get(), w.value.get(),
                       w.faded.get(), state(h), ahead);
        });
        if (final) save_states(0, final);
    }

    // Chunks outside, heads inside: the rows of heads that are done together lie side by side.
    template <class Step>
    void for_steps(const Rows* const* tensors, int num_tensors, int num_read, const Step& step) {
        for (int64_t t = 0; t < T; t += s.C)
            for (int64_t h = first; h < last; ++h) {
                const bool is_last = h + 1 == last;
                const int64_t following = is_last ? t + s.C : t;
                const int64_t count = std::clamp<int64_t>(T - following, 0, s.C);
                Ahead ahead(tensors, num_tensors, num_read, is_last ? first : h + 1, following,
                            static_cast<int>(count), s.D);
                step(t, static_cast<int>(std::min<int64_t>(s.C, T - t)), h, ahead);
            }
    }

    void read_chunk(const Rows& rows, int64_t h, int64_t t, int m, float* to) {
        read(rows, h, t, m, s.D, to, s.depth, s.width);
    }

    void attend_chunk(int64_t h, int64_t t, int m, int lead, const Rows& query, const float* key,
                      const float* value, const float* before, const Rows& out, Ahead& ahead) {
        // queries are read by few tiles and results written by one: in place, if no tile goes
        // beyond them
        Place from{w.query.get(), s.width, false}, to{w.out.get(), s.width, false};
        if (!query.is_half && m % kScoreRows == 0)
            from = in_place(query, h, t);
        else
            read_chunk(query, h, t, m, from.at);
        const bool is_in_place = !out.is_half && m % kTileRows == 0 && s.D == s.columns;
        if (is_in_place) to = in_place(out, h, t);
        transpose(key, s.width, s.depth, s.columns, w.flipped.get(), s.depth);
        attend(s, decays[h], m, lead, from, w.flipped.get(), value, before, w.scores.get(), to,
               ahead);
        if (!is_in_place) write(out, h, t, m, s.D, to.at, s.width);
    }

    static Place in_place(const Rows& rows, int64_t h, int64_t t) {
        return {reinterpret_cast<float*>(rows.at(t, h)),
                rows.token / static_cast<ptrdiff_t>(sizeof(float)), rows.is_streamed};
    }

    float* state(int64_t h) { return w.states.get() + (h - first) * s.columns * s.width; }

    // [D][width] from [D][D]
    void load_states(const float* from, bool is_turned) {
        for (int64_t h = first; h < last; ++h) {
            float* const to = state(h);
            std::fill_n(to, s.columns * s.width, 0.0f);
            if (!from) continue;
            const float* const source = from + (sequence * p.heads + h) * s.D * s.D;
            for (int i = 0; i < s.D; ++i)
                for (int j = 0; j < s.D; ++j)
                    to[i * s.width + j] = source[is_turned ? j * s.D + i : i * s.D + j];
        }
    }

    // faded by lambda^power
    void save_states(int power, float* to) {
        for (int64_t h = first; h < last; ++h) {
            float* const target = to + (sequence * p.heads + h) * s.D * s.D;
            for (int i = 0; i < s.D; ++i)
                for (int j = 0; j < s.D; ++j)
                    target[i * s.D + j] = decays[h].power[power] * state(h)[i * s.width + j];
        }
    }
};

// Tokens of the busiest thread in one pass, times heads, if jobs are of so many heads.
int64_t most_work(const Problem& p, const std::vector<int64_t>& order, int64_t group) {
    std::vector<int64_t> busy(std::max<int64_t>(p.threads, 1));
    for (const int64_t sequence : order)
        for (int64_t first = 0; first < p.heads; first += group)
            *std::min_element(busy.begin(), busy.end()) +=
                p.length(sequence) * std::min(group, p.heads - first);
    return *std::max_element(busy.begin(), busy.end());
}

// The more heads the better, as long as all threads have work until the end.
int64_t heads_of_job(const Problem& p, const std::vector<int64_t>& order) {
    const int64_t least = most_work(p, order, 1);
    for (int64_t group = std::min(p.heads, kMostHeads); group > 1; group = (group + 1) / 2)
        if (most_work(p, order, group) <= least + least / 20) return group;
    return 1;
}

// Runs passes of the work over all sequences and groups of heads, the longest sequences first.
void run(const Problem& p, std::initializer_list<void (Job::*)()> passes) {
    const ChunkSizes sizes(static_cast<int>(p.dim), static_cast<int>(p.chunk));
    std::vector<Decay> decays;
    for (int64_t h = 0; h < p.heads; ++h) decays.emplace_back(p.slopes[h], sizes);
    std::vector<int64_t> order(p.sequences);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return p.length(a) > p.length(b); });
    const int64_t group = heads_of_job(p, order);
    const int64_t groups = (p.heads + group - 1) / group, a_pass = p.sequences * groups;
    const int64_t jobs = a_pass * static_cast<int64_t>(passes.size());
    std::atomic<int64_t> next{0};
    const auto loop = [&] {
        Workspace workspace(sizes, group);
        for (int64_t i; (i = next++) < jobs;) {
            const int64_t first = i % groups * group;
            Job job(p, sizes, decays, workspace, order[i % a_pass / groups], first,
                    std::min(first + group, p.heads));
            (job.*passes.begin()[i / a_pass])();
        }
        end_streams();
    };
    share(std::min(p.threads, jobs), loop);
}

}  // namespace

extern "C" {

int cispo_vector_bytes() { return kLanes * sizeof(float); }

void cispo_attention_forward(const Problem* p) {
    prefer_huge_pages(p->output, p->bytes(1));
    run(*p, {&Job::outputs});
}

void cispo_attention_backward(const Problem* p) {
    prefer_huge_pages(p->grad_qkv, p->bytes(3));
    run(*p, {&Job::keys_and_values, &Job::queries});
}
}
