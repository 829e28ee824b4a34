/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/talk.c - see nbd/talk.h.
 */
#include <assert.h>

#include "nbd/talk.h"

/* --- what the client says -------------------------------------------------------- */

static const uint8_t *take(struct nbd_reader *in, uint32_t size)
{
    const uint8_t *at = in->at;

    if (in->bad || size > in->left) {
        in->bad = true;
        return NULL;
    }
    in->at += size;
    in->left -= size;
    return at;
}

uint32_t nbd_take16(struct nbd_reader *in)
{
    const uint8_t *at = take(in, 2);
    return at ? nbd_get16(at) : 0;
}

uint32_t nbd_take32(struct nbd_reader *in)
{
    const uint8_t *at = take(in, 4);
    return at ? nbd_get32(at) : 0;
}

struct nbd_text nbd_take_text(struct nbd_reader *in)
{
    uint32_t size = nbd_take32(in);
    const uint8_t *data = take(in, size);

    return (struct nbd_text){ data, data ? size : 0 };
}

/* --- what the server says ----------------------------------------------------------- */

void nbd_say(struct nbd_connection *conn, const void *data, uint32_t size)
{
    assert(size <= NBD_TALK - conn->talk_end);
    memcpy(conn->talk + conn->talk_end, data, size);
    conn->talk_end += size;
    nbd_set_add(&conn->nbd->dirty, conn->index);
}

void nbd_say16(struct nbd_connection *conn, uint32_t value)
{
    uint8_t be[2];
    nbd_put16(be, value);
    nbd_say(conn, be, sizeof(be));
}

void nbd_say32(struct nbd_connection *conn, uint32_t value)
{
    uint8_t be[4];
    nbd_put32(be, value);
    nbd_say(conn, be, sizeof(be));
}

void nbd_say64(struct nbd_connection *conn, uint64_t value)
{
    uint8_t be[8];
    nbd_put64(be, value);
    nbd_say(conn, be, sizeof(be));
}

void nbd_answer(struct nbd_connection *conn, uint32_t type, uint32_t size)
{
    nbd_say64(conn, NBD_REPLY_MAGIC);
    nbd_say32(conn, conn->option);
    nbd_say32(conn, type);
    nbd_say32(conn, size);
}

void nbd_accept(struct nbd_connection *conn)
{
    nbd_answer(conn, NBD_REP_ACK, 0);
}

void nbd_refuse(struct nbd_connection *conn, enum nbd_option_error error, const char *why)
{
    uint32_t size = (uint32_t)strlen(why);

    nbd_answer(conn, NBD_REP_ERROR | error, size);
    nbd_say(conn, why, size);
}
