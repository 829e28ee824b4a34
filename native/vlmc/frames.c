/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/frames.c - leaf pages of open volumes in the segment.
 *
 * Frames form a set-associative cache: a leaf may be in XMAP_WAYS places, found by their
 * tags alone, so nothing here can be left half linked by a death. A frame may be evicted
 * when nothing in it is dirty, on its way in a commit, pinned or loading. Whose leaf a frame
 * is, and whose each stack, is kept in private memory and found anew by a sweep when vlmc starts.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "vlmc/parts.h"

#define LOAD_CLASS_BYTES XSEG_IO_MAX

void vlmc_entry_publish(struct xentry *entry, uint64_t volume, uint32_t epoch, uint32_t stack)
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
    return v->seg->frame_count / VLMC_DIRTY_SHARE;    /* 1 at least: frames come in sets of 8 */
}

void vlmc_frame_dirty(struct vlmc *v, uint32_t slot, struct xframe *frame)
{
    struct vlmc_volume *volume = &v->volumes[slot];
    uint32_t number = vlmc_frame_number(v, frame);

    if (v->frames[number].listed)
        return;
    v->frames[number].listed = true;
    v->frames[number].dirty_next = volume->dirty_frames;
    volume->dirty_frames = number + 1;
    if (++volume->dirty_frame_count == (dirty_frames_max(v) + 1) / 2)
        vlmc_commit_want(v, slot);
}

bool vlmc_frame_too_dirty(struct vlmc *v, uint32_t slot, const struct xframe *frame)
{
    const struct vlmc_volume *volume = &v->volumes[slot];

    return volume->dirty_entries + volume->committing_entries >= VLMC_DIRTY_HARD
        || (volume->dirty_frame_count >= dirty_frames_max(v) && !v->frames[vlmc_frame_number(v, frame)].listed);
}

void vlmc_entry_dirty(struct vlmc *v, uint32_t slot, struct xframe *frame, uint64_t block)
{
    struct vlmc_volume *volume = &v->volumes[slot];
    uint32_t i = block % XMAP_LEAF;

    if (!(frame->dirty[i / 32] >> (i % 32) & 1)) {
        store_release(&frame->dirty[i / 32], frame->dirty[i / 32] | 1u << (i % 32));
        if (++volume->dirty_entries == VLMC_DIRTY_SOFT)
            vlmc_commit_want(v, slot);
    }
    vlmc_frame_dirty(v, slot, frame);
}

/* --- evicting --------------------------------------------------------------------- */

static bool is_clean(const struct vlmc_frame *mine)
{
    return mine->valid && mine->pins == 0 && !mine->listed && !mine->committing && queue_empty(&mine->waiting);
}

static void drop_frame(struct vlmc *v, struct xframe *frame)
{
    struct vlmc_frame *mine = &v->frames[vlmc_frame_number(v, frame)];

    store_release(&frame->valid, 0u);
    for (uint64_t i = 0; i < XMAP_LEAF; i++) {
        const struct xentry entry = entry_read(frame, i);
        vlmc_record_give(v, frame, &entry);
    }
    memset(frame->entry, 0, sizeof(frame->entry));
    store_release(&frame->volume_id, 0ull);
    mine->valid = false;
    mine->id = 0;
}

/* True if it has, or may have, records of a class. */
static bool has_class(const struct vlmc_frame *mine, uint32_t class)
{
    return class == VLMC_CONTENTS ? mine->contents > 0 : map_stack_class(mine->block_shift) == class;
}

static struct xframe *oldest_clean(struct vlmc *v, uint32_t first, uint32_t count, uint32_t class_wanted)
{
    const struct vlmc_frame *oldest = NULL;

    for (uint32_t i = first; i < first + count; i++) {
        const struct vlmc_frame *mine = &v->frames[i];

        if (mine->id == 0 || !is_clean(mine))
            continue;
        if (class_wanted != UINT32_MAX && !has_class(mine, class_wanted))
            continue;
        if (!oldest || mine->used < oldest->used)
            oldest = mine;
    }
    return oldest ? &v->seg->frames[oldest - v->frames] : NULL;
}

