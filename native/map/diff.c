/* SPDX-License-Identifier: Apache-2.0
 *
 * map/diff.c - see map/diff.h.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "map/diff.h"

#define WORD 64                     /* chunks that are compared at once */

/* The entries of one side, in the order of their blocks. */
struct side {
    const void *record;             /* NULL: there are none */
    uint64_t at;                    /* see record_next() */
    struct map_item item;
    bool has_item;
};

/* True for a record of blocks of that size. */
static bool fits(const void *record, uint32_t block_shift)
{
    struct record_info info;

    if (!record)
        return true;
    record_header(record, &info);
    return info.block_shift == block_shift;
}

static int next_item(struct side *side)
{
    int rc = side->record ? record_next(side->record, &side->at, &side->item) : 0;

    side->has_item = rc == 1;
    return rc < 0 ? rc : 0;
}

/* Goes on to the first entry of `block` or a later one. */
static int skip_to(struct side *side, uint64_t block)
{
    int rc = 0;

    while (rc == 0 && side->has_item && side->item.block < block)
        rc = next_item(side);
    return rc;
}

/* The entry of a block whose bytes are not all zeros, or NULL. */
static const struct map_item *item_of(const struct side *side, uint64_t block)
{
    return side->has_item && side->item.block == block && side->item.layers ? &side->item : NULL;
}

/* --- ranges -------------------------------------------------------------------------- */

/* Adds bytes, which become one range with those just before them. */
static int add_range(struct map_diff *diff, uint64_t offset, uint64_t end)
{
    struct map_range *last = diff->count ? &diff->ranges[diff->count - 1] : NULL;

    end = end < diff->end ? end : diff->end;
    if (last && last->offset + last->length == offset) {
        last->length = end - last->offset;
        return 0;
    }
    if (diff->count == diff->room) {
        diff->at = offset;
        return -ENOSPC;
    }
    diff->ranges[diff->count++] = (struct map_range){ offset, end - offset };
    return 0;
}

/* --- one block ------------------------------------------------------------------------ */

static uint64_t bits_of(const struct map_item *item, uint32_t bitmap, uint32_t word)
{
    uint64_t bits;

    memcpy(&bits, item->bitmaps + (uint64_t)bitmap * item->bitmap_size + word * sizeof(bits), sizeof(bits));
    return bits;
}

/* Which chunks of a word lie in a layer. For the forms see map/map.h. */
static uint64_t chunks_in(const struct map_item *item, uint32_t layer, uint32_t word)
{
    uint32_t last = item->layers - 1;
    uint64_t found = UINT64_MAX;

    if (last == 0)
        return found;
    if (item->form == 0) {
        for (uint32_t above = 0; above < layer; above++)
            found &= ~bits_of(item, above, word);
        return layer == last ? found : found & bits_of(item, layer, word);
    }
    if (layer == 0)
        return bits_of(item, 0, word);
    found = ~bits_of(item, 0, word);
    for (uint32_t bit = 0; bit + 1 < item->bitmap_count; bit++)
        found &= (last - layer) >> bit & 1 ? bits_of(item, bit + 1, word) : ~bits_of(item, bit + 1, word);
    return found;
}

/* Layers of two entries that are the same object. */
struct pairs { uint32_t count; uint8_t before[XMAP_LAYERS], after[XMAP_LAYERS]; };

static void find_pairs(struct pairs *pairs, const struct map_item *before, const struct map_item *after)
{
    pairs->count = 0;
    for (uint32_t b = 0; b < before->layers; b++)
        for (uint32_t a = 0; a < after->layers && pairs->count < XMAP_LAYERS; a++)
            if (memcmp(&before->layer[b], &after->layer[a], sizeof(struct xobj)) == 0) {
                pairs->before[pairs->count] = (uint8_t)b;
                pairs->after[pairs->count++] = (uint8_t)a;
            }
}

/* Adds the runs of bits that are set; bit 0 is the chunk that begins at `offset`. */
static int add_bits(struct map_diff *diff, uint64_t offset, uint64_t bits)
{
    int rc = 0;

    while (rc == 0 && bits) {
        uint32_t first = (uint32_t)__builtin_ctzll(bits);
        uint64_t rest = ~(bits >> first);
        uint32_t count = rest ? (uint32_t)__builtin_ctzll(rest) : WORD;

        rc = add_range(diff, offset + (uint64_t)first * XMAP_CHUNK, offset + (uint64_t)(first + count) * XMAP_CHUNK);
        bits = first + count < WORD ? bits >> (first + count) << (first + count) : 0;
    }
    return rc;
}

/* Of two stacks, from `at` up to `end`, which is the block's or before it. */
static int compare_stacks(struct map_diff *diff, uint64_t block_at, uint64_t end, const struct map_item *before,
                          const struct map_item *after)
{
    uint64_t from = (diff->at - block_at) / XMAP_CHUNK, to = (end - block_at + XMAP_CHUNK - 1) / XMAP_CHUNK;
    struct pairs pairs;
    int rc = 0;

    find_pairs(&pairs, before, after);
    for (uint64_t word = from / WORD; rc == 0 && word * WORD < to; word++) {
        uint64_t bits = UINT64_MAX;

        for (uint32_t i = 0; i < pairs.count; i++)
            bits &= ~(chunks_in(before, pairs.before[i], (uint32_t)word)
                      & chunks_in(after, pairs.after[i], (uint32_t)word));
        if (word == from / WORD)
            bits &= UINT64_MAX << from % WORD;
        if (to - word * WORD < WORD)
            bits &= (1ull << (to - word * WORD)) - 1;
        rc = add_bits(diff, block_at + word * WORD * XMAP_CHUNK, bits);
    }
    return rc;
}

static bool are_equal(const struct map_item *before, const struct map_item *after)
{
    return before->encoded_size == after->encoded_size
        && memcmp(before->encoded, after->encoded, before->encoded_size) == 0;
}

/* `before` and `after` may be NULL: zeros. */
static int compare_block(struct map_diff *diff, uint64_t block, const struct map_item *before,
                         const struct map_item *after)
{
    uint64_t block_at = block << diff->block_shift, end = block_at + (1ull << diff->block_shift);
    int rc = 0;

    diff->at = diff->at > block_at ? diff->at : block_at;
    end = end < diff->end ? end : diff->end;
    if (!before != !after)
        rc = add_range(diff, diff->at, end);
    else if (before && !are_equal(before, after))
        rc = compare_stacks(diff, block_at, end, before, after);
    if (rc == 0)
        diff->at = end;
    return rc;
}

/* --- two leaves ------------------------------------------------------------------------- */

int map_diff(struct map_diff *diff)
{
    struct side before = { .record = diff->before }, after = { .record = diff->after };
    int rc;

    assert(diff->at % XMAP_CHUNK == 0 && diff->block_shift < 64);
    if (!fits(diff->before, diff->block_shift) || !fits(diff->after, diff->block_shift))
        return -EBADMSG;
    rc = next_item(&before);
    rc = rc ? rc : next_item(&after);
    while (rc == 0 && diff->at < diff->end) {
        uint64_t block = diff->at >> diff->block_shift;

        if ((rc = skip_to(&before, block)) || (rc = skip_to(&after, block)))
            break;
        if (!before.has_item && !after.has_item)
            block = UINT64_MAX;
        else if (!before.has_item || (after.has_item && after.item.block < before.item.block))
            block = after.item.block;
        else
            block = before.item.block;
        if (block > (diff->end - 1) >> diff->block_shift) {
            diff->at = diff->end;
            break;
        }
        rc = compare_block(diff, block, item_of(&before, block), item_of(&after, block));
    }
    return rc;
}
