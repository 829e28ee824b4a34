/* SPDX-License-Identifier: Apache-2.0
 *
 * map/map.c - records of the map: writing, checking, walking. Formats: map/map.h.
 *
 * Decoders trust nothing: a record comes from a disk. They read through get*() at offsets
 * they have checked, never through struct pointers.
 */
#define XXH_INLINE_ALL
#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "map/map.h"
#include "objects/object.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "records are little-endian and copied as they are"
#endif

#define CHECKSUM_AT 56
#define ENTRY_FIXED 16
#define FORM_AT 9                   /* in an entry */
#define LAYER_DATA 16
#define LAYER_CONTENT 40
#define CHILD_SIZE 32
#define BITMAP_MAX 512

static uint64_t get64(const uint8_t *at) { uint64_t v; memcpy(&v, at, 8); return v; }
static uint32_t get32(const uint8_t *at) { uint32_t v; memcpy(&v, at, 4); return v; }
static uint16_t get16(const uint8_t *at) { uint16_t v; memcpy(&v, at, 2); return v; }
static void put64(uint8_t *at, uint64_t v) { memcpy(at, &v, 8); }
static void put32(uint8_t *at, uint32_t v) { memcpy(at, &v, 4); }
static void put16(uint8_t *at, uint16_t v) { memcpy(at, &v, 2); }

/* --- writing ---------------------------------------------------------------- */

void record_begin(struct record *rec, void *buf, uint64_t capacity,
                  const struct record_info *info)
{
    assert(capacity >= RECORD_HEADER);
    *rec = (struct record){ .buf = buf, .capacity = capacity, .used = RECORD_HEADER,
                            .info = *info };
    rec->info.count = 0;
    rec->info.version = 1;
}

/* Appends an entry or a child. ENOSPC. */
static int add_bytes(struct record *rec, const void *entry, uint64_t length)
{
    if (rec->used + length > rec->capacity)
        return -ENOSPC;
    memcpy(rec->buf + rec->used, entry, length);
    rec->used += length;
    rec->info.count++;
    return 0;
}

int record_add_encoded(struct record *rec, const void *entry, uint64_t length)
{
    int rc = add_bytes(rec, entry, length);

    if (rc == 0 && ((const uint8_t *)entry)[FORM_AT])
        rec->info.version = 2;
    return rc;
}

struct xobj map_stack_object(const struct xstack *stack, uint32_t layer, uint64_t block)
{
    const struct xlayer *at = &stack->layer[layer];
    struct xobj object = { .kind = at->kind, .epoch = at->epoch };

    if (at->kind == XOBJ_CONTENT) {
        memcpy(object.digest, stack->digest, sizeof(object.digest));
    } else {
        object.volume = at->volume;
        object.index = block;
    }
    return object;
}

static uint32_t put_layer(uint8_t *at, const struct xobj *layer)
{
    put32(at, layer->kind);
    put32(at + 4, layer->epoch);
    if (layer->kind == XOBJ_CONTENT) {
        memcpy(at + 8, layer->digest, 32);
        return LAYER_CONTENT;
    }
    put64(at + 8, layer->volume);
    return LAYER_DATA;
}

int record_add_contents(struct record *rec, uint64_t first, const uint8_t *digests, uint64_t count)
{
    uint8_t encoded[ENTRY_FIXED + LAYER_CONTENT] = { [8] = 1 };
    int rc = 0;

    for (uint64_t i = 0; rc == 0 && i < count; i++) {
        struct xobj content = { .kind = XOBJ_CONTENT };
        memcpy(content.digest, digests + 32 * i, sizeof(content.digest));
        if (memcmp(content.digest, content_nothing, sizeof(content_nothing)) == 0)
            continue;
        put64(encoded, first + i);
        put_layer(encoded + ENTRY_FIXED, &content);
        rc = add_bytes(rec, encoded, sizeof(encoded));
    }
    return rc;
}

int record_add(struct record *rec, uint64_t block, const struct xentry *entry,
               const struct xstack *stack)
{
    uint8_t encoded[RECORD_ENTRY_MAX];
    uint32_t layers = entry->volume == 0 ? 0 : stack ? stack->layers : 1;
    uint32_t length = ENTRY_FIXED, bitmaps;

    assert(layers <= XMAP_LAYERS);
    memset(encoded, 0, ENTRY_FIXED);
    put64(encoded, block);
    encoded[8] = (uint8_t)layers;
    if (layers == 1 && !stack) {
        struct xobj only = { .kind = XOBJ_DATA, .epoch = entry->epoch, .volume = entry->volume };
        length += put_layer(encoded + length, &only);
    } else if (layers) {
        for (uint32_t l = 0; l < layers; l++) {
            struct xobj object = map_stack_object(stack, l, block);
            length += put_layer(encoded + length, &object);
        }
    }
    if (layers > 1) {
        bitmaps = map_bitmap_count(layers) * stack->bitmap_size;
        encoded[FORM_AT] = layers > 2;
        put16(encoded + 10, (uint16_t)stack->bitmap_size);
        memcpy(encoded + length, stack + 1, bitmaps);
        length += bitmaps;
    }
    return record_add_encoded(rec, encoded, length);
}

