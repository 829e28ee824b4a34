/* SPDX-License-Identifier: Apache-2.0
 *
 * load/load.h - between the files of build/tool_load, a load generator that speaks the
 * segment's own language. It is a program of its own and no part of the extension.
 *
 *   load/load.c          command line, report
 *   load/core.c     keeps a number of requests under way and takes their times
 *   load/segment.c  load on an open volume, an object store, or any role of an instance
 *   load/hop.c      the bare hop: peers that do nothing, in one process or in several
 *   load/stream.c   the same question put to a pipe and to a unix socket
 *   load/rados.c    librados by itself, the limit of what is built on it
 */
#ifndef ARCHIPELAGO_TOOL_LOAD_H
#define ARCHIPELAGO_TOOL_LOAD_H

#include "segment/xseg.h"

#define LOAD_DEPTH_MAX 4096
#define LOAD_WINDOWS_MAX 4096
#define LOAD_REPLY_TIMEOUT_MS 30000     /* without any reply: give up */
#define HISTOGRAM_SUB 16                /* buckets for each power of two */
#define HISTOGRAM_BUCKETS (40 * HISTOGRAM_SUB)

struct histogram {                      /* of nanoseconds, within 1/16 */
    uint64_t bucket[HISTOGRAM_BUCKETS];
    uint64_t count, sum, max;
};
void histogram_add(struct histogram *histogram, uint64_t ns);
/* The value that `permille` of those counted do not exceed, ns. */
uint64_t histogram_at(const struct histogram *histogram, uint32_t permille);

struct window {                         /* what happened in one stretch of time */
    uint64_t done;
    uint64_t latency_max_ns;
    uint64_t gap_max_ns;                /* longest time between two completions */
};

/* What the command line asked for. */
struct wish {
    const char *mode;
    const char *segment, *name, *role, *conf;
    uint16_t op;
    bool readonly, separate, sequential;
    uint32_t depth, hops, spin_us, flush_every, window_ms;
    uint64_t size, range, stride, requests, seed;
    uint64_t run, jump;                 /* sequential: after `run` requests, on at the next multiple of jump */
    double seconds;
};

struct load {
    const struct wish *wish;
    struct port *port;
    uint32_t dst;
    uint32_t volume;                    /* handle; 0: objects */
    uint32_t block_shift;               /* objects: bytes of one */
    uint64_t position;
    uint64_t random;
    uint64_t begun, done, flushes;
    uint32_t under_way;
    int error;                          /* first that came back */
    uint64_t start_ns, end_ns, last_ns;
    struct histogram latency;           /* of everything but flushes, unless they are the load */
    struct histogram flush_latency;
    struct window *windows;
    uint32_t window_count;
};

/* Starts the clock. -ENOMEM. */
int load_start(struct load *load, const struct wish *wish, struct port *port, uint32_t dst);
/* Sends requests until `depth` are under way. True: it sent some. The caller rings. */
bool load_fill(struct load *load);
/* Takes a reply of load_fill(). */
void load_reply(struct load *load, struct xreq *req);
/* Nothing more to be sent, and all came back. */
bool load_over(const struct load *load);

/* The parts of these, for modes that do not use the segment. */
bool load_wants_more(const struct load *load);
/* Where the next request goes. */
uint64_t load_offset(struct load *load);
/* Makes every page of a write differ from what was written anywhere before. */
void load_stamp(struct load *load, void *data, uint64_t offset);
/* Counts a request of `op` that came back at `now`. */
void load_note(struct load *load, uint16_t op, uint64_t now, uint64_t latency);

/* Each runs its mode, fills *load, and sets *cpu_ns to the CPU time of this process and of
 * those it made. A negative errno; stderr says why. */
int run_segment(const struct wish *wish, struct load *load, uint64_t *cpu_ns);
int run_hop(const struct wish *wish, struct load *load, uint64_t *cpu_ns);
int run_stream(const struct wish *wish, struct load *load, uint64_t *cpu_ns);
int run_rados(const struct wish *wish, struct load *load, uint64_t *cpu_ns);

/* CPU time of this process (RUSAGE_SELF) or of children that were waited for, ns. */
uint64_t cpu_used_ns(int who);

#endif
