/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/list.c - LIST.
 *
 * RADOS lists a pool in the order of the objects' hashes with their bits reversed. The cursor is
 * that number of the object to go on from, so it needs no state here and stays good whatever is
 * made or removed meanwhile. librados does not tell an object's hash, so it is computed; that the
 * order comes out ascending is checked.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blocker_rados/parts.h"

#define POSITIONS (1ull << 32)
#define AT_ONCE 512                 /* names asked for in one call */
#define CALLS_MAX (1u << 20)        /* of one LIST; each comes at least a placement group on */
#define SEPARATOR '\037'            /* between namespace and name in what is hashed */

struct entry { uint64_t position; struct xobj object; };

struct listing {
    struct br *br;
    uint32_t kind;
    char prefix[BR_NAMESPACE_MAX + 16];     /* namespace and separator */
    size_t prefix_length;
    struct entry *entries;
    uint64_t count, limit;          /* one more than the limit is kept: it tells where to go on */
    uint64_t position;              /* of the last name seen */
};

/* --- positions: Bob Jenkins' hash of 1996, as Ceph uses it for objects ------------------ */

static void mix(uint32_t *a, uint32_t *b, uint32_t *c)
{
    *a = (*a - *b - *c) ^ (*c >> 13);
    *b = (*b - *c - *a) ^ (*a << 8);
    *c = (*c - *a - *b) ^ (*b >> 13);
    *a = (*a - *b - *c) ^ (*c >> 12);
    *b = (*b - *c - *a) ^ (*a << 16);
    *c = (*c - *a - *b) ^ (*b >> 5);
    *a = (*a - *b - *c) ^ (*c >> 3);
    *b = (*b - *c - *a) ^ (*a << 10);
    *c = (*c - *a - *b) ^ (*b >> 15);
}

/* Up to four bytes, little-endian. */
static uint32_t word(const uint8_t *bytes, size_t count)
{
    uint32_t value = 0;

    for (size_t i = 0; i < count && i < 4; i++)
        value |= (uint32_t)bytes[i] << (8 * i);
    return value;
}

static size_t beyond(size_t count, size_t start) { return count > start ? count - start : 0; }

static uint32_t hash(const uint8_t *text, size_t length)
{
    uint32_t a = 0x9e3779b9, b = a, c = 0;
    size_t left = length;

    for (; left >= 12; left -= 12, text += 12) {
        a += word(text, 4);
        b += word(text + 4, 4);
        c += word(text + 8, 4);
        mix(&a, &b, &c);
    }
    a += word(text, left);
    b += word(text + 4, beyond(left, 4));
    c += (uint32_t)length + (word(text + 8, beyond(left, 8)) << 8);     /* its lowest byte is the length's */
    mix(&a, &b, &c);
    return c;
}

static uint32_t reverse_bits(uint32_t value)
{
    uint32_t reversed = 0;

    for (int i = 0; i < 32; i++, value >>= 1)
        reversed = reversed << 1 | (value & 1);
    return reversed;
}

static uint64_t position_of(const struct listing *list, const char *name, size_t length)
{
    uint8_t text[sizeof(list->prefix) + OBJECT_NAME_MAX];

    memcpy(text, list->prefix, list->prefix_length);
    memcpy(text + list->prefix_length, name, length);
    return reverse_bits(hash(text, list->prefix_length + length));
}

/* --- collecting -------------------------------------------------------------------------- */

/* Skips what is no object of ours. EIO: the order is not what it should be. */
static int collect(struct listing *list, const struct rados_list_item *item)
{
    char name[OBJECT_NAME_MAX];
    struct entry entry;

    if (item->name_length >= sizeof(name) || item->locator_length)
        return 0;
    memcpy(name, item->name, item->name_length);
    name[item->name_length] = 0;
    if (!object_name_parse(list->kind, name, &entry.object))
        return 0;
    entry.position = position_of(list, name, item->name_length);
    if (entry.position < list->position) {
        br_log(list->br, "ERROR", "the pool %s lists objects in an order not known here: is its object_hash not "
               "rjenkins?", list->br->pool_name);
        return -EIO;
    }
    list->position = entry.position;
    list->entries[list->count++] = entry;
    return 0;
}

