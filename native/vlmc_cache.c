/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc_cache.c - leaf pages of open volumes in the segment, and the stack records they use.
 *
 * Frames form a set-associative cache: a leaf may be in XMAP_WAYS places, found by their
 * tags alone, so nothing here can be left half linked by a death. A frame may be evicted
 * when nothing in it is dirty, on its way in a commit, pinned or loading. Free stacks are
 * kept in private memory and found anew by a sweep when vlmc starts.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "vlmc.h"

#define LOAD_CLASS_BYTES XSEG_IO_MAX

static uint32_t frame_number(const struct vlmc *v, const struct xframe *frame)
{
    return (uint32_t)(frame - v->seg->frames);
}

/* --- entries ------------------------------------------------------------------ */

void entry_publish(struct xentry *entry, uint64_t volume, uint32_t epoch, uint32_t stack)
{
    struct xentry value = { volume, epoch, stack };
#if defined(__SSE2__)
    _mm_store_si128((__m128i *)entry, _mm_loadu_si128((const __m128i *)&value));
#elif defined(__aarch64__)
    uint64_t words[2];
    memcpy(words, &value, sizeof(words));
    __asm__ volatile("stp %1, %2, %0" : "=Q"(*entry) : "r"(words[0]), "r"(words[1]));
#else
#error "needs a 16-byte store that is one instruction"
#endif
}

static uint32_t dirty_frames_max(const struct vlmc *v)
{
    return v->seg->frame_count / DIRTY_SHARE;    /* 1 at least: frames come in sets of 8 */
}

void frame_dirty(struct vlmc *v, uint32_t slot, struct xframe *frame)
{
    struct volume *volume = &v->volumes[slot];
    uint32_t number = frame_number(v, frame);

    if (v->frames[number].listed)
        return;
    v->frames[number].listed = true;
    v->frames[number].dirty_next = volume->dirty_frames;
    volume->dirty_frames = number + 1;
    if (++volume->dirty_frame_count == (dirty_frames_max(v) + 1) / 2)
        commit_want(v, slot);
}

bool cache_too_dirty(struct vlmc *v, uint32_t slot, const struct xframe *frame)
{
    const struct volume *volume = &v->volumes[slot];

    return volume->dirty_entries + volume->committing_entries >= DIRTY_HARD
        || (volume->dirty_frame_count >= dirty_frames_max(v) && !v->frames[frame_number(v, frame)].listed);
}

void entry_dirty(struct vlmc *v, uint32_t slot, struct xframe *frame, uint64_t block)
{
    struct volume *volume = &v->volumes[slot];
    uint32_t i = block % XMAP_LEAF;

    if (!(frame->dirty[i / 32] >> (i % 32) & 1)) {
        store_release(&frame->dirty[i / 32], frame->dirty[i / 32] | 1u << (i % 32));
        if (++volume->dirty_entries == DIRTY_SOFT)
            commit_want(v, slot);
    }
    frame_dirty(v, slot, frame);
}

bool bits_all_set(const uint8_t *bitmap, uint64_t first, uint64_t count)
{
    for (uint64_t bit = first; bit < first + count; bit++) {
        if (bit % 8 == 0 && first + count - bit >= 8 && bitmap[bit / 8] == 0xff)
            bit += 7;
        else if (!bit_is_set(bitmap, bit))
            return false;
    }
    return true;
}

/* --- stacks --------------------------------------------------------------------- */

struct xstack *stack_at(const struct vlmc *v, uint32_t class, uint32_t stack)
{
    assert(stack != 0 && stack <= v->seg->stack_count[class]);
    return (struct xstack *)(v->seg->stacks[class] + (stack - 1) * xstack_size(class));
}

struct xstack *stack_of(const struct vlmc *v, const struct xvolume *vol, const struct xentry *entry)
{
    return entry->stack ? stack_at(v, map_stack_class(vol->block_shift), entry->stack) : NULL;
}

static void give_back(struct vlmc *v, uint32_t class, uint32_t stack)
{
    if (stack == 0)
        return;
    assert(v->stack_free_count[class] < v->seg->stack_count[class]);
    v->stack_free[class][v->stack_free_count[class]++] = stack;
}

void stack_give(struct vlmc *v, const struct xvolume *vol, uint32_t stack)
{
    give_back(v, map_stack_class(vol->block_shift), stack);
}

/* --- evicting --------------------------------------------------------------------- */