/* Asks for commits of all volumes with dirty frames, so that some become clean. */
static void want_all_commits(struct vlmc *v)
{
    for (uint32_t slot = 0; slot < v->volume_end; slot++)
        if (v->volumes[slot].dirty_frames)
            vlmc_commit_want(v, slot);
}

static uint32_t take(struct vlmc *v, const struct xframe *frame, uint32_t class)
{
    uint32_t stack;

    while (v->stack_free_count[class] == 0) {
        struct xframe *oldest = oldest_clean(v, 0, v->seg->frame_count, class);
        if (!oldest) {
            want_all_commits(v);
            return 0;
        }
        drop_frame(v, oldest);
    }
    stack = v->stack_free[class][--v->stack_free_count[class]];
    v->stack_owner[class][stack - 1] = vlmc_frame_number(v, frame) + 1;
    return stack;
}

uint32_t vlmc_stack_take(struct vlmc *v, const struct xframe *frame)
{
    return take(v, frame, vlmc_frame_stack_class(v, frame));
}

uint32_t vlmc_content_take(struct vlmc *v, const struct xframe *frame)
{
    uint32_t number = take(v, frame, VLMC_CONTENTS);

    v->frames[vlmc_frame_number(v, frame)].contents += number != 0;
    return number;
}

void vlmc_frame_pin(struct vlmc *v, const struct xframe *frame)
{
    v->frames[vlmc_frame_number(v, frame)].pins++;
}

void vlmc_frame_unpin(struct vlmc *v, const struct xframe *frame)
{
    struct vlmc_frame *mine = &v->frames[vlmc_frame_number(v, frame)];

    assert(mine->pins > 0);
    mine->pins--;
}

/* --- finding ------------------------------------------------------------------------ */

