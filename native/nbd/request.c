/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/request.c - from received bytes to pieces sent on to vlmc. See nbd/parts.h.
 */
#include <assert.h>
#include <errno.h>

#include "nbd/parts.h"
#include "segment/barrier.h"

/* What a command may carry and what it becomes. */
static const struct rule {
    uint16_t op;                    /* enum xop */
    uint16_t flags;                 /* enum nbd_command_flag it may have, beside FUA */
    bool writes;
    uint32_t span;                  /* bytes of a piece at most */
} rules[NBD_CMD_COUNT] = {
    [NBD_CMD_READ] = { XOP_READ, NBD_DF, false, XSEG_IO_MAX },
    [NBD_CMD_WRITE] = { XOP_WRITE, 0, true, XSEG_IO_MAX },
    [NBD_CMD_FLUSH] = { XOP_FLUSH, 0, false, UINT32_MAX },
    [NBD_CMD_TRIM] = { XOP_DISCARD, 0, true, NBD_SPAN_MAX },
    [NBD_CMD_CACHE] = { XOP_CACHE, 0, false, NBD_SPAN_MAX },
    [NBD_CMD_WRITE_ZEROES] = { XOP_WRITE_ZEROES, NBD_NO_HOLE | NBD_FAST_ZERO, true, NBD_SPAN_MAX },
    [NBD_CMD_BLOCK_STATUS] = { XOP_BLOCK_STATUS, NBD_REQ_ONE, false, UINT32_MAX },
};

/* --- pieces ------------------------------------------------------------------ */

/* Long commands are cut where their span divides the volume, so that what is aligned
 * stays so. */
static uint32_t next_piece(const struct nbd_command *command)
{
    uint32_t span = rules[command->type].span, left = command->length - command->issued, room;

    if (command->length <= span)
        return left;
    room = span - (uint32_t)((command->offset + command->issued) % span);
    return left < room ? left : room;
}

static uint8_t count_pieces(const struct nbd_connection *conn, const struct nbd_command *command)
{
    uint64_t span = rules[command->type].span;

    if (command->type == NBD_CMD_BLOCK_STATUS)
        return (uint8_t)(conn->allocation + conn->diff_count);      /* one a context */
    if (command->length <= span)
        return 1;
    return (uint8_t)((command->offset + command->length - 1) / span - command->offset / span + 1);
}

static uint32_t buffer_size(const struct nbd_command *command, uint32_t length)
{
    if (command->type == NBD_CMD_BLOCK_STATUS)
        return NBD_STATUS_BUFFER;
    return rules[command->type].span == XSEG_IO_MAX ? length : 0;
}

/* Waits for its turn, or, having its share, for what it holds itself: a slow one that holds nothing, for others. */
static void hold_back(struct nbd_connection *conn, struct nbd_command *command, int error)
{
    if (error == -EDQUOT && !share_is_empty(&conn->share))
        conn->stop |= NBD_STOP_SHARE;
    else
        nbd_queue(conn);
    if (command->type == NBD_CMD_READ && !conn->structured)
        nbd_read_stream(conn, command);
}

/* Has a piece of a BLOCK_STATUS be about its context. */
static void choose_context(const struct nbd_connection *conn, struct xreq *req, uint32_t piece)
{
    uint32_t context = nbd_context_of(conn, piece);

    if (context == NBD_CONTEXT_ALLOCATION)
        return;
    req->op = XOP_DIFF;
    req->arg = conn->diffs[context - NBD_CONTEXT_DIFF];
}

/* A request for the next piece of a command. NULL: the connection waits now. */
static struct xreq *make_piece(struct nbd_connection *conn, struct nbd_command *command)
{
    struct port *port = conn->nbd->peer->port;
    uint32_t length = next_piece(command), size = buffer_size(command, length);
    struct xreq *req = NULL;
    int rc = 0;

