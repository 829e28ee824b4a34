/* SPDX-License-Identifier: Apache-2.0
 *
 * loop/peer.c - helpers for native peers: options, answers, queues. See loop/peer.h.
 */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loop/peer.h"

static const struct option *find_option(const struct peer *peer, const char *name)
{
    for (uint32_t i = 0; i < peer->option_count; i++)
        if (strcmp(peer->options[i].name, name) == 0)
            return &peer->options[i];
    return NULL;
}

/* What is not set is `most`. */
static int read_number(struct peer *peer, const struct option *given, uint64_t most, uint64_t *number)
{
    const char *text = given->value;
    char *end;

    *number = most;
    if (!text)
        return 0;
    errno = 0;
    *number = strtoull(text, &end, 10);
    if (errno || end == text || *end || text[0] == '-' || *number > most)
        return peer_fail(peer, -EINVAL, "option %s: %.80s is not a whole number of %llu at most", given->name, text,
                         (unsigned long long)most);
    return 0;
}

static int read_flag(struct peer *peer, const struct option *given, bool *flag)
{
    *flag = given->value && strcmp(given->value, "1") == 0;
    if (*flag || (given->value && strcmp(given->value, "0") == 0))
        return 0;
    return peer_fail(peer, -EINVAL, "option %s: %.80s is neither 0 nor 1", given->name,
                     given->value ? given->value : "nothing");
}

static int read_option(struct peer *peer, const struct peer_option *option, const struct option *given)
{
    void *place = (uint8_t *)peer->state + option->offset;
    uint64_t number;
    int rc;

    switch (option->kind) {
    case PEER_TEXT:
        *(const char **)place = given->value;
        return 0;
    case PEER_BOOL: return read_flag(peer, given, place);
    case PEER_FD:
        rc = read_number(peer, given, INT32_MAX, &number);
        *(int *)place = given->value ? (int)number : -1;
        return rc;
    case PEER_U32:
        rc = read_number(peer, given, UINT32_MAX, &number);
        *(uint32_t *)place = (uint32_t)number;
        return rc;
    default: return read_number(peer, given, UINT64_MAX, place);
    }
}

int peer_configure(struct peer *peer)
{
    const struct peer_option *option = peer->ops->options;
    int rc = 0;

    if (peer->ops->state_size)
        peer->state = calloc(1, peer->ops->state_size);
    if (peer->ops->state_size && !peer->state)
        return -ENOMEM;
    for (; rc == 0 && option && option->name; option++) {
        const struct option *given = find_option(peer, option->name);

        assert(option->offset < peer->ops->state_size);
        rc = given ? read_option(peer, option, given) : peer_fail(peer, -EINVAL, "option %s is missing", option->name);
    }
    return rc;
}

int peer_fail(struct peer *peer, int error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(peer->error, sizeof(peer->error), format, args);
    va_end(args);
    return error;
}

void peer_reply(struct peer *peer, struct xreq *req, int error)
{
    assert(peer->in_flight > 0);
    peer->in_flight--;
    xreq_reply(peer->port, req, error);
}

void queue_push(struct peer *peer, struct queue *queue, struct xreq *req)
{
    req->link = 0;
    if (queue->head == 0)
        queue->head = req->index + 1;
    else
        peer->port->reqs[queue->tail - 1].link = req->index + 1;
    queue->tail = req->index + 1;
}

struct xreq *queue_pop(struct peer *peer, struct queue *queue)
{
    struct xreq *req;

    if (queue->head == 0)
        return NULL;
    req = &peer->port->reqs[queue->head - 1];
    queue->head = req->link;
    if (queue->head == 0)
        queue->tail = 0;
    req->link = 0;
    return req;
}
