/* SPDX-License-Identifier: Apache-2.0
 *
 * filters/log.c - the peer type "log": a filter that counts requests by size. Its manual is peers/log.py.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "filters/filter.h"
#include "segment/log.h"

#define SMALLEST 512                /* bytes of the smallest class but that of 0; each next is twice as large */
#define CLASSES 19                  /* 0, 512 bytes, 1 KiB ... 32 MiB, more */
#define SECOND 1000000000ull

struct log {
    struct filter filter;
    uint64_t every_s;               /* option */
    uint64_t counts[XOP_COUNT][CLASSES];
    uint64_t seen, told;            /* requests counted; as many when the log was told last */
    uint64_t next_ns;               /* when it is told again, if it is to be */
};

static const struct peer_option options[] = {
    FILTER_OPTIONS(struct log),
    PEER_OPTION("every_s", struct log, every_s),
    { 0 }
};

/* --- classes of sizes -------------------------------------------------------------------- */

static uint32_t class_of(uint64_t size)
{
    uint32_t class = size != 0;

    for (uint64_t most = SMALLEST; size > most && class < CLASSES - 1; most *= 2)
        class++;
    return class;
}

/* The largest size in it; that of the last has none. */
static uint64_t most_of(uint32_t class) { return class ? (uint64_t)SMALLEST << (class - 1) : 0; }

static void print_class(uint32_t class, char text[16])
{
    uint64_t most = most_of(class);

    if (class == CLASSES - 1)
        snprintf(text, 16, "more");
    else if (most < 1024)
        snprintf(text, 16, "%" PRIu64, most);
    else
        snprintf(text, 16, "%" PRIu64 "%c", most < 1 << 20 ? most >> 10 : most >> 20, most < 1 << 20 ? 'K' : 'M');
}

/* --- telling ------------------------------------------------------------------------------ */

/* "3 of 4K, 1 of 64K"; empty if there were none. */
static void print_op(const uint64_t counts[CLASSES], char *text, size_t room)
{
    size_t used = 0;

    text[0] = 0;
    for (uint32_t class = 0; class < CLASSES; class++) {
        char name[16];
        int n;

        if (!counts[class])
            continue;
        print_class(class, name);
        n = snprintf(text + used, room - used, "%s%" PRIu64 " of %s", used ? ", " : "", counts[class], name);
        if (n < 0 || (size_t)n >= room - used)
            return;                 /* the line is full */
        used += (size_t)n;
    }
}

static void tell_log(struct peer *peer)
{
    struct log *log = peer->state;
    char text[512];

    for (uint32_t op = 0; op < XOP_COUNT; op++) {
        print_op(log->counts[op], text, sizeof(text));
        if (text[0])
            log_line(peer->role, "INFO", "%s: %s", filter_op_name(op), text);
    }
    log->told = log->seen;
}

/* Answers with a line "OPERATION MOST COUNT" for each class that has some; MOST is -1 for the last class. */
static int tell_asker(struct peer *peer, struct xreq *req)
{
    struct log *log = peer->state;
    char *out = xreq_data(peer->seg, req);

    if (!xreq_data_ok(peer->seg, req, req->data_size))
        return -EINVAL;
    req->done = 0;
    for (uint32_t i = 0; i < XOP_COUNT * CLASSES; i++) {
        uint32_t op = i / CLASSES, class = i % CLASSES;
        int n = !log->counts[op][class] ? 0
            : snprintf(out + req->done, req->data_size - req->done, "%s %" PRId64 " %" PRIu64 "\n", filter_op_name(op),
                       class == CLASSES - 1 ? -1 : (int64_t)most_of(class), log->counts[op][class]);

        if (n < 0 || (uint64_t)n > req->data_size - req->done)
            return -EMSGSIZE;
        req->done += (uint64_t)n;
    }
    return 0;
}

/* --- the peer ------------------------------------------------------------------------------- */

/* An INFO about nothing is about the filter itself. */
static bool is_for_us(const struct xreq *req)
{
    return req->op == XOP_INFO && !req->volume && req->object.kind == XOBJ_NONE;
}

static void count(struct peer *peer, const struct xreq *req)
{
    struct log *log = peer->state;

    if (log->seen++ == log->told)
        log->next_ns = loop_now(peer->loop) + log->every_s * SECOND;
    log->counts[req->op][class_of(req->size)]++;
}

static void request(struct peer *peer, struct xreq *req)
{
    if (is_for_us(req)) {
        peer_reply(peer, req, tell_asker(peer, req));
        return;
    }
    if (filter_matches(peer->state, req))
        count(peer, req);
    filter_pass(peer, req);
}

static uint64_t deadline(struct peer *peer)
{
    const struct log *log = peer->state;

    return log->every_s && log->seen != log->told ? log->next_ns : UINT64_MAX;
}

static bool flush(struct peer *peer)
{
    if (deadline(peer) <= loop_now(peer->loop))
        tell_log(peer);
    return false;
}

static void stop(struct peer *peer)
{
    const struct log *log = peer->state;

    if (log->seen != log->told)
        tell_log(peer);
}

const struct peer_ops log_ops = {
    .type = "log",
    .state_size = sizeof(struct log),
    .options = options,
    .start = filter_start,
    .request = request,
    .reply = filter_reply,
    .again = filter_again,
    .can_serve = peer_has_slot,
    .flush = flush,
    .deadline = deadline,
    .stop = stop,
};
