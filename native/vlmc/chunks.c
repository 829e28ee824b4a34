/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/chunks.c - the chunks of a stack's layers: which are merged, and that one has come to lie in the top layer.
 *
 * Each chunk lies in one layer, so the order of layers does not matter, and those in which the fewest chunks lie are
 * merged. As many go along as are about equal: none has more than MERGE_EQUAL times the mean of those merged up to it. So
 * what is copied comes to lie in a layer several times as large, and is copied again only with others as large: with
 * blocks of 4 MiB and one chunk written between two snapshots each chunk is copied about twice, however many snapshots
 * there are.
 */
#include <assert.h>
#include <errno.h>

#include "vlmc/parts.h"

#define MERGE_EQUAL 3

/* Numbers of layers by how many chunks lie in them, fewest first. */
static void sort_layers(const uint32_t *counts, uint32_t layers, uint32_t *order)
{
    for (uint32_t l = 0; l < layers; l++) {
        uint32_t at = l;

        for (; at > 0 && counts[order[at - 1]] > counts[l]; at--)
            order[at] = order[at - 1];
        order[at] = l;
    }
}

/* How many of the layers in this order are merged: see above. 2 at least. */
static uint32_t about_equal(const uint32_t *counts, uint32_t layers, const uint32_t *order)
{
    uint64_t sum = 0;
    uint32_t equal = 2;

    for (uint32_t i = 0; i < layers; i++) {
        sum += counts[order[i]];
        if (i >= 2 && (uint64_t)counts[order[i]] * (i + 1) <= MERGE_EQUAL * sum)
            equal = i + 1;
    }
    return equal;
}

uint32_t vlmc_chunks_choose(const struct vlmc_volume *volume, struct xstack *stack, uint32_t first, uint32_t layers)
{
    uint32_t counts[XMAP_LAYERS], order[XMAP_LAYERS], merged = 0, equal;

    assert(first < layers && layers <= XMAP_LAYERS);
    vlmc_stack_count(volume, stack, counts);
    sort_layers(counts + first, layers - first, order);
    equal = counts[first + order[0]] == 0 ? 0 : about_equal(counts + first, layers - first, order);
    for (uint32_t i = 0; i < layers - first && (i < equal || counts[first + order[i]] == 0); i++)
        merged |= 1u << (first + order[i]);
    assert(merged);
    return merged;
}

bool vlmc_chunks_run(const struct vlmc_volume *volume, struct xstack *stack, uint32_t layers, struct vlmc_run *run)
{
    uint64_t chunks = block_size(volume) / XMAP_CHUNK, first = run->end, end;

    while (first < chunks && !(layers >> vlmc_layer_of(volume, stack, first) & 1))
        first++;
    if (first >= chunks)
        return false;
    run->layer = vlmc_layer_of(volume, stack, first);
    for (end = first + 1; end < chunks && end - first < VLMC_MERGE_CHUNKS; end++)
        if (vlmc_layer_of(volume, stack, end) != run->layer)
            break;
    run->first = first;
    run->end = end;
    return true;
}

int vlmc_set_chunks(struct vlmc *v, uint32_t slot, uint64_t block, uint64_t first, uint64_t count)
{
    const struct vlmc_volume *volume = &v->volumes[slot];
    struct xframe *frame = vlmc_frame_pinned(v, slot, block);
    const struct xentry entry = entry_read(frame, block);
    struct xstack *stack = vlmc_stack_of(v, frame, &entry);
    uint8_t *top;

    if (is_own(v, slot, &entry) && !entry.stack)
        return 0;                   /* another write has filled the bitmap meanwhile */
    if (!is_own(v, slot, &entry) || !stack)
        return -EIO;
    top = stack_bits(volume, stack, 0);
    vlmc_entry_dirty(v, slot, frame, block);
    for (uint64_t c = first; c < first + count; c++)
        top[c / 8] |= (uint8_t)(1u << (c % 8));
    if (vlmc_bits_all_set(top, 0, block_size(volume) / XMAP_CHUNK)) {
        vlmc_entry_publish(entry_of(frame, block), entry.volume, entry.epoch, 0);
        vlmc_stack_give(v, frame, entry.stack);
    }
    return 0;
}