/* Number of the first frame of the set in which a leaf may be. */
static uint32_t set_of(const struct vlmc *v, uint64_t id, uint64_t leaf)
{
    uint64_t hash = (id ^ leaf * 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu;
    uint64_t sets = v->seg->frame_count / XMAP_WAYS;

    return (uint32_t)((hash >> 20) % sets * XMAP_WAYS);
}

static struct xframe *find(struct vlmc *v, uint64_t id, uint64_t leaf)
{
    uint32_t set = set_of(v, id, leaf);

    for (uint32_t i = set; i < set + XMAP_WAYS; i++)
        if (v->frames[i].id == id && v->frames[i].leaf == leaf)
            return &v->seg->frames[i];
    return NULL;
}

static struct xframe *victim(struct vlmc *v, uint64_t id, uint64_t leaf)
{
    uint32_t set = set_of(v, id, leaf);
    struct xframe *oldest;

    for (uint32_t i = set; i < set + XMAP_WAYS; i++)
        if (v->frames[i].id == 0)
            return &v->seg->frames[i];
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
    struct vlmc_frame *mine = &v->frames[vlmc_frame_number(v, frame)];

    *mine = (struct vlmc_frame){ .id = id, .leaf = leaf, .slot = slot, .block_shift = v->volumes[slot].block_shift };
    memset(frame->entry, 0, sizeof(frame->entry));
    memset(frame->dirty, 0, sizeof(frame->dirty));
    memset(frame->committing, 0, sizeof(frame->committing));
    frame->valid = 0;
    frame->slot = slot;
    frame->stack_class = vlmc_frame_stack_class(v, frame);
    frame->leaf = leaf;
    store_release(&frame->volume_id, id);
}

/* Sends a MAP_LOAD from block `first` to the end of the leaf. FORCE: what the mapper remembers may be old. */
static void send_load(struct vlmc *v, struct xreq *child, uint64_t first, uint16_t flags)
{
    child->op = XOP_MAP_LOAD;
    child->offset = first;
    child->size = XMAP_LEAF - first % XMAP_LEAF;
    child->flags = flags;
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
    note_of(child)->kind = VLMC_CHILD_LOAD;
    note_of(child)->frame = vlmc_frame_number(v, frame);
    return child;
}

static void load(struct vlmc *v, struct xreq *req, uint64_t id, uint64_t leaf, uint16_t flags)
{
    struct xframe *frame = victim(v, id, leaf);
    struct xreq *child = frame ? load_child(v, req, frame) : NULL;

    if (!child) {
        peer_park(v->peer, req);
        return;
    }
    begin_frame(v, frame, id, leaf, req->volume - 1);
    queue_push(v->peer, &v->frames[vlmc_frame_number(v, frame)].waiting, req);
    send_load(v, child, leaf * XMAP_LEAF, flags);
}

void vlmc_frame_stale(struct vlmc *v, uint32_t slot, uint64_t block)
{
    struct xframe *frame = find(v, v->volumes[slot].id, block / XMAP_LEAF);

    if (frame)
        v->frames[vlmc_frame_number(v, frame)].stale = true;
}

/* False: something in it is the volume's own by now, and it stays as it is. */
static bool drop_stale(struct vlmc *v, struct vlmc_frame *mine)
{
    mine->stale = false;
    if (!is_clean(mine))
        return false;
    drop_frame(v, &v->seg->frames[mine - v->frames]);
    return true;
}

struct xframe *vlmc_frame_get(struct vlmc *v, struct xreq *req, uint64_t block)
{
    struct vlmc_volume *volume = volume_of(v, req);
    uint64_t id = volume->id, leaf = block / XMAP_LEAF;
    struct vlmc_frame *mine = volume->last_frame ? &v->frames[volume->last_frame - 1] : NULL;
    struct xframe *frame;

    if (!mine || mine->id != id || mine->leaf != leaf) {
        frame = find(v, id, leaf);
        if (!frame) {
            load(v, req, id, leaf, io_of(req)->missed == VLMC_MISSED_BEFORE ? XREQ_FORCE : 0);
            return NULL;
        }
        mine = &v->frames[vlmc_frame_number(v, frame)];
    }
    if (mine->stale && drop_stale(v, mine)) {
        load(v, req, id, leaf, XREQ_FORCE);
        return NULL;
    }
    if (!mine->valid) {
        queue_push(v->peer, &mine->waiting, req);
        return NULL;
    }
    mine->used = v->turn;
    volume->last_frame = (uint32_t)(mine - v->frames) + 1;
    return &v->seg->frames[mine - v->frames];
}

struct xframe *vlmc_frame_here(struct vlmc *v, uint32_t slot, uint64_t block)
{
    struct xframe *frame = find(v, v->volumes[slot].id, block / XMAP_LEAF);

    return frame && v->frames[vlmc_frame_number(v, frame)].valid ? frame : NULL;
}

struct xframe *vlmc_frame_pinned(struct vlmc *v, uint32_t slot, uint64_t block)
{
    struct xframe *frame = find(v, v->volumes[slot].id, block / XMAP_LEAF);

    assert(frame && v->frames[vlmc_frame_number(v, frame)].valid && v->frames[vlmc_frame_number(v, frame)].pins > 0);
    return frame;
}

/* --- loading -------------------------------------------------------------------------- */

static int decode_content(struct vlmc *v, struct xframe *frame, const struct map_item *item)
{
    uint32_t number = vlmc_content_take(v, frame);

    if (!number)
        return -ENOBUFS;
    memcpy(v->seg->contents[number - 1].digest, item->layer[0].digest, sizeof(item->layer[0].digest));
    vlmc_entry_publish(entry_of(frame, item->block), XENTRY_CONTENT, 0, number);
    return 0;
}

static int decode_item(struct vlmc *v, struct xframe *frame, const struct map_item *item)
{
    uint32_t class = vlmc_frame_stack_class(v, frame), stack = 0;
    struct xentry entry;

    if (item->block / XMAP_LEAF != v->frames[vlmc_frame_number(v, frame)].leaf)
        return -EBADMSG;
    if (item->layers == 1 && item->layer[0].kind == XOBJ_CONTENT)
        return decode_content(v, frame, item);
    if (item->layers > 1) {
        stack = vlmc_stack_take(v, frame);
        if (!stack)
            return -ENOBUFS;
    }
    item_to_entry(item, &entry, stack ? vlmc_stack_at(v, class, stack) : NULL);
    if (stack)                      /* a record of one layer says nothing of bitmaps */
        vlmc_stack_at(v, class, stack)->bitmap_size = map_bitmap_size(vlmc_frame_block_shift(v, frame));
    vlmc_entry_publish(entry_of(frame, item->block), entry.volume, entry.epoch, stack);
    return 0;
}

static int decode(struct vlmc *v, struct xframe *frame, const struct xreq *child)
{
    struct record_info info;
    struct map_item item;
    uint64_t at = 0;
    int rc;

    if (child->done > child->data_size || child->done > XSEG_IO_MAX)
        return -EBADMSG;
    read_once(v->record, xreq_data(v->seg, child), child->done);
    if (record_check(v->record, child->done, &info) || info.kind != RECORD_LEAF
        || info.block_shift != vlmc_frame_block_shift(v, frame))
        return -EBADMSG;
    while ((rc = record_next(v->record, &at, &item)) == 1) {
        rc = decode_item(v, frame, &item);
        if (rc)
            return rc;
    }
    return rc;
}

/* The load failed: who waited fails with it, or tries again when memory ran short. */
static void load_failed(struct vlmc *v, struct xframe *frame, int error)
{
    struct queue waiting = v->frames[vlmc_frame_number(v, frame)].waiting;
    struct xreq *req;

    v->frames[vlmc_frame_number(v, frame)].waiting = (struct queue){ 0 };
    drop_frame(v, frame);
    while ((req = queue_pop(v->peer, &waiting))) {
        if (error == -ENOBUFS)
            peer_park(v->peer, req);
        else
            vlmc_io_fail(v, req, error);
    }
}

void vlmc_frame_loaded(struct vlmc *v, struct xreq *child)
{
    struct xframe *frame = &v->seg->frames[note_of(child)->frame];
    struct vlmc_frame *mine = &v->frames[note_of(child)->frame];
    struct queue waiting;
    int error = child->error ? child->error : decode(v, frame, child);

    if (error == 0 && (child->flags & XREQ_MORE)) {
        uint64_t next = child->arg;
        if (next > child->offset && next / XMAP_LEAF == mine->leaf) {
            send_load(v, child, next, 0);
            return;
        }
        error = -EBADMSG;
    }
    xreq_put(v->peer->port, child);
    if (error) {
        load_failed(v, frame, error);
        return;
    }
    mine->used = v->turn;
    mine->valid = true;
    store_release(&frame->valid, 1u);
    waiting = mine->waiting;
    mine->waiting = (struct queue){ 0 };
    vlmc_wake(v, &waiting);
}

void vlmc_frames_forget(struct vlmc *v, uint32_t slot)
{
    for (uint32_t i = 0; i < v->seg->frame_count; i++) {
        const struct vlmc_frame *mine = &v->frames[i];

        if (mine->id && mine->slot == slot) {
            assert(mine->pins == 0 && !mine->listed);
            drop_frame(v, &v->seg->frames[i]);
        }
    }
    v->volumes[slot].last_frame = 0;
}

/* --- starting --------------------------------------------------------------------------- */

/* What an earlier life left of a frame, if it makes sense: a leaf of a volume that is open, at its place, and no
 * other frame's. */
static bool read_frame(struct vlmc *v, uint32_t number)
{
    const struct xframe *frame = &v->seg->frames[number];
    struct vlmc_frame mine = { .id = load_relaxed(&frame->volume_id), .leaf = load_relaxed(&frame->leaf),
                          .slot = load_relaxed(&frame->slot), .valid = true };
    const struct vlmc_volume *volume = mine.slot < v->seg->volume_count ? &v->volumes[mine.slot] : NULL;

    if (!mine.id || !load_relaxed(&frame->valid) || !volume || !volume->block_shift || volume->id != mine.id)
        return false;
    mine.block_shift = volume->block_shift;
    if (mine.leaf > (UINT64_MAX >> volume->block_shift) / XMAP_LEAF
        || number - set_of(v, mine.id, mine.leaf) >= XMAP_WAYS || find(v, mine.id, mine.leaf))
        return false;
    v->frames[number] = mine;
    return true;
}

/* What an entry names is its frame's own, unless another has it. */
static void adopt_record(struct vlmc *v, uint32_t number, const struct xentry *entry)
{
    struct vlmc_frame *mine = &v->frames[number];
    uint32_t class = is_content(entry) ? VLMC_CONTENTS : map_stack_class(mine->block_shift);

    if (!entry->stack || entry->stack > vlmc_record_count(v, class) || v->stack_owner[class][entry->stack - 1])
        return;
    v->stack_owner[class][entry->stack - 1] = number + 1;
    mine->contents += class == VLMC_CONTENTS;
}

/* Takes over a frame that an earlier life left, or frees it. */
static void adopt_frame(struct vlmc *v, uint32_t number)
{
    struct xframe *frame = &v->seg->frames[number];
    struct vlmc_frame *mine = &v->frames[number];

    if (!read_frame(v, number)) {
        frame->valid = 0;
        frame->volume_id = 0;
        return;
    }
    for (uint32_t i = 0; i < XMAP_LEAF; i++) {
        const struct xentry entry = entry_read(frame, i);
        uint32_t bit = 1u << (i % 32);
        adopt_record(v, number, &entry);
        if (frame->committing[i / 32] & bit)
            frame->dirty[i / 32] |= bit;
        if (frame->dirty[i / 32] & bit) {
            frame->dirty[i / 32] &= ~bit;
            vlmc_entry_dirty(v, mine->slot, frame, mine->leaf * XMAP_LEAF + i);
        }
    }
    memset(frame->committing, 0, sizeof(frame->committing));
}

static void sweep(struct vlmc *v)
{
    for (uint32_t i = 0; i < v->seg->frame_count; i++)
        if (v->seg->frames[i].volume_id)
            adopt_frame(v, i);
    for (uint32_t class = 0; class < VLMC_CLASSES; class++)
        for (uint32_t s = vlmc_record_count(v, class); s > 0; s--)
            if (!v->stack_owner[class][s - 1])
                v->stack_free[class][v->stack_free_count[class]++] = s;
}

int vlmc_frames_start(struct vlmc *v)
{
    bool ok;

    v->frames = calloc(v->seg->frame_count, sizeof(*v->frames));
    v->record = malloc(XSEG_IO_MAX);
    ok = v->frames && v->record;
    for (uint32_t class = 0; class < VLMC_CLASSES; class++) {
        v->stack_free[class] = calloc(vlmc_record_count(v, class), sizeof(uint32_t));
        v->stack_owner[class] = calloc(vlmc_record_count(v, class), sizeof(uint32_t));
        ok = ok && v->stack_free[class] && v->stack_owner[class];
    }
    if (ok)
        sweep(v);
    return ok ? 0 : -ENOMEM;
}

void vlmc_frames_stop(struct vlmc *v)
{
    for (uint32_t class = 0; class < VLMC_CLASSES; class++) {
        free(v->stack_free[class]);
        free(v->stack_owner[class]);
    }
    free(v->record);
    free(v->frames);
}
