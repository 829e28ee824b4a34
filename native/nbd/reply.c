/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/reply.c - from pieces that came back to bytes to be sent. See nbd/parts.h.
 */
#include <assert.h>
#include <errno.h>

#include "nbd/parts.h"
#include "segment/barrier.h"

static_assert(NBD_DATA_SIZE <= sizeof(((struct xreq *)0)->object),
              "a chunk's head fits a returned piece's object name");

/* --- errors --------------------------------------------------------------------- */

static const struct { int error; uint32_t code; const char *message; } errors[] = {
    { -EIO, NBD_EIO, "the store reported an I/O error" },
    { -EPERM, NBD_EPERM, "the export is read-only" },
    { -EROFS, NBD_EPERM, "the volume is read-only" },
    { -EACCES, NBD_EPERM, "the store refused access" },
    { -EINVAL, NBD_EINVAL, "bad command, flag or length, or beyond the volume's end" },
    { -ENOSPC, NBD_ENOSPC, "no space left in the store, or beyond the volume's end" },
    { -EDQUOT, NBD_ENOSPC, "the store's quota is used up" },
    { -EFBIG, NBD_ENOSPC, "the store cannot hold an object of that size" },
    { -EOVERFLOW, NBD_EOVERFLOW, "too long for one unfragmented reply: 1 MiB at most" },
    { -EOPNOTSUPP, NBD_ENOTSUP, "the store cannot zero faster than it writes" },
    { -ESHUTDOWN, NBD_ESHUTDOWN, "the server is shutting down" },
    { -ENOMEM, NBD_ENOMEM, "the server is out of memory" },
    { -ESTALE, NBD_EIO, "the volume was closed" },
    { -ENOENT, NBD_EIO, "what it is to be compared with was removed" },
};

