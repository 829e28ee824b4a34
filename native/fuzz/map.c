/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz/map.c - fuzz target: the decoders of what lies on the store, as map/map.h has them.
 *
 * The first byte of the input chooses what the rest is taken for:
 *
 *   0  a record as it is: check, then walk as entries and as children
 *   1  a journal: scan, list its leaves, merge them
 *   2  a leaf page, length of it in two bytes, and a journal behind it: merge, compare
 *
 * With bit 7 of the first byte set, magic numbers, lengths and checksums of all records in the
 * input are made right first, so that what lies behind these checks is reached at once.
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "map/diff.h"
#include "map/index.h"
#include "map/leaves.h"
#include "map/map.h"
#include "map/merge.h"

#define INPUT_MAX 65536
#define LEAVES_MAX 4               /* merges tried for one journal */
#define RECORDS_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Makes the record at `at` of `left` bytes one that record_check() accepts. Its whole length. */
static uint64_t mend(uint8_t *at, uint64_t left, uint32_t align)
{
    struct record record = { .buf = at, .capacity = left };
    struct record_info *info = &record.info;
    uint32_t length;

    if (left < RECORD_HEADER)
        return left;
    memcpy(&length, at + 44, 4);
    record.used = RECORD_HEADER + length % (left - RECORD_HEADER + 1);
    if ((record.used + align - 1) / align * align > left)
        record.used = left / align * align;
    if (record.used < RECORD_HEADER)
        return left;
    info->kind = at[6] % 4;
    memcpy(&info->volume, at + 8, 8);
    memcpy(&info->epoch, at + 16, 4);
    info->flags = at[20] & RECORD_MARK;
    memcpy(&info->seq, at + 24, 8);
    memcpy(&info->first, at + 32, 8);
    memcpy(&info->count, at + 40, 4);
    info->level = at[48];
    info->block_shift = XMAP_BLOCK_MIN_SHIFT + at[52] % 9;
    return record_end(&record, align);
}

static void mend_all(uint8_t *at, uint64_t size, uint32_t align)
{
    for (uint32_t n = 0; n < RECORDS_MAX && size; n++) {
        uint64_t used = mend(at, size, align);
        at += used;
        size -= used;
    }
}

static void walk(const uint8_t *record)
{
    static uint8_t room[sizeof(struct xstack) + XMAP_BITMAPS * 512];
    struct map_item item = { 0 };
    struct page_ref page;
    struct xentry entry;
    uint64_t at = 0, child = 0, n = 0;

    record_intact(record);
    while (record_next(record, &at, &item) == 1) {
        assert(item.layers <= XMAP_LAYERS && ++n <= INPUT_MAX / 16);
        item_to_entry(&item, &entry, (struct xstack *)room);
    }
    at = 0;
    for (n = 0; record_next_child(record, &at, &child, &page) == 1; n++)
        assert(n <= INPUT_MAX / 32);
}

/* Compares two leaves, a few ranges at a time. */
static void compare(const void *before, const void *after, uint64_t first, uint32_t shift)
{
    struct map_range ranges[3];
    uint64_t start = first << shift, end = (first + XMAP_LEAF) << shift, at = start;
    struct map_diff diff = { .before = before, .after = after, .at = start, .end = end, .block_shift = shift,
                             .room = sizeof(ranges) / sizeof(ranges[0]), .ranges = ranges };
    int rc;

    if (first > UINT64_MAX >> (shift + 1))
        return;
    do {
        diff.count = 0;
        rc = map_diff(&diff);
        for (uint64_t i = 0; i < diff.count; i++) {
            assert(ranges[i].offset >= at && ranges[i].length && ranges[i].length <= end - ranges[i].offset);
            at = ranges[i].offset + ranges[i].length;
        }
        assert(rc == -EBADMSG || (diff.at >= at && diff.at <= end));
    } while (rc == -ENOSPC);
    assert(rc == -EBADMSG || diff.at == end);
}

