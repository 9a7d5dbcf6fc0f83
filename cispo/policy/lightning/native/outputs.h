// How large tensors are written: past the caches, and into huge pages.
#pragma once

#include <cstddef>
#include <cstdint>
#if defined(__AVX__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "gemm.h"

namespace cispo {

// Bytes from which a tensor is large: it would push everything else out of a core's caches before
// it is read again.
constexpr size_t kLargeBytes = size_t{8} << 20;

// A store on a way past the caches, which saves reading first what it replaces; `to` is aligned.
inline void stream(float* to, Vector v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(to, (__m512)v);
#elif defined(__AVX__)
    _mm256_stream_ps(to, (__m256)v);
#else
    store(to, v);
#endif
}

// To be called by a thread that has streamed, before others may read.
inline void end_streams() {
#if defined(__AVX__)
    _mm_sfence();
#endif
}

inline bool can_stream(const void* c, ptrdiff_t c_row) {
    return reinterpret_cast<uintptr_t>(c) % sizeof(Vector) == 0 && c_row % kLanes == 0;
}

// Asks for huge pages where a large tensor has none yet. An allocator that got its memory from the
// system a moment ago hands out pages that the system clears when they are first written, for which
// it takes twice as long page by page as it does in pages of 2 MB. It is a hint that may fail.
inline void prefer_huge_pages(void* tensor, size_t bytes) {
#if defined(MADV_HUGEPAGE)
    if (bytes < kLargeBytes) return;
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto first = reinterpret_cast<uintptr_t>(tensor) / page * page;
    const auto end = reinterpret_cast<uintptr_t>(tensor) + bytes;
    madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#else
    (void)tensor, (void)bytes;
#endif
}

}  // namespace cispo
