#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#ifndef _WIN32
#include <pthread.h>
#include <signal.h>
#endif

namespace {

struct Pool {
    std::mutex running;  // held by the call whose tasks these are
    std::mutex mutex;
    std::condition_variable wake, idle;
    Nf4Work work = nullptr;
    void *context = nullptr;
    int64_t tasks = 0;
    std::atomic<int64_t> next{0};
    int wanted = 0;   // threads that may still join
    int joined = 0;   // those that have
    int active = 0;   // those that have not finished
    int started = 0;  // those that exist

    void take_tasks(int worker) {
        for (;;) {
            int64_t task = next.fetch_add(1, std::memory_order_relaxed);
            if (task >= tasks) return;
            work(context, task, worker);
        }
    }

    void serve() {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            wake.wait(lock, [this] { return wanted > 0; });
            wanted--;
            active++;
            int worker = ++joined;
            lock.unlock();
            take_tasks(worker);
            lock.lock();
            if (--active == 0) idle.notify_all();
        }
    }

    void start(int count) {
        while (started < count) {
            try {
                std::thread([this] { serve(); }).detach();
            } catch (const std::system_error &) {
                return;  // the limit of threads is reached: fewer will do
            }
            started++;
        }
    }
};

// Never destroyed: its threads sleep in it when the process ends.
std::atomic<Pool *> pool{nullptr};

#ifndef _WIN32
// A child has none of its parent's threads.
void forget_pool() { pool.store(nullptr); }

// A signal is the interpreter's: none is for these threads.
struct SignalsBlocked {
    sigset_t before;
    SignalsBlocked() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &before);
    }
    ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
};
#else
struct SignalsBlocked {};
#endif

Pool *shared_pool() {
#ifndef _WIN32
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
    (void)registered;
#endif
    Pool *found = pool.load();
    if (found) return found;
    Pool *made = new Pool;
    if (!pool.compare_exchange_strong(found, made)) {
        delete made;
        return found;
    }
    return made;
}

}  // namespace

void nf4_run(Nf4Work work, void *context, int64_t tasks, int threads) {
    Pool *shared = threads > 1 && tasks > 1 ? shared_pool() : nullptr;
    if (!shared || !shared->running.try_lock()) {
        for (int64_t task = 0; task < tasks; task++) work(context, task, 0);
        return;
    }
    std::lock_guard<std::mutex> held(shared->running, std::adopt_lock);
    const int helpers = (int)(tasks < threads ? tasks : threads) - 1;
    {
        std::lock_guard<std::mutex> lock(shared->mutex);
        if (shared->started < helpers) {
            SignalsBlocked blocked;
            shared->start(helpers);
        }
        shared->work = work;
        shared->context = context;
        shared->tasks = tasks;
        shared->next.store(0);
        shared->joined = 0;
        shared->wanted = helpers;
    }
    for (int i = 0; i < helpers; i++) shared->wake.notify_one();
    shared->take_tasks(0);
    std::unique_lock<std::mutex> lock(shared->mutex);
    shared->wanted = 0;
    shared->idle.wait(lock, [shared] { return shared->active == 0; });
}
