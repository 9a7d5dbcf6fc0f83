// What the decoding step is told by its caller; native/stepper.py holds the same structures.
#pragma once

#include <cstdint>

namespace cispo::step {

// Matrices are in panels (see panel.h); vectors of weights are padded with zeros to whole panels.
struct Layer {
    int64_t is_linear;
    const float* input_norm;    // [d]
    const float* middle_norm;   // [d]
    const float* projection;    // d -> 3 H D of a lightning layer, (H + 2 KVH) D of a softmax layer
    const float* output;        // H D -> d
    const float* gate;          // d -> H D, lightning layers only
    const float* inner_norm;    // [H D], lightning layers only
    const float* loss;          // [H] e^-slope - 1, lightning layers only
    const float* router;        // d -> E in one panel of few vectors; null without a router
    const float* gate_up;       // E matrices d -> 2 I; a panel holds halves of gate and of up
    const float* down;          // E matrices I -> d
    float attention_alpha, attention_beta, expert_alpha, expert_beta;
};

struct Model {
    int64_t vocabulary, width, inner, heads, kv_heads, head_dim, rotary_half, experts, top_k;
    int64_t num_layers;
    const Layer* layers;
    const void* embedding;  // [vocabulary][width]
    int64_t embedding_is_bfloat16;
    int64_t rounds_operands;  // to bfloat16, as the training form of a bfloat16 model does
    const float* frequency;   // [rotary_half] radians a token
    const float* final_norm;  // [d]
    const float* head;        // d -> vocabulary
    float eps, inner_eps;
};

struct State {
    float* linear;              // [lightning layers][rows][H][D][D], keys by values
    float* pages;               // [softmax layers][num_pages][2][KVH][kPage][D]
    const int32_t* page_table;  // [rows][columns]
    int64_t* lengths;           // [rows]
    uint8_t* routes;            // [rows][num_layers][top_k] experts of each token; null: not told
    int64_t rows, num_pages, columns;
};

enum Fault : int64_t { kNone = 0, kBadToken = 1, kBadLength = 2, kBadPage = 3 };

}  // namespace cispo::step
