/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/export.c - the options of the handshake that the mapper has a part in: choosing and
 * describing an export, listing them all. See nbd/parts.h and nbd/proto.h.
 *
 * They stop the connection until the mapper's answer comes. A long list goes on page by
 * page, each when the one before has been sent.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "nbd/talk.h"
#include "segment/barrier.h"

#define NAME_SIZE (NBD_OPTION_REPLY_SIZE + 4 + XSEG_NAME_MAX)   /* of a name in the list, at most */

/* The mapper gives out no more names than fit if each is as long as may be. */
static_assert(NBD_NAMES_BUFFER / (XSEG_NAME_MAX + 1) * NAME_SIZE + NBD_OPTION_REPLY_SIZE <= NBD_TALK,
              "a page of the list fits the talk");

/* --- an export's name ------------------------------------------------------------------ */

const char *nbd_name_fault(struct nbd_text name)
{
    if (name.size == 0)
        return "there is no default export: name a volume or snapshot";
    if (name.size > XSEG_NAME_MAX)
        return "no volume has a name of more than 255 bytes";
    if (memchr(name.data, 0, name.size))
        return "no volume has a zero byte in its name";
    return NULL;
}

static void refuse_open(struct nbd_connection *conn, int error)
{
    if (conn->option == NBD_OPT_EXPORT_NAME)
        nbd_drop(conn);             /* this option has no way to say no */
    else if (error == -ENOENT)
        nbd_refuse(conn, NBD_ERR_UNKNOWN, "there is no volume or snapshot of that name");
    else if (error == -EBUSY)
        nbd_refuse(conn, NBD_ERR_POLICY, "the volume is locked elsewhere: see `vlmc lock`, `vlmc unlock -f`");
    else if (error == -EUSERS)
        nbd_refuse(conn, NBD_ERR_POLICY, "it has as many connections as one volume may: option connections_volume");
    else if (error == -EINPROGRESS)
        nbd_refuse(conn, NBD_ERR_POLICY, "the volume is being made, or half-made: see `vlmc list`");
    else if (error == -ENOSPC || error == -EDQUOT)
        nbd_refuse(conn, NBD_ERR_UNKNOWN,
                   "no space is left on the store to open it: remove a volume, or make it larger");
    else if (error == -ENFILE || error == -ENOLCK)
        nbd_refuse(conn, NBD_ERR_POLICY,
                   "as many volumes are open on this node as may be: close some, or raise `volumes` under [segment]");
    else if (error == -EMFILE)
        nbd_refuse(conn, NBD_ERR_POLICY, "as many volumes are open on this node as its limit on open files allows: "
                   "close some, or raise that (LimitNOFILE=)");
    else if (error == -EBADMSG)
        nbd_refuse(conn, NBD_ERR_UNKNOWN, "the volume is damaged: see `vlmc check`");
    else
        nbd_refuse(conn, NBD_ERR_UNKNOWN, "the volume cannot be opened: see the mapper's log");
}

/* Sends the mapper a name, and stops the connection until the answer comes. False: no slot. */
static bool ask_mapper(struct nbd_connection *conn, enum nbd_errand errand, uint32_t op, struct nbd_text name)
{
    struct peer *peer = conn->nbd->peer;
    struct xreq *req = nbd_must_queue(conn) ? NULL : nbd_errand(conn, errand, op);

    if (req && xbuf_get(peer->port, req, sizeof(struct xinfo)) != 0) {
        xreq_put(peer->port, req);
        req = NULL;
    }
    if (!req) {
        nbd_queue(conn);
        return false;
    }
    memcpy(xreq_data(peer->seg, req), name.data, name.size);
    req->size = name.size;
    conn->stop |= NBD_STOP_MAPPER;
    nbd_errand_send(conn, req, NBD_TO_MAPPER);
    return true;
}

