// Threads for the kernels, shared by all calls of a process.
#pragma once

#include <stdint.h>

// task: which of the tasks. worker: which of the threads, below `threads`.
typedef void (*Nf4Work)(void *context, int64_t task, int worker);

// Runs work for all tasks and returns when the last one is done. The calling thread works too, and
// takes whatever no other thread has taken: one that is late delays nothing. Waiting threads
// sleep; none spins. A call beside a running one, or after a failure to start threads, works
// alone.
void nf4_run(Nf4Work work, void *context, int64_t tasks, int threads);
