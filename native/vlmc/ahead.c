/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/ahead.c - merging stacks before a first write finds them at their bound.
 *
 * A stack that has just reached layers_max is noted in a ring. In the background chunks of the layers that
 * vlmc/merge.c would merge are copied up into the block's own object, a portion of VLMC_MERGE_CHUNKS at a time, and each portion's
 * validity bits are set in the stack as it is, as after any write. A layer that has no chunk any more is left out by
 * the next first write in another epoch, which copies nothing. What did not get so far by then that write merges itself.
 *
 * A portion has its block alone, so a write that would set bits of the block waits for one portion at most. It
 * counts among the volume's writes under way: snapshots, freezes and closings wait for it. At the end of a portion
 * nothing is held. What is noted is a hint, and is given up when it is no longer true, or when anything fails: then the
 * first write that needs the room meets the failure itself. A death forgets the ring; a portion that was under way then
 * comes home before anything else is served, and its bits are not set.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "vlmc/parts.h"

enum fate { GIVE_UP, LATER, SENT };

int vlmc_ahead_start(struct vlmc *v)
{
    v->ahead = calloc(VLMC_AHEAD_MAX, sizeof(*v->ahead));
    return v->ahead ? 0 : -ENOMEM;
}

static void push(struct vlmc *v, const struct vlmc_ahead *block)
{
    assert(v->ahead_count + v->ahead_away < VLMC_AHEAD_MAX);
    v->ahead[(v->ahead_first + v->ahead_count++) % VLMC_AHEAD_MAX] = *block;
}

static struct vlmc_ahead pop(struct vlmc *v)
{
    struct vlmc_ahead block = v->ahead[v->ahead_first];

    v->ahead_first = (v->ahead_first + 1) % VLMC_AHEAD_MAX;
    v->ahead_count--;
    return block;
}

void vlmc_ahead_want(struct vlmc *v, uint32_t slot, uint64_t block, const struct xstack *stack)
{
    if (layers_of(stack) >= v->layers_max && v->layers_max > 2 && v->ahead_count + v->ahead_away < VLMC_AHEAD_MAX)
        push(v, &(struct vlmc_ahead){ .id = v->volumes[slot].id, .block = block, .slot = slot });
}

static void begin_write(struct vlmc *v, uint32_t slot)
{
    v->ahead_away++;
    v->volumes[slot].in_flight++;
    v->volumes[slot].writes++;
    store_relaxed(&v->seg->volumes[slot].writes_in_flight, v->volumes[slot].writes);
}

static void end_write(struct vlmc *v, uint32_t slot)
{
    v->ahead_away--;
    v->volumes[slot].in_flight--;
    v->volumes[slot].writes--;
    store_relaxed(&v->seg->volumes[slot].writes_in_flight, v->volumes[slot].writes);
    vlmc_look(v, slot);
}

static struct xreq *portion(struct vlmc *v, const struct vlmc_ahead *block, const struct vlmc_run *run,
                            const struct xobj *object)
{
    struct xreq *child = xreq_get(v->peer->port);

    if (!child)
        return NULL;
    if (xbuf_get(v->peer->port, child, VLMC_MERGE_CHUNKS * XMAP_CHUNK)) {
        xreq_put(v->peer->port, child);
        return NULL;
    }
    child->op = XOP_READ;
    child->object = *object;
    child->offset = run->first * XMAP_CHUNK;
    child->size = (run->end - run->first) * XMAP_CHUNK;
    *note_of(child) = (struct vlmc_note){ .kind = VLMC_CHILD_AHEAD_READ, .slot = block->slot, .block = block->block,
                                          .merge = { .next = (uint32_t)run->end, .layers = block->layers } };
    return child;
}