/* A merged leaf must be a record that is in order itself. */
static void merge(const void *leaf, const struct journal_span *span, uint64_t first, uint32_t shift,
                  uint64_t capacity)
{
    static uint8_t out[INPUT_MAX];
    struct record_info info = { .kind = RECORD_LEAF, .volume = 7, .block_shift = shift };
    uint64_t next = 0, at = 0, n = 0;
    struct map_item item = { 0 };
    int64_t length = map_merge(leaf, span, 1, first, XMAP_LEAF, &info, out, capacity, &next);

    if (length < 0) {
        assert(length == -EBADMSG || length == -ENOMEM);
        return;
    }
    assert((uint64_t)length <= capacity && next >= first && next <= first + XMAP_LEAF);
    assert(record_check(out, (uint64_t)length, &info) == 0);
    while (record_next(out, &at, &item) == 1) {
        assert(item.block >= first && item.block < next);
        n++;
    }
    assert(n <= info.count);
    compare(leaf, out, first, shift);
    compare(out, leaf, first, shift);
    compare(NULL, out, first, shift);
}

/* With an index a leaf must come out as without. */
static void merge_by_index(const void *leaf, const struct journal_span *span, uint64_t first, uint32_t shift)
{
    static uint8_t walked[INPUT_MAX], found[INPUT_MAX];
    struct record_info info = { .kind = RECORD_LEAF, .volume = 7, .block_shift = shift };
    struct journal_leaves *leaves = journal_leaves_new();
    struct journal_span indexed = { span->data, span->length, leaves };
    uint64_t next[2];
    int64_t length[2];

    assert(leaves && journal_leaves_grow(leaves, span->data, span->length) == 0);
    length[0] = map_merge(leaf, span, 1, first, XMAP_LEAF, &info, walked, INPUT_MAX, &next[0]);
    length[1] = map_merge(leaf, &indexed, 1, first, XMAP_LEAF, &info, found, INPUT_MAX, &next[1]);
    assert(length[0] == length[1]);
    assert(length[0] < 0 || (next[0] == next[1] && memcmp(walked, found, (size_t)length[0]) == 0));
    journal_leaves_free(leaves);
}

static void journal(const uint8_t *data, uint64_t size, const void *leaf)
{
    struct journal_scan scan;
    struct journal_entry *entries;
    uint64_t volume = 0, room, count;
    struct journal_span span;

    if (size >= 16)
        memcpy(&volume, data + 8, 8);
    journal_scan(data, size, volume, &scan);
    assert(scan.end <= size);
    journal_lost(data, scan.end, size, volume, scan.last_seq);
    span = (struct journal_span){ .data = data, .length = scan.end };
    room = journal_count(&span, 1);
    entries = calloc(room + 1, sizeof(*entries));
    assert(entries && room <= scan.end / 16);
    count = journal_index(&span, 1, entries, room);
    assert(count <= room);
    for (uint64_t i = 0, at = 0; at < count && i < LEAVES_MAX; i++) {
        uint64_t first = entries[at].block / XMAP_LEAF * XMAP_LEAF;
        uint64_t end = journal_leaf_end(entries, count, at);

        assert(end > at && end <= count && entries[end - 1].block / XMAP_LEAF == first / XMAP_LEAF);
        if (first < UINT64_MAX - XMAP_LEAF) {
            merge(leaf, &span, first, XMAP_BLOCK_MIN_SHIFT, i % 2 ? INPUT_MAX : RECORD_HEADER + RECORD_ENTRY_MAX);
            merge_by_index(leaf, &span, first, XMAP_BLOCK_MIN_SHIFT);
        }
        at = end;
    }
    free(entries);
}

static void leaf_and_journal(const uint8_t *data, uint64_t size)
{
    struct record_info info;
    uint64_t split;

    if (size < 2)
        return;
    split = (data[0] | (uint64_t)data[1] << 8) % (size - 1);
    if (record_check(data + 2, split, &info) || info.kind != RECORD_LEAF)
        return;
    journal(data + 2 + split, size - 2 - split, data + 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct record_info info;
    uint8_t *copy, how;

    if (size < 1 || size > INPUT_MAX)
        return 0;
    how = data[0];
    copy = malloc(size);            /* exactly as long as the input: every byte beyond is noticed */
    assert(copy);
    memcpy(copy, data + 1, size - 1);
    size--;
    if (how & 0x80)
        mend_all(how % 4 == 2 && size > 2 ? copy + 2 : copy, how % 4 == 2 && size > 2 ? size - 2 : size,
                 how % 4 == 1 ? RECORD_ALIGN : 1);
    if (how % 4 == 0 && record_check(copy, size, &info) == 0)
        walk(copy);
    else if (how % 4 == 1)
        journal(copy, size, NULL);
    else if (how % 4 == 2)
        leaf_and_journal(copy, size);
    free(copy);
    return 0;
}
