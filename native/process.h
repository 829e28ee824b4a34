/* SPDX-License-Identifier: Apache-2.0
 *
 * process.h - is the process that wrote its tag into the segment still there?
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

#define PROCESS_PID_BITS 22          /* the kernel's limit on pids */

/* The tag of a process; 0: there is none. */
static inline uint64_t process_tag(int pid)
{
    uint64_t start = process_start_time(pid);

    return start ? start << PROCESS_PID_BITS | (uint64_t)pid : 0;
}

/* True if the process with this tag runs. */
static inline bool process_alive(uint64_t tag)
{
    return tag && process_tag((int)(tag & ((1u << PROCESS_PID_BITS) - 1))) == tag;
}

#endif
