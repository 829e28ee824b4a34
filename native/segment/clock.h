/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/clock.h - the clocks that words of the segment are in, in nanoseconds.
 */
#ifndef ARCHIPELAGO_CLOCK_H
#define ARCHIPELAGO_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_read(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t clock_ns(void) { return clock_read(CLOCK_MONOTONIC); }
/* Goes on while the machine sleeps. */
static inline uint64_t clock_boot_ns(void) { return clock_read(CLOCK_BOOTTIME); }
static inline uint64_t clock_wall_ns(void) { return clock_read(CLOCK_REALTIME); }

#endif
