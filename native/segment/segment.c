/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/segment.c - laying out and mapping the segment.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "segment/layout_hash.h"
#include "segment/ours.h"
#include "segment/xseg.h"

#define CACHE_LINE 64
#define PAGE 4096
#define RESERVE_TRIES 16            /* a signal begins it anew */
#define SLOTS_MAX (1u << 20)        /* of a port */

static_assert(sizeof(struct xslot) == 192, "a slot is three cache lines");
static_assert(offsetof(struct xslot, op) == 64, "what is asked starts a line");
static_assert(offsetof(struct xslot, object) == 128, "the object starts a line");
static_assert(sizeof(struct xreq) == 256, "a request in hand is four cache lines");
static_assert(offsetof(struct xreq, holder) == 192, "the holder's scratch is a line");
static_assert(sizeof(struct xobj) == 40, "an object's name is 40 bytes");
static_assert(sizeof(struct xbell) == 64, "a doorbell has a line of its own");
static_assert(sizeof(struct xentry) == 16, "an entry is published by one store");
static_assert(XSEG_BELLS <= 64 * PORT_RING_WORDS, "a port has a bit for each bell");
static_assert(sizeof(struct xframe) % 16 == 0, "entries stay aligned");
static_assert(offsetof(struct xframe, entry) % 16 == 0, "entries are aligned");

static const uint64_t buffer_sizes[XSEG_CLASSES] = { 4096, 65536, 1048576 };
static const uint64_t stack_sizes[XMAP_STACK_CLASSES] = { 640, 1344, 3648 };
static const struct xparams defaults = {
    .static_slots = 4096, .dynamic_slots = 256, .clients = 224, .volumes = 4096,
    .buffers = { 8192, 1024, 192 },
    .frames = 2048,
    .stacks = { 32768, 98304, 8192 },
    .contents = 524288,
};

uint64_t xbuffer_size(uint32_t class) { return class < XSEG_CLASSES ? buffer_sizes[class] : 0; }
uint64_t xstack_size(uint32_t class) { return class < XMAP_STACK_CLASSES ? stack_sizes[class] : 0; }

static uint64_t place(uint64_t *at, uint64_t bytes, uint64_t align)
{
    uint64_t here = (*at + align - 1) / align * align;
    *at = here + bytes;
    return here;
}

static uint32_t or_default(uint32_t value, uint32_t otherwise) { return value ? value : otherwise; }

/* Fills in bounds and offsets; everything but run and created_ns. */
static void plan(const struct xparams *p, struct xheader *h)
{
    uint64_t at = sizeof(*h);

    memset(h, 0, sizeof(*h));
    h->magic = XSEG_MAGIC;
    h->version = XSEG_VERSION;
    h->layout = XSEG_LAYOUT;
    h->static_slots = or_default(p->static_slots, defaults.static_slots);
    h->dynamic_slots = or_default(p->dynamic_slots, defaults.dynamic_slots);
    h->ports = XSEG_STATIC_PORTS + or_default(p->clients, defaults.clients);
    h->bells = h->ports + XSEG_STATIC_PORTS;
    h->volumes = or_default(p->volumes, defaults.volumes);
    h->locks = h->volumes + XSEG_VERB_LOCKS;
    h->slots = h->static_slots * XSEG_STATIC_PORTS + h->dynamic_slots * (h->ports - XSEG_STATIC_PORTS);
    h->frames = (or_default(p->frames, defaults.frames) + XMAP_WAYS - 1) / XMAP_WAYS * XMAP_WAYS;
    h->bells_offset = place(&at, sizeof(struct xbell) * (uint64_t)h->bells, CACHE_LINE);
    h->ports_offset = place(&at, sizeof(struct xport) * (uint64_t)h->ports, CACHE_LINE);
    h->routes_offset = place(&at, sizeof(struct xroute) * XSEG_ROUTES, CACHE_LINE);
    h->reqs_offset = place(&at, sizeof(struct xslot) * (uint64_t)h->slots, PAGE);
    for (int c = 0; c < XSEG_CLASSES; c++) {
        h->buffers[c] = or_default(p->buffers[c], defaults.buffers[c]);
        h->owners_offset[c] = place(&at, 4 * (uint64_t)h->buffers[c], PAGE);
    }
    h->volumes_offset = place(&at, sizeof(struct xvolume) * (uint64_t)h->volumes, PAGE);
    h->locks_offset = place(&at, sizeof(uint64_t) * (uint64_t)h->locks, PAGE);
    h->frames_offset = place(&at, sizeof(struct xframe) * (uint64_t)h->frames, PAGE);
    for (int c = 0; c < XMAP_STACK_CLASSES; c++) {
        h->stacks[c] = or_default(p->stacks[c], defaults.stacks[c]);
        h->stacks_offset[c] = place(&at, stack_sizes[c] * h->stacks[c], PAGE);
    }
    h->contents = or_default(p->contents, defaults.contents);
    h->contents_offset = place(&at, sizeof(struct xcontent) * (uint64_t)h->contents, PAGE);
    for (int c = 0; c < XSEG_CLASSES; c++)
        h->buffers_offset[c] = place(&at, buffer_sizes[c] * h->buffers[c], PAGE);
    h->size = place(&at, 0, PAGE);
}