/* Asks the mapper to open the export, or only to describe it. False: no slot; the option is tried again. */
static bool ask(struct nbd_connection *conn, struct nbd_text name)
{
    bool open = conn->option != NBD_OPT_INFO;

    memcpy(conn->name, name.data, name.size);
    conn->name[name.size] = 0;
    if (!nbd_may_ask(conn, conn->name)) {
        refuse_open(conn, -ENOENT);
        return true;
    }
    return ask_mapper(conn, open ? NBD_OPEN : NBD_DESCRIBE, open ? XOP_OPEN : XOP_INFO, name);
}

static uint32_t transmission_flags(const struct nbd_connection *conn, const struct xinfo *volume)
{
    uint32_t flags = NBD_HAS_FLAGS | NBD_SEND_FLUSH | NBD_SEND_FUA | NBD_SEND_TRIM
                   | NBD_SEND_WRITE_ZEROES | NBD_SEND_FAST_ZERO | NBD_SEND_CACHE
                   | NBD_CAN_MULTI_CONN;

    return flags | (volume->readonly ? NBD_READ_ONLY : 0u) | (conn->structured ? NBD_SEND_DF : 0u);
}

static void inform_text(struct nbd_connection *conn, enum nbd_info info, const char *text)
{
    uint32_t size = (uint32_t)strlen(text);

    nbd_answer(conn, NBD_REP_INFO, 2 + size);
    nbd_say16(conn, info);
    nbd_say(conn, text, size);
}

static void inform(struct nbd_connection *conn, const struct xinfo *volume)
{
    char text[64];

    nbd_answer(conn, NBD_REP_INFO, 12);
    nbd_say16(conn, NBD_INFO_EXPORT);
    nbd_say64(conn, volume->size);
    nbd_say16(conn, transmission_flags(conn, volume));
    if (conn->informs & 1u << NBD_INFO_NAME)
        inform_text(conn, NBD_INFO_NAME, conn->name);
    if (conn->informs & 1u << NBD_INFO_DESCRIPTION) {
        snprintf(text, sizeof(text), "%s %016" PRIx64 " in blocks of %u KiB", volume->readonly ? "snapshot" : "volume",
                 volume->id, 1u << ((volume->block_shift - 10) & 31));
        inform_text(conn, NBD_INFO_DESCRIPTION, text);
    }
    if (conn->informs & 1u << NBD_INFO_BLOCK_SIZE) {
        nbd_answer(conn, NBD_REP_INFO, 14);
        nbd_say16(conn, NBD_INFO_BLOCK_SIZE);
        nbd_say32(conn, 1);
        nbd_say32(conn, NBD_BLOCK_PREFERRED);
        nbd_say32(conn, NBD_LENGTH_MAX);
    }
    nbd_accept(conn);
}

static void inform_old(struct nbd_connection *conn, const struct xinfo *volume)
{
    static const uint8_t zeros[124];

    nbd_say64(conn, volume->size);
    nbd_say16(conn, transmission_flags(conn, volume));
    if (!conn->no_zeroes)
        nbd_say(conn, zeros, sizeof(zeros));
}

/* The same request carries the CLOSE, so that it needs no slot. */
static void close_at_once(struct nbd_connection *conn, struct xreq *req, uint32_t volume)
{
    struct nbd *nbd = conn->nbd;

    req->op = XOP_CLOSE;
    req->volume = volume;
    req->size = 0;
    nbd_note_of(req)->errand = NBD_CLOSE_REFUSED;
    nbd->away++;
    peer_send(nbd->peer, req, NBD_TO_MAPPER);
}

/* What is known of an open volume. A copy: others can write to the segment. */
static struct xinfo info_of(const struct nbd_connection *conn, uint32_t handle)
{
    const struct xvolume *volume = &conn->nbd->peer->seg->volumes[handle - 1];
    struct xinfo info = {
        .id = load_relaxed(&volume->id), .size = load_relaxed(&volume->size),
        .block_shift = load_relaxed(&volume->block_shift), .readonly = load_relaxed(&volume->readonly),
    };

    memcpy(info.name, volume->name, XSEG_NAME_MAX);
    return info;
}