static int collect_all(struct listing *list, struct rados_list_item *items, int count)
{
    int rc = 0;

    for (int i = 0; i < count && rc == 0 && list->count <= list->limit; i++)
        rc = collect(list, &items[i]);
    rados.object_list_free((size_t)count, items);
    return rc;
}

/* Fills the list from *cursor on, to the end of the pool if there is room. */
static int fill(struct listing *list, rados_ioctx_t io, rados_cursor_t *cursor, bool *ended)
{
    struct rados_list_item items[AT_ONCE];
    rados_cursor_t end = rados.object_list_end(io), next;
    int rc = 0;

    *ended = false;
    for (uint32_t calls = 0; rc == 0 && !*ended && list->count <= list->limit; calls++) {
        uint64_t room = list->limit + 1 - list->count;
        int count;
        next = rados.object_list_begin(io);     /* librados writes into an existing one */
        count = rados.object_list(io, *cursor, end, room < AT_ONCE ? room : AT_ONCE, NULL, 0, items, &next);
        rados.object_list_cursor_free(io, *cursor);
        *cursor = next;
        if (count < 0)
            rc = count;
        else
            rc = calls < CALLS_MAX ? collect_all(list, items, count) : -EIO;
        *ended = rados.object_list_is_end(io, *cursor);
    }
    rados.object_list_cursor_free(io, end);
    return rc;
}

/* Where a cursor of ours lies. */
static rados_cursor_t seek(rados_ioctx_t io, uint64_t position)
{
    rados_cursor_t begin = rados.object_list_begin(io), end, from, to;

    if (position == 0)
        return begin;
    end = rados.object_list_end(io);
    from = rados.object_list_begin(io);
    to = rados.object_list_begin(io);
    rados.object_list_slice(io, begin, end, position, POSITIONS, &from, &to);
    rados.object_list_cursor_free(io, begin);
    rados.object_list_cursor_free(io, end);
    rados.object_list_cursor_free(io, to);
    return from;
}

/* Equal positions stay together. EOVERFLOW: more of them than there is room for. */
static int emit(struct listing *list, struct xreq *req, struct xobj *out)
{
    uint64_t n = list->count;

    req->arg = 0;
    if (n > list->limit) {
        for (n = list->limit; n && list->entries[n].position == list->entries[n - 1].position;)
            n--;
        if (n == 0)
            return -EOVERFLOW;
        req->arg = list->entries[n].position;
    }
    for (uint64_t i = 0; i < n; i++)
        out[i] = list->entries[i].object;
    req->done = n;
    return 0;
}

int br_list_run(struct br *br, struct br_op *op)
{
    struct xreq *req = op->req;
    struct listing list = { .br = br, .kind = req->object.kind, .limit = xreq_list_limit(req) };
    rados_ioctx_t io = br->io[list.kind];
    rados_cursor_t cursor;
    bool ended;
    int rc;

    if (req->arg >= POSITIONS)
        return -EINVAL;
    list.entries = malloc((list.limit + 1) * sizeof(*list.entries));
    if (!list.entries)
        return -ENOMEM;
    br_namespace(br, list.kind, list.prefix);
    list.prefix_length = strlen(list.prefix);
    list.prefix[list.prefix_length++] = SEPARATOR;
    cursor = seek(io, req->arg);
    rc = fill(&list, io, &cursor, &ended);
    rados.object_list_cursor_free(io, cursor);
    if (rc == 0)
        rc = emit(&list, req, xreq_data(br->peer->seg, req));
    assert(rc || req->arg || ended);
    free(list.entries);
    return rc;
}