static bool any_bits(const uint32_t bits[XMAP_LEAF / 32])
{
    for (int i = 0; i < XMAP_LEAF / 32; i++)
        if (bits[i])
            return true;
    return false;
}

static bool is_clean(const struct vlmc *v, const struct xframe *frame)
{
    const struct frame *mine = &v->frames[frame_number(v, frame)];

    return frame->valid && mine->pins == 0 && !mine->listed && queue_empty(&mine->waiting)
        && !any_bits(frame->dirty) && !any_bits(frame->committing);
}

static void drop_frame(struct vlmc *v, struct xframe *frame)
{
    store_release(&frame->valid, 0u);
    for (uint32_t i = 0; i < XMAP_LEAF; i++)
        give_back(v, frame->stack_class, frame->entry[i].stack);
    memset(frame->entry, 0, sizeof(frame->entry));
    store_release(&frame->volume_id, 0ull);
}

static struct xframe *oldest_clean(struct vlmc *v, struct xframe *frames, uint32_t count,
                                   uint32_t class_wanted)
{
    struct xframe *oldest = NULL;

    for (uint32_t i = 0; i < count; i++) {
        if (frames[i].volume_id == 0 || !is_clean(v, &frames[i]))
            continue;
        if (class_wanted != UINT32_MAX && frames[i].stack_class != class_wanted)
            continue;
        if (!oldest || frames[i].used < oldest->used)
            oldest = &frames[i];
    }
    return oldest;
}

/* Asks for commits of all volumes with dirty frames, so that some become clean. */
static void want_all_commits(struct vlmc *v)
{
    for (uint32_t slot = 0; slot < XSEG_VOLUMES; slot++)
        if (v->volumes[slot].dirty_frames)
            commit_want(v, slot);
}

uint32_t stack_take(struct vlmc *v, const struct xvolume *vol)
{
    uint32_t class = map_stack_class(vol->block_shift);

    while (v->stack_free_count[class] == 0) {
        struct xframe *frame = oldest_clean(v, v->seg->frames, v->seg->frame_count, class);
        if (!frame) {
            want_all_commits(v);
            return 0;
        }
        drop_frame(v, frame);
    }
    return v->stack_free[class][--v->stack_free_count[class]];
}

void cache_pin(struct vlmc *v, const struct xframe *frame)
{
    v->frames[frame_number(v, frame)].pins++;
}

void cache_unpin(struct vlmc *v, const struct xframe *frame)
{
    struct frame *mine = &v->frames[frame_number(v, frame)];

    assert(mine->pins > 0);
    mine->pins--;
}

/* --- finding ------------------------------------------------------------------------ */

static struct xframe *set_of(const struct vlmc *v, uint64_t id, uint64_t leaf)
{
    uint64_t hash = (id ^ leaf * 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu;
    uint64_t sets = v->seg->frame_count / XMAP_WAYS;

    return &v->seg->frames[(hash >> 20) % sets * XMAP_WAYS];
}

static struct xframe *find(struct vlmc *v, uint64_t id, uint64_t leaf)
{
    struct xframe *set = set_of(v, id, leaf);

    for (uint32_t way = 0; way < XMAP_WAYS; way++)
        if (set[way].volume_id == id && set[way].leaf == leaf)
            return &set[way];
    return NULL;
}

static struct xframe *victim(struct vlmc *v, uint64_t id, uint64_t leaf)
{
    struct xframe *set = set_of(v, id, leaf), *oldest;

    for (uint32_t way = 0; way < XMAP_WAYS; way++)
        if (set[way].volume_id == 0)
            return &set[way];
    oldest = oldest_clean(v, set, XMAP_WAYS, UINT32_MAX);
    if (oldest)
        drop_frame(v, oldest);
    else
        want_all_commits(v);
    return oldest;
}

static void begin_frame(struct vlmc *v, struct xframe *frame, uint64_t id, uint64_t leaf,
                        uint32_t slot)
{
    memset(frame->entry, 0, sizeof(frame->entry));
    memset(frame->dirty, 0, sizeof(frame->dirty));
    memset(frame->committing, 0, sizeof(frame->committing));
    frame->valid = 0;
    frame->slot = slot;
    frame->stack_class = map_stack_class(v->seg->volumes[slot].block_shift);
    frame->leaf = leaf;
    store_release(&frame->volume_id, id);
}

/* Sends a MAP_LOAD from block `first` to the end of the leaf. */
static void send_load(struct vlmc *v, struct xreq *child, uint64_t first)
{
    child->op = XOP_MAP_LOAD;
    child->offset = first;
    child->size = XMAP_LEAF - first % XMAP_LEAF;
    child->flags = 0;
    peer_send(v->peer, child, VLMC_MAPPER);
}

static struct xreq *load_child(struct vlmc *v, struct xreq *req, struct xframe *frame)
{
    struct xreq *child = xreq_get(v->peer->port);

