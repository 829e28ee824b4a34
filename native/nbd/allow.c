/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/allow.c - who a client is, and which exports there are for him. See nbd/parts.h and, for what the operator
 * says, peers/nbd.py.
 *
 * A client of the unix socket is known by what the kernel noted of him when he connected; what he became later
 * does not count. The rules that are about him are found then, once. Who runs the instance and root may do all,
 * as the segment is theirs. An export that is not allowed is answered like one that does not exist.
 */
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nbd/talk.h"

#define GROUPS_MAX 1024             /* of a client that are looked at */
#define BY_ID "/id/"                /* how a name begins that holds an id: xseg/volume_name.py */

/* --- rules ------------------------------------------------------------------------------ */

/* "u1000 PATTERN", "g36 PATTERN", "t PATTERN" or "* PATTERN". */
static bool read_rule(const char *line, size_t length, struct nbd_rule *rule)
{
    const char *space = memchr(line, ' ', length);
    size_t size = space ? length - (size_t)(space + 1 - line) : 0;
    char extra;

    if (!space || !strchr("ugt*", line[0]) || size > XSEG_NAME_MAX)
        return false;
    rule->who = line[0];
    if ((line[0] == 'u' || line[0] == 'g') && sscanf(line + 1, "%" SCNu32 "%c", &rule->id, &extra) != 2)
        return false;
    memcpy(rule->pattern, space + 1, size);
    rule->pattern[size] = 0;
    return true;
}

int nbd_allow_read(struct nbd *nbd, const char *text)
{
    nbd->limited = text != NULL;
    while (text && *text) {
        size_t length = strcspn(text, "\n");

        if (nbd->rule_count == NBD_RULES_MAX || !read_rule(text, length, &nbd->rules[nbd->rule_count]))
            return peer_fail(nbd->peer, -EINVAL, "option allow: rule %u is none, or one more than %d",
                             nbd->rule_count + 1, NBD_RULES_MAX);
        nbd->rule_count++;
        text += length + (text[length] == '\n');
    }
    return 0;
}

/* `*` stands for any bytes, `?` for one. One place to come back to is enough, so it takes no more than the product of
 * the lengths. */
static bool matches(const char *pattern, const char *name)
{
    const char *star = NULL, *from = NULL;

    while (*name) {
        if (*pattern == '*') {
            star = ++pattern;
            from = name;
        } else if (*pattern == '?' || *pattern == *name) {
            pattern++;
            name++;
        } else if (star) {
            pattern = star;
            name = ++from;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == 0;
}

/* --- clients ------------------------------------------------------------------------------ */

static bool is_in(const gid_t *groups, size_t count, uint32_t id)
{
    for (size_t i = 0; i < count; i++)
        if (groups[i] == id)
            return true;
    return false;
}

/* The address of a client of TCP: of IPv6 the first half, as the other is his to choose. 0: unknown. */
static uint64_t address_of(int fd)
{
    union { struct sockaddr any; struct sockaddr_in four; struct sockaddr_in6 six; } from = { 0 };
    socklen_t size = sizeof(from);
    uint64_t half;

    if (getpeername(fd, &from.any, &size) < 0)
        return 0;
    if (from.any.sa_family == AF_INET)
        return from.four.sin_addr.s_addr;
    if (from.any.sa_family != AF_INET6)
        return 0;
    if (IN6_IS_ADDR_V4MAPPED(&from.six.sin6_addr))
        return from.six.sin6_addr.s6_addr32[3];
    memcpy(&half, &from.six.sin6_addr, sizeof(half));
    return half;
}

void nbd_allow_meet(struct nbd_connection *conn)
{
    const struct nbd *nbd = conn->nbd;
    struct ucred who = { .pid = 0, .uid = NBD_NOBODY, .gid = NBD_NOBODY };
    gid_t groups[GROUPS_MAX];
    socklen_t size = sizeof(who), room = sizeof(groups);
    bool known;

    known = getsockopt(conn->watch.fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 && who.uid != NBD_NOBODY;
    if (!known || getsockopt(conn->watch.fd, SOL_SOCKET, SO_PEERGROUPS, groups, &room) < 0)
        room = 0;
    conn->client = (struct nbd_client){
        .pid = known ? who.pid : 0, .uid = who.uid, .gid = who.gid, .since_ns = conn->since_ns,
        .address = known ? 0 : address_of(conn->watch.fd),
    };
    conn->trusted = !nbd->limited || (known && (who.uid == 0 || who.uid == geteuid()));
    for (uint32_t i = 0; i < nbd->rule_count; i++) {
        const struct nbd_rule *rule = &nbd->rules[i];
        bool is_his = rule->who == '*' || (rule->who == 't' && !known)
                   || (rule->who == 'u' && known && rule->id == who.uid)
                   || (rule->who == 'g' && known
                       && (rule->id == who.gid || is_in(groups, room / sizeof(*groups), rule->id)));
        if (is_his)
            conn->rules |= 1ull << i;
    }
}

bool nbd_allowed(const struct nbd_connection *conn, const char *name)
{
    for (uint64_t todo = conn->rules; todo && !conn->trusted; todo &= todo - 1)
        if (matches(conn->nbd->rules[__builtin_ctzll(todo)].pattern, name))
            return true;
    return conn->trusted;
}

bool nbd_may_ask(const struct nbd_connection *conn, const char *name)
{
    if (strncmp(name, BY_ID, strlen(BY_ID)) == 0)
        return conn->trusted || conn->rules;
    return nbd_allowed(conn, name);
}

/* --- telling ------------------------------------------------------------------------------- */

/* A line of XOP_INFO's answer: pid, uid, gid, milliseconds connected, id and name of the volume. */
static int say_client(const struct nbd_connection *conn, char *out, size_t room)
{
    const struct xvolume *volume = &conn->nbd->peer->seg->volumes[conn->volume ? conn->volume - 1 : 0];
    uint64_t ms = (clock_ns() - conn->client.since_ns) / 1000000;
    int n = snprintf(out, room, "%d %" PRId32 " %" PRId32 " %" PRIu64 " %016" PRIx64 " %.*s\n", conn->client.pid,
                     (int32_t)conn->client.uid, (int32_t)conn->client.gid, ms, conn->volume ? volume->id : 0,
                     XSEG_NAME_MAX, conn->volume ? volume->name : "");

    return n < 0 || (size_t)n >= room ? -1 : n;
}

int nbd_allow_tell(struct nbd *nbd, struct xreq *req)
{
    struct peer *peer = nbd->peer;
    uint64_t room = req->data_size;
    char *out;

    if (!xreq_data_ok(peer->seg, req, room))
        return -EINVAL;
    out = xreq_data(peer->seg, req);
    req->done = 0;
    for (uint32_t i = 0; i < nbd->top; i++) {
        const struct nbd_connection *conn = nbd->connections[i];
        int n = conn && conn->phase != NBD_GONE ? say_client(conn, out + req->done, room - req->done) : 0;

        if (n < 0) {
            req->flags |= XREQ_MORE;
            break;
        }
        req->done += (uint64_t)n;
    }
    return 0;
}