int record_add_child(struct record *rec, uint64_t child, const struct page_ref *page)
{
    uint8_t encoded[CHILD_SIZE] = { 0 };

    put64(encoded, child);
    put64(encoded + 8, page->volume);
    put32(encoded + 16, page->epoch);
    put64(encoded + 24, page->index);
    return add_bytes(rec, encoded, CHILD_SIZE);
}

static uint64_t checksum(const uint8_t *buf, uint64_t size)
{
    static const uint8_t zeros[8];
    XXH3_state_t state;

    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, buf, CHECKSUM_AT);
    XXH3_64bits_update(&state, zeros, sizeof(zeros));
    XXH3_64bits_update(&state, buf + RECORD_HEADER, size - RECORD_HEADER);
    return XXH3_64bits_digest(&state);
}

uint64_t record_end(struct record *rec, uint32_t align)
{
    const struct record_info *info = &rec->info;
    uint8_t *b = rec->buf;
    uint64_t padded = (rec->used + align - 1) / align * align;

    put32(b, RECORD_MAGIC);
    put16(b + 4, (uint16_t)info->version);
    put16(b + 6, (uint16_t)info->kind);
    put64(b + 8, info->volume);
    put32(b + 16, info->epoch);
    put32(b + 20, info->flags);
    put64(b + 24, info->seq);
    put64(b + 32, info->first);
    put32(b + 40, info->count);
    put32(b + 44, (uint32_t)(rec->used - RECORD_HEADER));
    put32(b + 48, info->level);
    put32(b + 52, info->block_shift);
    put64(b + CHECKSUM_AT, checksum(b, rec->used));
    assert(padded <= rec->capacity);
    memset(b + rec->used, 0, padded - rec->used);
    return padded;
}

/* --- checking ----------------------------------------------------------------- */

static int damaged(struct record_info *info, const char *reason)
{
    snprintf(info->reason, sizeof(info->reason), "%s", reason);
    return -EBADMSG;
}

void record_header(const void *buf, struct record_info *info)
{
    const uint8_t *b = buf;

    memset(info, 0, sizeof(*info));
    info->kind = get16(b + 6);
    info->volume = get64(b + 8);
    info->epoch = get32(b + 16);
    info->flags = get32(b + 20);
    info->seq = get64(b + 24);
    info->first = get64(b + 32);
    info->count = get32(b + 40);
    info->length = get32(b + 44);
    info->level = get32(b + 48);
    info->block_shift = get32(b + 52);
    info->checksum = get64(b + CHECKSUM_AT);
}

int record_check(const void *buf, uint64_t available, struct record_info *info)
{
    const uint8_t *b = buf;

    memset(info, 0, sizeof(*info));
    if (available < RECORD_HEADER || get32(b) == 0) {
        snprintf(info->reason, sizeof(info->reason), "no record begins here");
        return -ENODATA;
    }
    if (get32(b) != RECORD_MAGIC)
        return damaged(info, "the magic number is wrong");
    if (get16(b + 4) < 1 || get16(b + 4) > RECORD_VERSION)
        return damaged(info, "its format version is not known");
    record_header(b, info);
    if (info->length > available - RECORD_HEADER)
        return damaged(info, "it is cut off");
    if (info->checksum != checksum(b, RECORD_HEADER + (uint64_t)info->length))
        return damaged(info, "the checksum does not match");
    if (info->kind < RECORD_JOURNAL || info->kind > RECORD_INNER)
        return damaged(info, "its kind is not known");
    if (info->block_shift < XMAP_BLOCK_MIN_SHIFT || info->block_shift > XMAP_BLOCK_MAX_SHIFT)
        return damaged(info, "its block size is out of range");
    return 0;
}

/* --- walking ------------------------------------------------------------------ */

/* Reads one layer at `at` of `left` bytes. Its size, or 0 if it is damaged. */
static uint32_t get_layer(const uint8_t *at, uint64_t left, uint64_t block, struct xobj *layer)
{
    memset(layer, 0, sizeof(*layer));
    if (left < LAYER_DATA)
        return 0;
    layer->kind = get32(at);
    layer->epoch = get32(at + 4);
    if (layer->kind == XOBJ_DATA) {
        layer->volume = get64(at + 8);
        layer->index = block;
        return layer->volume ? LAYER_DATA : 0;
    }
    if (layer->kind != XOBJ_CONTENT || left < LAYER_CONTENT)
        return 0;
    memcpy(layer->digest, at + 8, 32);
    return LAYER_CONTENT;
}

