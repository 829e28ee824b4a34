/* SPDX-License-Identifier: Apache-2.0
 *
 * load/core.c - keeps requests under way and takes their times.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "load/load.h"

#define PAGE 4096

/* --- times ------------------------------------------------------------------- */

static uint32_t bucket_of(uint64_t ns)
{
    uint32_t power, bucket;

    if (ns < HISTOGRAM_SUB)
        return (uint32_t)ns;
    power = 63 - (uint32_t)__builtin_clzll(ns);
    bucket = (power - 3) * HISTOGRAM_SUB + (uint32_t)(ns >> (power - 4)) % HISTOGRAM_SUB;
    return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

static uint64_t bucket_value(uint32_t bucket)
{
    uint32_t power = bucket / HISTOGRAM_SUB + 3;

    if (bucket < HISTOGRAM_SUB)
        return bucket;
    return (uint64_t)(HISTOGRAM_SUB + bucket % HISTOGRAM_SUB) << (power - 4);
}

void histogram_add(struct histogram *histogram, uint64_t ns)
{
    histogram->bucket[bucket_of(ns)]++;
    histogram->count++;
    histogram->sum += ns;
    if (ns > histogram->max)
        histogram->max = ns;
}

uint64_t histogram_at(const struct histogram *histogram, uint32_t permille)
{
    uint64_t want = (histogram->count * permille + 999) / 1000, seen = 0;

    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->bucket[i];
        if (seen && seen >= want)
            return bucket_value(i);
    }
    return 0;
}

uint64_t cpu_used_ns(int who)
{
    struct rusage usage;

    getrusage(who, &usage);
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000u
         + (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000u;
}

void load_note(struct load *load, uint16_t op, uint64_t now, uint64_t latency)
{
    uint64_t gap = now - load->last_ns;
    uint64_t n;

    load->last_ns = now;
    histogram_add(op == load->wish->op ? &load->latency : &load->flush_latency, latency);
    if (!load->windows)
        return;
    n = (now - load->start_ns) / (load->wish->window_ms * 1000000ull);
    if (n >= LOAD_WINDOWS_MAX)
        return;
    struct window *window = &load->windows[n];
    window->done++;
    if (latency > window->latency_max_ns)
        window->latency_max_ns = latency;
    if (gap > window->gap_max_ns)
        window->gap_max_ns = gap;
    load->window_count = (uint32_t)n + 1;
}

/* --- requests ------------------------------------------------------------------ */

int load_start(struct load *load, const struct wish *wish, struct port *port, uint32_t dst)
{
    load->wish = wish;
    load->port = port;
    load->dst = dst;
    load->random = wish->seed * 0x9e3779b97f4a7c15u + 1;
    load->start_ns = load->last_ns = clock_ns();
    load->end_ns = wish->seconds > 0 ? load->start_ns + (uint64_t)(wish->seconds * 1e9) : UINT64_MAX;
    if (wish->window_ms && !load->windows)
        load->windows = calloc(LOAD_WINDOWS_MAX, sizeof(*load->windows));
    return wish->window_ms && !load->windows ? -ENOMEM : 0;
}

bool load_wants_more(const struct load *load)
{
    return load->error == 0 && load->begun < load->wish->requests && load->last_ns < load->end_ns;
}

bool load_over(const struct load *load)
{
    return load->under_way == 0 && !load_wants_more(load);
}

static uint64_t run_offset(const struct wish *wish, uint64_t position, uint64_t step)
{
    return position / wish->run * wish->jump + position % wish->run * step;
}

uint64_t load_offset(struct load *load)
{
    const struct wish *wish = load->wish;
    uint64_t step = wish->sequential ? wish->stride : wish->size;
    uint64_t places = step ? wish->range / step : 1;

    if (wish->sequential && wish->run)
        return run_offset(wish, load->position++, step);
    if (wish->sequential)
        return load->position++ % (places ? places : 1) * step;
    load->random ^= load->random << 13;
    load->random ^= load->random >> 7;
    load->random ^= load->random << 17;
    return load->random % (places ? places : 1) * step;
}

void load_stamp(struct load *load, void *data, uint64_t offset)
{
    for (uint64_t at = 0; at + sizeof(uint64_t) <= load->wish->size; at += PAGE)
        *(uint64_t *)((uint8_t *)data + at) = (offset + at) ^ (load->begun << 32) ^ load->random;
}

struct sent { uint64_t ns; };       /* when a request went off */
XREQ_SENDER(sent_of, struct sent)

static bool prepare(struct load *load, struct xreq *req)
{
    const struct wish *wish = load->wish;
    bool carries = wish->op == XOP_READ || wish->op == XOP_WRITE;

    req->op = wish->op;
    req->volume = load->volume;
    sent_of(req)->ns = load->last_ns;
    if (wish->flush_every && load->begun % (wish->flush_every + 1) == wish->flush_every) {
        req->op = XOP_FLUSH;
        load->flushes++;
        return true;
    }
    if (carries && xbuf_get(load->port, req, wish->size) < 0)
        return false;
    req->size = wish->size;
    req->offset = wish->op == XOP_PING ? 0 : load_offset(load);
    if (wish->op == XOP_WRITE)
        load_stamp(load, xreq_data(load->port->seg, req), req->offset);
    if (load->volume == 0 && wish->op != XOP_PING) {
        req->object = (struct xobj){ .kind = XOBJ_DATA, .epoch = 1, .volume = 1,
                                     .index = req->offset >> load->block_shift };
        req->offset &= (1ull << load->block_shift) - 1;
    }
    return true;
}

bool load_fill(struct load *load)
{
    bool sent = false;

    if (load->under_way < load->wish->depth && load_wants_more(load))
        load->last_ns = clock_ns();
    while (load->under_way < load->wish->depth && load_wants_more(load)) {
        struct xreq *req = xreq_get(load->port);

        if (!req)
            break;
        if (!prepare(load, req)) {
            xreq_put(load->port, req);
            break;
        }
        load->begun++;
        load->under_way++;
        xreq_send(load->port, req, load->dst);
        sent = true;
    }
    return sent;
}

void load_reply(struct load *load, struct xreq *req)
{
    uint64_t now = load->port->now_ns;

    if (req->error && !load->error)
        load->error = req->error;
    load_note(load, req->op, now, now > sent_of(req)->ns ? now - sent_of(req)->ns : 0);
    load->done++;
    load->under_way--;
    xreq_put(load->port, req);
}
