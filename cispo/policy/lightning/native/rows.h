// Rows of heads in packed tensors, read into and written from small buffers of float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "gemm.h"
#include "outputs.h"

namespace cispo {

// The D numbers of token t and head h start `t * token + h * head` bytes from `base`; a negative
// `token` walks a sequence from its end.
struct Rows {
    char* base;
    ptrdiff_t token, head;
    bool is_half;              // bfloat16, else float32
    bool is_streamed = false;  // written past the caches, which needs float32 and alignment

    char* at(ptrdiff_t t, ptrdiff_t h) const { return base + t * token + h * head; }
};

inline void widen(const uint16_t* from, float* to, int count) {
    for (int i = 0; i < count; ++i) {
        const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
        std::memcpy(to + i, &bits, sizeof bits);
    }
}

// to the nearest, ties to even; a NaN stays one
inline void narrow(const float* from, uint16_t* to, int count) {
    for (int i = 0; i < count; ++i) {
        uint32_t bits;
        std::memcpy(&bits, from + i, sizeof bits);
        const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        to[i] = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
    }
}

// by vectors; a call of the library's would take longer than the copy
template <void (*store_vector)(float*, Vector)>
__attribute__((always_inline)) inline void copy(const float* from, float* to, int count) {
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) store_vector(to + i, load(from + i));
    for (; i < count; ++i) to[i] = from[i];
}

// Row r of `to` becomes token first + r; `to` is [capacity][width], zero beyond `count` and D.
inline void read(const Rows& rows, ptrdiff_t head, ptrdiff_t first, int count, int D, float* to,
                 int capacity, int width) {
    for (int r = 0; r < count; ++r, to += width) {
        const char* from = rows.at(first + r, head);
        if (rows.is_half)
            widen(reinterpret_cast<const uint16_t*>(from), to, D);
        else
            copy<store>(reinterpret_cast<const float*>(from), to, D);
        for (int c = D; c < width; ++c) to[c] = 0.0f;
    }
    std::memset(to, 0, static_cast<size_t>(capacity - count) * width * sizeof(float));
}

inline void write(const Rows& rows, ptrdiff_t head, ptrdiff_t first, int count, int D,
                  const float* from, int width) {
    for (int r = 0; r < count; ++r, from += width) {
        char* to = rows.at(first + r, head);
        if (rows.is_half)
            narrow(from, reinterpret_cast<uint16_t*>(to), D);
        else if (rows.is_streamed)
            copy<stream>(from, reinterpret_cast<float*>(to), D);
        else
            copy<store>(from, reinterpret_cast<float*>(to), D);
    }
}

#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
template <int Half, int... I>
inline Vector interleaved(Vector a, Vector b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (Half * kLanes / 2 + I / 2 + I % 2 * kLanes)...);
}
#else
template <int Half, int... I>
inline Vector interleaved(Vector a, Vector b, std::integer_sequence<int, I...>) {
    typedef int32_t Places __attribute__((vector_size(kLanes * sizeof(int32_t))));
    return __builtin_shuffle(a, b, Places{(Half * kLanes / 2 + I / 2 + I % 2 * kLanes)...});
}
#endif

// to[column][row] = from[row][column]; both numbers are multiples of kLanes.
inline void transpose(const float* from, int from_row, int rows, int columns, float* to,
                      int to_row) {
    constexpr auto lanes = std::make_integer_sequence<int, kLanes>();
    for (int r = 0; r < rows; r += kLanes)
        for (int c = 0; c < columns; c += kLanes) {
            Vector a[kLanes], b[kLanes];
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) a[i] = load(from + (r + i) * from_row + c);
            // each round rotates the bits of (row, column) by one; log2(kLanes) rounds swap them
#pragma GCC unroll 4
            for (int round = 1; round < kLanes; round *= 2) {
#pragma GCC unroll 8
                for (int i = 0; i < kLanes / 2; ++i) {
                    b[2 * i] = interleaved<0>(a[i], a[i + kLanes / 2], lanes);
                    b[2 * i + 1] = interleaved<1>(a[i], a[i + kLanes / 2], lanes);
                }
#pragma GCC unroll 16
                for (int i = 0; i < kLanes; ++i) a[i] = b[i];
            }
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) store(to + (c + i) * to_row + r, a[i]);
        }
}

}  // namespace cispo