static bool bitmap_size_ok(uint32_t layers, uint32_t size)
{
    return layers < 2 ? size == 0 : size >= 8 && size <= BITMAP_MAX && size % 8 == 0;
}

static bool form_ok(const struct map_item *item)
{
    return item->form == 0 ? item->layers <= RECORD_OLD_LAYERS
                           : item->form == 1 && item->layers > 2 && item->layers <= XMAP_LAYERS;
}

/* Decodes the entry at `at`, `left` bytes at most. Its size, or 0 if it is damaged. */
static uint64_t get_entry(const uint8_t *at, uint64_t left, struct map_item *item)
{
    uint64_t used = ENTRY_FIXED;

    if (left < ENTRY_FIXED || get32(at + 12) != 0)
        return 0;
    item->block = get64(at);
    item->layers = at[8];
    item->form = at[FORM_AT];
    item->bitmap_size = get16(at + 10);
    item->encoded = at;
    if (!form_ok(item) || !bitmap_size_ok(item->layers, item->bitmap_size))
        return 0;
    for (uint32_t l = 0; l < item->layers; l++) {
        uint32_t size = get_layer(at + used, left - used, item->block, &item->layer[l]);
        if (size == 0 || (item->layer[l].kind == XOBJ_CONTENT && l + 1 < item->layers))
            return 0;
        used += size;
    }
    item->bitmaps = at + used;
    item->bitmap_count = item->form ? map_bitmap_count(item->layers) : item->layers > 1 ? item->layers - 1 : 0;
    used += (uint64_t)item->bitmap_count * item->bitmap_size;
    item->encoded_size = used;
    return used <= left ? used : 0;
}

uint64_t map_entry(const void *at, uint64_t left, struct map_item *item)
{
    return get_entry(at, left, item);
}

/* End of the payload, by the header. */
static uint64_t payload_end(const uint8_t *b) { return RECORD_HEADER + (uint64_t)get32(b + 44); }

int record_next(const void *buf, uint64_t *at, struct map_item *item)
{
    const uint8_t *b = buf;
    uint64_t here = *at ? *at : RECORD_HEADER, end = payload_end(b);
    uint64_t before = *at ? item->block : 0, size;

    if (here == end)
        return 0;
    size = here < end ? get_entry(b + here, end - here, item) : 0;
    if (size == 0 || (*at && item->block <= before))
        return -EBADMSG;
    if (item->layers > 1 && item->bitmap_size != map_bitmap_size(get32(b + 52)))
        return -EBADMSG;
    *at = here + size;
    return 1;
}

int record_next_child(const void *buf, uint64_t *at, uint64_t *child, struct page_ref *page)
{
    const uint8_t *b = buf;
    uint64_t here = *at ? *at : RECORD_HEADER, end = payload_end(b);
    uint64_t before = *child;

    if (here == end)
        return 0;
    if (here > end || end - here < CHILD_SIZE || get32(b + here + 20) != 0)
        return -EBADMSG;
    *child = get64(b + here);
    page->volume = get64(b + here + 8);
    page->epoch = get32(b + here + 16);
    page->zero = 0;
    page->index = get64(b + here + 24);
    if ((*at && *child <= before) || page->volume == 0)
        return -EBADMSG;
    *at = here + CHILD_SIZE;
    return 1;
}

/* Bitmaps of form 0 say of each layer what it has. The numbers that struct xstack has instead, of 3 or 4 layers. */
static void number_layers(const struct map_item *item, struct xstack *stack)
{
    uint8_t *low = stack_bitmap(stack, 1), *high = stack_bitmap(stack, 2);

    for (uint32_t i = 0; i < item->bitmap_size; i++) {
        uint8_t second = item->bitmaps[item->bitmap_size + i];
        uint8_t third = item->layers == 4 ? item->bitmaps[2 * item->bitmap_size + i] & (uint8_t)~second : second;

        low[i] = third;
        high[i] = item->layers == 4 ? second : 0;
    }
}