    if (!child)
        return NULL;
    if (xbuf_get(v->peer->port, child, LOAD_CLASS_BYTES)
        && xbuf_get(v->peer->port, child, xbuffer_size(1))) {
        xreq_put(v->peer->port, child);
        return NULL;
    }
    child->flow = req->flow;
    child->volume = req->volume;
    child->sender[0] = CHILD_LOAD;
    child->client = frame_number(v, frame);
    return child;
}

static void load(struct vlmc *v, struct xreq *req, uint64_t id, uint64_t leaf)
{
    struct xframe *frame = victim(v, id, leaf);
    struct xreq *child = frame ? load_child(v, req, frame) : NULL;

    if (!child) {
        starve(v, req);
        return;
    }
    begin_frame(v, frame, id, leaf, req->volume - 1);
    queue_push(v->peer, &v->frames[frame_number(v, frame)].waiting, req);
    send_load(v, child, leaf * XMAP_LEAF);
}

struct xframe *cache_get(struct vlmc *v, struct xreq *req, uint64_t block)
{
    struct volume *volume = volume_of(v, req);
    uint64_t id = xvolume_of(v, req)->id, leaf = block / XMAP_LEAF;
    struct xframe *frame = volume->last_frame ? &v->seg->frames[volume->last_frame - 1] : NULL;

    if (!frame || frame->volume_id != id || frame->leaf != leaf)
        frame = find(v, id, leaf);
    if (!frame) {
        load(v, req, id, leaf);
        return NULL;
    }
    if (!frame->valid) {
        queue_push(v->peer, &v->frames[frame_number(v, frame)].waiting, req);
        return NULL;
    }
    frame->used = v->turn;
    volume->last_frame = frame_number(v, frame) + 1;
    return frame;
}

struct xframe *cache_pinned(struct vlmc *v, uint32_t slot, uint64_t block)
{
    struct xframe *frame = find(v, v->seg->volumes[slot].id, block / XMAP_LEAF);

