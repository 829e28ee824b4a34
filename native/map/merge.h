/* SPDX-License-Identifier: Apache-2.0
 *
 * map/merge.h - what a leaf says, out of its page and the journals that came after it.
 */
#ifndef ARCHIPELAGO_MAP_MERGE_H
#define ARCHIPELAGO_MAP_MERGE_H

#include <stdint.h>

#include "map/map.h"

/* The entries of blocks [first, first + count), all of one leaf: those of the leaf page (NULL: none)
 * overlaid by `spans` stretches of journal in order; a leaf record into out. A stretch that has an index
 * is not walked. Entries that are zeros are left out. *next = first block that found no room, or
 * first + count. Returns bytes of the record, or a negative errno (EBADMSG). */
int64_t map_merge(const void *leaf, const struct journal_span *journals, uint32_t spans,
                  uint64_t first, uint32_t count, const struct record_info *info,
                  void *out, uint64_t capacity, uint64_t *next);

#endif