uint64_t xseg_size(const struct xparams *params)
{
    struct xheader header;
    plan(params, &header);
    return header.size;
}

static void number_slots(struct xseg *seg)
{
    for (uint32_t i = 0; i < seg->port_count; i++) {
        struct xport *port = &seg->ports[i];
        port->first = xseg_first_slot(seg, i);
        port->count = xseg_slots_of(seg, i);
        port->bell = XSEG_BELLS;            /* none yet */
        for (uint32_t c = 0; c < XSEG_CLASSES; c++)
            port->buffers_max[c] = xseg_buffers_max(seg, i, c);
    }
}

/* Where everything is, as a header says that was checked or has just been made: private from now on. */
static void keep_bounds(struct xseg *seg, const struct xheader *h)
{
    seg->size = h->size;
    seg->data_start = h->buffers_offset[0];
    seg->created_ns = h->created_ns;
    seg->slot_count = h->slots;
    seg->static_slots = h->static_slots;
    seg->dynamic_slots = h->dynamic_slots;
    seg->port_count = h->ports;
    seg->bell_count = h->bells;
    seg->volume_count = h->volumes;
    seg->lock_count = h->locks;
    seg->frame_count = h->frames;
    memcpy(seg->buffer_count, h->buffers, sizeof(seg->buffer_count));
    memcpy(seg->stack_count, h->stacks, sizeof(seg->stack_count));
    seg->content_count = h->contents;
    memcpy(seg->run, h->run, sizeof(seg->run) - 1);
    seg->run[sizeof(seg->run) - 1] = 0;
}

static void point(struct xseg *seg, const struct xheader *h)
{
    keep_bounds(seg, h);
    seg->header = (struct xheader *)seg->base;
    seg->bells = (struct xbell *)(seg->base + h->bells_offset);
    seg->ports = (struct xport *)(seg->base + h->ports_offset);
    seg->routes = (struct xroute *)(seg->base + h->routes_offset);
    seg->slots = (struct xslot *)(seg->base + h->reqs_offset);
    seg->volumes = (struct xvolume *)(seg->base + h->volumes_offset);
    seg->locks = (uint64_t *)(seg->base + h->locks_offset);
    seg->frames = (struct xframe *)(seg->base + h->frames_offset);
    seg->contents = (struct xcontent *)(seg->base + h->contents_offset);
    for (int c = 0; c < XSEG_CLASSES; c++) {
        seg->owners[c] = (uint32_t *)(seg->base + h->owners_offset[c]);
        seg->buffers[c] = seg->base + h->buffers_offset[c];
        seg->stacks[c] = seg->base + h->stacks_offset[c];
    }
    for (int i = 0; i < XSEG_BELLS; i++)
        seg->bell_fd[i] = -1;
}

/* Takes all of the memory now. A page that could not be had when it is first touched would be a SIGBUS. */
static int reserve(int fd, uint64_t size)
{
    int rc = EINTR;

    if (ftruncate(fd, (off_t)size) < 0)
        return -errno;
    for (int i = 0; rc == EINTR && i < RESERVE_TRIES; i++)
        rc = posix_fallocate(fd, 0, (off_t)size);
    return -rc;
}

static bool params_ok(const struct xparams *p)
{
    return p->clients <= XSEG_PORTS - XSEG_STATIC_PORTS && p->volumes <= XSEG_VOLUMES;
}

