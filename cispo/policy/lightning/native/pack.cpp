// Brings a weight matrix [out][in] into panels [out / width][in][width], as float32 and padded with
// zeros.
#include <cstdint>
#include <cstring>

namespace {

float widened(const float* from) { return *from; }

float widened(const uint16_t* from) {
    const uint32_t bits = uint32_t(*from) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// columns [first, first + count) of a panel are rows [start, ..) of the matrix, as far as there are
template <class Element>
void fill(const Element* matrix, int64_t start, int64_t end, int64_t K, int64_t first,
          int64_t count, int64_t width, float* panel) {
    for (int64_t j = 0; j < count; ++j) {
        float* to = panel + first + j;
        if (start + j < end) {
            const Element* from = matrix + (start + j) * K;
            for (int64_t k = 0; k < K; ++k) to[k * width] = widened(from + k);
        } else {
            for (int64_t k = 0; k < K; ++k) to[k * width] = 0.0f;
        }
    }
}

template <class Element>
void pack(const Element* matrix, int64_t out, int64_t K, int64_t halves, int64_t width,
          float* panels) {
    // with two halves, half a panel holds rows of the matrix's first half, half of its second
    const int64_t count = width / halves, part = out / halves;
    for (int64_t start = 0; start < part; start += count, panels += K * width)
        for (int64_t half = 0; half < halves; ++half)
            fill(matrix, half * part + start, (half + 1) * part, K, half * count, count, width,
                 panels);
}

}  // namespace

// `halves` is 1, or 2 for a gate above what it gates
extern "C" void cispo_pack(const void* matrix, int64_t is_bfloat16, int64_t out, int64_t K,
                           int64_t halves, int64_t width, float* panels) {
    if (is_bfloat16)
        pack(static_cast<const uint16_t*>(matrix), out, K, halves, width, panels);
    else
        pack(static_cast<const float*>(matrix), out, K, halves, width, panels);
}
