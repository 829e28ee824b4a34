/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz/keeper.c - a libFuzzer target: what a keeper gets from its client and from its server.
 *
 * The input is a byte that says how (enum how), two lengths of two bytes each, and as much for the client to
 * send, for the server, and for the next server. Both sides have said all before the keeper begins, and end
 * then, so that nothing waits: the handshake is passed on, requests are taken, replies are taken, and what was
 * said is said again to the next server. What is checked, beside the sanitizers: what a server would get is
 * made of whole options and whole requests.
 */
#include "nbd/keeper.c"

#define MADE_MAX 256                /* bytes of an ordinary handshake */
#define ID "00000000000000a1"       /* of the volume behind the export */
#define DESCRIBED "\0\2" ID         /* NBD_INFO_DESCRIPTION, and what it says */

enum how { SHAKEN = 1 };            /* an ordinary handshake comes first, of both sides */

static uint8_t *say_option(uint8_t *at, uint32_t option, const void *data, uint32_t size)
{
    at = nbd_put64(at, NBD_OPTION_MAGIC);
    at = nbd_put32(at, option);
    at = nbd_put32(at, size);
    memcpy(at, data, size);
    return at + size;
}

static size_t client_handshake(uint8_t *buffer)
{
    uint8_t *at = nbd_put32(buffer, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);

    at = say_option(at, NBD_OPT_STRUCTURED_REPLY, "", 0);
    at = say_option(at, NBD_OPT_GO, "\0\0\0\1v\0\0", 7);
    return (size_t)(at - buffer);
}

static uint8_t *say_answer(uint8_t *at, uint32_t option, uint32_t type, const void *data, uint32_t size)
{
    at = nbd_put64(at, NBD_REPLY_MAGIC);
    at = nbd_put32(at, option);
    at = nbd_put32(at, type);
    at = nbd_put32(at, size);
    memcpy(at, data, size);
    return at + size;
}

static size_t server_handshake(uint8_t *buffer)
{
    uint8_t *at = buffer + NBD_GREETING_SIZE;

    memset(buffer, 0, NBD_GREETING_SIZE);
    at = say_answer(at, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "", 0);
    at = say_answer(at, NBD_OPT_GO, NBD_REP_INFO, DESCRIBED, sizeof(DESCRIBED) - 1);
    at = say_answer(at, NBD_OPT_GO, NBD_REP_ACK, "", 0);
    return (size_t)(at - buffer);
}

/* A socket at whose other end all this was said, and nothing more will be. */
static int said_by(size_t (*handshake)(uint8_t *), const uint8_t *data, size_t size, int *other)
{
    uint8_t made[MADE_MAX];
    size_t length = handshake ? handshake(made) : 0;
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0
        || give(ends[1], made, length) < 0 || give(ends[1], data, size) < 0)
        abort();
    shutdown(ends[1], SHUT_WR);
    *other = ends[1];
    return ends[0];
}

/* What the server would be told again begins with flags and is whole options. */
static void check_talk(const struct keeper *k)
{
    uint32_t at = 4;

    while (at < k->talked) {
        assert(k->talked - at >= NBD_OPTION_SIZE && nbd_get64(k->talk + at) == NBD_OPTION_MAGIC);
        assert(nbd_get32(k->talk + at + 12) <= k->talked - at - NBD_OPTION_SIZE);
        at += NBD_OPTION_SIZE + nbd_get32(k->talk + at + 12);
    }
}

static void check_requests(const struct keeper *k)
{
    for (int i = 0; i < NBD_KEEP_COMMANDS; i++) {
        const uint8_t *frame = k->slots[i].frame;
        if (frame)
            assert(k->slots[i].size >= NBD_REQUEST_SIZE && nbd_get32(frame) == NBD_REQUEST_MAGIC);
    }
}

static void clean_up(struct keeper *k)
{
    for (int i = 0; i < NBD_KEEP_COMMANDS; i++)
        free(k->slots[i].frame);
    free(k->reply);
    memset(k->slots, 0, sizeof(k->slots));
    k->reply = NULL;
    k->reply_room = k->talked = 0;
    k->curious = k->known = false;
}

static void talk(struct keeper *k, int next)
{
    if (pass_handshake(k) == 0) {
        check_talk(k);
        for (int i = 0; i < NBD_KEEP_COMMANDS && carry_request(k) == 0; i++)
            check_requests(k);
        for (int64_t size = 1; size > 0;)
            size = take_reply(k);
        repeat_handshake(k, next);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct keeper k = { .wire = PTHREAD_MUTEX_INITIALIZER, .table = PTHREAD_MUTEX_INITIALIZER,
                               .room = PTHREAD_COND_INITIALIZER, .life = 1, .name = "kept",
                               .id = ID };
    size_t client, server;
    int others[3], next;

    if (size < 5 || size > 8192)
        return 0;
    client = (data[1] | (size_t)data[2] << 8) % (size - 4);
    server = (data[3] | (size_t)data[4] << 8) % (size - 4 - client);
    bool shaken = data[0] & SHAKEN;
    data += 5;
    k.client = said_by(shaken ? client_handshake : NULL, data, client, &others[0]);
    k.server = said_by(shaken ? server_handshake : NULL, data + client, server, &others[1]);
    next = said_by(NULL, data + client + server, size - 5 - client - server, &others[2]);
    if (make_room(&k, NBD_CHUNK_SIZE) != 0)
        abort();
    talk(&k, next);
    close(k.client);
    close(k.server);
    close(next);
    for (int i = 0; i < 3; i++)
        close(others[i]);
    clean_up(&k);
    return 0;
}
