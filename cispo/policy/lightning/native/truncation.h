// Draws a token a row from what top-k, top-p and min-p keep, without ranking the vocabulary.
//
// Tokens are ranked by mass, equal ones by id. They are counted in buckets of similar mass, and only
// the buckets in which something is decided are ranked: where top-k cuts, where top-p cuts, and where
// the drawn token lies. Sums run from bucket to bucket in float64.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace cispo {

constexpr int kShift = 18;  // 5 bits of mantissa: masses within 3%
constexpr int32_t kBuckets = (0x3F800000 >> kShift) + 2;  // up to a mass of 1, or little more

// What a row keeps.
struct Truncation {
    double top_p;
    int64_t top_k;  // 0 keeps all
    float min_p;

    bool cuts() const { return top_p < 1.0 || top_k > 0 || min_p > 0.0f; }
};

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

class Ranking {
  public:
    explicit Ranking(int64_t vocabulary)
        : vocabulary_(vocabulary), bucket_(vocabulary), counts_(kBuckets), sums_(kBuckets) {}

    // Draw from what is kept of masses [vocabulary] that are not negative and whose sum is `total`;
    // noise in [0, 1). `kept` becomes the mass of what is kept.
    int64_t draw(const float* mass, double total, double noise, const Truncation& keep,
                 double* kept) {
        read(mass);
        Place end = {lowest_, counts_[lowest_], total};
        if (keep.top_k > 0 && keep.top_k < vocabulary_) end = kth(keep.top_k);
        const double limit = keep.top_p < 1.0 ? keep.top_p * end.until : INFINITY;
        const float least =
            keep.min_p > 0.0f ? keep.min_p * *std::max_element(mass, mass + vocabulary_) : 0.0f;
        if (keep.top_p < 1.0 || keep.min_p > 0.0f) end = cut(limit, least, end);
        *kept = end.until;
        return at(noise * end.until, end);
    }

  private:
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

}  // namespace cispo