    assert(frame && frame->valid && v->frames[frame_number(v, frame)].pins > 0);
    return frame;
}

/* --- loading -------------------------------------------------------------------------- */

static int decode_item(struct vlmc *v, struct xframe *frame, const struct map_item *item)
{
    const struct xvolume *vol = &v->seg->volumes[frame->slot];
    struct xentry entry;
    uint32_t stack = 0;

    if (item->block / XMAP_LEAF != frame->leaf)
        return -EBADMSG;
    if (item->layers > 1 || (item->layers == 1 && item->layer[0].kind != XOBJ_DATA)) {
        stack = stack_take(v, vol);
        if (!stack)
            return -ENOBUFS;
    }
    item_to_entry(item, &entry,
                  stack ? stack_at(v, map_stack_class(vol->block_shift), stack) : NULL);
    entry_publish(entry_of(frame, item->block), entry.volume, entry.epoch, stack);
    return 0;
}

static int decode(struct vlmc *v, struct xframe *frame, const struct xreq *child)
{
    const struct xvolume *vol = &v->seg->volumes[frame->slot];
    const void *buf = xreq_data(v->seg, child);
    struct record_info info;
    struct map_item item;
    uint64_t at = 0;
    int rc;

    if (child->done > child->data_size || record_check(buf, child->done, &info)
        || info.kind != RECORD_LEAF || info.block_shift != vol->block_shift)
        return -EBADMSG;
    while ((rc = record_next(buf, &at, &item)) == 1) {
        rc = decode_item(v, frame, &item);
        if (rc)
            return rc;
    }
    return rc;
}

/* The load failed: who waited fails with it, or tries again when memory ran short. */
static void load_failed(struct vlmc *v, struct xframe *frame, int error)
{
    struct queue waiting = v->frames[frame_number(v, frame)].waiting;
    struct xreq *req;

    v->frames[frame_number(v, frame)].waiting = (struct queue){ 0 };
    drop_frame(v, frame);
    while ((req = queue_pop(v->peer, &waiting))) {
        if (error == -ENOBUFS)
            starve(v, req);
        else
            io_fail(v, req, error);
    }
}

void cache_loaded(struct vlmc *v, struct xreq *child)
{
    struct xframe *frame = &v->seg->frames[child->client];
    struct queue waiting;
    int error = child->error ? child->error : decode(v, frame, child);

    if (error == 0 && (child->flags & XREQ_MORE)) {
        uint64_t next = child->arg;
        if (next > child->offset && next / XMAP_LEAF == frame->leaf) {
            send_load(v, child, next);
            return;
        }
        error = -EBADMSG;
    }
    xreq_put(v->peer->port, child);
    if (error) {
        load_failed(v, frame, error);
        return;
    }
    frame->used = v->turn;
    store_release(&frame->valid, 1u);
    waiting = v->frames[frame_number(v, frame)].waiting;
    v->frames[frame_number(v, frame)].waiting = (struct queue){ 0 };
    run_queue(v, &waiting);
}

void cache_forget(struct vlmc *v, uint32_t slot)
{
    uint64_t id = v->seg->volumes[slot].id;

    for (uint32_t i = 0; i < v->seg->frame_count; i++) {
        struct xframe *frame = &v->seg->frames[i];
        if (frame->volume_id == id && frame->slot == slot) {
            assert(v->frames[i].pins == 0 && !v->frames[i].listed);
            drop_frame(v, frame);
        }
    }
    v->volumes[slot].last_frame = 0;
}

/* --- starting --------------------------------------------------------------------------- */

/* Takes over a frame that an earlier life left, or frees it. Marks its stacks as used. */
static void adopt_frame(struct vlmc *v, struct xframe *frame, uint8_t *used[XMAP_STACK_CLASSES])
{
    const struct xvolume *vol = &v->seg->volumes[frame->slot % XSEG_VOLUMES];
    uint32_t class = frame->stack_class;

    if (!frame->valid || class >= XMAP_STACK_CLASSES || frame->slot >= XSEG_VOLUMES || vol->id != frame->volume_id
        || (vol->state != XVOL_OPEN && vol->state != XVOL_CLOSING)) {
        frame->valid = 0;
        frame->volume_id = 0;
        return;
    }
    for (uint32_t i = 0; i < XMAP_LEAF; i++) {
        uint32_t bit = 1u << (i % 32), stack = frame->entry[i].stack;
        if (stack && stack <= v->seg->stack_count[class])
            used[class][stack - 1] = 1;
        if (frame->committing[i / 32] & bit)
            frame->dirty[i / 32] |= bit;
        if (frame->dirty[i / 32] & bit) {
            frame->dirty[i / 32] &= ~bit;
            entry_dirty(v, frame->slot, frame, frame->leaf * XMAP_LEAF + i);
        }
    }
    memset(frame->committing, 0, sizeof(frame->committing));
}

static void sweep(struct vlmc *v, uint8_t *used[XMAP_STACK_CLASSES])
{
    for (uint32_t i = 0; i < v->seg->frame_count; i++)
        if (v->seg->frames[i].volume_id)
            adopt_frame(v, &v->seg->frames[i], used);
    for (uint32_t class = 0; class < XMAP_STACK_CLASSES; class++)
        for (uint32_t s = v->seg->stack_count[class]; s > 0; s--)
            if (!used[class][s - 1])
                v->stack_free[class][v->stack_free_count[class]++] = s;
}

int cache_start(struct vlmc *v)
{
    uint8_t *used[XMAP_STACK_CLASSES] = { NULL };
    bool ok;

    v->frames = calloc(v->seg->frame_count, sizeof(*v->frames));
    ok = v->frames != NULL;
    for (uint32_t class = 0; class < XMAP_STACK_CLASSES; class++) {
        v->stack_free[class] = calloc(v->seg->stack_count[class], sizeof(uint32_t));
        used[class] = calloc(v->seg->stack_count[class], 1);
        ok = ok && v->stack_free[class] && used[class];
    }
    if (ok)
        sweep(v, used);
    for (uint32_t class = 0; class < XMAP_STACK_CLASSES; class++)
        free(used[class]);
    return ok ? 0 : -ENOMEM;
}

void cache_stop(struct vlmc *v)
{
    for (uint32_t class = 0; class < XMAP_STACK_CLASSES; class++)
        free(v->stack_free[class]);
    free(v->frames);
}
