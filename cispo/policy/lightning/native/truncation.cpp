// Draws a token a row from what top-k, top-p and min-p keep, without ranking the vocabulary.
//
// Tokens are ranked by mass, equal ones by id. They are counted in buckets of similar mass, and only
// the buckets in which something is decided are ranked: where top-k cuts, where top-p cuts, and where
// the drawn token lies. Sums run from bucket to bucket in float64.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "threads.h"

namespace {

constexpr int kShift = 18;  // 5 bits of mantissa: masses within 3%
constexpr int32_t kBuckets = (0x3F800000 >> kShift) + 2;  // up to a mass of 1, or little more
constexpr int64_t kMassesAThread = 1 << 20;  // fewer do not pay for a thread

struct Ranked {
    float mass;
    int64_t token;
    bool operator<(const Ranked& other) const {
        return mass != other.mass ? mass > other.mass : token < other.token;
    }
};

// an end of the ranking's beginning: all of higher buckets, and `rank` tokens of this one
struct Place {
    int64_t bucket, rank;
    double until;  // mass of all these
};

class Rows {
  public:
    explicit Rows(int64_t vocabulary)
        : vocabulary_(vocabulary), bucket_(vocabulary), counts_(kBuckets), sums_(kBuckets) {}

    // count the tokens of a row
    void read(const float* mass) {
        std::fill(counts_.begin() + lowest_, counts_.end(), 0);
        std::fill(sums_.begin() + lowest_, sums_.end(), 0.0);
        mass_ = mass;
        lowest_ = kBuckets - 1;
        for (int64_t token = 0; token < vocabulary_; ++token)  // one vector at a time
            bucket_[token] = bucket_of(mass_[token]);
        for (int64_t token = 0; token < vocabulary_; ++token) {
            counts_[bucket_[token]] += 1;
            sums_[bucket_[token]] += mass_[token];
        }
        for (int64_t token = 0; token < vocabulary_; ++token)
            lowest_ = std::min<int64_t>(lowest_, bucket_[token]);
    }

    // all tokens
    Place whole(double total) const { return {lowest_, counts_[lowest_], total}; }

    // the k-th token
    Place kth(int64_t k) {
        Place place{kBuckets - 1, 0, 0.0};
        while (k > counts_[place.bucket]) {
            k -= counts_[place.bucket];
            place.until += sums_[place.bucket--];
        }
        rank(place.bucket);
        for (place.rank = 0; place.rank < k; ++place.rank) place.until += members_[place.rank].mass;
        return place;
    }

    // the last token before which less than `limit` lies, and whose mass is at least `least`, but
    // none behind `last`
    Place cut(double limit, float least, const Place& last) {
        Place place{kBuckets - 1, 0, 0.0};
        const int64_t lowest = std::max<int64_t>(last.bucket, bucket_of(least));
        while (place.bucket > lowest && place.until + sums_[place.bucket] < limit)
            place.until += sums_[place.bucket--];
        rank(place.bucket);
        const int64_t most = kept(place.bucket, last);
        for (; place.rank < most; ++place.rank) {
            const Ranked& member = members_[place.rank];
            if (!(place.until < limit) || member.mass < least) break;
            place.until += member.mass;
        }
        return place;
    }

    // the first token up to which more than `target` lies, but none behind `last`
    int64_t at(double target, const Place& last) {
        int64_t chosen = 0;
        double until = 0.0, before = 0.0;
        for (int64_t bucket = kBuckets - 1; bucket >= last.bucket && !(until > target); --bucket) {
            if (kept(bucket, last) == 0) continue;
            chosen = bucket;
            before = until;
            if (bucket > last.bucket) until += sums_[bucket];
        }
        rank(chosen);
        const int64_t most = kept(chosen, last);
        int64_t member = 0;
        for (; member + 1 < most; ++member) {
            before += members_[member].mass;
            if (before > target) break;
        }
        return members_[member].token;
    }

  private:
    static int32_t bucket_of(float mass) {
        int32_t bits;
        std::memcpy(&bits, &mass, sizeof bits);
        bits >>= kShift;
        return bits < 0 ? 0 : bits < kBuckets ? bits : kBuckets - 1;
    }

    int64_t kept(int64_t bucket, const Place& last) const {
        return bucket == last.bucket ? last.rank : counts_[bucket];
    }

    // the tokens of a bucket in their order
    void rank(int64_t bucket) {
        members_.clear();
        for (int64_t token = 0; token < vocabulary_; ++token)
            if (bucket_[token] == bucket) members_.push_back({mass_[token], token});
        std::sort(members_.begin(), members_.end());
    }

    const float* mass_ = nullptr;
    int64_t vocabulary_;
    int64_t lowest_ = kBuckets - 1;  // bucket that is not empty
    std::vector<int32_t> bucket_;    // of each token
    std::vector<int32_t> counts_;
    std::vector<double> sums_;
    std::vector<Ranked> members_;
};

}  // namespace

extern "C" {

// mass [rows][vocabulary], not negative, and its sums total [rows]; noise [rows] in [0, 1); top_k
// [rows] in 1 .. vocabulary; kept [rows] gets the mass of what is kept
void cispo_draw_truncated(const float* mass, int64_t rows, int64_t vocabulary, const double* total,
                          const double* noise, const double* top_p, const int64_t* top_k,
                          const float* min_p, int64_t threads, int64_t* tokens, double* kept) {
    const int64_t most = std::max<int64_t>(1, rows * vocabulary / kMassesAThread);
    const int64_t workers = std::max<int64_t>(1, std::min({threads, most, rows}));
    cispo::split(rows, workers, [&](ptrdiff_t first, ptrdiff_t last) {
        Rows row(vocabulary);
        for (ptrdiff_t r = first; r < last; ++r) {
            const float* here = mass + r * vocabulary;
            row.read(here);
            Place end = row.whole(total[r]);
            if (top_k[r] < vocabulary) end = row.kth(top_k[r]);
            const double limit = top_p[r] < 1.0 ? top_p[r] * end.until : INFINITY;
            const float least =
                min_p[r] > 0.0f ? min_p[r] * *std::max_element(here, here + vocabulary) : 0.0f;
            if (top_p[r] < 1.0 || min_p[r] > 0.0f) end = row.cut(limit, least, end);
            tokens[r] = row.at(noise[r] * end.until, end);
            kept[r] = end.until;
        }
    });
}

}  // extern "C"