void item_to_entry(const struct map_item *item, struct xentry *entry, struct xstack *stack)
{
    *entry = (struct xentry){ 0 };
    if (item->layers == 0)
        return;
    entry->volume = item->layer[0].kind == XOBJ_DATA ? item->layer[0].volume : XENTRY_CONTENT;
    entry->epoch = item->layer[0].epoch;
    if (!stack)
        return;
    *stack = (struct xstack){ .layers = item->layers, .bitmap_size = item->bitmap_size };
    for (uint32_t l = 0; l < item->layers; l++)
        stack->layer[l] = (struct xlayer){ .kind = item->layer[l].kind, .epoch = item->layer[l].epoch,
                                           .volume = item->layer[l].kind == XOBJ_DATA ? item->layer[l].volume : 0 };
    if (item->layer[item->layers - 1].kind == XOBJ_CONTENT)
        memcpy(stack->digest, item->layer[item->layers - 1].digest, sizeof(stack->digest));
    memset(stack + 1, 0, (uint64_t)XMAP_BITMAPS * item->bitmap_size);
    if (item->bitmap_count)
        memcpy(stack + 1, item->bitmaps, (uint64_t)item->bitmap_count * item->bitmap_size);
    if (item->form == 0 && item->layers > 2)
        number_layers(item, stack);
}

/* --- journals ------------------------------------------------------------------- */

uint64_t record_span(const struct record_info *info)
{
    uint64_t size = RECORD_HEADER + (uint64_t)info->length;
    return (size + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN;
}

static bool entries_intact(const uint8_t *record)
{
    bool page = get16(record + 6) == RECORD_LEAF;
    uint64_t at = 0, first = get64(record + 32);
    struct map_item item;
    uint32_t n = 0;
    int rc;

    while ((rc = record_next(record, &at, &item)) == 1) {
        if (page && item.block - first >= XMAP_LEAF)
            return false;
        n++;
    }
    return rc == 0 && n == get32(record + 40);
}

static bool children_intact(const uint8_t *record)
{
    uint64_t at = 0, child = 0, first = get64(record + 32);
    uint32_t n = 0, level = get32(record + 48);
    struct page_ref page;
    int rc;

    if (level == 0 || level > MAP_LEVEL_MAX)
        return false;
    while ((rc = record_next_child(record, &at, &child, &page)) == 1) {
        if (child - (first >> (MAP_LEAF_SHIFT * level)) >= XMAP_LEAF)
            return false;
        n++;
    }
    return rc == 0 && n == get32(record + 40);
}

bool record_intact(const void *record)
{
    const uint8_t *b = record;

    return get16(b + 6) == RECORD_INNER ? children_intact(b) : entries_intact(b);
}

/* Why the record at `at` does not go on with the journal; NULL if it does. */
static const char *breaks_off(const uint8_t *at, uint64_t left, uint64_t volume,
                              const struct journal_scan *scan, struct record_info *info)
{
    if (record_check(at, left, info))
        return info->reason;
    if (info->kind != RECORD_JOURNAL)
        return "it is not a journal record";
    if (info->volume != volume)
        return "it belongs to another volume";
    if (scan->records && info->seq != scan->last_seq + 1)
        return "its number does not follow";
    if (info->epoch == UINT32_MAX)
        return "its epoch leaves none for the next";
    if (scan->records && info->block_shift != scan->block_shift)
        return "its block size is another";
    return entries_intact(at) ? NULL : "its entries are damaged";
}

void journal_scan(const void *journal, uint64_t length, uint64_t volume, struct journal_scan *scan)
{
    const uint8_t *j = journal;
    struct record_info info;

    memset(scan, 0, sizeof(*scan));
    while (scan->end < length) {
        const char *why = breaks_off(j + scan->end, length - scan->end, volume, scan, &info);
        if (why) {
            snprintf(scan->reason, sizeof(scan->reason), "%s", why);
            return;
        }
        if (scan->records++ == 0)
            scan->first_seq = info.seq;
        scan->last_seq = info.seq;
        scan->block_shift = info.block_shift;
        if (info.epoch > scan->epoch_max)
            scan->epoch_max = info.epoch;
        if ((info.flags & RECORD_MARK) && info.epoch + 1 > scan->writable_since)
            scan->writable_since = info.epoch + 1;
        scan->end += record_span(&info);
    }
    if (scan->end > length)
        scan->end = length;         /* the last record's padding was never written */
}

/* Whether the header at `at` may be that of a record of the volume with a number above seq. */
static bool looks_like_one(const uint8_t *at, uint64_t left, uint64_t volume, uint64_t seq)
{
    return left > RECORD_HEADER && get32(at) == RECORD_MAGIC && get64(at + 8) == volume
        && get64(at + 24) > seq && get32(at + 44) <= left - RECORD_HEADER;
}

bool journal_lost(const void *journal, uint64_t start, uint64_t length, uint64_t volume, uint64_t seq)
{
    const uint8_t *j = journal;
    uint64_t looked = 0;
    struct record_info info;

    for (uint64_t at = start; at < length; at += RECORD_ALIGN) {
        if (!looks_like_one(j + at, length - at, volume, seq))
            continue;
        looked += RECORD_HEADER + (uint64_t)get32(j + at + 44);
        if (looked > JOURNAL_LOOKS * length || record_check(j + at, length - at, &info) == 0)
            return true;
    }
    return false;
}
