/* Threads: the pool, and the workspace of each thread. The only file that knows them.
 *
 * Invariant: one pool a process, created when first needed, grown when more is asked for; idle
 * workers sleep. One call uses it at a time; a call that finds it busy does its work alone. After a
 * fork the child starts with no pool: nothing is locked or joined in the handler, the parent's
 * workers are not the child's. A thread's workspace is freed when the thread ends.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "kernel.h"

/* ---- the pool -------------------------------------------------------------------------------- */

typedef struct {
    int (*body)(void *, int64_t, int);
    void *context;
    int64_t n;
    atomic_int_fast64_t next;      /* the first i that nobody has taken */
    atomic_int_fast64_t n_worked;  /* threads that took one */
} job;

static struct {
    atomic_flag is_busy;           /* held for a whole parallel_for */
    pthread_mutex_t mutex;         /* guards what follows */
    pthread_cond_t wake, done;
    job *current;
    uint64_t number;               /* of the current job; a worker runs each number once */
    int n_wanted;                  /* workers that may still join the current job */
    int n_running;                 /* workers in it */
    int n_workers;
    uint64_t n_forks;              /* that this process descends from */
} pool = {.is_busy = ATOMIC_FLAG_INIT,
          .mutex = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER};

static void take_part(job *j, int is_caller)
{
    int64_t i = atomic_fetch_add(&j->next, 1);
    if (i >= j->n) return;
    atomic_fetch_add(&j->n_worked, 1);
    for (; i < j->n; i = atomic_fetch_add(&j->next, 1))
        if (!j->body(j->context, i, is_caller)) atomic_store(&j->next, j->n);
}

static void *work(void *unused)
{
    (void)unused;
    uint64_t seen = 0;
    pthread_mutex_lock(&pool.mutex);
    for (;;) {
        while (pool.current == NULL || pool.n_wanted == 0 || pool.number == seen)
            pthread_cond_wait(&pool.wake, &pool.mutex);
        job *j = pool.current;
        seen = pool.number;
        pool.n_wanted--;
        pool.n_running++;
        pthread_mutex_unlock(&pool.mutex);
        take_part(j, 0);
        pthread_mutex_lock(&pool.mutex);
        if (--pool.n_running == 0) pthread_cond_signal(&pool.done);
    }
    return NULL;
}

/* In the child of a fork: memory as it was, threads gone. Whoever held the locks is gone too. */
static void forget_pool(void)
{
    atomic_flag_clear(&pool.is_busy);
    pool.mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    pool.wake = pool.done = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    pool.current = NULL;
    pool.n_wanted = pool.n_running = pool.n_workers = 0;
    pool.n_forks++;
}

static void handle_forks(void) { pthread_atfork(NULL, NULL, forget_pool); }

/* With the mutex held. A worker that cannot be started is done without. */
static void grow_pool(int n_workers)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_t thread;
    if (pool.n_workers >= n_workers) return;
    /* Signals are for the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    while (pool.n_workers < n_workers && pthread_create(&thread, &attributes, work, NULL) == 0)
        pool.n_workers++;
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Waits, with the mutex held, for `done` or some 20 ms. (By the wall clock, which may be set: then one
 * wait is longer or shorter.) */
static void wait_a_little(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 20000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&pool.done, &pool.mutex, &until);
}

int64_t fnn_parallel_for(int64_t n, int n_threads, int (*body)(void *, int64_t, int),
                         int (*go_on)(void *), void *context)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    job j = {.body = body, .context = context, .n = n};
    if (n == 1) return body(context, 0, 1), 1;
    if (n_threads > n) n_threads = (int)n;
    if (n_threads <= 1 || atomic_flag_test_and_set(&pool.is_busy)) {
        take_part(&j, 1);
        return j.n_worked;
    }
    pthread_once(&once, handle_forks);
    pthread_mutex_lock(&pool.mutex);
    grow_pool(n_threads - 1);
    pool.current = &j;
    pool.number++;
    pool.n_wanted = n_threads - 1;
    for (int i = 1; i < n_threads; i++) pthread_cond_signal(&pool.wake);
    const uint64_t n_forks = pool.n_forks;
    pthread_mutex_unlock(&pool.mutex);

    take_part(&j, 1);

    pthread_mutex_lock(&pool.mutex);
    pool.current = NULL; /* late wakers find nothing to join */
    while (pool.n_running > 0) {
        wait_a_little();
        pthread_mutex_unlock(&pool.mutex); /* go_on may run a signal handler: predict, fork, ... */
        if (!go_on(context)) j.next = n;
        pthread_mutex_lock(&pool.mutex);
    }
    pthread_mutex_unlock(&pool.mutex);
    if (pool.n_forks != n_forks) { /* a child, forked by a handler: workers left things undone */
        j.next = 0;
        take_part(&j, 1);
    }
    atomic_flag_clear(&pool.is_busy);
    return j.n_worked;
}

/* ---- teams ----------------------------------------------------------------------------------- */

/* A share, if there is one to take: those of the shares offered now, as all before are done. */
static int take_share(fnn_team *team)
{
    int_fast64_t next = atomic_load(&team->next);
    while (next < atomic_load(&team->limit)) {
        if (!atomic_compare_exchange_weak(&team->next, &next, next + 1)) continue;
        team->body(team->context, next - team->base);
        atomic_fetch_add(&team->done, 1);
        return 1;
    }
    return 0;
}

/* A microsecond or so, then others' turn: on a busy machine the one waited for may not be running. */
static void spin(int *n)
{
    if (++*n % 64 == 0) sched_yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void fnn_team_share(fnn_team *team, int64_t n, void (*body)(void *, int64_t), void *context)
{
    int n_spins = 0;
    team->base = atomic_load(&team->next);
    team->body = body;
    team->context = context;
    atomic_fetch_add(&team->limit, n);
    while (take_share(team)) continue;
    while (atomic_load(&team->done) < atomic_load(&team->limit)) spin(&n_spins);
}

void fnn_team_help(fnn_team *team)
{
    int n_spins = 0;
    while (!fnn_team_is_over(team))
        if (!take_share(team)) spin(&n_spins);
}

void fnn_team_end(fnn_team *team) { atomic_store(&team->is_over, 1); }
int fnn_team_is_over(fnn_team *team) { return atomic_load(&team->is_over); }

/* ---- workspaces ------------------------------------------------------------------------------ */

typedef struct { size_t n_bytes; void *memory; int is_taken; } workspace;

static pthread_key_t key; /* only for its destructor; _Thread_local is what is fast to read */
static _Thread_local workspace mine;

static void free_workspace(void *memory)
{
    free(memory);
    mine = (workspace){0}; /* a later destructor of this thread may still predict */
}

static void create_key(void) { pthread_key_create(&key, free_workspace); }

static void *allocate(size_t n_bytes)
{
    void *memory;
    return posix_memalign(&memory, 64, (n_bytes + 63) / 64 * 64) == 0 ? memory : NULL;
}

void *fnn_workspace_take(size_t n_bytes)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (mine.is_taken) return allocate(n_bytes);
    if (mine.n_bytes < n_bytes) {
        pthread_once(&once, create_key);
        void *larger = allocate(n_bytes);
        if (larger == NULL) return NULL;
        if (pthread_setspecific(key, larger) != 0) {
            free(larger);
            return NULL;
        }
        free(mine.memory);
        mine = (workspace){.n_bytes = n_bytes, .memory = larger};
    }
    mine.is_taken = 1;
    return mine.memory;
}

void fnn_workspace_give_back(void *memory)
{
    if (memory == mine.memory)
        mine.is_taken = 0;
    else
        free(memory);
}
