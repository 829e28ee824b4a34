/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file_pool.c - the threads that do what would block the loop.
 */
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "blocker_file.h"

static void list_add(struct work_list *list, struct work *work)
{
    work->next = NULL;
    if (list->tail)
        list->tail->next = work;
    else
        list->head = work;
    list->tail = work;
}

static struct work *list_take(struct work_list *list)
{
    struct work *work = list->head;

    list->head = work->next;
    if (!list->head)
        list->tail = NULL;
    work->next = NULL;
    return work;
}

/* Up to `most`, still linked to each other. */
static struct work *list_take_many(struct work_list *list, uint32_t most)
{
    struct work *first = list->head, *last = first;

    for (uint32_t n = 1; n < most && last->next; n++)
        last = last->next;
    list->head = last->next;
    if (!list->head)
        list->tail = NULL;
    last->next = NULL;
    return first;
}

/* --- in the threads ---------------------------------------------------------------- */

/* What this thread may do now; POOL_CLASSES: nothing. */
static enum pool_class choose(const struct pool *pool)
{
    if (pool->queue[POOL_QUICK].head)
        return POOL_QUICK;
    if (pool->queue[POOL_COMMIT].head && !pool->committing)
        return POOL_COMMIT;
    if (pool->queue[POOL_SLOW].head
        && (pool->slow_running + 1 < pool->thread_count || pool->thread_count == 1))
        return POOL_SLOW;
    return POOL_CLASSES;
}

static void finish(struct pool *pool, struct work *work)
{
    bool wake = pool->finished.head == NULL;
    uint64_t one = 1;

    while (work) {
        struct work *next = work->next;
        list_add(&pool->finished, work);
        work = next;
    }
    if (wake && write(pool->watch.fd, &one, sizeof(one)) < 0)
        assert(errno == EAGAIN);    /* the counter is full: it wakes all the same */
    if (pool->queue[POOL_COMMIT].head || pool->queue[POOL_SLOW].head)
        pthread_cond_signal(&pool->wake);       /* what this one was in the way of */
}

/* Begins and ends with the mutex held; the work itself is done without. */
static void run_one(struct bf *bf, enum pool_class class)
{
    struct pool *pool = &bf->pool;
    struct work *work = list_take(&pool->queue[class]);

    pool->slow_running += class == POOL_SLOW;
    pthread_mutex_unlock(&pool->mutex);
    work->result = work->run(bf, work);
    pthread_mutex_lock(&pool->mutex);
    pool->slow_running -= class == POOL_SLOW;
    finish(pool, work);
}

static void run_commit(struct bf *bf)
{
    struct pool *pool = &bf->pool;
    struct work *list = list_take_many(&pool->queue[POOL_COMMIT], bf->commit_max);
    int closing[BF_COMMIT_MAX];
    uint32_t count;

    pool->committing = true;
    pthread_mutex_unlock(&pool->mutex);
    count = bf_commit(bf, list, closing);
    pthread_mutex_lock(&pool->mutex);
    pool->committing = false;
    finish(pool, list);
    pthread_mutex_unlock(&pool->mutex);
    while (count)
        close(closing[--count]);
    pthread_mutex_lock(&pool->mutex);
}

static void *worker(void *arg)
{
    struct bf *bf = arg;
    struct pool *pool = &bf->pool;

    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        enum pool_class class = choose(pool);
        if (class == POOL_COMMIT)
            run_commit(bf);
        else if (class != POOL_CLASSES)
            run_one(bf, class);
        else if (pool->stopping)
            break;
        else
            pthread_cond_wait(&pool->wake, &pool->mutex);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

/* --- on the loop --------------------------------------------------------------------- */

void bf_pool_add(struct bf *bf, struct work *work, enum pool_class class)
{
    struct pool *pool = &bf->pool;

    pool->active++;
    pthread_mutex_lock(&pool->mutex);
    list_add(&pool->queue[class], work);
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

static void pool_ready(struct watch *watch, uint32_t events)
{
    struct bf *bf = watch->arg;
    struct pool *pool = &bf->pool;
    struct work *work, *next;
    uint64_t rings;

    (void)events;
    if (read(watch->fd, &rings, sizeof(rings)) < 0)
        return;
    pthread_mutex_lock(&pool->mutex);
    work = pool->finished.head;
    pool->finished = (struct work_list){ NULL, NULL };
    pthread_mutex_unlock(&pool->mutex);
    for (; work; work = next) {
        next = work->next;
        assert(pool->active > 0);
        pool->active--;
        work->done(bf, work, work->result);
    }
}

/* Signals are the main thread's business. */
static int start_thread(struct bf *bf, pthread_t *thread)
{
    sigset_t all, before;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = -pthread_create(thread, NULL, worker, bf);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int bf_pool_start(struct bf *bf, uint32_t threads)
{
    struct pool *pool = &bf->pool;
    int rc;

    assert(threads >= 1 && threads <= BF_WORKERS_MAX);
    pool->watch = (struct watch){ .ready = pool_ready, .arg = bf,
                                  .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
    if (pool->watch.fd < 0)
        return -errno;
    rc = loop_watch(bf->peer->loop, &pool->watch, EPOLLIN);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_mutex_lock(&pool->mutex);
    while (rc == 0 && pool->thread_count < threads) {
        rc = start_thread(bf, &pool->threads[pool->thread_count]);
        pool->thread_count += rc == 0;
    }
    pthread_mutex_unlock(&pool->mutex);
    return rc;
}

void bf_pool_stop(struct bf *bf)
{
    struct pool *pool = &bf->pool;

    if (pool->watch.fd < 0)
        return;
    pthread_mutex_lock(&pool->mutex);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (uint32_t i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i], NULL);
    loop_unwatch(bf->peer->loop, &pool->watch);
    close(pool->watch.fd);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
}
