// Which rows go to which experts, and with which share.
#pragma once

#include <algorithm>
#include <vector>

#include "elementwise.h"
#include "step_buffers.h"

namespace cispo::step {

// the likeliest few of some experts, and their renormalised shares; of equals the first one
inline void choose_experts(const float* logit, ptrdiff_t experts, ptrdiff_t top_k,
                           ptrdiff_t* chosen, float* share) {
    for (ptrdiff_t rank = 0; rank < top_k; ++rank) {
        ptrdiff_t best = -1;
        for (ptrdiff_t e = 0; e < experts; ++e) {
            if (std::find(chosen, chosen + rank, e) != chosen + rank) continue;
            if (best < 0 || logit[e] > logit[best]) best = e;
        }
        chosen[rank] = best;
        share[rank] = logit[best];
    }
    float total = 0.0f;
    for (ptrdiff_t rank = top_k - 1; rank >= 0; --rank) {
        share[rank] = exp(share[rank] - share[0]);
        total += share[rank];
    }
    for (ptrdiff_t rank = 0; rank < top_k; ++rank) share[rank] /= total;
}

// `count` places from `first` on, which go to one expert
struct ExpertShare {
    ptrdiff_t expert, first, count;
};

// Assignments (row, rank) sorted by expert; each has a place.
struct Routed {
    std::vector<ptrdiff_t> order;     // assignment row * top_k + rank of each place
    std::vector<const float*> row;    // operand row of each place
    std::vector<ExpertShare> shares;  // of experts that have any

    Routed(const Buffers& b, const Model& m, ptrdiff_t rows) {
        const ptrdiff_t count = rows * m.top_k;
        std::vector<ptrdiff_t> place(m.experts + 1);
        for (ptrdiff_t a = 0; a < count; ++a) ++place[b.expert_of[a] + 1];
        for (ptrdiff_t e = 0; e < m.experts; ++e) {
            if (place[e + 1] > 0) shares.push_back({e, place[e], place[e + 1]});
            place[e + 1] += place[e];
        }
        order.resize(count);
        row.resize(count);
        for (ptrdiff_t a = 0; a < count; ++a) {
            const ptrdiff_t to = place[b.expert_of[a]]++;
            order[to] = a;
            row[to] = b.operand[a / m.top_k];
        }
    }
};

}  // namespace cispo::step