/* The mapper has answered: the client's time for its next step begins. */
static void mapper_answered(struct nbd_connection *conn)
{
    conn->stop &= ~NBD_STOP_MAPPER;
    conn->since_ns = loop_now(conn->nbd->peer->loop);
}

/* What the mapper says of a name; puts back the request. 0, or a negative errno. What was asked for by its id, or renamed
 * meanwhile, is known by its own name now: that must be allowed. */
static int take_info(struct nbd_connection *conn, struct xreq *req, struct xinfo *info)
{
    struct peer *peer = conn->nbd->peer;
    int error = req->error;

    mapper_answered(conn);
    if (!error && req->done == sizeof(*info) && xreq_data_ok(peer->seg, req, sizeof(*info)))
        memcpy(info, xreq_data(peer->seg, req), sizeof(*info));
    else if (!error)
        error = -EIO;
    xreq_put(peer->port, req);
    if (error)
        return error;
    info->name[XSEG_NAME_MAX] = 0;
    return nbd_allowed(conn, info->name) ? 0 : -ENOENT;
}

void nbd_described(struct nbd_connection *conn, struct xreq *req)
{
    struct xinfo info;
    int error = take_info(conn, req, &info);

    if (conn->phase == NBD_GONE)
        return;
    if (error)
        refuse_open(conn, error);
    else
        inform(conn, &info);
}

void nbd_opened(struct nbd_connection *conn, struct xreq *req)
{
    struct peer *peer = conn->nbd->peer;
    uint32_t handle = req->error || req->done > conn->nbd->peer->seg->volume_count ? 0 : (uint32_t)req->done;
    int error = req->error ? req->error : handle ? 0 : -EIO;
    struct xinfo info;

    xbuf_put(peer->port, req);
    mapper_answered(conn);
    if (conn->phase == NBD_GONE || error) {
        conn->volume = handle;      /* nbd_retire() closes it */
        if (conn->phase != NBD_GONE)
            refuse_open(conn, error);
        xreq_put(peer->port, req);
        return;
    }
    info = info_of(conn, handle);
    if (!nbd_allowed(conn, info.name)) {
        close_at_once(conn, req, handle);
        refuse_open(conn, -ENOENT);
        return;
    }
    if (!nbd_admit_to_volume(conn, handle)) {
        close_at_once(conn, req, handle);
        refuse_open(conn, -EUSERS);
        return;
    }
    if (strcmp(conn->name, conn->context) != 0) {
        conn->allocation = false;
        conn->diff_count = 0;
    }
    nbd_serve(conn, handle);
    if (conn->option == NBD_OPT_GO)
        inform(conn, &info);
    else
        inform_old(conn, &info);
    xreq_put(peer->port, req);
}

/* --- what an export is to be compared with --------------------------------------------------- */

static void found(struct nbd_connection *conn, uint64_t id)
{
    if (conn->lookups < NBD_DIFFS_MAX)
        conn->found[conn->lookups++] = id;
}

bool nbd_look_up(struct nbd_connection *conn, struct nbd_text name)
{
    char text[XSEG_NAME_MAX + 1];

    assert(!nbd_name_fault(name));
    memcpy(text, name.data, name.size);
    text[name.size] = 0;
    if (nbd_may_ask(conn, text)) {
        ask_mapper(conn, NBD_LOOK_UP, XOP_INFO, name);
        return false;
    }
    found(conn, 0);
    return true;
}

void nbd_looked_up(struct nbd_connection *conn, struct xreq *req)
{
    struct xinfo info;
    int error = take_info(conn, req, &info);

    if (conn->phase == NBD_GONE)
        return;
    found(conn, error ? 0 : info.id);
    nbd_set_add(&conn->nbd->dirty, conn->index);    /* the option goes on */
}

/* --- choosing and describing: false if it must be tried again ----------------------- */

bool nbd_option_export_name(struct nbd_connection *conn, struct nbd_reader *in)
{
    struct nbd_text name = { in->at, in->left };

    if (!nbd_name_fault(name))
        return ask(conn, name);
    nbd_drop(conn);
    return true;
}

