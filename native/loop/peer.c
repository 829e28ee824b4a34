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

const char *peer_option(const struct peer *peer, const char *name, const char *otherwise)
{
    for (uint32_t i = 0; i < peer->option_count; i++)
        if (strcmp(peer->options[i].name, name) == 0)
            return peer->options[i].value;
    return otherwise;
}

int peer_option_u64(struct peer *peer, const char *name, uint64_t otherwise, uint64_t *value)
{
    const char *text = peer_option(peer, name, NULL);
    char *end;

    *value = otherwise;
    if (!text)
        return 0;
    errno = 0;
    *value = strtoull(text, &end, 10);
    if (errno || end == text || *end || text[0] == '-')
        return peer_fail(peer, -EINVAL, "option %s: %s is not a whole number", name, text);
    return 0;
}

int peer_option_flag(struct peer *peer, const char *name, bool otherwise, bool *value)
{
    const char *text = peer_option(peer, name, otherwise ? "1" : "0");

    *value = strcmp(text, "1") == 0 || strcmp(text, "yes") == 0;
    if (!*value && strcmp(text, "0") != 0 && strcmp(text, "no") != 0)
        return peer_fail(peer, -EINVAL, "option %s: %.80s is neither yes nor no", name, text);
    return 0;
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
