/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/stacks.c - the stack records that entries name: whose each is, and which layer has which chunk.
 */
#include <assert.h>
#include <string.h>

#include "vlmc/parts.h"

bool vlmc_bits_all_set(const uint8_t *bitmap, uint64_t first, uint64_t count)
{
    for (uint64_t bit = first; bit < first + count; bit++) {
        if (bit % 8 == 0 && first + count - bit >= 8 && bitmap[bit / 8] == 0xff)
            bit += 7;
        else if (!bit_is_set(bitmap, bit))
            return false;
    }
    return true;
}

struct xstack *vlmc_stack_at(const struct vlmc *v, uint32_t class, uint32_t stack)
{
    assert(stack != 0 && stack <= v->seg->stack_count[class]);
    return (struct xstack *)(v->seg->stacks[class] + (stack - 1) * xstack_size(class));
}

uint32_t vlmc_frame_number(const struct vlmc *v, const struct xframe *frame)
{
    return (uint32_t)(frame - v->seg->frames);
}

uint32_t vlmc_frame_block_shift(const struct vlmc *v, const struct xframe *frame)
{
    return v->frames[vlmc_frame_number(v, frame)].block_shift;
}

uint32_t vlmc_frame_stack_class(const struct vlmc *v, const struct xframe *frame)
{
    return map_stack_class(vlmc_frame_block_shift(v, frame));
}

/* True if the frame owns the stack of that number. */
static bool owns(const struct vlmc *v, const struct xframe *frame, uint32_t class, uint32_t stack)
{
    return stack && stack <= v->seg->stack_count[class]
        && v->stack_owner[class][stack - 1] == vlmc_frame_number(v, frame) + 1;
}

struct xstack *vlmc_stack_of(const struct vlmc *v, const struct xframe *frame, const struct xentry *entry)
{
    uint32_t class = vlmc_frame_stack_class(v, frame);
    struct xstack *stack = owns(v, frame, class, entry->stack) ? vlmc_stack_at(v, class, entry->stack) : NULL;

    return stack && load_relaxed(&stack->layers) == layers_of(stack)
        && load_relaxed(&stack->bitmap_size) == map_bitmap_size(vlmc_frame_block_shift(v, frame)) ? stack : NULL;
}

bool vlmc_stack_copy(const struct vlmc *v, const struct xframe *frame, const struct xentry *entry, struct xstack *copy)
{
    const struct xstack *stack = vlmc_stack_of(v, frame, entry);

    if (!stack)
        return false;
    read_once(copy, stack, xstack_size(vlmc_frame_stack_class(v, frame)));
    return copy->layers == layers_of(copy) && copy->bitmap_size == map_bitmap_size(vlmc_frame_block_shift(v, frame));
}

void vlmc_stack_give(struct vlmc *v, const struct xframe *frame, uint32_t stack)
{
    uint32_t class = vlmc_frame_stack_class(v, frame);

    if (!owns(v, frame, class, stack))
        return;                     /* none, or a number that was scribbled over an entry's */
    assert(v->stack_free_count[class] < v->seg->stack_count[class]);
    v->stack_owner[class][stack - 1] = 0;
    v->stack_free[class][v->stack_free_count[class]++] = stack;
}

uint32_t vlmc_layer_of(const struct vlmc_volume *volume, struct xstack *stack, uint64_t chunk)
{
    uint32_t layers = layers_of(stack);

    for (uint32_t l = 0; l + 1 < layers; l++)
        if (bit_is_set(stack_bits(volume, stack, l), chunk))
            return l;
    return layers - 1;
}

void vlmc_stack_on(const struct vlmc *v, uint32_t slot, uint64_t block, struct xstack *stack,
                     const struct xobj *below, uint32_t layers, const uint8_t *bitmaps)
{
    const struct vlmc_volume *volume = &v->volumes[slot];
    uint32_t bitmap_size = map_bitmap_size(volume->block_shift);

    memset(stack, 0, xstack_size(stack_class(volume)));
    stack->layers = layers + 1;
    stack->bitmap_size = bitmap_size;
    stack->layer[0] = own_object(volume, v->seg->volumes[slot].epoch, block);
    memcpy(&stack->layer[1], below, layers * sizeof(*below));
    if (layers > 1)
        memcpy(stack_bits(volume, stack, 1), bitmaps, (uint64_t)(layers - 1) * bitmap_size);
}
