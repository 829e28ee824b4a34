/* SPDX-License-Identifier: Apache-2.0
 *
 * map/leaves.c - see map/leaves.h.
 */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "map/leaves.h"

#define CHAIN_MAX (2 * XMAP_LEAF)
#define ROOM_MIN 16

/* One entry. Numbers of links are counted from 1; 0 ends a chain. */
struct link {
    uint32_t at;                    /* its first byte in the journal */
    uint32_t older;                 /* the link before it of its leaf */
};

/* A leaf's chain, in an open hash table. */
struct chain {
    uint64_t leaf;
    uint32_t newest;                /* 0: the place is free */
    uint32_t length;                /* links */
};

struct journal_leaves {
    uint64_t end;                   /* the records before this byte are in it */
    uint32_t links, link_room;
    uint32_t chains, chain_room;    /* the room is a power of two */
    struct link *link;
    struct chain *chain;
};

/* The blocks of a leaf that were met. */
struct seen { uint64_t bits[XMAP_LEAF / 64]; };

static bool see(struct seen *seen, uint64_t block)
{
    uint64_t *word = &seen->bits[block % XMAP_LEAF / 64], bit = 1ull << block % 64;
    bool first = !(*word & bit);

    *word |= bit;
    return first;
}

struct journal_leaves *journal_leaves_new(void)
{
    return calloc(1, sizeof(struct journal_leaves));
}

void journal_leaves_free(struct journal_leaves *index)
{
    if (!index)
        return;
    free(index->link);
    free(index->chain);
    free(index);
}

uint64_t journal_leaves_count(const struct journal_leaves *index)
{
    return index->chains;
}

void journal_leaves_list(const struct journal_leaves *index, uint64_t *leaves)
{
    for (uint32_t i = 0; i < index->chain_room; i++)
        if (index->chain[i].newest)
            *leaves++ = index->chain[i].leaf;
}

uint64_t journal_leaves_bytes(const struct journal_leaves *index)
{
    return sizeof(*index) + (uint64_t)index->link_room * sizeof(*index->link)
           + (uint64_t)index->chain_room * sizeof(*index->chain);
}

/* --- chains ------------------------------------------------------------------------ */

/* The place of a leaf's chain, or the free one where it would be. The table is not empty, and never full. */
static struct chain *place_of(struct chain *chains, uint32_t room, uint64_t leaf)
{
    uint32_t at = (uint32_t)((leaf * 0x9e3779b97f4a7c15ull) >> 32) & (room - 1);

    while (chains[at].newest && chains[at].leaf != leaf)
        at = (at + 1) & (room - 1);
    return &chains[at];
}

static int more_chains(struct journal_leaves *index)
{
    uint32_t room = index->chain_room ? 2 * index->chain_room : ROOM_MIN;
    struct chain *chains = calloc(room, sizeof(*chains));

    if (!chains)
        return -ENOMEM;
    for (uint32_t i = 0; i < index->chain_room; i++)
        if (index->chain[i].newest)
            *place_of(chains, room, index->chain[i].leaf) = index->chain[i];
    free(index->chain);
    index->chain = chains;
    index->chain_room = room;
    return 0;
}

static int more_links(struct journal_leaves *index)
{
    uint32_t room = index->link_room ? 2 * index->link_room : ROOM_MIN;
    struct link *links = realloc(index->link, (uint64_t)room * sizeof(*links));

    if (!links)
        return -ENOMEM;
    index->link = links;
    index->link_room = room;
    return 0;
}

static uint64_t block_at(const uint8_t *journal, uint32_t at)
{
    uint64_t block;

    memcpy(&block, journal + at, sizeof(block));
    return block;
}

/* Takes out of a chain what newer entries have replaced. */
static void shorten(struct journal_leaves *index, struct chain *chain, const uint8_t *journal)
{
    struct seen seen = { { 0 } };
    uint32_t *from = &chain->newest;

    chain->length = 0;
    while (*from) {
        struct link *link = &index->link[*from - 1];

        if (see(&seen, block_at(journal, link->at))) {
            chain->length++;
            from = &link->older;
        } else {
            *from = link->older;
        }
    }
    assert(chain->length <= XMAP_LEAF);
}

static int add(struct journal_leaves *index, const uint8_t *journal, uint64_t block, uint32_t at)
{
    struct chain *chain;

    if (index->links == index->link_room && more_links(index))
        return -ENOMEM;
    if (2 * index->chains >= index->chain_room && more_chains(index))
        return -ENOMEM;
    chain = place_of(index->chain, index->chain_room, block / XMAP_LEAF);
    if (!chain->newest) {
        *chain = (struct chain){ .leaf = block / XMAP_LEAF };
        index->chains++;
    }
    index->link[index->links] = (struct link){ .at = at, .older = chain->newest };
    chain->newest = ++index->links;
    if (++chain->length >= CHAIN_MAX)
        shorten(index, chain, journal);
    return 0;
}

/* --- journals ---------------------------------------------------------------------- */

/* Takes in one record. Its bytes with what it is padded with, or a negative errno. */
static int64_t take_in(struct journal_leaves *index, const uint8_t *journal, uint64_t at, uint64_t length)
{
    struct record_info info = { 0 };
    struct map_item item;
    uint64_t in = 0;
    int rc;

    if (length - at < RECORD_HEADER)
        return -EBADMSG;
    memcpy(&info.length, journal + at + 44, sizeof(info.length));
    if (info.length > length - at - RECORD_HEADER)
        return -EBADMSG;
    while ((rc = record_next(journal + at, &in, &item)) == 1)
        if (add(index, journal, item.block, (uint32_t)(item.encoded - journal)))
            return -ENOMEM;
    return rc ? rc : (int64_t)record_span(&info);
}

int journal_leaves_grow(struct journal_leaves *index, const void *journal, uint64_t length)
{
    assert(length <= UINT32_MAX);
    while (index->end < length) {
        int64_t taken = take_in(index, journal, index->end, length);

        if (taken < 0)
            return (int)taken;
        index->end += (uint64_t)taken;
    }
    return 0;
}

void journal_leaves_each(const struct journal_leaves *index, const void *journal, uint64_t leaf,
                         void (*visit)(void *arg, const struct map_item *item), void *arg)
{
    struct seen seen = { { 0 } };
    struct map_item item;
    uint32_t at;

    if (!index->chains)
        return;
    for (at = place_of(index->chain, index->chain_room, leaf)->newest; at; at = index->link[at - 1].older) {
        const uint8_t *entry = (const uint8_t *)journal + index->link[at - 1].at;

        if (see(&seen, block_at(entry, 0)) && map_entry(entry, RECORD_ENTRY_MAX, &item))
            visit(arg, &item);
    }
}
