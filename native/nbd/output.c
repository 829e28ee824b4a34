/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/output.c - what is to be sent to a client, and what is free again once it was. See nbd/parts.h.
 */
#include <assert.h>
#include <errno.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "nbd/parts.h"

/* --- parts ------------------------------------------------------------------------------------ */

void nbd_output_push(struct nbd_connection *conn, const void *base, size_t size, const struct xreq *req,
                     const struct nbd_command *command)
{
    assert(size > 0);
    if (conn->out_end == NBD_OUT) {
        uint32_t waiting = conn->out_end - conn->out_start;
        assert(conn->out_start > 0);
        memmove(conn->out, conn->out + conn->out_start, waiting * sizeof(conn->out[0]));
        memmove(conn->parts, conn->parts + conn->out_start, waiting * sizeof(conn->parts[0]));
        conn->out_start = 0;
        conn->out_end = waiting;
    }
    conn->out[conn->out_end] = (struct iovec){ (void *)base, size };
    conn->parts[conn->out_end++] = (struct nbd_part){
        .slot = req ? req->index + 1 : 0,
        .command = command ? (uint32_t)(command - conn->commands) + 1 : 0,
    };
    nbd_set_add(&conn->nbd->dirty, conn->index);
}

/* --- pieces that wait for others of their command ----------------------------------------- */

struct xreq *nbd_output_piece(struct nbd_connection *conn, const struct nbd_command *command, uint32_t i)
{
    uint32_t slot = conn->pieces[command - conn->commands][i];

    return slot ? &conn->nbd->peer->port->reqs[slot - 1] : NULL;
}

void nbd_output_forget_pieces(struct nbd_connection *conn, const struct nbd_command *command)
{
    uint32_t *slots = conn->pieces[command - conn->commands];

    for (uint32_t i = 0; i < NBD_PIECES; i++)
        if (slots[i]) {
            nbd_put(conn, nbd_output_piece(conn, command, i));
            slots[i] = 0;
        }
}

/* --- sending ---------------------------------------------------------------------------------- */

static void release(struct nbd_connection *conn, struct nbd_part part)
{
    if (part.slot)
        nbd_put(conn, &conn->nbd->peer->port->reqs[part.slot - 1]);
    if (part.command) {
        struct nbd_command *command = &conn->commands[part.command - 1];

        assert(command->used && conn->free_count < NBD_COMMANDS);
        command->used = false;
        if (command->type == NBD_CMD_READ || command->type == NBD_CMD_WRITE)
            conn->bytes -= command->length;
        conn->free[conn->free_count++] = (uint8_t)(part.command - 1);
    }
}

void nbd_output_forget(struct nbd_connection *conn)
{
    while (conn->out_start < conn->out_end)
        release(conn, conn->parts[conn->out_start++]);
    for (uint32_t i = 0; i < NBD_COMMANDS; i++)
        if (conn->commands[i].used && conn->commands[i].type == NBD_CMD_READ)
            nbd_output_forget_pieces(conn, &conn->commands[i]);
}

static void sent(struct nbd_connection *conn, size_t n)
{
    while (n > 0) {
        struct iovec *part = &conn->out[conn->out_start];

        assert(conn->out_start < conn->out_end);
        if (n < part->iov_len) {
            part->iov_base = (uint8_t *)part->iov_base + n;
            part->iov_len -= n;
            return;
        }
        n -= part->iov_len;
        release(conn, conn->parts[conn->out_start++]);
    }
    if (conn->out_start == conn->out_end)
        conn->out_start = conn->out_end = 0;
}

/* Bytes that the socket took, 0 if it is full, or a negative errno. */
static ssize_t transmit(struct nbd_connection *conn, struct iovec *parts, size_t count)
{
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = count };
    ssize_t n = sendmsg(conn->watch.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (n > 0 && conn->phase == NBD_SERVE)
        conn->since_ns = loop_now(conn->nbd->peer->loop);
    return n;
}

static int send_talk(struct nbd_connection *conn)
{
    struct iovec talk = { conn->talk + conn->talk_start, conn->talk_end - conn->talk_start };
    ssize_t n = transmit(conn, &talk, 1);

    if (n < 0)
        return (int)n;
    conn->talk_start += (uint32_t)n;
    conn->full = conn->talk_start < conn->talk_end;
    if (conn->talk_start == conn->talk_end)
        conn->talk_start = conn->talk_end = 0;
    return 0;
}

/* A client with many answers that it has not taken yet will send as many commands by and by. */
static void let_gather(struct nbd_connection *conn, size_t sent)
{
    struct nbd *nbd = conn->nbd;
    int behind;
    uint64_t ns;

    conn->untaken += sent;
    if (conn->untaken < NBD_NAP_FROM || !loop_level(nbd->peer->loop, TUNE_NAPS)
        || ioctl(conn->watch.fd, SIOCOUTQ, &behind) < 0)
        return;
    conn->untaken = (size_t)behind;
    if (behind < NBD_NAP_FROM)
        return;
    ns = (uint64_t)behind / 1024 * NBD_NAP_STEP;
    ns = ns < NBD_NAP_NS ? ns : NBD_NAP_NS;
    nbd->nap_ns = ns > nbd->nap_ns ? ns : nbd->nap_ns;
}

/* Its client is slow no more once it has taken soon what there was. */
static void note_full(struct nbd_connection *conn)
{
    uint64_t now_ns = loop_now(conn->nbd->peer->loop);

    if (!conn->full && conn->share.slow && now_ns - conn->full_ns < NBD_SLOW_NS)
        share_set_slow(&conn->share, NULL);
    conn->full_ns = conn->full ? now_ns : 0;
}

static int send_parts(struct nbd_connection *conn)
{
    ssize_t n = transmit(conn, conn->out + conn->out_start, conn->out_end - conn->out_start);

    if (n < 0)
        return (int)n;
    sent(conn, (size_t)n);
    conn->full = conn->out_start < conn->out_end;
    if (conn->full != (conn->full_ns != 0))
        note_full(conn);
    if (n > 0 && !conn->full)
        let_gather(conn, (size_t)n);
    return 0;
}

int nbd_output_send(struct nbd_connection *conn)
{
    int rc = conn->talk_start < conn->talk_end ? send_talk(conn) : 0;

    if (rc == 0 && conn->talk_start == conn->talk_end && conn->out_start < conn->out_end)
        rc = send_parts(conn);
    return rc;
}