/* Which of errors[] says it; whatever has no name of its own is an I/O error. */
static uint32_t find_error(const struct nbd_command *command, int error)
{
    if (error == -EOPNOTSUPP && !(command->flags & NBD_FAST_ZERO))
        error = -EIO;               /* a client that did not ask for speed may not be told so */
    for (uint32_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
        if (errors[i].error == error)
            return i;
    return 0;
}

/* --- heads, and replies without data ---------------------------------------------- */

static void put_chunk(uint8_t *head, const struct nbd_command *command, uint32_t flags,
                      uint32_t type, uint32_t length)
{
    head = nbd_put32(head, NBD_CHUNK_MAGIC);
    head = nbd_put16(head, flags);
    head = nbd_put16(head, type);
    head = nbd_put64(head, command->cookie);
    nbd_put32(head, length);
}

static void put_simple(uint8_t *head, const struct nbd_command *command, uint32_t error)
{
    head = nbd_put32(head, NBD_SIMPLE_MAGIC);
    head = nbd_put32(head, error);
    nbd_put64(head, command->cookie);
}

static void count_served(struct nbd_connection *conn, const struct nbd_command *command, bool failed)
{
    struct xport *shared = conn->nbd->peer->port->shared;

    counter_add(&shared->served, 1);
    if (failed)
        counter_add(&shared->errors, 1);
    else if (command->type == NBD_CMD_READ)
        counter_add(&shared->bytes_read, command->length);
    else if (command->type == NBD_CMD_WRITE)
        counter_add(&shared->bytes_written, command->length);
}

void nbd_succeed(struct nbd_connection *conn, struct nbd_command *command)
{
    count_served(conn, command, false);
    if (conn->structured && command->type == NBD_CMD_READ) {
        put_chunk(command->head, command, NBD_DONE, NBD_CHUNK_NONE, 0);
        nbd_output_push(conn, command->head, NBD_CHUNK_SIZE, NULL, command);
    } else {
        put_simple(command->head, command, 0);
        nbd_output_push(conn, command->head, NBD_SIMPLE_SIZE, NULL, command);
    }
}

void nbd_fail(struct nbd_connection *conn, struct nbd_command *command, int error,
              const char *message)
{
    uint32_t i = find_error(command, error);
    uint8_t *tail = command->head + NBD_CHUNK_SIZE;
    uint32_t length;

    count_served(conn, command, true);
    if (!conn->structured) {
        put_simple(command->head, command, errors[i].code);
        nbd_output_push(conn, command->head, NBD_SIMPLE_SIZE, NULL, command);
        return;
    }
    if (!message)
        message = errors[i].message;
    length = (uint32_t)strlen(message);
    put_chunk(command->head, command, NBD_DONE, NBD_CHUNK_ERROR, NBD_ERROR_SIZE - NBD_CHUNK_SIZE + length);
    tail = nbd_put32(tail, errors[i].code);
    nbd_put16(tail, length);
    nbd_output_push(conn, command->head, NBD_ERROR_SIZE, NULL, NULL);
    nbd_output_push(conn, message, length, NULL, command);
}

/* --- reads --------------------------------------------------------------------------- */

/* A piece as a chunk of its own, or the error that some piece met after the last. */
static void read_chunk(struct nbd_connection *conn, struct nbd_command *command, struct xreq *req)
{
    bool last = command->arrived == command->pieces;
    uint8_t *head = (uint8_t *)&req->object;
    uint32_t size = (uint32_t)req->size;

    if (req->error || (last && command->error)) {
        nbd_put(conn, req);
        if (last)
            nbd_fail(conn, command, command->error, NULL);
        return;
    }
    put_chunk(head, command, last ? NBD_DONE : 0, NBD_CHUNK_DATA,
              NBD_DATA_SIZE - NBD_CHUNK_SIZE + size);
    nbd_put64(head + NBD_CHUNK_SIZE, req->offset);
    nbd_output_push(conn, head, NBD_DATA_SIZE, NULL, NULL);
    nbd_output_push(conn, xreq_data(conn->nbd->peer->seg, req), size, req, last ? command : NULL);
    if (last)
        count_served(conn, command, false);
}

/* Gives out, in order, what has come of a simple reply. */
static void read_in_order(struct nbd_connection *conn, struct nbd_command *command)
{
    bool all = command->arrived == command->pieces;
    struct xreq *req;

    if (command->error && command->begun) {
        nbd_drop(conn);             /* it was promised data; the protocol knows no other way */
    } else if (command->error && all) {
        nbd_output_forget_pieces(conn, command);
        nbd_fail(conn, command, command->error, NULL);
    }
    if (command->error || !(all || command->streaming))
        return;
    while (command->pushed < command->pieces
           && (req = nbd_output_piece(conn, command, command->pushed))) {
        bool last = command->pushed == command->pieces - 1;

        if (!command->begun) {
            put_simple(command->head, command, 0);
            nbd_output_push(conn, command->head, NBD_SIMPLE_SIZE, NULL, NULL);
            command->begun = true;
        }
        conn->pieces[command - conn->commands][command->pushed++] = 0;
        nbd_output_push(conn, xreq_data(conn->nbd->peer->seg, req), req->size, req, last ? command : NULL);
        if (last)
            count_served(conn, command, false);
    }
}

void nbd_read_stream(struct nbd_connection *conn, struct nbd_command *command)
{
    command->streaming = true;
    if (command->arrived)
        read_in_order(conn, command);
}

/* --- block status ---------------------------------------------------------------------- */

/* Turns the extents of a reply into descriptors, in place: neighbours alike become one, and
 * none reaches beyond what was asked for. How many. The protocol's states have the bits of enum xextent_flag, or of
 * enum xextent_diff. */
static uint32_t describe(struct xextent *extents, uint64_t count, uint64_t left)
{
    uint32_t n = 0, length = 0, state = 0;

    for (uint64_t i = 0; i <= count; i++) {
        uint32_t more = i < count ? extents[i].length : 0;
        uint32_t next = i < count ? extents[i].flags & (XEXTENT_HOLE | XEXTENT_ZERO) : 0;

        if (i < count && (more == 0 || (length && next == state && more <= UINT32_MAX - length))) {
            length += more;
            continue;
        }
        if (length && left) {
            length = length < left ? length : (uint32_t)left;
            left -= length;
            nbd_put32((uint8_t *)&extents[n].length, length);
            nbd_put32((uint8_t *)&extents[n++].flags, state);
        }
        length = more;
        state = next;
    }
    return n;
}

/* What is known of one context, or the error that another met if this is the last. */
static void status_chunk(struct nbd_connection *conn, struct nbd_command *command, struct xreq *req)
{
    struct xextent *extents = xreq_data(conn->nbd->peer->seg, req);
    uint32_t context = nbd_context_of(conn, nbd_note_of(req)->piece), n;
    bool last = command->arrived == command->pieces;
    uint8_t *head = (uint8_t *)&req->object;
    uint64_t count = req->done, room = req->data_size / sizeof(*extents);

    if (last && command->error) {
        nbd_put(conn, req);
        nbd_fail(conn, command, command->error, NULL);
        return;
    }
    n = describe(extents, count < room ? count : room, command->length);
    if (n == 0) {                   /* nothing is known of it: allocated, not zeros; or that it may differ */
        nbd_put32((uint8_t *)&extents[0].length, command->length);
        nbd_put32((uint8_t *)&extents[0].flags, context == NBD_CONTEXT_ALLOCATION ? 0 : XEXTENT_DIFFERS);
        n = 1;
    }
    put_chunk(head, command, last ? NBD_DONE : 0, NBD_CHUNK_STATUS, NBD_STATUS_SIZE - NBD_CHUNK_SIZE + 8 * n);
    nbd_put32(head + NBD_CHUNK_SIZE, context);
    nbd_output_push(conn, head, NBD_STATUS_SIZE, NULL, NULL);
    nbd_output_push(conn, extents, 8 * n, req, last ? command : NULL);
    if (last)
        count_served(conn, command, false);
}

/* --- pieces come back ---------------------------------------------------------------------- */

static void finish(struct nbd_connection *conn, struct nbd_command *command)
{
    if (command->arrived < command->pieces)
        return;
    if (command->error)
        nbd_fail(conn, command, command->error, NULL);
    else
        nbd_succeed(conn, command);
}

/* The command that a returned piece belongs to, unless another peer scribbled over it. */
static struct nbd_command *command_of(struct nbd_connection *conn, struct xreq *req)
{
    const struct nbd_note *note = nbd_note_of(req);
    struct nbd_command *command = &conn->commands[note->command % NBD_COMMANDS];

    return note->command < NBD_COMMANDS && command->used && note->piece < command->made
        && command->arrived < command->made ? command : NULL;
}

void nbd_piece_back(struct nbd_connection *conn, struct xreq *req)
{
    struct nbd_command *command = command_of(conn, req);
    bool with_data;

    if (!command) {
        nbd_put(conn, req);
        nbd_drop(conn);
        return;
    }
    with_data = command->type == NBD_CMD_READ || command->type == NBD_CMD_BLOCK_STATUS;
    if (with_data && !req->error
        && !xreq_data_ok(conn->nbd->peer->seg, req, command->type == NBD_CMD_READ ? req->size : 8))
        req->error = -EIO;
    command->arrived++;
    if (req->error && !command->error)
        command->error = req->error;
    if (command->type == NBD_CMD_READ && conn->structured) {
        read_chunk(conn, command, req);
    } else if (command->type == NBD_CMD_READ) {
        conn->pieces[command - conn->commands][nbd_note_of(req)->piece] = req->index + 1;
        read_in_order(conn, command);
    } else if (with_data && !req->error) {
        status_chunk(conn, command, req);
    } else {
        nbd_put(conn, req);
        finish(conn, command);
    }
}
