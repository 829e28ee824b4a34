/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/capture.c - encoding the dirty entries of a volume into the records of a commit.
 */
#include <errno.h>
#include <stdlib.h>

#include "vlmc/parts.h"

#define STACK_BYTES_MAX 3648        /* of a record of the largest class */
#define SMALL_COMMIT 64             /* dirty entries that surely fit a few buffers of 64 KiB */

struct capture {
    struct vlmc *v;
    uint32_t slot;
    struct record record;           /* open while child is set */
    struct xreq *child;
    uint64_t buffer_size;
    int error;
    union { struct xstack stack; uint8_t bytes[STACK_BYTES_MAX]; } copy;    /* of the entry's */
};

static struct xreq *record_child(struct capture *c)
{
    struct port *port = c->v->peer->port;
    struct xreq *child = xreq_get(port);

    if (!child)
        return NULL;
    if (xbuf_get(port, child, c->buffer_size) && xbuf_get(port, child, xbuffer_size(1))) {
        xreq_put(port, child);
        return NULL;
    }
    child->op = XOP_MAP_COMMIT;
    child->volume = c->slot + 1;
    note_of(child)->kind = VLMC_CHILD_COMMIT;
    note_of(child)->slot = c->slot;
    return child;
}

static bool open_record(struct capture *c)
{
    struct vlmc_volume *volume = &c->v->volumes[c->slot];
    const struct xvolume *vol = &c->v->seg->volumes[c->slot];
    struct record_info info = {
        .kind = RECORD_JOURNAL, .volume = volume->id, .epoch = vol->epoch,
        .seq = vol->commit_seq + 1 + volume->record_count, .block_shift = volume->block_shift,
    };

    if (volume->record_count == VLMC_COMMIT_RECORDS || !(c->child = record_child(c))) {
        c->error = -ENOBUFS;
        return false;
    }
    record_begin(&c->record, xreq_data(c->v->seg, c->child),
                 c->child->data_size / RECORD_ALIGN * RECORD_ALIGN, &info);
    volume->record[volume->record_count++] = c->child->index + 1;
    return true;
}

static void close_record(struct capture *c, uint32_t flags)
{
    c->record.info.flags = flags;
    c->child->size = record_end(&c->record, RECORD_ALIGN);
    c->child->flags = flags & RECORD_MARK ? XREQ_SNAPSHOT_MARK : 0;
    c->child = NULL;
}

/* The stack of an entry; of one that is one content, one is made. False: it makes no sense. */
static bool copy_stack(struct capture *c, const struct xframe *frame, const struct xentry *entry)
{
    if (!is_content(entry))
        return vlmc_stack_copy(c->v, frame, entry, &c->copy.stack);
    c->copy.stack = (struct xstack){ .layers = 1, .layer[0].kind = XOBJ_CONTENT };
    return vlmc_content_of(c->v, frame, entry, c->copy.stack.digest);
}

static void capture_entry(struct capture *c, struct xframe *frame, uint64_t block)
{
    const struct xentry entry = entry_read(frame, block);
    const struct xstack *stack = entry.stack ? &c->copy.stack : NULL;

    if (entry.stack && !copy_stack(c, frame, &entry)) {
        c->error = -EIO;            /* it makes no sense: the volume has lost what it had there */
        return;
    }
    if (!c->child && !open_record(c))
        return;
    if (record_add(&c->record, block, &entry, stack) == 0)
        return;
    close_record(c, 0);
    if (open_record(c) && record_add(&c->record, block, &entry, stack))
        c->error = -EIO;            /* an entry that fits no empty record: cannot be */
}

/* Marks all dirty entries as committing, after an error too: vlmc_capture_end() makes them dirty again. */
static void capture_frame(struct capture *c, struct xframe *frame)
{
    uint64_t leaf = c->v->frames[frame - c->v->seg->frames].leaf;

    for (uint32_t word = 0; word < XMAP_LEAF / 32; word++) {
        uint32_t bits = frame->dirty[word];
        for (uint32_t left = bits; left && c->error == 0; left &= left - 1)
            capture_entry(c, frame, leaf * XMAP_LEAF + word * 32
                                    + (uint32_t)__builtin_ctz(left));
        store_release(&frame->committing[word], frame->committing[word] | bits);
        store_release(&frame->dirty[word], 0u);
    }
}

