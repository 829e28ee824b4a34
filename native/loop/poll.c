/* SPDX-License-Identifier: Apache-2.0
 *
 * loop/poll.c - how a loop waits for its descriptors. See loop/poll.h.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "loop/poll.h"

static_assert(POLLIN == EPOLLIN && POLLOUT == EPOLLOUT && POLLERR == EPOLLERR && POLLHUP == EPOLLHUP,
              "what ppoll() tells can be handed on as what epoll tells");

/* --- descriptors ------------------------------------------------------------------- */

int poll_start(struct poll *poll, struct tune *tune)
{
    poll->tune = tune;
    poll->epoll = epoll_create1(EPOLL_CLOEXEC);
    return poll->epoll < 0 ? -errno : 0;
}

void poll_stop(struct poll *poll) { close(poll->epoll); }

static int control(struct poll *poll, int what, struct watch *watch, uint32_t events)
{
    struct epoll_event event = { .events = events, .data.ptr = watch };

    assert(watch->fd >= 0 && watch->ready);
    return epoll_ctl(poll->epoll, what, watch->fd, &event) < 0 ? -errno : 0;
}

int poll_add(struct poll *poll, struct watch *watch, uint32_t events)
{
    watch->events = events;
    return control(poll, EPOLL_CTL_ADD, watch, events);
}

/* What is waited for is one of many again, but for what epoll is asked of it. */
static void end_alone(struct poll *poll)
{
    poll->alone = NULL;
    poll->streak = 0;
}

int poll_change(struct poll *poll, struct watch *watch, uint32_t events)
{
    watch->events = events;
    if (watch == poll->alone)
        end_alone(poll);
    return control(poll, EPOLL_CTL_MOD, watch, events);
}

void poll_remove(struct poll *poll, struct watch *watch)
{
    if (watch == poll->alone)
        end_alone(poll);
    if (watch == poll->last)
        poll->last = NULL;
    control(poll, EPOLL_CTL_DEL, watch, 0);
}

/* --- waiting ------------------------------------------------------------------------- */

static int ask_epoll(struct poll *poll, uint64_t ns)
{
    struct timespec limit = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
    int n = epoll_pwait2(poll->epoll, poll->events, POLL_EVENTS_MAX, &limit, NULL);

    return n > 0 ? n : 0;
}

bool poll_wait(struct poll *poll, uint64_t ns)
{
    struct timespec limit = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
    struct pollfd fds[2] = { { -1, 0, 0 }, { poll->epoll, POLLIN, 0 } };

    poll->alone_events = 0;
    if (!poll->alone) {
        poll->count = ask_epoll(poll, ns);
        return poll->count > 0;
    }
    fds[0] = (struct pollfd){ poll->alone->fd, (short)poll->alone->events, 0 };
    poll->count = 0;
    if (ppoll(fds, 2, &limit, NULL) <= 0)
        return false;
    poll->alone_events = (uint32_t)fds[0].revents;
    if (fds[1].revents)
        poll->count = ask_epoll(poll, 0);
    return poll->alone_events || poll->count;
}

static void serve(struct poll *poll, struct watch *watch, uint32_t events)
{
    if (watch->may_be_alone && watch != poll->last) {
        if (poll->alone)
            poll_change(poll, poll->alone, poll->alone->events);
        poll->last = watch;
        poll->streak = 0;
    }
    poll->streak += watch->may_be_alone;
    watch->ready(watch, events);
}

void poll_serve(struct poll *poll)
{
    struct watch *alone = poll->alone;

    if (poll->alone_events)
        serve(poll, alone, poll->alone_events);
    for (int i = 0; i < poll->count; i++)
        serve(poll, poll->events[i].data.ptr, poll->events[i].events);
}

void poll_choose(struct poll *poll)
{
    struct watch *watch = poll->last;
    bool alone = watch && poll->streak >= POLL_ALONE_FROM && watch->events == EPOLLIN
                 && tune_level(poll->tune, TUNE_ALONE);

    if (poll->alone && !alone)
        poll_change(poll, poll->alone, poll->alone->events);
    else if (alone && !poll->alone && control(poll, EPOLL_CTL_MOD, watch, 0) == 0)
        poll->alone = watch;
}

/* --- looking for work before sleeping -------------------------------------------------- */

uint64_t spin_choose(struct spin *spin, struct tune *tune, uint64_t now_ns, uint64_t active_ns)
{
    uint64_t ns = 2 * spin->gap_ns > SPIN_NS_MIN ? 2 * spin->gap_ns : SPIN_NS_MIN;

    if (spin->fixed_ns)             /* an idle process does not spin */
        return now_ns - active_ns > SPIN_FIXED_TIMES * spin->fixed_ns ? 0 : spin->fixed_ns;
    spin->credit_ns += (now_ns - spin->credited_ns) / SPIN_SHARE;
    spin->credit_ns = spin->credit_ns < SPIN_CREDIT_MAX ? spin->credit_ns : SPIN_CREDIT_MAX;
    spin->credited_ns = now_ns;
    if (ns > SPIN_NS_MAX || ns > spin->credit_ns || !tune_level(tune, TUNE_SPIN))
        return 0;
    return ns;
}

void spin_was_vain(struct spin *spin, uint64_t ns)
{
    if (!spin->fixed_ns)
        spin->credit_ns -= ns < spin->credit_ns ? ns : spin->credit_ns;
}

void spin_learn(struct spin *spin, uint64_t gap_ns)
{
    gap_ns = gap_ns < 2 * SPIN_NS_MAX ? gap_ns : 2 * SPIN_NS_MAX;
    spin->gap_ns = (spin->gap_ns * (SPIN_MEMORY - 1) + gap_ns) / SPIN_MEMORY;
}
