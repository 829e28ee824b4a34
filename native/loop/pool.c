/* SPDX-License-Identifier: Apache-2.0
 *
 * loop/pool.c - threads beside a loop, and the way back to it. See loop/pool.h.
 */
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "loop/pool.h"
#include "segment/barrier.h"

struct task *task_list_take(struct task_list *list, uint32_t most)
{
    struct task *first = list->head, *last = first;

    assert(most > 0);
    if (!first)
        return NULL;
    for (uint32_t n = 1; n < most && last->next; n++)
        last = last->next;
    list->head = last->next;
    if (!list->head)
        list->tail = NULL;
    last->next = NULL;
    return first;
}

/* --- in the threads; with the mutex held, but for the task itself ------------------------ */

/* The list this thread may take from now, or NULL. */
static struct task_list *choose(struct pool *pool)
{
    if (pool->quick.head)
        return &pool->quick;
    if (pool->slow.head && (pool->slow_running + 1 < pool->thread_count || pool->thread_count == 1))
        return &pool->slow;
    return NULL;
}

static void run_one(struct pool *pool, struct task_list *list)
{
    struct task *task = task_list_take(list, 1);
    bool slow = list == &pool->slow;

    assert(task);
    pool->slow_running += slow;
    pthread_mutex_unlock(&pool->mutex);
    task->run(task, pool->arg);
    pthread_mutex_lock(&pool->mutex);
    pool->slow_running -= slow;
    if (pool->slow.head)
        pthread_cond_signal(&pool->wake);       /* what this one was in the way of */
}

static void *worker(void *arg)
{
    struct pool *pool = arg;

    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        struct task_list *list = choose(pool);
        if (list)
            run_one(pool, list);
        else if (pool->stopping)
            break;
        else
            pthread_cond_wait(&pool->wake, &pool->mutex);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

/* --- the pool, on the loop ------------------------------------------------------------------ */

void pool_add(struct pool *pool, struct task *task, enum pool_class class)
{
    assert(pool->made && !pool->stopping);
    pthread_mutex_lock(&pool->mutex);
    task_list_add(class == POOL_SLOW ? &pool->slow : &pool->quick, task);
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

static int start_thread(struct pool *pool, pthread_t *thread)
{
    sigset_t all, before;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = -pthread_create(thread, NULL, worker, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int pool_start(struct pool *pool, uint32_t threads, void *arg)
{
    int rc = 0;

    assert(threads >= 1 && threads <= POOL_THREADS_MAX);
    pool->arg = arg;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->made = true;
    pthread_mutex_lock(&pool->mutex);
    while (rc == 0 && pool->thread_count < threads) {
        rc = start_thread(pool, &pool->threads[pool->thread_count]);
        pool->thread_count += rc == 0;
    }
    pthread_mutex_unlock(&pool->mutex);
    return rc;
}

void pool_stop(struct pool *pool)
{
    if (!pool->made)
        return;
    pthread_mutex_lock(&pool->mutex);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (uint32_t i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i], NULL);
    assert(!pool->thread_count || (!pool->quick.head && !pool->slow.head));
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
    pool->made = false;
}

/* --- the finished ----------------------------------------------------------------------------- */

void finished_add(struct finished *finished, struct task *task)
{
    struct task *head;
    uint64_t one = 1;

    do {
        head = load_relaxed(&finished->newest);
        task->next = head;
    } while (!swap_if(&finished->newest, head, task));
    if (!head && write(finished->watch.fd, &one, sizeof(one)) < 0)
        assert(errno == EAGAIN);    /* the counter is full: it wakes all the same */
}

struct task *finished_take(struct finished *finished)
{
    struct task *task = load_relaxed(&finished->newest) ? exchange(&finished->newest, NULL) : NULL;
    struct task *first = NULL;

    while (task) {
        struct task *next = task->next;
        task->next = first;
        first = task;
        task = next;
    }
    return first;
}

static void ready(struct watch *watch, uint32_t events)
{
    (void)watch;
    (void)events;
}

int finished_start(struct finished *finished, struct loop *loop)
{
    finished->watch = (struct watch){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = ready };
    if (finished->watch.fd < 0)
        return -errno;
    finished->loop = loop;
    return loop_watch(loop, &finished->watch, EPOLLIN | EPOLLET);
}

void finished_stop(struct finished *finished)
{
    if (!finished->loop)
        return;
    loop_unwatch(finished->loop, &finished->watch);
    close(finished->watch.fd);
    finished->loop = NULL;
}
