/* SPDX-License-Identifier: Apache-2.0
 *
 * map/merge.c - see map/merge.h.
 */
#include <errno.h>
#include <stdlib.h>

#include "map/leaves.h"
#include "map/merge.h"

/* Calls visit for each entry of a scanned journal. Stops where it is damaged. */
static void journal_each(const struct journal_span *span,
                         void (*visit)(void *arg, const struct map_item *item), void *arg)
{
    const uint8_t *j = span->data;
    struct record_info info;
    struct map_item item;

    for (uint64_t at = 0; at < span->length; at += record_span(&info)) {
        uint64_t in = 0;
        if (record_check(j + at, span->length - at, &info) || info.kind != RECORD_JOURNAL)
            return;
        while (record_next(j + at, &in, &item) == 1)
            visit(arg, &item);
    }
}

struct merge {
    uint64_t first;
    uint32_t count;
    struct { const uint8_t *encoded; uint64_t size; uint32_t layers; } newest[XMAP_LEAF];
};

static void merge_item(void *arg, const struct map_item *item)
{
    struct merge *m = arg;

    if (item->block < m->first || item->block - m->first >= m->count)
        return;
    m->newest[item->block - m->first].encoded = item->encoded;
    m->newest[item->block - m->first].size = item->encoded_size;
    m->newest[item->block - m->first].layers = item->layers;
}

static void merge_journal(struct merge *m, const struct journal_span *span)
{
    if (span->leaves)
        journal_leaves_each(span->leaves, span->data, m->first / XMAP_LEAF, merge_item, m);
    else
        journal_each(span, merge_item, m);
}

static int merge_leaf(struct merge *m, const void *leaf)
{
    struct map_item item;
    uint64_t at = 0;
    int rc;

    while ((rc = record_next(leaf, &at, &item)) == 1)
        merge_item(m, &item);
    return rc;
}

static uint64_t merge_out(const struct merge *m, struct record *rec)
{
    for (uint32_t i = 0; i < m->count; i++)
        if (m->newest[i].layers
            && record_add_encoded(rec, m->newest[i].encoded, m->newest[i].size))
            return m->first + i;
    return m->first + m->count;
}

int64_t map_merge(const void *leaf, const struct journal_span *journals, uint32_t spans,
                  uint64_t first, uint32_t count, const struct record_info *info,
                  void *out, uint64_t capacity, uint64_t *next)
{
    struct merge *m;
    struct record rec;

    if (count == 0 || count > XMAP_LEAF || capacity < RECORD_HEADER + RECORD_ENTRY_MAX)
        return -EINVAL;
    m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    m->first = first;
    m->count = count;
    if (leaf && merge_leaf(m, leaf)) {
        free(m);
        return -EBADMSG;
    }
    for (uint32_t j = 0; j < spans; j++)
        merge_journal(m, &journals[j]);
    record_begin(&rec, out, capacity, info);
    *next = merge_out(m, &rec);
    free(m);
    return (int64_t)record_end(&rec, 1);
}
