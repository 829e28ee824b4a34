/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/work.c - what workers do for the loop, and how it comes back.
 */
#include <assert.h>

#include "blocker_file/parts.h"

static void run(struct task *task, void *arg)
{
    struct bf *bf = arg;

    bf_work_of(task)->result = bf_work_of(task)->run(bf, bf_work_of(task));
    finished_add(&bf->finished, task);
}

void bf_pool_add(struct bf *bf, struct bf_work *work, enum pool_class class)
{
    bf->active++;
    work->task.run = run;
    pool_add(&bf->pool, &work->task, class);
}

void bf_work_done(struct bf *bf, struct bf_work *work)
{
    assert(bf->active > 0);
    bf->active--;
    work->done(bf, work, work->result);
}

bool bf_work_reap(struct bf *bf)
{
    struct task *task = finished_take(&bf->finished), *next;
    bool found = task != NULL;

    for (; task; task = next) {
        next = task->next;
        bf_work_done(bf, bf_work_of(task));
    }
    return found;
}