/* The next portion of a block, whose frame is in memory. */
static enum fate send_portion(struct vlmc *v, struct vlmc_ahead *block, struct xframe *frame)
{
    const struct vlmc_volume *volume = &v->volumes[block->slot];
    const struct xentry entry = entry_read(frame, block->block);
    struct xstack *stack = vlmc_stack_of(v, frame, &entry);
    uint32_t layers = stack ? layers_of(stack) : 0;
    struct vlmc_run run = { .end = block->next };
    struct xreq *child;
    struct xobj object;

    if (!is_own(v, block->slot, &entry) || layers < v->layers_max
        || vlmc_frame_too_dirty(v, block->slot, frame))
        return GIVE_UP;
    if (!block->layers)
        block->layers = vlmc_chunks_choose(volume, stack, 1, layers);
    if (!vlmc_chunks_run(volume, stack, block->layers, &run))
        return GIVE_UP;
    object = map_stack_object(stack, run.layer, block->block);
    child = portion(v, block, &run, &object);
    if (!child)
        return LATER;
    if (!vlmc_busy_try(v, block->slot, block->block, frame)) {
        xreq_put(v->peer->port, child);
        return LATER;
    }
    if (block->next == 0)
        counter_add(&v->seg->volumes[block->slot].merges, 1);
    begin_write(v, block->slot);
    peer_send(v->peer, child, VLMC_BLOCKER);
    return SENT;
}

static enum fate go_on(struct vlmc *v, struct vlmc_ahead *block)
{
    const struct vlmc_volume *volume = &v->volumes[block->slot];
    const struct xvolume *vol = &v->seg->volumes[block->slot];
    struct xframe *frame;

    if (volume->id != block->id || volume->closed || volume->hold_all || !vlmc_volume_is_open(vol)
        || load_acquire(&vol->lost))
        return GIVE_UP;
    if (volume->hold_writes_ns)
        return LATER;
    frame = vlmc_frame_here(v, block->slot, block->block);
    return frame ? send_portion(v, block, frame) : GIVE_UP;
}

void vlmc_ahead_go_on(struct vlmc *v)
{
    for (uint32_t n = v->ahead_count < VLMC_AHEAD_LOOKS ? v->ahead_count : VLMC_AHEAD_LOOKS;
         n > 0 && v->ahead_away < VLMC_AHEAD_AWAY; n--) {
        struct vlmc_ahead block = pop(v);

        if (go_on(v, &block) == LATER)
            push(v, &block);
    }
}

/* Has the portion that was read be written. False: the entry makes no sense any more. */
static bool write_up(struct vlmc *v, struct xreq *child)
{
    struct vlmc_note *note = note_of(child);
    const struct xentry entry = entry_read(vlmc_frame_pinned(v, note->slot, note->block), note->block);

    if (!is_own(v, note->slot, &entry))
        return false;
    child->op = XOP_WRITE;
    child->object = own_object(&v->volumes[note->slot], entry.epoch, note->block);
    note->kind = VLMC_CHILD_AHEAD_WRITE;
    peer_send(v->peer, child, VLMC_BLOCKER);
    return true;
}

void vlmc_ahead_done(struct vlmc *v, struct xreq *child)
{
    const struct vlmc_note note = *note_of(child);
    uint64_t first = child->offset / XMAP_CHUNK;
    int error = child->error;

    if (note.kind == VLMC_CHILD_AHEAD_READ && error == 0) {
        if (write_up(v, child))
            return;
        error = -EIO;
    }
    if (note.kind == VLMC_CHILD_AHEAD_WRITE && error != -ESTALE)
        data_written(&v->seg->volumes[note.slot]);
    if (error == 0)
        error = vlmc_set_chunks(v, note.slot, note.block, first, note.merge.next - first);
    xreq_put(v->peer->port, child);
    vlmc_busy_release(v, note.slot, note.block);
    end_write(v, note.slot);
    if (error == 0)
        push(v, &(struct vlmc_ahead){ .id = v->volumes[note.slot].id, .block = note.block, .slot = note.slot,
                                      .layers = note.merge.layers, .next = note.merge.next });
}
