/* SPDX-License-Identifier: Apache-2.0
 *
 * loop/poll.h - how a loop waits for its descriptors.
 *
 * A loop sleeps in epoll. Two things shorten its sleep, each as far as that gains something (loop/tune.h).
 *
 * One descriptor alone: when the same one, of those that may be alone, was served POLL_ALONE_FROM times on end, epoll
 * is asked for nothing of it any more but its end, and the loop sleeps in ppoll() on two descriptors: that one,
 * and the epoll with all others. So whatever comes wakes it as before, while the bytes of a client that sends, and
 * then sleeps until it is answered, wake it straight from their socket: before 6.13 the kernel passes on from there,
 * but not through an epoll, that the sender is about to sleep, so that his core can be taken. This ends when another
 * of those that may be alone is served, or when something else is asked for.
 *
 * Looking for work before sleeping: waking a core that is halted takes longer than many answers. For how long
 * it looks it learns from how soon work came lately: twice that, SPIN_NS_MIN at least; where it is more than
 * SPIN_NS_MAX, not at all. The time in which it looked in vain is one part in SPIN_SHARE of all at most, so that
 * a process with nothing to do sleeps.
 *
 * All of it is the loop's thread's.
 */
#ifndef ARCHIPELAGO_POLL_H
#define ARCHIPELAGO_POLL_H

#include <sys/epoll.h>

#include "loop/peer.h"

#define POLL_EVENTS_MAX 64          /* taken at once */
#define POLL_ALONE_FROM 32
#define SPIN_NS_MIN 10000ull
#define SPIN_NS_MAX 200000ull
#define SPIN_SHARE 20
#define SPIN_CREDIT_MAX 1000000ull  /* ns in vain, on end */
#define SPIN_MEMORY 8               /* so many of the last count, about */
#define SPIN_FIXED_TIMES 20         /* a fixed one looks for work until so many times it has passed without any */

struct poll {
    int epoll;
    struct tune *tune;
    struct watch *alone;            /* it is waited for by itself; NULL: none is */
    struct watch *last;             /* of those that may be, who was served last, */
    uint32_t streak;                /* so many times on end */
    uint32_t alone_events;          /* what the last wait found: of the one that is alone, */
    int count;                      /* and of the others */
    struct epoll_event events[POLL_EVENTS_MAX];
};

int poll_start(struct poll *poll, struct tune *tune);
/* 0 or a negative errno. */
int poll_add(struct poll *poll, struct watch *watch, uint32_t events);
int poll_change(struct poll *poll, struct watch *watch, uint32_t events);
void poll_remove(struct poll *poll, struct watch *watch);
/* Waits so long until a descriptor has something. False: none has. */
bool poll_wait(struct poll *poll, uint64_t ns);
/* Calls ready() of those the last wait found. */
void poll_serve(struct poll *poll);
/* Before a sleep: whether one is alone. */
void poll_choose(struct poll *poll);
void poll_stop(struct poll *poll);

struct spin {                       /* looking for work before sleeping */
    uint64_t fixed_ns;              /* set by the configuration; 0: it is not */
    uint64_t gap_ns;                /* from the last work to the next, of late */
    uint64_t credit_ns;             /* may be looked for in vain */
    uint64_t credited_ns;           /* when it last grew */
};

/* For how long, in ns; 0: not at all. */
uint64_t spin_choose(struct spin *spin, struct tune *tune, uint64_t now_ns, uint64_t active_ns);
void spin_was_vain(struct spin *spin, uint64_t ns);
/* Work came, so long after the last. */
void spin_learn(struct spin *spin, uint64_t gap_ns);

#endif
