/* The threads of a compiled module: what its parallel loops run on. It is linked into every mod.so.
 *
 * TVM's code gives each parallel loop to a function in __TVMBackendParallelLaunch, as a body that does piece i of n. TVM's
 * own pool makes one piece for each thread and waits for every thread, so that one core with other work to do holds up
 * every loop of a step. Here
 *
 *   - a loop has PIECES pieces for each thread. A thread takes those of its own share from the front, so that it streams
 *     a contiguous range of the weights, and what others have left, from the back of their shares, when its own is done;
 *   - a thread that did not come is not waited for, since the others take its pieces;
 *   - between pieces a thread that had the core for long offers it to others. Whoever waits for a core takes it then, and
 *     not in the middle of a piece, for which all would have to wait;
 *   - threads spin for SPIN_NS and then sleep: the wake-up of a thread that slept has a better claim on a core than one
 *     that span, and a machine that serves nothing rests.
 *
 * A pool belongs to the thread that asked for it with use_threads; loops launched by other threads run on TVM's pool.
 * Which thread runs a piece changes no result. The threads are the caller's, and serve to the end of the process: the
 * library is linked with -z nodelete, so that none wakes up in code that is gone.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    MOST_THREADS = 4096,
    PIECES = 8,        /* for each thread: the rest of a piece that a slow thread holds is what all wait for */
    SPIN_NS = 50000,   /* longer than most times between two loops of a step */
    TURN_NS = 1000000, /* less than the time after which Linux takes a core from a thread (2.8 ms or a tick of 4 ms) */
    SLICE_NS = 100000, /* a short slice: Linux gives the core back sooner (6.12 and later; without effect before) */
};

/* From TVM's c_backend_api.h and tvm_ffi's c_api.h. */
struct group { void *barrier; int32_t pieces; };
typedef int body(int piece, struct group *group, void *data);
typedef int launcher(body *run, void *data, int pieces);
struct any { int32_t type; uint32_t padding; int64_t integer; };
enum { ANY_INTEGER = 1 };
void TVMFFIErrorMoveFromRaised(void **error);
void TVMFFIErrorSetRaised(void *error);
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);
int TVMFFIObjectDecRef(void *object);
extern launcher *__TVMBackendParallelLaunch __attribute__((weak)); /* there is none in a module without such loops */

struct share {
    _Alignas(64) atomic_uint_least64_t range; /* pieces that nobody has taken: the first << 32 | behind the last */
};

struct pool {
    int threads;
    body *run;
    void *data;
    struct group group;
    _Atomic(void *) error;          /* the first of this loop */
    _Alignas(64) atomic_int pending; /* pieces that are not done; a futex */
    atomic_int waiting;             /* whether the launching thread sleeps until there are none */
    _Alignas(64) atomic_int loops;   /* launched so far; a futex */
    atomic_int sleeping;            /* threads that wait for the next one */
    struct share shares[];
};

static _Thread_local struct pool *own_pool;
static _Thread_local int64_t turn_end;
static launcher *tvm_launch;

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

static void pause_briefly(void) {
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

static void sleep_while(atomic_int *word, int value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake(atomic_int *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void start_turn(void) {
    turn_end = now() + TURN_NS;
}

/* Ask for short slices; a kernel or a sandbox that refuses changes nothing but how soon a core comes back. */
static void take_short_slices(void) {
    struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t slice, deadline, period; }
        attributes = {.size = sizeof attributes};
    if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) == 0 && attributes.policy == SCHED_OTHER) {
        attributes.slice = SLICE_NS;
        syscall(SYS_sched_setattr, 0, &attributes, 0);
    }
}

/* A piece for thread `me`; -1 when all are taken. */
static int claim(struct pool *pool, int me) {
    for (int step = 0; step < pool->threads; step++) {
        atomic_uint_least64_t *range = &pool->shares[(me + step) % pool->threads].range;
        uint64_t old = atomic_load_explicit(range, memory_order_relaxed);
        for (;;) {
            uint32_t first = (uint32_t)(old >> 32), end = (uint32_t)old;
            if (first >= end)
                break;
            uint64_t left = step ? old - 1 : old + ((uint64_t)1 << 32);
            if (atomic_compare_exchange_weak_explicit(range, &old, left, memory_order_acquire, memory_order_relaxed))
                return (int)(step ? end - 1 : first);
        }
    }
    return -1;
}

static void keep_error(struct pool *pool) {
    void *error = NULL, *none = NULL;
    TVMFFIErrorMoveFromRaised(&error);
    if (!atomic_compare_exchange_strong(&pool->error, &none, error))
        TVMFFIObjectDecRef(error);
}

