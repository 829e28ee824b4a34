/* SPDX-License-Identifier: Apache-2.0
 *
 * endpoint/park.h - descriptors that outlive the process: the supervisor has copies of them.
 *
 * A peer connects to the supervisor's socket (run/park.sock, tools/supervisor/parking.py) and sends a copy of each
 * descriptor that its next life needs, under a name. When the peer's process is killed, its successor is given all of
 * them. What was sent before a death is kept for sure, as it lies in the socket then: nothing is answered.
 *
 * Packets, from the peer: "hello ROLE", which all that was parked for the role is sent for, a packet with its name
 * and descriptor each, then one that says "."; "fresh ROLE", by which all of it is forgotten, as everything is sent
 * anew; "keep NAME" with a descriptor; "drop NAMES", of which the last letter is a star if all that begin so are meant.
 *
 * Without a supervisor nothing is parked, and the peer goes on. When one is there (again), park_again() says so, and
 * all is to be sent to it. Used by the loop's thread only.
 */
#ifndef ARCHIPELAGO_PARK_H
#define ARCHIPELAGO_PARK_H

#include <stdbool.h>
#include <stdint.h>

enum { PARK_NAME_MAX = 63, PARK_KEPT_MAX = 65536 };

struct park_kept { char name[PARK_NAME_MAX + 1]; int fd; };

struct park {
    int fd;                         /* -1: no supervisor */
    const char *path, *role;
    struct park_kept *kept;         /* of the last life, until park_take() has taken it */
    uint32_t kept_count;
};

/* Connects, and receives what the last life had; waits some seconds at most. Call it once, while the peer starts. */
void park_open(struct park *park, const char *path, const char *role);
/* A descriptor of the last life, which is the caller's now; -1: there is none of that name. */
int park_take(struct park *park, const char *name);
/* Closes what nobody took, and has the supervisor forget it. */
void park_settle(struct park *park);
/* 0, or ENOTCONN: there is no supervisor; EAGAIN: it is slow, try again. The descriptor stays the caller's. */
int park_keep(struct park *park, const char *name, int fd);
/* Has it forget a name, or all that begin so ("S1/" and a star). */
void park_drop(struct park *park, const char *names);
/* Tries to reach the supervisor, if it was lost. True: it is back, and has nothing. */
bool park_again(struct park *park);
void park_close(struct park *park);

#endif