    if (!nbd_must_queue(conn))
        req = nbd_errand(conn, NBD_PIECE, rules[command->type].op);
    if (req && size)
        rc = share_get(&conn->share, port, req, size);
    if (rc)
        xreq_put(port, req);
    if (!req || rc) {
        hold_back(conn, command, rc);
        return NULL;
    }
    req->volume = conn->volume;
    req->generation = conn->generation;
    req->offset = command->offset + command->issued;
    req->size = length;
    nbd_note_of(req)->command = (uint32_t)(command - conn->commands);
    nbd_note_of(req)->piece = command->made;
    if (command->flags & NBD_FUA && rules[command->type].writes)
        req->flags |= XREQ_FUA;
    if (command->flags & NBD_NO_HOLE)
        req->flags |= XREQ_NO_HOLE;
    if (command->flags & NBD_REQ_ONE)
        req->data_size = 2 * sizeof(uint32_t);
    if (command->type == NBD_CMD_BLOCK_STATUS)
        choose_context(conn, req, command->made);
    return req;
}

static void send_piece(struct nbd_connection *conn, struct nbd_command *command, struct xreq *req)
{
    command->made++;
    if (command->type != NBD_CMD_BLOCK_STATUS)
        command->issued += (uint32_t)req->size;
    nbd_errand_send(conn, req, req->op == XOP_DIFF ? NBD_TO_MAPPER : NBD_TO_VLMC);
}

/* Takes bytes of a write into its buffer. False: more must come first. */
static bool fill(struct nbd_connection *conn, struct nbd_command *command)
{
    uint32_t take = nbd_staged(conn);

    if (!conn->fill) {
        conn->fill = make_piece(conn, command);
        if (!conn->fill)
            return false;
        conn->fill_data = xreq_data(conn->nbd->peer->seg, conn->fill);
        conn->fill_size = next_piece(command);
        conn->fill_at = 0;
        conn->fill_ns = loop_now(conn->nbd->peer->loop);
    }
    if (take > conn->fill_size - conn->fill_at)
        take = conn->fill_size - conn->fill_at;
    memcpy(conn->fill_data + conn->fill_at, conn->in + conn->in_start, take);
    conn->in_start += take;
    conn->fill_at += take;
    if (conn->fill_at < conn->fill_size) {
        if (conn->eof)
            nbd_drop(conn);         /* the client has gone in the middle of it */
        return false;
    }
    if (conn->share.slow && !conn->full && conn->fill_size > NBD_STAGING
        && loop_now(conn->nbd->peer->loop) - conn->fill_ns < NBD_SLOW_NS)
        share_set_slow(&conn->share, NULL);
    send_piece(conn, command, conn->fill);
    conn->fill = NULL;
    return true;
}

bool nbd_request_issue(struct nbd_connection *conn)
{
    struct nbd_command *command = conn->current;

    while (command->made < command->pieces) {
        struct xreq *req;

        if (command->type == NBD_CMD_WRITE) {
            if (!fill(conn, command))
                return false;
            continue;
        }
        req = make_piece(conn, command);
        if (!req)
            return false;
        send_piece(conn, command, req);
    }
    conn->current = NULL;
    return true;
}

bool nbd_request_skip(struct nbd_connection *conn)
{
    uint32_t take = nbd_staged(conn);

    if (take > conn->skip)
        take = (uint32_t)conn->skip;
    conn->in_start += take;
    conn->skip -= take;
    if (conn->skip && conn->eof)
        nbd_drop(conn);
    if (conn->skip || conn->phase == NBD_GONE)
        return false;
    if (conn->current) {
        struct nbd_command *command = conn->current;
        conn->current = NULL;
        nbd_fail(conn, command, command->error, NULL);
    }
    return true;
}

/* --- commands ------------------------------------------------------------------- */

