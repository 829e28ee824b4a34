/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/volume.c - vlmc's own side of the volume slots: what a volume is, and what is asked of it.
 */
#include "vlmc/parts.h"

/* Takes in what a volume is, once in its life: from then on its words for that are not looked at. */
static void begin(struct vlmc *v, uint32_t slot, uint32_t generation)
{
    const struct xvolume *vol = &v->seg->volumes[slot];
    uint32_t shift = load_relaxed(&vol->block_shift);
    bool ok = shift >= XMAP_BLOCK_MIN_SHIFT && shift <= XMAP_BLOCK_MAX_SHIFT;

    v->volumes[slot] = (struct vlmc_volume){ .generation = generation, .epoch_captured = load_relaxed(&vol->epoch),
                                        .id = load_relaxed(&vol->id), .hold_all = load_relaxed(&vol->frozen) != 0 };
    v->volumes[slot].block_shift = ok && v->volumes[slot].id ? shift : 0;
    v->volume_end = slot < v->volume_end ? v->volume_end : slot + 1;
}

/* Nothing of it is under way or waits. */
static bool is_quiet(const struct vlmc_volume *volume)
{
    return volume->in_flight == 0 && volume->changing == 0 && volume->dirty_frames == 0
        && volume->committing_frames == 0 && volume->commit == VLMC_COMMIT_IDLE && queue_empty(&volume->behind)
        && queue_empty(&volume->held) && queue_empty(&volume->flushes) && queue_empty(&volume->snapshots)
        && queue_empty(&volume->freezes);
}

bool vlmc_volume_refresh(struct vlmc *v, uint32_t slot)
{
    uint32_t generation = load_acquire(&v->seg->volumes[slot].generation);

    if (v->volumes[slot].generation != generation) {
        if (!is_quiet(&v->volumes[slot]))
            return false;
        begin(v, slot, generation);
    }
    return v->volumes[slot].block_shift != 0;
}

bool vlmc_volume_is_open(const struct xvolume *vol)
{
    uint32_t state = load_acquire(&vol->state);

    return state == XVOL_OPEN || state == XVOL_CLOSING;
}

void vlmc_volumes_adopt(struct vlmc *v)
{
    for (uint32_t slot = 0; slot < v->seg->volume_count; slot++) {
        struct xvolume *vol = &v->seg->volumes[slot];

        if (load_relaxed(&vol->dirty))
            store_relaxed(&vol->dirty, (uint32_t)XDIRTY_WRITTEN);
        if (vlmc_volume_is_open(vol))
            begin(v, slot, load_relaxed(&vol->generation));
    }
}

void vlmc_look(struct vlmc *v, uint32_t slot)
{
    v->look[slot / 64] |= 1ull << (slot % 64);
    v->looks = true;
}

void vlmc_commit_want(struct vlmc *v, uint32_t slot)
{
    v->volumes[slot].commit_wanted = true;
    v->commits_wanted = true;
}

bool vlmc_epoch_may_rise(const struct vlmc *v, uint32_t slot)
{
    uint32_t epoch = v->seg->volumes[slot].epoch;

    return epoch < UINT32_MAX - MAP_EPOCH_STRIDE
        && epoch - v->seg->volumes[slot].epoch_durable < MAP_EPOCH_STRIDE - 1;
}

void vlmc_epoch_leave(struct vlmc *v, uint32_t slot)
{
    struct xvolume *vol = &v->seg->volumes[slot];

    if (vlmc_epoch_may_rise(v, slot))
        store_release(&vol->epoch, vol->epoch + 1);
}
