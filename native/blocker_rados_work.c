/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados_work.c - the threads that do what takes several operations.
 */
#include <assert.h>
#include <errno.h>
#include <signal.h>

#include "blocker_rados.h"

static void list_add(struct br_list *list, struct br_op *op)
{
    op->next = NULL;
    if (list->tail)
        list->tail->next = op;
    else
        list->head = op;
    list->tail = op;
}

static struct br_op *list_take(struct br_list *list)
{
    struct br_op *op = list->head;

    list->head = op->next;
    if (!list->head)
        list->tail = NULL;
    return op;
}

/* --- in the threads; with the mutex held, but for the work itself ------------------------ */

/* The list this thread may take from now, or NULL. */
static struct br_list *choose(struct br_pool *pool)
{
    if (pool->quick.head)
        return &pool->quick;
    if (pool->slow.head && (pool->slow_running + 1 < pool->thread_count || pool->thread_count == 1))
        return &pool->slow;
    return NULL;
}

static void run_one(struct br *br, struct br_list *list)
{
    struct br_pool *pool = &br->workers_pool;
    struct br_op *op = list_take(list);
    bool slow = list == &pool->slow;

    if (pool->running++ == 0)
        br_timers(br, true);
    pool->slow_running += slow;
    pthread_mutex_unlock(&pool->mutex);
    br_finish(op, op->run(br, op));
    pthread_mutex_lock(&pool->mutex);
    pool->slow_running -= slow;
    if (--pool->running == 0)
        br_timers(br, false);
    if (pool->slow.head)
        pthread_cond_signal(&pool->wake);
}

static void *worker(void *arg)
{
    struct br *br = arg;
    struct br_pool *pool = &br->workers_pool;

    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        struct br_list *list = choose(pool);
        if (list)
            run_one(br, list);
        else if (pool->stopping)
            break;
        else
            pthread_cond_wait(&pool->wake, &pool->mutex);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

/* --- on the loop ---------------------------------------------------------------------------- */

void br_work_add(struct br *br, struct br_op *op, bool slow)
{
    struct br_pool *pool = &br->workers_pool;

    pthread_mutex_lock(&pool->mutex);
    list_add(slow ? &pool->slow : &pool->quick, op);
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

/* Signals are the main thread's business. */
static int start_thread(struct br *br, pthread_t *thread)
{
    sigset_t all, before;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = -pthread_create(thread, NULL, worker, br);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int br_work_start(struct br *br)
{
    struct br_pool *pool = &br->workers_pool;
    int rc = 0;

    assert(br->workers >= 1 && br->workers <= BR_WORKERS_MAX);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->made = true;
    pthread_mutex_lock(&pool->mutex);
    while (rc == 0 && pool->thread_count < br->workers) {
        rc = start_thread(br, &pool->threads[pool->thread_count]);
        pool->thread_count += rc == 0;
    }
    pthread_mutex_unlock(&pool->mutex);
    return rc;
}

void br_work_stop(struct br *br)
{
    struct br_pool *pool = &br->workers_pool;

    if (!pool->made)
        return;
    pthread_mutex_lock(&pool->mutex);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (uint32_t i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
}