static int by_leaf(const void *a, const void *b, void *arg)
{
    const struct vlmc_frame *frames = arg;
    uint64_t x = frames[*(const uint32_t *)a].leaf, y = frames[*(const uint32_t *)b].leaf;

    return x < y ? -1 : x > y;
}

/* Turns the list of dirty frames into the list of committing ones; returns them sorted. */
static uint32_t *take_dirty_frames(struct vlmc *v, struct vlmc_volume *volume, uint32_t *count)
{
    uint32_t *numbers, n = 0;

    for (uint32_t at = volume->dirty_frames; at; at = v->frames[at - 1].dirty_next)
        n++;
    numbers = malloc((n + 1) * sizeof(*numbers));
    if (!numbers)
        return NULL;
    *count = 0;
    for (uint32_t at = volume->dirty_frames; at; at = v->frames[at - 1].dirty_next) {
        numbers[(*count)++] = at - 1;
        v->frames[at - 1].listed = false;
        v->frames[at - 1].committing = true;
        v->frames[at - 1].committing_next = volume->committing_frames;
        volume->committing_frames = at;
    }
    volume->dirty_frames = 0;
    qsort_r(numbers, n, sizeof(*numbers), by_leaf, v->frames);
    return numbers;
}

void vlmc_capture_end(struct vlmc *v, uint32_t slot, bool again)
{
    struct vlmc_volume *volume = &v->volumes[slot];

    for (uint32_t at = volume->committing_frames; at; at = v->frames[at - 1].committing_next) {
        struct xframe *frame = &v->seg->frames[at - 1];
        v->frames[at - 1].committing = false;
        volume->dirty_frame_count--;
        for (uint32_t i = 0; i < XMAP_LEAF; i++) {
            if (i % 32 == 0 && !frame->committing[i / 32])
                i += 31;
            else if (again && frame->committing[i / 32] >> (i % 32) & 1)
                vlmc_entry_dirty(v, slot, frame, v->frames[at - 1].leaf * XMAP_LEAF + i);
        }
        for (uint32_t word = 0; word < XMAP_LEAF / 32; word++)
            store_release(&frame->committing[word], 0u);
    }
    volume->committing_frames = 0;
    volume->committing_entries = 0;
    if (again)
        volume->commit_wanted = false;      /* who needs it asks again, and gets the error */
}

void vlmc_capture_free(struct vlmc *v, struct vlmc_volume *volume, uint32_t from)
{
    for (uint32_t i = from; i < volume->record_count; i++)
        xreq_put(v->peer->port, &v->peer->port->reqs[volume->record[i] - 1]);
    volume->record_count = 0;
    volume->record_sent = 0;
}

int vlmc_capture(struct vlmc *v, uint32_t slot, bool mark)
{
    struct vlmc_volume *volume = &v->volumes[slot];
    struct capture c = { .v = v, .slot = slot };
    uint32_t count, *frames = take_dirty_frames(v, volume, &count);

    if (!frames)
        return -ENOMEM;
    c.buffer_size = volume->dirty_entries <= SMALL_COMMIT ? xbuffer_size(1) : XSEG_IO_MAX;
    volume->committing_entries = volume->dirty_entries;
    volume->dirty_entries = 0;
    for (uint32_t i = 0; i < count; i++)
        capture_frame(&c, &v->seg->frames[frames[i]]);
    free(frames);
    if (mark && !c.child && c.error == 0)
        open_record(&c);
    if (c.child)
        close_record(&c, mark && c.error == 0 ? RECORD_MARK : 0);
    if (c.error) {
        vlmc_capture_end(v, slot, true);
        vlmc_capture_free(v, volume, 0);
    }
    volume->epoch_captured = v->seg->volumes[slot].epoch;
    return c.error;
}
