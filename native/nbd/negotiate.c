/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/negotiate.c - the fixed newstyle handshake. See nbd/parts.h and nbd/proto.h.
 *
 * An option is served when all of its data is staged. Its answers gather in `talk`; the next
 * option is looked at when that has been sent.
 */
#include <errno.h>

#include "nbd/talk.h"

static const char allocation[] = "base:allocation";

void nbd_greet(struct nbd_connection *conn)
{
    nbd_say64(conn, NBD_MAGIC);
    nbd_say64(conn, NBD_OPTION_MAGIC);
    nbd_say16(conn, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
}

/* --- options: each returns false if it must be tried again --------------------------------- */

static bool text_is(struct nbd_text text, const char *other)
{
    return text.size == strlen(other) && memcmp(text.data, other, text.size) == 0;
}

static bool option_abort(struct nbd_connection *conn, struct nbd_reader *in)
{
    (void)in;
    nbd_accept(conn);
    conn->stop |= NBD_STOP_END;
    return true;
}

static bool option_starttls(struct nbd_connection *conn, struct nbd_reader *in)
{
    if (in->left)
        nbd_refuse(conn, NBD_ERR_INVALID, "this option carries no data");
    else
        nbd_refuse(conn, NBD_ERR_UNSUP, "no TLS here: use the unix socket, or a tunnel");
    return true;
}

static bool option_structured_reply(struct nbd_connection *conn, struct nbd_reader *in)
{
    if (in->left) {
        nbd_refuse(conn, NBD_ERR_INVALID, "this option carries no data");
        return true;
    }
    if (!conn->nbd->structured_replies) {
        nbd_refuse(conn, NBD_ERR_POLICY, "the option structured_replies is off here");
        return true;
    }
    conn->structured = true;
    nbd_accept(conn);
    return true;
}

/* What an option asks for. */
struct queries {
    bool allocation;
    uint32_t diff_count;
    struct nbd_text diff[NBD_DIFFS_MAX];    /* the contexts, */
    struct nbd_text name[NBD_DIFFS_MAX];    /* and with what they compare the export */
};

/* The rest of a text that begins with `prefix`, if a volume can be called so; else nothing. */
static struct nbd_text name_after(struct nbd_text text, const char *prefix)
{
    uint32_t size = (uint32_t)strlen(prefix);
    struct nbd_text name = { 0 };

    if (text.size < size || memcmp(text.data, prefix, size) != 0)
        return name;
    name = (struct nbd_text){ text.data + size, text.size - size };
    return nbd_name_fault(name) ? (struct nbd_text){ 0 } : name;
}

/* Takes one query. Only a list knows "base:" for all of it. */
static void take_query(const struct nbd_connection *conn, struct queries *queries, struct nbd_text query)
{
    struct nbd_text name = name_after(query, "archipelago:diff:");

    if (name.size == 0)
        name = name_after(query, "qemu:dirty-bitmap:");
    if (name.size) {
        if (queries->diff_count < NBD_DIFFS_MAX) {
            queries->diff[queries->diff_count] = query;
            queries->name[queries->diff_count] = name;
        }
        queries->diff_count++;
    } else if (text_is(query, allocation)
               || (conn->option == NBD_OPT_LIST_META_CONTEXT && text_is(query, "base:"))) {
        queries->allocation = true;
    }
}

static void answer_context(struct nbd_connection *conn, uint32_t number, struct nbd_text name)
{
    nbd_answer(conn, NBD_REP_META_CONTEXT, 4 + name.size);
    nbd_say32(conn, conn->option == NBD_OPT_SET_META_CONTEXT ? number : 0);
    nbd_say(conn, name.data, name.size);
}

/* When all names are looked up. What is not there is not mentioned. */
static void answer_contexts(struct nbd_connection *conn, const struct queries *queries, struct nbd_text name)
{
    bool set = conn->option == NBD_OPT_SET_META_CONTEXT;
    uint32_t known = 0;

    if (queries->allocation)
        answer_context(conn, NBD_CONTEXT_ALLOCATION,
                       (struct nbd_text){ (const uint8_t *)allocation, sizeof(allocation) - 1 });
    for (uint32_t i = 0; i < queries->diff_count; i++) {
        if (!conn->found[i])
            continue;
        answer_context(conn, NBD_CONTEXT_DIFF + known, queries->diff[i]);
        if (set)
            conn->diffs[known] = conn->found[i];
        known++;
    }
    if (set) {
        conn->allocation = queries->allocation;
        conn->diff_count = known;
        memcpy(conn->context, name.data, name.size);
        conn->context[name.size] = 0;
    }
    nbd_accept(conn);
}

static bool option_meta_context(struct nbd_connection *conn, struct nbd_reader *in)
{
    struct nbd_text name = nbd_take_text(in);
    uint32_t count = nbd_take32(in);
    struct queries queries = { .allocation = conn->option == NBD_OPT_LIST_META_CONTEXT && count == 0 };
    const char *fault = NULL;

    for (uint32_t i = 0; i < count && !in->bad && i < NBD_QUERIES_MAX; i++)
        take_query(conn, &queries, nbd_take_text(in));
    if (conn->option == NBD_OPT_SET_META_CONTEXT) {
        conn->allocation = false;
        conn->diff_count = 0;
    }
    if (count <= NBD_QUERIES_MAX && (in->bad || in->left)) {
        nbd_refuse(conn, NBD_ERR_INVALID, "the option's lengths do not add up");
    } else if (count > NBD_QUERIES_MAX || queries.diff_count > NBD_DIFFS_MAX || name.size > NBD_PROTOCOL_NAME_MAX) {
        nbd_refuse(conn, NBD_ERR_TOO_BIG, "64 queries, 8 volumes to compare with and a name of 4096 bytes at most");
    } else if (!conn->structured) {
        nbd_refuse(conn, NBD_ERR_INVALID, "structured replies must be negotiated first");
    } else if ((fault = nbd_name_fault(name))) {
        nbd_refuse(conn, NBD_ERR_UNKNOWN, fault);
    } else {
        while (conn->lookups < queries.diff_count)
            if (!nbd_look_up(conn, queries.name[conn->lookups]))
                return false;
        answer_contexts(conn, &queries, name);
        conn->lookups = 0;
    }
    return true;
}

/* --- steps ------------------------------------------------------------------------------------ */

static const struct { uint32_t option; bool (*serve)(struct nbd_connection *, struct nbd_reader *); } options[] = {
    { NBD_OPT_EXPORT_NAME, nbd_option_export_name },
    { NBD_OPT_ABORT, option_abort },
    { NBD_OPT_LIST, nbd_option_list },
    { NBD_OPT_STARTTLS, option_starttls },
    { NBD_OPT_INFO, nbd_option_go },
    { NBD_OPT_GO, nbd_option_go },
    { NBD_OPT_STRUCTURED_REPLY, option_structured_reply },
    { NBD_OPT_LIST_META_CONTEXT, option_meta_context },
    { NBD_OPT_SET_META_CONTEXT, option_meta_context },
};

bool nbd_hello(struct nbd_connection *conn)
{
    uint32_t flags;

    if (nbd_staged(conn) < sizeof(flags)) {
        if (conn->eof)
            nbd_drop(conn);
        return false;
    }
    flags = nbd_get32(conn->in + conn->in_start);
    if (flags & ~(uint32_t)(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES)) {
        nbd_drop(conn);
        return false;
    }
    conn->in_start += sizeof(flags);
    conn->no_zeroes = flags & NBD_NO_ZEROES;
    conn->phase = NBD_OPTIONS;
    conn->since_ns = loop_now(conn->nbd->peer->loop);
    return true;
}

static bool serve_option(struct nbd_connection *conn, struct nbd_reader *in)
{
    for (uint32_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        if (options[i].option == conn->option)
            return options[i].serve(conn, in);
    nbd_refuse(conn, NBD_ERR_UNSUP, "this server does not know that option");
    return true;
}

static bool refuse_long(struct nbd_connection *conn, uint32_t size)
{
    if (size > NBD_SKIP_OPTION_MAX || conn->option == NBD_OPT_EXPORT_NAME) {
        nbd_drop(conn);
        return false;
    }
    nbd_refuse(conn, NBD_ERR_TOO_BIG, "the option carries more than 64 KiB");
    conn->in_start += NBD_OPTION_SIZE;
    conn->skip = size;
    return true;
}

bool nbd_options(struct nbd_connection *conn)
{
    const uint8_t *head = conn->in + conn->in_start;
    struct nbd_reader in;

    if (conn->talk_start < conn->talk_end)
        return false;
    if (conn->list) {
        nbd_list_more(conn);
        return false;
    }
    if (nbd_staged(conn) < NBD_OPTION_SIZE) {
        if (conn->eof)
            nbd_drop(conn);
        return false;
    }
    if (nbd_get64(head) != NBD_OPTION_MAGIC) {
        nbd_drop(conn);
        return false;
    }
    conn->option = nbd_get32(head + 8);
    in = (struct nbd_reader){ .at = head + NBD_OPTION_SIZE, .left = nbd_get32(head + 12) };
    if (in.left > NBD_STAGING - NBD_OPTION_SIZE)
        return refuse_long(conn, in.left);
    if (nbd_staged(conn) < NBD_OPTION_SIZE + in.left) {
        if (conn->eof)
            nbd_drop(conn);
        return false;
    }
    head += NBD_OPTION_SIZE + in.left;
    if (!serve_option(conn, &in))
        return false;
    conn->since_ns = loop_now(conn->nbd->peer->loop);
    conn->in_start = (uint32_t)(head - conn->in);
    return conn->phase != NBD_GONE;
}