/* 0, or the negative errno a command is refused with. */
static int check_range(const struct nbd_connection *conn, const struct nbd_command *command)
{
    const struct xvolume *volume = &conn->nbd->peer->seg->volumes[conn->volume - 1];
    uint64_t size = load_relaxed(&volume->size);
    bool extends = command->type == NBD_CMD_WRITE || command->type == NBD_CMD_WRITE_ZEROES;

    if (command->offset > size || command->length > size - command->offset)
        return extends ? -ENOSPC : -EINVAL;
    return 0;
}

static int check(const struct nbd_connection *conn, const struct nbd_command *command)
{
    const struct xvolume *volume = &conn->nbd->peer->seg->volumes[conn->volume - 1];
    uint32_t flags = NBD_FUA;

    if (command->type >= NBD_CMD_COUNT || command->type == NBD_CMD_DISC)
        return -EINVAL;
    flags |= rules[command->type].flags;
    if (!conn->structured)
        flags &= ~(uint32_t)NBD_DF;
    if (command->flags & ~flags)
        return -EINVAL;
    if (rules[command->type].writes && volume->readonly)
        return -EPERM;
    if (command->type == NBD_CMD_FLUSH)
        return command->offset || command->length ? -EINVAL : 0;
    if (rules[command->type].span == XSEG_IO_MAX && command->length > NBD_LENGTH_MAX)
        return -EINVAL;
    if (command->flags & NBD_DF && command->length > XSEG_IO_MAX)
        return -EOVERFLOW;
    if (command->type == NBD_CMD_BLOCK_STATUS && ((!conn->allocation && !conn->diff_count) || command->length == 0))
        return -EINVAL;
    return check_range(conn, command);
}

/* A refused write is answered when its data has been skipped. */
static void refuse(struct nbd_connection *conn, struct nbd_command *command, int error)
{
    if (command->type != NBD_CMD_WRITE || command->length == 0) {
        nbd_fail(conn, command, error, NULL);
    } else if (command->length > NBD_SKIP_MAX) {
        nbd_drop(conn);
    } else {
        command->error = error;
        conn->current = command;
        conn->skip = command->length;
    }
}

static struct nbd_command *take_command(struct nbd_connection *conn, const uint8_t *head)
{
    struct nbd_command *command;

    assert(conn->free_count > 0);
    command = &conn->commands[conn->free[--conn->free_count]];
    assert(!command->used);
    *command = (struct nbd_command){
        .flags = nbd_get16(head + 4), .type = nbd_get16(head + 6),
        .cookie = nbd_get64(head + 8), .offset = nbd_get64(head + 16),
        .length = nbd_get32(head + 24), .used = true,
    };
    counter_add(&conn->nbd->peer->port->shared->received, 1);
    return command;
}

static void start(struct nbd_connection *conn, struct nbd_command *command)
{
    int error = check(conn, command);

    if (command->type == NBD_CMD_READ || command->type == NBD_CMD_WRITE)
        conn->bytes += command->length;
    if (error) {
        refuse(conn, command, error);
    } else if (command->length == 0 && command->type != NBD_CMD_FLUSH) {
        nbd_succeed(conn, command);
    } else {
        command->pieces = count_pieces(conn, command);
        conn->current = command;
    }
}

bool nbd_request_begin(struct nbd_connection *conn)
{
    const uint8_t *head = conn->in + conn->in_start;

    if (nbd_staged(conn) < NBD_REQUEST_SIZE) {
        if (conn->eof)
            conn->stop |= NBD_STOP_END;
        return false;
    }
    if (conn->free_count == 0 || conn->bytes >= NBD_BYTES) {
        conn->stop |= NBD_STOP_ROOM;
        return false;
    }
    if (nbd_get32(head) != NBD_REQUEST_MAGIC) {
        nbd_drop(conn);             /* nobody knows where the next command starts */
        return false;
    }
    if (nbd_must_wait(conn))
        return false;
    conn->in_start += NBD_REQUEST_SIZE;
    if (nbd_get16(head + 6) == NBD_CMD_DISC) {
        conn->stop |= NBD_STOP_END;
        return false;
    }
    start(conn, take_command(conn, head));
    return true;
}
