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

uint32_t vlmc_record_count(const struct vlmc *v, uint32_t class)
{
    return class == VLMC_CONTENTS ? v->seg->content_count : v->seg->stack_count[class];
}

/* True if the frame owns the stack or digest of that number. */
static bool owns(const struct vlmc *v, const struct xframe *frame, uint32_t class, uint32_t stack)
{
    return stack && stack <= vlmc_record_count(v, class)
        && v->stack_owner[class][stack - 1] == vlmc_frame_number(v, frame) + 1;
}

struct xstack *vlmc_stack_of(const struct vlmc *v, const struct xframe *frame, const struct xentry *entry)
{
    uint32_t class = vlmc_frame_stack_class(v, frame);
    bool mine = !is_content(entry) && owns(v, frame, class, entry->stack);
    struct xstack *stack = mine ? vlmc_stack_at(v, class, entry->stack) : NULL;

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

bool vlmc_content_of(const struct vlmc *v, const struct xframe *frame, const struct xentry *entry, uint8_t digest[32])
{
    if (!is_content(entry) || !owns(v, frame, VLMC_CONTENTS, entry->stack))
        return false;
    read_once(digest, v->seg->contents[entry->stack - 1].digest, 32);
    return true;
}

bool vlmc_entry_ok(const struct vlmc *v, const struct xframe *frame, const struct xentry *entry)
{
    if (is_content(entry))
        return owns(v, frame, VLMC_CONTENTS, entry->stack);
    return !entry->volume || !entry->stack || vlmc_stack_of(v, frame, entry);
}

static void give(struct vlmc *v, const struct xframe *frame, uint32_t class, uint32_t stack)
{
    if (!owns(v, frame, class, stack))
        return;                     /* none, or a number that was scribbled over an entry's */
    assert(v->stack_free_count[class] < vlmc_record_count(v, class));
    v->stack_owner[class][stack - 1] = 0;
    v->stack_free[class][v->stack_free_count[class]++] = stack;
    if (class == VLMC_CONTENTS && v->frames[vlmc_frame_number(v, frame)].contents)
        v->frames[vlmc_frame_number(v, frame)].contents--;
}

void vlmc_stack_give(struct vlmc *v, const struct xframe *frame, uint32_t stack)
{
    give(v, frame, vlmc_frame_stack_class(v, frame), stack);
}

void vlmc_record_give(struct vlmc *v, const struct xframe *frame, const struct xentry *entry)
{
    give(v, frame, is_content(entry) ? VLMC_CONTENTS : vlmc_frame_stack_class(v, frame), entry->stack);
}

uint32_t vlmc_layer_of(const struct vlmc_volume *volume, struct xstack *stack, uint64_t chunk)
{
    uint32_t layers = layers_of(stack), number = 0;

    if (layers == 1 || bit_is_set(stack_bits(volume, stack, 0), chunk))
        return 0;
    for (uint32_t bit = 0; bit + 1 < map_bitmap_count(layers); bit++)
        number |= (uint32_t)bit_is_set(stack_bits(volume, stack, bit + 1), chunk) << bit;
    return number + 1 < layers ? layers - 1 - number : layers - 1;
}

void vlmc_stack_count(const struct vlmc_volume *volume, struct xstack *stack, uint32_t counts[XMAP_LAYERS])
{
    memset(counts, 0, XMAP_LAYERS * sizeof(*counts));
    for (uint64_t chunk = 0; chunk < block_size(volume) / XMAP_CHUNK; chunk++)
        counts[vlmc_layer_of(volume, stack, chunk)]++;
}

/* A stack record of our own object alone, in which no chunk lies yet. */
static void begin(const struct vlmc *v, uint32_t slot, struct xstack *stack)
{
    const struct vlmc_volume *volume = &v->volumes[slot];

    memset(stack, 0, xstack_size(stack_class(volume)));
    stack->layers = 1;
    stack->bitmap_size = map_bitmap_size(volume->block_shift);
    stack->layer[0] = (struct xlayer){ .kind = XOBJ_DATA, .volume = volume->id,
                                       .epoch = v->seg->volumes[slot].epoch };
}

void vlmc_stack_on_one(const struct vlmc *v, uint32_t slot, struct xstack *stack, const struct xframe *frame,
                       const struct xentry *below)
{
    begin(v, slot, stack);
    stack->layers = 2;
    if (vlmc_content_of(v, frame, below, stack->digest))
        stack->layer[1].kind = XOBJ_CONTENT;
    else
        stack->layer[1] = (struct xlayer){ .kind = XOBJ_DATA, .volume = below->volume, .epoch = below->epoch };
}

/* Chunks that lie in the top layer of `old` get this number in `stack`, all others have the one that they had. */
static void number_top(const struct vlmc_volume *volume, struct xstack *stack, struct xstack *old, uint32_t number)
{
    const uint8_t *top = stack_bits(volume, old, 0);

    for (uint32_t bit = 0; bit + 1 < XMAP_BITMAPS; bit++) {
        const uint8_t *from = stack_bits(volume, old, bit + 1);
        uint8_t *to = stack_bits(volume, stack, bit + 1);

        for (uint32_t i = 0; i < map_bitmap_size(volume->block_shift); i++)
            to[i] = (uint8_t)((from[i] & ~top[i]) | (number >> bit & 1 ? top[i] : 0));
    }
}

void vlmc_stack_on(const struct vlmc *v, uint32_t slot, struct xstack *stack, struct xstack *old, uint32_t layers)
{
    assert(layers < XMAP_LAYERS);
    begin(v, slot, stack);
    stack->layers = layers + 1;
    memcpy(&stack->layer[1], old->layer, layers * sizeof(*old->layer));
    memcpy(stack->digest, old->digest, sizeof(old->digest));
    if (layers > 1)
        number_top(&v->volumes[slot], stack, old, layers - 1);
}

static void set_number(const struct vlmc_volume *volume, struct xstack *stack, uint64_t chunk, uint32_t number)
{
    for (uint32_t bit = 0; bit + 1 < XMAP_BITMAPS; bit++)
        if (number >> bit & 1)
            stack_bits(volume, stack, bit + 1)[chunk / 8] |= (uint8_t)(1u << (chunk % 8));
}

void vlmc_stack_without(const struct vlmc *v, uint32_t slot, struct xstack *stack, struct xstack *old,
                        uint32_t merged)
{
    const struct vlmc_volume *volume = &v->volumes[slot];
    uint32_t layers = layers_of(old), number[XMAP_LAYERS] = { 0 }, kept = 0, place = 1;

    begin(v, slot, stack);
    for (uint32_t l = layers; l-- > 0;)
        if (!(merged >> l & 1))
            number[l] = kept++;
    for (uint32_t l = 0; l < layers; l++)
        if (!(merged >> l & 1))
            stack->layer[place++] = old->layer[l];
    stack->layers = place;
    memcpy(stack->digest, old->digest, sizeof(old->digest));
    for (uint64_t chunk = 0; chunk < block_size(volume) / XMAP_CHUNK; chunk++)
        set_number(volume, stack, chunk, number[vlmc_layer_of(volume, old, chunk)]);
}
