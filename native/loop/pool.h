/* SPDX-License-Identifier: Apache-2.0
 *
 * loop/pool.h - what a loop must not do itself: threads that do it, and how it comes back.
 *
 * A `struct task` lies inside whatever is to be done, so nothing is allocated, and every queue is as
 * long as there are such things. Its way:
 *
 *     the loop     pool_add()           into a queue of the pool
 *     a worker     task->run()          may block
 *     the worker   finished_add()       by run() itself, when the result is known
 *     the loop     finished_take()      in the flush() of its peer
 *
 * Either half is of use without the other: what a foreign thread calls back about (librados') takes
 * only the second half, and a task that nobody waits for would take only the first.
 *
 * The pool
 * --------
 * A fixed number of threads and two queues, both first come, first served. A QUICK task may take every
 * thread, and goes before all slow ones. SLOW ones leave one thread for the quick (where there is but one
 * thread, they take it). So what is quick may wait for one that is quick, but not for a COPY of a gigabyte.
 * Nothing is said about the order in which two tasks end, or, with more than one thread, run: what must
 * not overlap is handed in one after the other.
 *
 * The pool does not look at a task again once its run() was called. So run() says itself that it is
 * done, and may go on for a while, in its thread, with what nobody has to wait for; the task may be
 * handed in again, or its memory be used for something else, meanwhile.
 *
 * pool_start(), pool_add() and pool_stop() are the loop's. pool_stop() runs all that is queued, then
 * ends the threads. All signals are blocked in them: those are the main thread's business.
 *
 * The finished
 * ------------
 * A stack that any thread pushes on by one compare-and-swap, and that the loop takes as a whole and
 * turns round: it gets what was finished first first, as it would be unfair to answer in the reverse.
 * Whoever pushes on the empty stack rings an eventfd. That only wakes the loop: it polls the eventfd
 * edge-triggered, so that the counter need never be read, and looks at the stack in every turn.
 *
 * finished_add() touches the eventfd after the task is already on the loop. So finished_stop() comes when
 * all threads that push have ended: after pool_stop(), say.
 */
#ifndef ARCHIPELAGO_POOL_H
#define ARCHIPELAGO_POOL_H

#include <pthread.h>

#include "loop/peer.h"

#define POOL_THREADS_MAX 64

struct task {
    struct task *next;              /* in a queue, or among the finished; between these, its owner's */
    /* In a worker; arg is the pool's. */
    void (*run)(struct task *task, void *arg);
};

struct task_list { struct task *head, *tail; };

static inline void task_list_add(struct task_list *list, struct task *task)
{
    task->next = NULL;
    *(list->tail ? &list->tail->next : &list->head) = task;
    list->tail = task;
}

/* The first `most` (at least 1), still linked to each other; NULL: the list is empty. */
struct task *task_list_take(struct task_list *list, uint32_t most);

enum pool_class { POOL_QUICK, POOL_SLOW };

struct pool {
    void *arg;                      /* for run() */
    bool made;
    pthread_mutex_t mutex;          /* guards what follows, up to `threads` */
    pthread_cond_t wake;
    struct task_list quick, slow;
    uint32_t slow_running;
    bool stopping;
    pthread_t threads[POOL_THREADS_MAX];
    uint32_t thread_count;
};

/* A zeroed pool gets 1 to POOL_THREADS_MAX threads. A negative errno: pool_stop() is still due. */
int pool_start(struct pool *pool, uint32_t threads, void *arg);
void pool_add(struct pool *pool, struct task *task, enum pool_class class);
/* Nothing to do for a zeroed pool. */
void pool_stop(struct pool *pool);

struct finished {
    struct task *newest;            /* atomic; linked newest first */
    struct loop *loop;              /* NULL: not started */
    struct watch watch;             /* the eventfd */
};

/* For a zeroed one. A negative errno: finished_stop() is still allowed. */
int finished_start(struct finished *finished, struct loop *loop);
/* Any thread. The task belongs to the loop from here on. */
void finished_add(struct finished *finished, struct task *task);
/* All there is, oldest first, linked by `next`. NULL: nothing. */
struct task *finished_take(struct finished *finished);
/* Nothing to do for a zeroed one. */
void finished_stop(struct finished *finished);

#endif
