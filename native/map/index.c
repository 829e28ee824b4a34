/* SPDX-License-Identifier: Apache-2.0
 *
 * map/index.c - see map/index.h.
 */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "map/index.h"

/* Checks the record at *at and steps over it. False: the journal ends there. */
static bool next_record(const struct journal_span *span, uint64_t *at, const uint8_t **record,
                        struct record_info *info)
{
    if (*at >= span->length)
        return false;
    *record = (const uint8_t *)span->data + *at;
    if (record_check(*record, span->length - *at, info) || info->kind != RECORD_JOURNAL)
        return false;
    *at += record_span(info);
    return true;
}

uint64_t journal_count(const struct journal_span *journals, uint32_t spans)
{
    struct record_info info;
    const uint8_t *record;
    uint64_t count = 0;

    for (uint32_t j = 0; j < spans; j++)
        for (uint64_t at = 0; next_record(&journals[j], &at, &record, &info);)
            count += info.count;
    return count;
}

static int by_block(const void *a, const void *b)
{
    const struct journal_entry *x = a, *y = b;

    if (x->block != y->block)
        return x->block < y->block ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static uint64_t collect(const struct journal_span *journals, uint32_t spans,
                        struct journal_entry *entries, uint64_t room)
{
    struct record_info info;
    struct map_item item;
    const uint8_t *record;
    uint64_t n = 0;

    for (uint32_t j = 0; j < spans; j++)
        for (uint64_t at = 0; next_record(&journals[j], &at, &record, &info);)
            for (uint64_t in = 0; n < room && record_next(record, &in, &item) == 1; n++)
                entries[n] = (struct journal_entry){ item.block, item.encoded,
                                                     (uint32_t)item.encoded_size, (uint32_t)n };
    return n;
}

uint64_t journal_index(const struct journal_span *journals, uint32_t spans,
                       struct journal_entry *entries, uint64_t room)
{
    uint64_t count = collect(journals, spans, entries, room), kept = 0;

    qsort(entries, count, sizeof(*entries), by_block);
    for (uint64_t i = 0; i < count; i++)
        if (i + 1 == count || entries[i + 1].block != entries[i].block)
            entries[kept++] = entries[i];
    return kept;
}

uint64_t journal_leaf_end(const struct journal_entry *entries, uint64_t count, uint64_t at)
{
    uint64_t leaf;

    assert(at < count);
    leaf = entries[at].block / XMAP_LEAF;
    while (at < count && entries[at].block / XMAP_LEAF == leaf)
        at++;
    return at;
}

int64_t journal_gather(const struct journal_entry *entries, uint64_t count,
                       const struct record_info *info, void *out, uint64_t capacity)
{
    struct record rec;

    if (capacity < RECORD_HEADER)
        return -ENOSPC;
    record_begin(&rec, out, capacity, info);
    for (uint64_t i = 0; i < count; i++)
        if (record_add_encoded(&rec, entries[i].encoded, entries[i].size))
            return -ENOSPC;
    return (int64_t)record_end(&rec, 1);
}
