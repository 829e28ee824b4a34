/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz/slots.c - fuzz target: whatever is written into the segment while peers serve.
 *
 * A loop runs vlmc, a filter, memory and null on a small segment, beside a mapper without volumes of its own, which
 * is played here, and a client. The input is a list of steps of 12 bytes:
 *
 *   which, kind     a port to send to, or a part of the segment; and which kind of step
 *   at              2 bytes: a word of the part
 *   value           8 bytes
 *
 * that send a request, overwrite a word of the segment, or let the loop turn. Nothing may come of it but
 * answers: no fault, no assertion, no turn without end.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loop/peer.h"
#include "map/map.h"

#define STEP_SIZE 12
#define STEPS_MAX 64
#define TURNS 4
#define VOLUME_SIZE (64ull << 20)
#define VOLUME_SHIFT 16

enum { STEP_SEND, STEP_SCRIBBLE, STEP_SCRIBBLE_TOO, STEP_TURN, STEP_KINDS };

static const char *const roles[] = { "vlmc", "filter", "memory", "null", "mapper" };
#define ROLES (sizeof(roles) / sizeof(roles[0]))

static char folder[] = "/tmp/fuzz-slots-XXXXXX";
static struct xseg *segment;
static uint8_t *fresh;              /* the segment before anything was served, up to its buffers */

struct run {
    struct xseg *seg;
    struct loop *loop;
    struct bell *bell;
    struct port *mapper, *client;
};

/* --- the parts of the segment ---------------------------------------------------- */

struct part { void *at; uint64_t size; };

static struct part part_of(const struct run *run, uint32_t which)
{
    const struct xseg *seg = run->seg;
    const struct part parts[] = {
        { seg->slots, 16 * sizeof(*seg->slots) },
        { &seg->slots[xseg_first_slot(seg, run->client->number)], 8 * sizeof(*seg->slots) },
        { seg->ports, (ROLES + 1) * sizeof(*seg->ports) },
        { seg->volumes, 2 * sizeof(*seg->volumes) },
        { seg->frames, seg->frame_count * sizeof(*seg->frames) },
        { seg->stacks[0], seg->stack_count[0] * xstack_size(0) },
        { seg->contents, seg->content_count * sizeof(*seg->contents) },
        { seg->routes, 8 * sizeof(*seg->routes) },
        { seg->bells, 2 * sizeof(*seg->bells) },
        { seg->owners[0], 4 * seg->buffer_count[0] },
        { seg->header, sizeof(*seg->header) },
        { seg->buffers[1], xbuffer_size(1) },
    };

    return parts[which % (sizeof(parts) / sizeof(parts[0]))];
}

static void scribble(const struct run *run, uint32_t which, uint32_t at, uint64_t value)
{
    struct part part = part_of(run, which);
    uint64_t size = 1ull << (at >> 14), place = (uint64_t)(at & 0x3fff) * size % (part.size - 7);

    memcpy((uint8_t *)part.at + place / size * size, &value, size);
}

/* --- who asks, and who answers ------------------------------------------------------ */

static void send_one(const struct run *run, uint32_t which, uint32_t at, uint64_t value)
{
    struct xreq *req = xreq_get(run->client);

    if (!req)
        return;
    req->op = (uint16_t)(value % XOP_COUNT);
    req->flags = (uint16_t)(value >> 8 & 0xff);
    req->volume = which % ROLES ? 0 : 1;
    req->offset = (uint64_t)at * 512;
    req->size = value >> 16 & 0x1ffff;
    req->arg = value >> 40 & 0xff;
    if (req->volume == 0)
        req->object = (struct xobj){ .kind = 1 + (uint32_t)(value >> 48) % 7, .volume = 1, .epoch = 1,
                                     .index = value >> 56 };
    if (req->size <= XSEG_IO_MAX && xbuf_get(run->client, req, req->size ? req->size : 4096) != 0)
        req->size = 0;
    xreq_send(run->client, req, which % ROLES);
}

/* A leaf whose second block lies in a stack of two layers, so that there is something to be wrong. */
static int serve_load(struct xseg *seg, struct xreq *req)
{
    struct record_info info = { .kind = RECORD_LEAF, .volume = 1, .block_shift = VOLUME_SHIFT };
    struct { struct xstack stack; uint64_t bitmap; } stacked = {
        .stack = { .layers = 2, .bitmap_size = 8, .layer = { { .kind = XOBJ_DATA, .epoch = 2, .volume = 1 },
                                                            { .kind = XOBJ_DATA, .epoch = 1, .volume = 2 } } },
        .bitmap = 0x55,
    };
    struct xentry one = { 1, 2, 0 }, two = { 1, 2, 1 };
    struct record rec;

    if (!xreq_data_ok(seg, req, 4096))
        return -EINVAL;
    record_begin(&rec, xreq_data(seg, req), 4096, &info);
    record_add(&rec, req->offset, &one, NULL);
    record_add(&rec, req->offset + 1, &two, &stacked.stack);
    req->done = record_end(&rec, 1);
    req->flags = 0;
    return 0;
}

