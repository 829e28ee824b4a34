/* SPDX-License-Identifier: Apache-2.0
 *
 * map/index.h - the entries of a journal in the order of their blocks, so that a checkpoint
 * that touches many leaves walks the journal once, and not once a leaf.
 */
#ifndef ARCHIPELAGO_MAP_INDEX_H
#define ARCHIPELAGO_MAP_INDEX_H

#include <stdint.h>

#include "map/map.h"

/* One entry of a journal, which must stay where it is while the index is in use. */
struct journal_entry {
    uint64_t block;
    const uint8_t *encoded;
    uint32_t size;                  /* bytes of it */
    uint32_t order;                 /* place in the journal: later ones are newer */
};

/* How many entries the stretches hold, by the headers of their records. */
uint64_t journal_count(const struct journal_span *journals, uint32_t spans);
/* Fills in the newest entry of each block, ascending. `room` must be journal_count() at
 * least. How many there are. */
uint64_t journal_index(const struct journal_span *journals, uint32_t spans,
                       struct journal_entry *entries, uint64_t room);
/* Place behind the last entry of the leaf that entries[at] belongs to. */
uint64_t journal_leaf_end(const struct journal_entry *entries, uint64_t count, uint64_t at);
/* Makes one journal record of `count` entries. Bytes, or ENOSPC. */
int64_t journal_gather(const struct journal_entry *entries, uint64_t count,
                       const struct record_info *info, void *out, uint64_t capacity);

#endif
