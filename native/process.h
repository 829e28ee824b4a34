/* SPDX-License-Identifier: Apache-2.0
 *
 * process.h - is the process that wrote its pid into the segment still that process?
 */
#ifndef ARCHIPELAGO_PROCESS_H
#define ARCHIPELAGO_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

/* Start time of a process in clock ticks after boot; 0: there is none, or it is a zombie. */
uint64_t process_start_time(int pid);

/* True if pid runs and is the one that started at start_time. */
static inline bool process_is(int pid, uint64_t start_time)
{
    return pid > 0 && start_time != 0 && process_start_time(pid) == start_time;
}

#endif
