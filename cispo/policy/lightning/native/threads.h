// Threads that work on one thing together, and wait for one another between its phases.
//
// They are started when they are first needed and stay. One without work looks out for some during
// kPatience, which is longer than an engine takes between two steps, and then sleeps. Whoever waits
// offers its core to others after kSpins looks. Where others have the cores, so that callers often
// have to wait for most of a job, they work alone for a while, up to kAloneMost.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace cispo {

constexpr int kSpins = 500;  // looks of some 50 ns

using Clock = std::chrono::steady_clock;
constexpr std::chrono::microseconds kPatience(600), kLate(1000);
constexpr std::chrono::milliseconds kAloneLeast(1), kAloneMost(100);

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Look until `ready()`, or until `tired()`, which is not asked at first. Returns for how long it
// looked after the first kSpins.
template <class Ready, class Tired>
Clock::duration await(const Ready& ready, const Tired& tired) {
    for (int look = 0; look < kSpins; ++look) {
        if (ready()) return {};
        pause();
    }
    const Clock::time_point start = Clock::now();
    while (!ready() && !tired()) std::this_thread::yield();
    return Clock::now() - start;
}

template <class Ready>
Clock::duration await(const Ready& ready) {
    return await(ready, [] { return false; });
}

// Where `size` threads wait for one another.
class Meeting {
  public:
    explicit Meeting(ptrdiff_t size) : size_(size) {}

    ptrdiff_t size() const { return size_; }

    Clock::duration wait() {
        if (size_ == 1) return {};
        const unsigned round = round_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return {};
        }
        return await([&] { return round_.load(std::memory_order_acquire) != round; });
    }

  private:
    const ptrdiff_t size_;
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
    void meet() { waited += meeting->wait(); }
};

using Work = std::function<void(Member&)>;

struct Job {
    const Work& work;
    Meeting meeting;
    std::atomic<ptrdiff_t> unfinished;  // by others than the one who gave it
};

// A thread that does what it is given. It ends with the process.
class Hand {
  public:
    explicit Hand(ptrdiff_t index) : index_(index) {
        std::thread([this] { live(); }).detach();
    }

    void give(Job* job) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            job_.store(job, std::memory_order_release);
        }
        given_.notify_one();
    }

  private:
    void live() {
        for (;;) {
            Job* const job = next();
            job_.store(nullptr, std::memory_order_relaxed);
            Member me{index_, job->meeting.size(), &job->meeting, {}};
            job->work(me);
            job->unfinished.fetch_sub(1, std::memory_order_release);
        }
    }

    Job* next() {
        const auto given = [this] { return job_.load(std::memory_order_acquire) != nullptr; };
        const Clock::time_point end = Clock::now() + kPatience;
        await(given, [&] { return Clock::now() > end; });
        if (!given()) {
            std::unique_lock<std::mutex> lock(mutex_);
            given_.wait(lock, given);
        }
        return job_.load(std::memory_order_acquire);
    }

    const ptrdiff_t index_;
    std::atomic<Job*> job_{nullptr};
    std::mutex mutex_;
    std::condition_variable given_;
};

// The process's hands. They work for one caller at a time; another one meanwhile works alone, as
// results do not depend on the number of threads.
class Crew {
  public:
    // do `work` by at most `most` threads at once, of which this one is member 0
    void run(ptrdiff_t most, const Work& work) {
        std::unique_lock<std::mutex> turn(busy_, std::defer_lock);
        const Clock::time_point start = Clock::now();
        const bool has_hands = most > 1 && turn.try_lock() && start >= alone_until_;
        const ptrdiff_t size = has_hands ? 1 + hired(most - 1) : 1;
        Job job{work, Meeting(size), {size - 1}};
        for (ptrdiff_t i = 0; i + 1 < size; ++i) hands_[i]->give(&job);
        Member me{0, size, &job.meeting, {}};
        work(me);
        me.waited += await([&] { return job.unfinished.load(std::memory_order_acquire) == 0; });
        if (size > 1) judge(start, me.waited);
    }

  private:
    // Waiting now and then is cheap. What is late in one of six jobs is faster alone: the time alone
    // doubles whenever a job was late, and shrinks whenever one was not.
    void judge(Clock::time_point start, Clock::duration waited) {
        const Clock::time_point now = Clock::now();
        if (waited > kLate && waited > (now - start) / 2) {
            alone_for_ = std::clamp<Clock::duration>(2 * alone_for_, kAloneLeast, kAloneMost);
            alone_until_ = now + alone_for_;
        } else {
            alone_for_ -= alone_for_ / 8;
        }
    }

    // so many hands, or as many as the system allows
    ptrdiff_t hired(ptrdiff_t count) {
        try {
            while (ptrdiff_t(hands_.size()) < count)
                hands_.push_back(std::make_unique<Hand>(hands_.size() + 1));
        } catch (const std::system_error&) {
            count = hands_.size();
        }
        return count;
    }

    std::mutex busy_;
    std::vector<std::unique_ptr<Hand>> hands_;
    Clock::time_point alone_until_{};
    Clock::duration alone_for_{};
};

inline Crew& crew() {
    static Crew* only = nullptr;
    static const bool is_made = [] {
        only = new Crew;  // never deleted, as the hands use it until the process ends
        pthread_atfork(nullptr, nullptr, [] { only = new Crew; });  // a child has no other threads
        return true;
    }();
    (void)is_made;
    return *only;
}

// run `body(first, last)` on parts of [0, n), one a thread
template <class Body>
void split(ptrdiff_t n, ptrdiff_t most, const Body& body) {
    crew().run(most, [&](Member& me) {
        const Part part = me.part(n);
        body(part.first, part.last);
    });
}

}  // namespace cispo
