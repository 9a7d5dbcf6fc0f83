// Threads that work on one thing together, and wait for one another between its phases.
//
// They are those of the OpenMP that torch has loaded: these look out for new work for a while after
// each of torch's operations, so that threads of our own would have to share their cores with them.
// Where there is no such library, threads are started for each job. Whoever waits offers its core
// to others after kSpins looks. Where others have the cores, so that callers often have to wait for
// most of a job, they work alone for a while, up to kAloneMost.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

// runs a function on the team's threads; a team that changes its size ends threads and starts
// others, so all teams have OpenMP's own size (0), as torch's have
extern "C" {
void GOMP_parallel(void (*function)(void*), void* data, unsigned size, unsigned flags)
    __attribute__((weak));
int omp_get_thread_num() __attribute__((weak));
int omp_get_num_threads() __attribute__((weak));
}

namespace cispo {

constexpr int kSpins = 500;  // looks of some 50 ns

using Clock = std::chrono::steady_clock;
constexpr std::chrono::microseconds kLate(1000);
constexpr std::chrono::milliseconds kAloneLeast(1), kAloneMost(100);

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Look until `ready()`. Returns for how long it looked after the first kSpins.
template <class Ready>
Clock::duration await(const Ready& ready) {
    for (int look = 0; look < kSpins; ++look) {
        if (ready()) return {};
        pause();
    }
    const Clock::time_point start = Clock::now();
    while (!ready()) std::this_thread::yield();
    return Clock::now() - start;
}

// Where threads wait for one another.
class Meeting {
  public:
    // of `size` threads, as each of them says
    Clock::duration wait(ptrdiff_t size) {
        if (size == 1) return {};
        const unsigned round = round_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return {};
        }
        return await([&] { return round_.load(std::memory_order_acquire) != round; });
    }

  private:
    alignas(64) std::atomic<ptrdiff_t> arrived_{0};
    alignas(64) std::atomic<unsigned> round_{0};
};

struct Part {
    ptrdiff_t first, last;
};

// One of `size` threads that work together.
struct Member {
    ptrdiff_t index, size;
    Meeting* meeting;
    Clock::duration waited;

    // its part of [0, n)
    Part part(ptrdiff_t n) const { return {n * index / size, n * (index + 1) / size}; }
    void meet() { waited += meeting->wait(size); }
};

using Work = std::function<void(Member&)>;

using Body = std::function<void(ptrdiff_t index, ptrdiff_t count)>;

// Do `body` on at most `most` threads at once, of which this one has index 0.
inline void on_team(ptrdiff_t most, const Body& body) {
    struct Job {
        ptrdiff_t most;
        const Body& body;
    } job{most, body};
    GOMP_parallel(
        [](void* data) {
            const Job& job = *static_cast<Job*>(data);
            const ptrdiff_t index = omp_get_thread_num();
            const ptrdiff_t count = std::min<ptrdiff_t>(job.most, omp_get_num_threads());
            if (index < count) job.body(index, count);
        },
        &job, 0, 0);
}

// The same by threads that are started for it.
inline void on_new_threads(ptrdiff_t most, const Body& body) {
    std::atomic<ptrdiff_t> count{0};  // as long as it is not known
    const auto wait_and_do = [&](ptrdiff_t index) {
        await([&] { return count.load(std::memory_order_acquire) > 0; });
        if (index < count) body(index, count);
    };
    std::vector<std::thread> others;
    try {
        while (ptrdiff_t(others.size()) + 1 < most)
            others.emplace_back(wait_and_do, others.size() + 1);
    } catch (const std::system_error&) {
        // a process that may start no more threads does with those that it has
    }
    count.store(others.size() + 1, std::memory_order_release);
    wait_and_do(0);
    for (auto& thread : others) thread.join();
}

// The process's threads. They work for one caller at a time; another one meanwhile works alone, as
// results do not depend on the number of threads. A forked child has no team, and works alone.
class Crew {
  public:
    // do `work` by at most `most` threads at once, of which this one is member 0
    void run(ptrdiff_t most, const Work& work) {
        std::unique_lock<std::mutex> turn(busy_, std::defer_lock);
        const Clock::time_point start = Clock::now();
        const bool has_others = most > 1 && !is_child_ && turn.try_lock() && start >= alone_until_;
        Meeting meeting;
        Clock::duration waited{};
        Clock::time_point done;
        const auto member = [&](ptrdiff_t index, ptrdiff_t count) {
            Member me{index, count, &meeting, {}};
            work(me);
            if (index > 0) return;
            waited = me.waited;
            done = Clock::now();
        };
        if (!has_others) return member(0, 1);
        (GOMP_parallel ? on_team : on_new_threads)(most, member);
        const Clock::time_point end = Clock::now();
        judge(start, end, waited + (end - done));
    }

    void be_a_child() { is_child_ = true; }

  private:
    // Waiting now and then is cheap. What is late in one of six jobs is faster alone: the time alone
    // doubles whenever a job was late, and shrinks whenever one was not.
    void judge(Clock::time_point start, Clock::time_point end, Clock::duration waited) {
        if (waited > kLate && waited > (end - start) / 2) {
            alone_for_ = std::clamp<Clock::duration>(2 * alone_for_, kAloneLeast, kAloneMost);
            alone_until_ = end + alone_for_;
        } else {
            alone_for_ -= alone_for_ / 8;
        }
    }

    std::mutex busy_;
    Clock::time_point alone_until_{};
    Clock::duration alone_for_{};
    bool is_child_ = false;
};

inline Crew& crew() {
    static Crew only;
    static const int is_watched = pthread_atfork(nullptr, nullptr, [] { only.be_a_child(); });
    (void)is_watched;
    return only;
}

// run `body(first, last)` on parts of [0, n), one a thread
template <class Body>
void split(ptrdiff_t n, ptrdiff_t most, const Body& body) {
    crew().run(most, [&](Member& me) {
        const Part part = me.part(n);
        body(part.first, part.last);
    });
}

// run `body()` by at most `most` threads, each of which takes work until there is none
template <class Loop>
void share(ptrdiff_t most, const Loop& loop) {
    crew().run(most, [&](Member&) { loop(); });
}

}  // namespace cispo