int xseg_format(int fd, const struct xparams *params)
{
    struct xseg seg = { 0 };
    struct xheader h;
    int rc;

    if (!params_ok(params))
        return -EINVAL;
    plan(params, &h);
    rc = reserve(fd, h.size);
    if (rc)
        return rc;
    seg.base = mmap(NULL, h.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (seg.base == MAP_FAILED)
        return -errno;
    memcpy(h.run, params->run, sizeof(h.run));
    h.run[sizeof(h.run) - 1] = 0;
    h.created_ns = clock_wall_ns();
    h.magic = 0;
    memcpy(seg.base, &h, sizeof(h));
    point(&seg, &h);
    number_slots(&seg);
    store_release(&seg.header->magic, XSEG_MAGIC);      /* last: now it may be joined */
    munmap(seg.base, h.size);
    return 0;
}

/* The bounds a header tells must lead to the very places it tells, and end where the segment does. */
static bool bounds_ok(const struct xheader *h, uint64_t size)
{
    struct xparams params = { .static_slots = h->static_slots, .dynamic_slots = h->dynamic_slots,
                              .clients = h->ports - XSEG_STATIC_PORTS, .volumes = h->volumes, .frames = h->frames,
                              .contents = h->contents };
    struct xheader right;

    memcpy(params.buffers, h->buffers, sizeof(params.buffers));
    memcpy(params.stacks, h->stacks, sizeof(params.stacks));
    if (h->static_slots > SLOTS_MAX || h->dynamic_slots > SLOTS_MAX || !params_ok(&params))
        return false;
    plan(&params, &right);
    right.created_ns = h->created_ns;
    return right.size == size && memcmp(&right, h, offsetof(struct xheader, flow)) == 0;
}

/* 0 if the header is one of ours; *found tells the version met. */
static int check_header(const struct xheader *h, uint64_t size, uint32_t *found)
{
    *found = h->magic == XSEG_MAGIC ? h->version : 0;
    if (h->magic != XSEG_MAGIC || h->version != XSEG_VERSION)
        return -EPROTO;
    return h->layout == XSEG_LAYOUT && bounds_ok(h, size) ? 0 : -EPROTO;
}

int xseg_attach(int fd, struct xseg **out, uint32_t *found)
{
    struct xheader header;
    struct xseg *seg;
    struct stat st;
    int rc;

    *found = 0;
    rc = ours_check(fd, S_IFREG);
    if (rc)
        return rc;
    if (fstat(fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size < sizeof(header))
        return -EPROTO;
    seg = calloc(1, sizeof(*seg));
    if (!seg)
        return -ENOMEM;
    seg->base = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (seg->base == MAP_FAILED) {
        rc = -errno;
        free(seg);
        return rc;
    }
    load_acquire(&((struct xheader *)seg->base)->magic);
    read_once(&header, seg->base, sizeof(header));
    rc = check_header(&header, (uint64_t)st.st_size, found);
    if (rc) {
        munmap(seg->base, (size_t)st.st_size);
        free(seg);
        return rc;
    }
    point(seg, &header);
    *out = seg;
    return 0;
}

void xseg_detach(struct xseg *seg)
{
    for (int i = 0; i < XSEG_BELLS; i++)
        if (seg->bell_fd[i] >= 0)
            close(seg->bell_fd[i]);
    munmap(seg->base, seg->size);
    free(seg);
}

uint64_t xseg_lives(const struct xseg *seg)
{
    uint64_t lives = 0;

    for (uint32_t port = 0; port < XSEG_STATIC_PORTS; port++)
        lives += load_relaxed(&seg->ports[port].incarnation);
    return lives;
}

/* --- volumes -------------------------------------------------------------- */

static bool has_unsynced(const struct xvolume *vol)
{
    return !vol->readonly && (load_relaxed(&vol->dirty) || load_relaxed(&vol->writes_in_flight));
}

void xseg_volume_lost(struct xseg *seg, uint64_t id, int error)
{
    for (uint32_t slot = 0; slot < seg->volume_count; slot++) {
        struct xvolume *vol = &seg->volumes[slot];
        if (load_acquire(&vol->state) != XVOL_FREE && (id ? vol->id == id : has_unsynced(vol)))
            swap_if(&vol->lost, 0u, (uint32_t)-error & XLOST_ERRNO);
    }
}
