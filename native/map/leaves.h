/* SPDX-License-Identifier: Apache-2.0
 *
 * map/leaves.h - where in a journal the entries of a leaf lie, in an index that grows with the journal.
 *
 * So a leaf is put together without walking journals, however long they are. The index holds offsets
 * only: the entries stay where they are. Those of one leaf form a chain, newest first. A chain that has
 * become twice as long as a leaf has blocks loses the entries that newer ones have replaced, so that a
 * leaf costs the same however often its blocks were written; with that the cost of an entry is constant.
 *
 * Memory is 8 bytes an entry and 16 to 32 a leaf, and up to twice that while it grows.
 */
#ifndef ARCHIPELAGO_MAP_LEAVES_H
#define ARCHIPELAGO_MAP_LEAVES_H

#include <stdint.h>

#include "map/map.h"

/* An empty index; NULL: no memory. It is the caller's, who frees it. */
struct journal_leaves *journal_leaves_new(void);
void journal_leaves_free(struct journal_leaves *index);
/* Takes in the records of a scanned journal that lie before `length` and are not in it yet. The journal may have
 * moved since, but not changed. ENOMEM, EBADMSG: some of them are in it, and the next call goes on. */
int journal_leaves_grow(struct journal_leaves *index, const void *journal, uint64_t length);
/* How many leaves have entries. */
uint64_t journal_leaves_count(const struct journal_leaves *index);
/* Their numbers, in no order, into room for as many. */
void journal_leaves_list(const struct journal_leaves *index, uint64_t *leaves);
/* Bytes of memory it takes. */
uint64_t journal_leaves_bytes(const struct journal_leaves *index);
/* Calls visit for the newest entry of each block of a leaf, in no order. */
void journal_leaves_each(const struct journal_leaves *index, const void *journal, uint64_t leaf,
                         void (*visit)(void *arg, const struct map_item *item), void *arg);

#endif
