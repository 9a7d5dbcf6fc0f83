// Work on parts of a range by threads of their own.
#pragma once

#include <cstddef>
#include <thread>
#include <vector>

namespace cispo {

// run `work(first, last, worker)` on parts of [0, n), one a thread; this thread takes the first
template <class Work>
void split(ptrdiff_t n, ptrdiff_t workers, const Work& work) {
    std::vector<std::thread> others;
    for (ptrdiff_t w = 1; w < workers; ++w)
        others.emplace_back([&work, n, workers, w] {
            work(n * w / workers, n * (w + 1) / workers, w);
        });
    work(0, n / workers, 0);
    for (std::thread& other : others) other.join();
}

}  // namespace cispo
