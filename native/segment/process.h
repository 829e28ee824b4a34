/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/process.h - is the process that wrote its tag into the segment still there?
 *
 * A tag names a process in one word, so that a port or bell is claimed by one compare-and-swap:
 * its pid, and above it its start time in clock ticks after boot, as pids are used again.
 */
#ifndef ARCHIPELAGO_PROCESS_H
#define ARCHIPELAGO_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

/* Start time of a process in clock ticks after boot; 0: there is none, or all its threads have
 * ended. */
uint64_t process_start_time(int pid);

#define PROCESS_PID_BITS 22         /* the kernel's limit on pids */
#define PROCESS_PID_MASK ((1ull << PROCESS_PID_BITS) - 1)
#define PROCESS_EXITING 4           /* PF_EXITING in /proc/PID/stat */

/* The tag of a process; 0: there is none. */
static inline uint64_t process_tag(int pid)
{
    uint64_t start = process_start_time(pid);

    return start ? start << PROCESS_PID_BITS | (uint64_t)pid : 0;
}

/* True if the process with this tag runs. */
static inline bool process_alive(uint64_t tag)
{
    return tag && process_tag((int)(tag & PROCESS_PID_MASK)) == tag;
}

/* True if it does not run any more, or is on its way out: before its sockets are closed, so whoever saw one
 * end finds it true. Other threads of it may still be in a system call. */
bool process_ending(uint64_t tag);

#endif
