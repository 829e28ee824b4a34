/* SPDX-License-Identifier: Apache-2.0
 *
 * objects/object.h - what every blocker must know of objects' names and contents.
 */
#ifndef ARCHIPELAGO_OBJECT_H
#define ARCHIPELAGO_OBJECT_H

#include <stdbool.h>
#include <stdint.h>

#include "segment/layout.h"

static inline bool object_has_digest(uint32_t kind)
{
    return kind == XOBJ_CONTENT || kind == XOBJ_NAME;
}

static inline bool object_has_volume_only(uint32_t kind)
{
    return kind == XOBJ_HEADER || kind == XOBJ_LOCK;
}

/* True if this can be the name of an object: a kind there is, and zeros in what it does not use. */
static inline bool object_name_ok(const struct xobj *object)
{
    if (object->kind == XOBJ_NONE || object->kind >= XOBJ_KINDS)
        return false;
    if (object_has_digest(object->kind))
        return object->epoch == 0;
    if (object->zero[0] || object->zero[1])
        return false;
    return !object_has_volume_only(object->kind) || (object->epoch == 0 && object->index == 0);
}

#define CONTENT_PIECE 4096          /* an all-zero piece of that size need not be stored */

/* True if `size` bytes are all zero. */
bool content_is_zero(const void *data, uint64_t size);

/* SHA-256 of bytes fed in order, less the zeros at their end: the name of a CONTENT object. */
struct content {
    void *sha;
    uint64_t zeros;                 /* fed since the last other byte; not hashed yet */
    uint64_t length;                /* bytes hashed */
};

extern const uint8_t content_nothing[32];     /* the digest of nothing, and so of zeros */

int content_begin(struct content *content);
int content_feed(struct content *content, const void *data, uint64_t size);
/* The digest, if it is wanted; frees what content_begin() took in any case. */
int content_end(struct content *content, uint8_t digest[32]);
/* All three for bytes that lie together; *length without the zeros at their end. */
int content_digest(const void *data, uint64_t size, uint64_t *length, uint8_t digest[32]);

#endif