static void play_mapper(const struct run *run)
{
    struct xreq *req;

    while ((req = port_receive(run->mapper)))
        if (xreq_is_reply(run->mapper, req))
            xreq_put(run->mapper, req);
        else
            xreq_reply(run->mapper, req, req->op == XOP_MAP_LOAD ? serve_load(run->seg, req) : 0);
}

static void turns(const struct run *run)
{
    struct xreq *req;

    for (int i = 0; i < TURNS; i++) {
        loop_turn(run->loop);
        play_mapper(run);
        while ((req = port_receive(run->client)))
            if (xreq_is_reply(run->client, req))
                xreq_put(run->client, req);
            else
                xreq_reply(run->client, req, -EINVAL);
    }
}

/* --- the target ----------------------------------------------------------------------- */

static void add(struct run *run, const char *role, const char *type, const char *first, const char *second)
{
    const char *targets[] = { first, second };
    const struct option options[] = { { "ops", "all" }, { "kind", "any" }, { "ms", "0" }, { "us", "0" }, { "order", "1" },
                                      { "size", "0" }, { "layers", "4" } };
    struct peer *peer;

    if (loop_add(run->loop, type, role, targets, (first != NULL) + (second != NULL), options,
                 sizeof(options) / sizeof(options[0]), &peer) != 0) {
        fprintf(stderr, "%s: %s\n", role, peer->error);
        abort();
    }
}

/* Makes the segment, and keeps what it is like. */
static void make_segment(void)
{
    struct xparams params = { .static_slots = 32, .dynamic_slots = 8, .clients = 8, .volumes = 16,
                              .buffers = { 16, 8, 4 }, .frames = 16, .stacks = { 16, 8, 8 },
                              .contents = 16 };
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    uint32_t found, number;

    snprintf(params.run, sizeof(params.run), "%s", folder);
    if (fchmod(fd, 0600) != 0 || xseg_format(fd, &params) != 0 || xseg_attach(fd, &segment, &found) != 0)
        abort();
    close(fd);
    for (uint32_t i = 0; i < ROLES; i++)
        if (port_declare(segment, roles[i], roles[i], "fuzz", &number) != 0 || number != i)
            abort();
    segment->volumes[0] = (struct xvolume){ .state = XVOL_OPEN, .generation = 1, .id = 1, .size = VOLUME_SIZE,
                                            .block_shift = VOLUME_SHIFT, .epoch = 2, .writable_since = 2 };
    fresh = malloc(segment->data_start);
    if (!fresh)
        abort();
    memcpy(fresh, segment->base, segment->data_start);
}

/* Of the many places for volumes only two are ever written. */
static void restore_segment(void)
{
    uint64_t from = (uint64_t)((uint8_t *)&segment->volumes[2] - segment->base);
    uint64_t to = (uint64_t)((uint8_t *)segment->frames - segment->base);

    memcpy(segment->base, fresh, from);
    memcpy(segment->base + to, fresh + to, segment->data_start - to);
}

static void begin(struct run *run)
{
    if (segment)
        restore_segment();
    else
        make_segment();
    run->seg = segment;
    if (loop_new(run->seg, 0, &run->loop) != 0 || bell_open(run->seg, XPORT_ANY, &run->bell) != 0
        || port_bind(run->seg, ROLES - 1, "mapper", run->bell, &run->mapper) != 0
        || port_bind(run->seg, XPORT_ANY, "client", run->bell, &run->client) != 0)
        abort();
    add(run, "memory", "memory", NULL, NULL);
    add(run, "filter", "delay", "memory", NULL);
    add(run, "null", "null", NULL, NULL);
    add(run, "vlmc", "vlmc", "filter", "mapper");
}

static void end(struct run *run)
{
    loop_free(run->loop);
    port_close(run->client);
    port_close(run->mapper);
    bell_close(run->bell);
}

static void clean_up(void)
{
    char command[96];

    snprintf(command, sizeof(command), "rm -rf %s", folder);
    if (system(command) != 0)
        perror(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    if (!mkdtemp(folder))
        abort();
    atexit(clean_up);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run run = { 0 };

    begin(&run);
    for (size_t n = 0; n < STEPS_MAX && (n + 1) * STEP_SIZE <= size; n++) {
        const uint8_t *step = data + n * STEP_SIZE;
        uint16_t at;
        uint64_t value;

        memcpy(&at, step + 2, sizeof(at));
        memcpy(&value, step + 4, sizeof(value));
        switch (step[1] % STEP_KINDS) {
        case STEP_SEND: send_one(&run, step[0], at, value); break;
        case STEP_SCRIBBLE: case STEP_SCRIBBLE_TOO: scribble(&run, step[0], at, value); break;
        case STEP_TURN: turns(&run); break;
        }
    }
    turns(&run);
    end(&run);
    return 0;
}
