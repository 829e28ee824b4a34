/* SPDX-License-Identifier: Apache-2.0
 *
 * map/reach.h - the names of objects that records mention, as hashes: what the collector keeps of them.
 *
 * A hash is the XXH3-64 of a struct xobj. It stands in memory only, so it may change with any version.
 */
#ifndef ARCHIPELAGO_MAP_REACH_H
#define ARCHIPELAGO_MAP_REACH_H

#include <stdint.h>

#include "map/map.h"

/* The hashes of `count` names. */
void reach_names(const struct xobj *names, uint64_t count, uint64_t *hashes);
/* The hashes of all layers of all entries of a checked leaf or journal record, of which room must have XMAP_LAYERS for
 * each entry. How many, or EBADMSG. */
int64_t reach_record(const void *record, uint64_t *hashes, uint64_t room);

#endif
