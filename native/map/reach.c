/* SPDX-License-Identifier: Apache-2.0
 *
 * map/reach.c - see map/reach.h.
 */
#define XXH_INLINE_ALL
#include <errno.h>
#include <xxhash.h>

#include "map/reach.h"

void reach_names(const struct xobj *names, uint64_t count, uint64_t *hashes)
{
    for (uint64_t i = 0; i < count; i++)
        hashes[i] = XXH3_64bits(names + i, sizeof(*names));
}

int64_t reach_record(const void *record, uint64_t *hashes, uint64_t room)
{
    uint64_t at = 0, count = 0;
    struct map_item item;
    int rc;

    while ((rc = record_next(record, &at, &item)) == 1) {
        if (room - count < item.layers)
            return -EBADMSG;
        reach_names(item.layer, item.layers, hashes + count);
        count += item.layers;
    }
    return rc < 0 ? rc : (int64_t)count;
}