bool nbd_option_go(struct nbd_connection *conn, struct nbd_reader *in)
{
    struct nbd_text name = nbd_take_text(in);
    uint32_t count = nbd_take16(in);
    const char *fault;

    conn->informs = 0;
    for (uint32_t i = 0; i < count && !in->bad; i++) {
        uint32_t info = nbd_take16(in);
        if (info <= NBD_INFO_BLOCK_SIZE)
            conn->informs |= 1u << info;
    }
    if (in->bad || in->left) {
        nbd_refuse(conn, NBD_ERR_INVALID, "the option's lengths do not add up");
    } else if (name.size > NBD_PROTOCOL_NAME_MAX) {
        nbd_refuse(conn, NBD_ERR_TOO_BIG, "an export's name has 4096 bytes at most");
    } else if ((fault = nbd_name_fault(name))) {
        nbd_refuse(conn, NBD_ERR_UNKNOWN, fault);
    } else {
        return ask(conn, name);
    }
    return true;
}

/* --- the list of exports ------------------------------------------------------------------ */

bool nbd_option_list(struct nbd_connection *conn, struct nbd_reader *in)
{
    struct port *port = conn->nbd->peer->port;
    struct xreq *req;

    if (in->left) {
        nbd_refuse(conn, NBD_ERR_INVALID, "this option carries no data");
        return true;
    }
    req = nbd_must_queue(conn) ? NULL : nbd_errand(conn, NBD_LIST, XOP_NAMES);
    if (req && xbuf_get(port, req, NBD_NAMES_BUFFER) != 0) {
        xreq_put(port, req);
        req = NULL;
    }
    if (!req) {
        nbd_queue(conn);
        return false;
    }
    req->size = req->data_size = NBD_NAMES_BUFFER;
    conn->list_pages = 0;
    conn->stop |= NBD_STOP_MAPPER;
    nbd_errand_send(conn, req, NBD_TO_MAPPER);
    return true;
}

/* False: these are more than the mapper may give out at once. */
static bool answer_names(struct nbd_connection *conn, const char *names, uint64_t size)
{
    const char *end = names + (size < NBD_NAMES_BUFFER ? size : NBD_NAMES_BUFFER), *stop;

    for (; names < end && (stop = memchr(names, 0, (size_t)(end - names))); names = stop + 1) {
        uint32_t length = (uint32_t)(stop - names);

        if (length > XSEG_NAME_MAX || NBD_TALK - conn->talk_end < NAME_SIZE + NBD_OPTION_REPLY_SIZE)
            return false;

        if (length == 0 || !nbd_allowed(conn, names))
            continue;
        nbd_answer(conn, NBD_REP_SERVER, 4 + length);
        nbd_say32(conn, length);
        nbd_say(conn, names, length);
    }
    return true;
}

void nbd_listed(struct nbd_connection *conn, struct xreq *req)
{
    struct peer *peer = conn->nbd->peer;

    mapper_answered(conn);
    if (conn->phase == NBD_GONE) {
        xreq_put(peer->port, req);
        return;
    }
    if (req->error || !xreq_data_ok(peer->seg, req, NBD_NAMES_BUFFER)
        || !answer_names(conn, xreq_data(peer->seg, req), req->done)) {
        nbd_refuse(conn, NBD_ERR_SHUTDOWN, "the mapper cannot list its volumes: see its log");
        xreq_put(peer->port, req);
        return;
    }
    if (req->arg && ++conn->list_pages < NBD_LIST_PAGES) {
        conn->list = req;
        nbd_set_add(&conn->nbd->dirty, conn->index);
        return;
    }
    nbd_accept(conn);
    xreq_put(peer->port, req);
}

void nbd_list_more(struct nbd_connection *conn)
{
    struct xreq *req = conn->list;

    conn->list = NULL;
    conn->stop |= NBD_STOP_MAPPER;
    nbd_errand_send(conn, req, NBD_TO_MAPPER);
}