/* Behind this the loop may be over, and run and data another loop's, unless the caller still has a piece. */
static void report_done(struct pool *pool, int pieces) {
    if (pieces && atomic_fetch_sub(&pool->pending, pieces) == pieces && atomic_load(&pool->waiting))
        wake(&pool->pending);
}

static void work(struct pool *pool, int me) {
    int piece, done = 0;
    while ((piece = claim(pool, me)) >= 0) {
        if (pool->run(piece, &pool->group, pool->data))
            keep_error(pool);
        done++;
        if (now() > turn_end) {
            report_done(pool, done);
            done = 0;
            sched_yield();
            start_turn();
        }
    }
    report_done(pool, done);
}

_Noreturn static void serve(struct pool *pool, int me) {
    int seen = 0;
    take_short_slices();
    for (;;) {
        int64_t spin_end = now() + SPIN_NS;
        while (atomic_load_explicit(&pool->loops, memory_order_acquire) == seen) {
            pause_briefly();
            if (now() > spin_end) {
                atomic_fetch_add(&pool->sleeping, 1);
                sleep_while(&pool->loops, seen);
                atomic_fetch_sub(&pool->sleeping, 1);
                start_turn();
            }
        }
        seen = atomic_load(&pool->loops);
        work(pool, me);
    }
}

static void wait_for_others(struct pool *pool) {
    int64_t spin_end = now() + SPIN_NS;
    while (atomic_load_explicit(&pool->pending, memory_order_acquire)) {
        pause_briefly();
        if (now() > spin_end) {
            atomic_store(&pool->waiting, 1);
            int left = atomic_load(&pool->pending);
            if (left)
                sleep_while(&pool->pending, left);
            atomic_store(&pool->waiting, 0);
        }
    }
}

static int launch(body *run, void *data, int pieces) {
    struct pool *pool = own_pool;
    if (!pool)
        return tvm_launch(run, data, pieces);
    if (!pieces)
        pieces = pool->threads > 1 ? pool->threads * PIECES : 1;
    pool->run = run;
    pool->data = data;
    pool->group.pieces = pieces;
    atomic_store_explicit(&pool->pending, pieces, memory_order_relaxed);
    for (int64_t i = 0; i < pool->threads; i++) {
        uint64_t first = (uint64_t)(pieces * i / pool->threads), end = (uint64_t)(pieces * (i + 1) / pool->threads);
        atomic_store_explicit(&pool->shares[i].range, first << 32 | end, memory_order_release);
    }
    atomic_fetch_add(&pool->loops, 1);
    if (atomic_load(&pool->sleeping))
        wake(&pool->loops);
    work(pool, 0);
    wait_for_others(pool);
    void *error = atomic_exchange(&pool->error, NULL);
    if (!error)
        return 0;
    TVMFFIErrorSetRaised(error);
    TVMFFIObjectDecRef(error);
    return -1;
}

/* use_threads(threads: int) -> int: from now on the parallel loops that this thread launches in this library run on a
 * pool of so many threads, of which it is number 0. The others are those that call serve_threads with the pool, which is
 * the result; until they come the loops run on those that are there. The result is 0 where there is nothing to serve: the
 * library has no parallel loops, or the thread has its pool already. */
int __tvm_ffi_use_threads(void *self, const struct any *arguments, int32_t count, struct any *result) {
    (void)self;
    if (count != 1 || arguments[0].type != ANY_INTEGER || arguments[0].integer < 1 || arguments[0].integer > MOST_THREADS) {
        TVMFFIErrorSetRaisedFromCStr("ValueError", "use_threads takes a number of threads, at least 1");
        return -1;
    }
    *result = (struct any){.type = ANY_INTEGER};
    if (own_pool || !&__TVMBackendParallelLaunch)
        return 0;
    int threads = (int)arguments[0].integer;
    struct pool *pool = aligned_alloc(64, sizeof(struct pool) + (size_t)threads * sizeof(struct share));
    if (!pool) {
        TVMFFIErrorSetRaisedFromCStr("MemoryError", "no memory for a pool of threads");
        return -1;
    }
    *pool = (struct pool){.threads = threads};
    for (int i = 0; i < threads; i++)
        atomic_init(&pool->shares[i].range, 0);
    take_short_slices();
    start_turn();
    own_pool = pool;
    if (__TVMBackendParallelLaunch != launch) {
        tvm_launch = __TVMBackendParallelLaunch;
        __TVMBackendParallelLaunch = launch;
    }
    result->integer = (intptr_t)pool;
    return 0;
}

/* serve_threads(pool: int, number: int): be thread `number` of the pool, from 1 on; does not return. */
int __tvm_ffi_serve_threads(void *self, const struct any *arguments, int32_t count, struct any *result) {
    (void)self;
    (void)count;
    (void)result;
    serve((struct pool *)(intptr_t)arguments[0].integer, (int)arguments[1].integer);
}
