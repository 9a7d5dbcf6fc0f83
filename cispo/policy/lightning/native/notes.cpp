// Notes one more token a row of an engine: what was drawn, its counts, and whether the row ends.
//
// The same as rollout/records.py and rollout/stopping.py do in torch, where a step of a few rows
// would spend more time on these small operations than on drawing.
#include <cstdint>

namespace {

enum Code : int64_t { kRunning, kEndOfTurn, kStopString, kRepetition, kLength };  // REASON_OF_CODE

}  // namespace

extern "C" {

// Write a token and its log-probabilities at place counts[row] of each row of records [..][columns],
// and count it; a streak grows with each token above the threshold, and breaks at others. Returns the
// first row that has no such place, or -1; nothing has changed then.
int64_t cispo_note(int64_t rows, int64_t columns, const int64_t* tokens, const float* logprobs,
                   const float* full_logprobs, const float* certain, float log_threshold,
                   int64_t* counts, int64_t* streaks, int64_t* last_tokens, int32_t* kept_tokens,
                   float* kept_logprobs, float* kept_full_logprobs) {
    for (int64_t row = 0; row < rows; ++row)
        if (counts[row] < 0 || counts[row] >= columns) return row;
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t place = row * columns + counts[row]++;
        kept_tokens[place] = static_cast<int32_t>(tokens[row]);
        kept_logprobs[place] = logprobs[row];
        kept_full_logprobs[place] = full_logprobs[row];
        last_tokens[row] = tokens[row];
        streaks[row] = certain[row] > log_threshold ? streaks[row] + 1 : 0;
    }
    return -1;
}

// What ended each row: where codes[row] is kStopString already, or else kRunning. A stop token comes
// before a text, and a streak before the budget. Returns how many rows have ended, or -1 - row of the
// first one whose token is not among the vocabulary's.
int64_t cispo_endings(int64_t rows, int64_t vocabulary, const int64_t* tokens,
                      const int64_t* counts, const int64_t* budgets, const int64_t* streaks,
                      const bool* is_stop, int64_t repetition_tokens, int64_t* codes) {
    int64_t ended = 0;
    for (int64_t row = 0; row < rows; ++row) {
        if (tokens[row] < 0 || tokens[row] >= vocabulary) return -1 - row;
        int64_t& code = codes[row];
        if (is_stop[tokens[row]])
            code = kEndOfTurn;
        else if (code == kRunning && repetition_tokens > 0 && streaks[row] >= repetition_tokens)
            code = kRepetition;
        else if (code == kRunning && counts[row] >= budgets[row])
            code = kLength;
        ended += code != kRunning;
    }
    return ended;
}

}  // extern "C"
