// exp and its relatives, sums and norms on whole vectors; a lane's result depends on that lane only.
#pragma once

#include <cstdint>
#include <cstring>

#include "gemm.h"

namespace cispo {

typedef int32_t IntVector __attribute__((vector_size(kLanes * sizeof(int32_t))));

inline Vector broadcast(float x) { return Vector{} + x; }

// e^x to about 1e-7 relative for any x: Cephes' polynomial on [-ln 2 / 2, ln 2 / 2]; below e^-87
// it stays there, above e^88 it is e^88, and NaN stays NaN
inline Vector exp(Vector x) {
    x = x < -87.0f ? broadcast(-87.0f) : x;
    x = x > 88.0f ? broadcast(88.0f) : x;
    const float magic = 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
    const Vector power = (x * 1.44269504088896341f + magic) - magic;
    const Vector r = (x - power * 0.693359375f) + power * 2.12194440e-4f;
    Vector sum = r * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * r + 8.3334519073e-3f;
    sum = sum * r + 4.1665795894e-2f;
    sum = sum * r + 1.6666665459e-1f;
    sum = sum * r + 5.0000001201e-1f;
    sum = sum * (r * r) + r + 1.0f;
    const IntVector exponent = __builtin_convertvector(power, IntVector) + 127;
    return sum * (Vector)(exponent << 23);
}

inline float exp(float x) { return exp(broadcast(x))[0]; }

inline Vector sigmoid(Vector x) { return 1.0f / (1.0f + exp(-x)); }
inline Vector silu(Vector x) { return x / (1.0f + exp(-x)); }

// the derivative of silu where share = sigmoid(x) and active = x sigmoid(x)
inline Vector silu_slope(Vector share, Vector active) { return share + active * (1.0f - share); }

// the nearest bfloat16, of two equally near the even one; NaN stays NaN
inline Vector rounded(Vector x) {
    const IntVector bits = (IntVector)x;
    const IntVector nearest = (bits + 0x7fff + ((bits >> 16) & 1)) & ~0xffff;
    return x == x ? (Vector)nearest : x;
}

inline void round_floats(float* x, ptrdiff_t count) {
    ptrdiff_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(x + i, rounded(load(x + i)));
    for (; i < count; ++i) x[i] = rounded(broadcast(x[i]))[0];
}

// sum of a vector's lanes, always in the same order
template <class AnyVector>
inline float lanes_sum(AnyVector v) {
    constexpr int lanes = sizeof(AnyVector) / sizeof(float);
    float part[lanes];
    std::memcpy(part, &v, sizeof v);
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) part[i] += part[i + half];
    return part[0];
}

// the highest of `count` numbers; NaN is passed over
inline float highest(const float* x, ptrdiff_t count) {
    Vector most = broadcast(-__builtin_inff());
    ptrdiff_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        const Vector part = load(x + i);
        most = part > most ? part : most;
    }
    float top = most[0];
    for (int lane = 1; lane < kLanes; ++lane) top = most[lane] > top ? most[lane] : top;
    for (; i < count; ++i) top = x[i] > top ? x[i] : top;
    return top;
}

// 1 / sqrt(mean(x^2) + eps) of `width` floats, padded with zeros to whole vectors
inline float inverse_rms(const float* x, ptrdiff_t width, float eps) {
    Vector sum = {};
    for (ptrdiff_t i = 0; i < width; i += kLanes) {
        const Vector part = load(x + i);
        sum += part * part;
    }
    return 1.0f / __builtin_sqrtf(lanes_sum(sum) / width + eps);
}

// y = x / rms(x) * weight, all padded with zeros to whole vectors
inline void rms_norm(const float* x, const float* weight, ptrdiff_t width, float eps, float* y) {
    const float inverse = inverse_rms(x, width, eps);
    for (ptrdiff_t i = 0; i < width; i += kLanes)
        store(y + i, load(x + i) * inverse * load(weight + i));
}

}  // namespace cispo
