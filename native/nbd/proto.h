/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/proto.h - the NBD protocol's numbers and records, as they are on the wire.
 *
 * All integers are big-endian and packed without gaps. In the tables, a number is a
 * size in bytes.
 *
 *   greeting       S  8 NBD_MAGIC, 8 NBD_OPTION_MAGIC, 2 handshake flags
 *   client flags   C  4
 *   option         C  8 NBD_OPTION_MAGIC, 4 option, 4 length, data
 *   option reply   S  8 NBD_REPLY_MAGIC, 4 option, 4 reply type, 4 length, data
 *   EXPORT_NAME    S  8 size, 2 transmission flags, 124 zeros unless NO_ZEROES
 *   INFO, GO       C  4 name length, name, 2 count, count times 2 information type
 *                  S  INFO replies: 2 information type, then for
 *                     EXPORT       8 size, 2 transmission flags
 *                     NAME, DESCRIPTION   text
 *                     BLOCK_SIZE   4 minimum, 4 preferred, 4 maximum
 *   *_META_CONTEXT C  4 name length, name, 4 count, count times (4 length, query)
 *                  S  META_CONTEXT replies: 4 context number, its name
 *   LIST           S  SERVER replies: 4 name length, name
 *
 *   request        C  4 NBD_REQUEST_MAGIC, 2 flags, 2 command, 8 cookie, 8 offset,
 *                     4 length; for WRITE: length bytes
 *   simple reply   S  4 NBD_SIMPLE_MAGIC, 4 error, 8 cookie; for READ: length bytes
 *   chunk          S  4 NBD_CHUNK_MAGIC, 2 flags, 2 chunk type, 8 cookie, 4 length, then for
 *                     DATA         8 offset, length - 8 bytes
 *                     STATUS       4 context number, pairs of (4 length, 4 state)
 *                     ERROR        4 error, 2 message length, message
 */
#ifndef ARCHIPELAGO_NBD_PROTO_H
#define ARCHIPELAGO_NBD_PROTO_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define NBD_MAGIC 0x4e42444d41474943ull         /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC 0x49484156454f5054ull  /* "IHAVEOPT" */
#define NBD_REPLY_MAGIC 0x0003e889045565a9ull
#define NBD_REQUEST_MAGIC 0x25609513u
#define NBD_SIMPLE_MAGIC 0x67446698u
#define NBD_CHUNK_MAGIC 0x668e33efu

enum nbd_size {
    NBD_GREETING_SIZE = 18,
    NBD_OPTION_SIZE = 16,
    NBD_OPTION_REPLY_SIZE = 20,
    NBD_REQUEST_SIZE = 28,
    NBD_SIMPLE_SIZE = 16,
    NBD_CHUNK_SIZE = 20,
    NBD_DATA_SIZE = 28,                 /* a chunk's head and the offset of its data */
    NBD_STATUS_SIZE = 24,               /* a chunk's head and the context's number */
    NBD_ERROR_SIZE = 26                 /* a chunk's head, error and message length */
};

enum nbd_handshake { NBD_FIXED_NEWSTYLE = 1, NBD_NO_ZEROES = 2 };

enum nbd_option {
    NBD_OPT_EXPORT_NAME = 1, NBD_OPT_ABORT = 2, NBD_OPT_LIST = 3, NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6, NBD_OPT_GO = 7, NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9, NBD_OPT_SET_META_CONTEXT = 10
};

#define NBD_REP_ERROR 0x80000000u
enum nbd_option_reply {
    NBD_REP_ACK = 1, NBD_REP_SERVER = 2, NBD_REP_INFO = 3, NBD_REP_META_CONTEXT = 4
};
enum nbd_option_error {                 /* with NBD_REP_ERROR set */
    NBD_ERR_UNSUP = 1, NBD_ERR_POLICY = 2, NBD_ERR_INVALID = 3, NBD_ERR_UNKNOWN = 6,
    NBD_ERR_SHUTDOWN = 7, NBD_ERR_TOO_BIG = 9
};

enum nbd_info {
    NBD_INFO_EXPORT = 0, NBD_INFO_NAME = 1, NBD_INFO_DESCRIPTION = 2, NBD_INFO_BLOCK_SIZE = 3
};

enum nbd_transmission {
    NBD_HAS_FLAGS = 1 << 0, NBD_READ_ONLY = 1 << 1, NBD_SEND_FLUSH = 1 << 2,
    NBD_SEND_FUA = 1 << 3, NBD_SEND_TRIM = 1 << 5, NBD_SEND_WRITE_ZEROES = 1 << 6,
    NBD_SEND_DF = 1 << 7, NBD_CAN_MULTI_CONN = 1 << 8, NBD_SEND_CACHE = 1 << 10,
    NBD_SEND_FAST_ZERO = 1 << 11
};

enum nbd_command_type {
    NBD_CMD_READ = 0, NBD_CMD_WRITE = 1, NBD_CMD_DISC = 2, NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4, NBD_CMD_CACHE = 5, NBD_CMD_WRITE_ZEROES = 6, NBD_CMD_BLOCK_STATUS = 7,
    NBD_CMD_COUNT = 8
};

enum nbd_command_flag {
    NBD_FUA = 1, NBD_NO_HOLE = 2, NBD_DF = 4, NBD_REQ_ONE = 8, NBD_FAST_ZERO = 16
};

enum nbd_chunk {
    NBD_CHUNK_NONE = 0, NBD_CHUNK_DATA = 1, NBD_CHUNK_STATUS = 5, NBD_CHUNK_ERROR = 0x8001
};
enum nbd_chunk_flag { NBD_DONE = 1 };
enum nbd_context {
    NBD_CONTEXT_ALLOCATION = 1,
    NBD_CONTEXT_DIFF = 2                /* the first of those that compare; the others follow */
};

enum nbd_errno {
    NBD_EPERM = 1, NBD_EIO = 5, NBD_ENOMEM = 12, NBD_EINVAL = 22, NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75, NBD_ENOTSUP = 95, NBD_ESHUTDOWN = 108
};

/* --- integers on the wire --------------------------------------------------- */

static inline uint16_t nbd_get16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return be16toh(v);
}
static inline uint32_t nbd_get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}
static inline uint64_t nbd_get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}
/* Each returns the place behind what it wrote. */
static inline uint8_t *nbd_put16(uint8_t *p, uint32_t v)
{
    uint16_t be = htobe16((uint16_t)v);
    memcpy(p, &be, sizeof(be));
    return p + sizeof(be);
}
static inline uint8_t *nbd_put32(uint8_t *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof(v));
    return p + sizeof(v);
}
static inline uint8_t *nbd_put64(uint8_t *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof(v));
    return p + sizeof(v);
}

#endif
