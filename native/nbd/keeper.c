/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/keeper.c - see nbd/keeper.h.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "nbd/keeper.h"
#include "nbd/proto.h"
#include "segment/barrier.h"
#include "segment/ours.h"

struct kept {                       /* a request without a whole reply */
    uint8_t *frame;                 /* as it goes over the wire; NULL: a free slot */
    uint32_t size;                  /* bytes of it */
    uint32_t life;                  /* of the connection that it was written to; 0: none yet */
};

struct keeper {
    int client;
    int server;                     /* -1: there is none now. Changes under `wire` */
    uint32_t life;                  /* of this connection to the server; changes under `wire` */
    const char *path;
    const char *name;
    const char *id;
    bool known;                     /* the server has told the id, in this handshake */
    bool curious;                   /* the description was asked for by us, not by the client */
    bool closing;                   /* atomic: the client has gone, or wants to */
    pthread_mutex_t wire;
    pthread_mutex_t table;
    pthread_cond_t room;            /* a slot has become free */
    uint8_t talk[NBD_KEEP_TALK];        /* the client's flags and options, as the server got them */
    uint32_t talked;
    struct kept slots[NBD_KEEP_COMMANDS];
    uint8_t *reply;                 /* the one that is being carried */
    uint32_t reply_room;
};

static int take(int fd, void *to, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t got = recv(fd, (uint8_t *)to + at, size - at, MSG_WAITALL);
        if (got == 0)
            return -EPIPE;
        if (got < 0 && errno != EINTR)
            return -errno;
        at += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

static int give(int fd, const void *from, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t sent = send(fd, (const uint8_t *)from + at, size - at, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            return -errno;
        at += sent > 0 ? (size_t)sent : 0;
    }
    return 0;
}

/* --- handshake ---------------------------------------------------------------- */

/* Looks at what is told of the export. True if only we have asked for it. */
static bool note_information(struct keeper *k, const uint8_t *data, uint32_t size)
{
    if (size < 2 || nbd_get16(data) != NBD_INFO_DESCRIPTION)
        return false;
    if (memmem(data + 2, size - 2, k->id, strlen(k->id)))
        k->known = true;
    return k->curious;
}

/* Takes in the answers to an option; hands them to the client if that is wanted. The last one's
 * type, or a negative errno. */
static int64_t take_answers(struct keeper *k, int server, bool relay)
{
    uint8_t answer[NBD_OPTION_REPLY_SIZE + NBD_KEEP_TALK];
    for (int i = 0; i < NBD_KEEP_ANSWERS; i++) {
        int rc = take(server, answer, NBD_OPTION_REPLY_SIZE);
        if (rc < 0)
            return rc;
        uint32_t type = nbd_get32(answer + 12), size = nbd_get32(answer + 16);
        if (nbd_get64(answer) != NBD_REPLY_MAGIC || size > NBD_KEEP_TALK)
            return -EPROTO;
        rc = take(server, answer + NBD_OPTION_REPLY_SIZE, size);
        bool ours = rc == 0 && type == NBD_REP_INFO && note_information(k, answer + NBD_OPTION_REPLY_SIZE, size);
        if (rc == 0 && type == NBD_REP_ACK && nbd_get32(answer + 8) == NBD_OPT_GO && !k->known)
            rc = -ESTALE;
        if (rc == 0 && relay && !ours)
            rc = give(k->client, answer, NBD_OPTION_REPLY_SIZE + size);
        if (rc < 0)
            return rc;
        if (type == NBD_REP_ACK || type & NBD_REP_ERROR)
            return type;
    }
    return -EPROTO;
}

/* Appends to what is remembered. */
static int remember(struct keeper *k, const void *data, uint32_t size)
{
    if (size > NBD_KEEP_TALK - k->talked)
        return -EPROTO;
    memcpy(k->talk + k->talked, data, size);
    k->talked += size;
    return 0;
}

/* Makes GO ask for the description. `wishes`: the count of what it asks for, and these. */
static int remember_wishes(struct keeper *k, const uint8_t *wishes, uint32_t size)
{
    uint8_t count[2], description[2];
    if (size < 2 || size != 2u + 2u * nbd_get16(wishes))
        return -EPROTO;
    k->curious = true;
    for (uint32_t at = 2; at < size; at += 2)
        if (nbd_get16(wishes + at) == NBD_INFO_DESCRIPTION)
            k->curious = false;
    nbd_put16(count, nbd_get16(wishes) + (uint32_t)k->curious);
    nbd_put16(description, NBD_INFO_DESCRIPTION);
    int rc = remember(k, count, 2);
    if (rc == 0)
        rc = remember(k, wishes + 2, size - 2);
    return rc == 0 && k->curious ? remember(k, description, 2) : rc;
}

/* Remembers an option, with our export's name where it has one. */
static int remember_option(struct keeper *k, const uint8_t *head, const uint8_t *data, uint32_t size)
{
    uint32_t option = nbd_get32(head + 8), skip = 0, length = (uint32_t)strlen(k->name);
    bool named = option == NBD_OPT_INFO || option == NBD_OPT_GO || option == NBD_OPT_SET_META_CONTEXT ||
                 option == NBD_OPT_LIST_META_CONTEXT;
    uint8_t prefix[4];
    uint32_t before = k->talked;
    if (named) {
        if (size < 4 || nbd_get32(data) > size - 4)
            return -EPROTO;
        skip = 4 + nbd_get32(data);
        nbd_put32(prefix, length);
    }
    int rc = remember(k, head, NBD_OPTION_SIZE);
    if (rc == 0 && named)
        rc = remember(k, prefix, 4);
    if (rc == 0 && named)
        rc = remember(k, k->name, length);
    if (rc == 0 && option == NBD_OPT_GO)
        rc = remember_wishes(k, data + skip, size - skip);
    else if (rc == 0)
        rc = remember(k, data + skip, size - skip);
    if (rc == 0)
        nbd_put32(k->talk + before + 12, k->talked - before - NBD_OPTION_SIZE);
    return rc;
}

/* Passes one option and its answers on. 1: transmission begins. */
static int pass_option(struct keeper *k)
{
    uint8_t head[NBD_OPTION_SIZE], data[NBD_KEEP_TALK];
    int rc = take(k->client, head, sizeof(head));
    if (rc < 0)
        return rc;
    uint32_t option = nbd_get32(head + 8), size = nbd_get32(head + 12), before = k->talked;
    if (nbd_get64(head) != NBD_OPTION_MAGIC || size > sizeof(data) || option == NBD_OPT_EXPORT_NAME
        || option == NBD_OPT_ABORT)
        return -EPROTO;
    rc = take(k->client, data, size);
    if (rc == 0)
        rc = remember_option(k, head, data, size);
    if (rc == 0)
        rc = give(k->server, k->talk + before, k->talked - before);
    int64_t type = rc < 0 ? rc : take_answers(k, k->server, true);
    return type < 0 ? (int)type : option == NBD_OPT_GO && type == NBD_REP_ACK;
}

static int pass_handshake(struct keeper *k)
{
    uint8_t greeting[NBD_GREETING_SIZE], flags[4];
    int rc = take(k->server, greeting, sizeof(greeting));
    if (rc == 0)
        rc = give(k->client, greeting, sizeof(greeting));
    if (rc == 0)
        rc = take(k->client, flags, sizeof(flags));
    if (rc == 0)
        rc = remember(k, flags, sizeof(flags));
    if (rc == 0)
        rc = give(k->server, flags, sizeof(flags));
    for (int i = 0; rc == 0 && i < NBD_KEEP_OPTIONS; i++)
        rc = pass_option(k);
    return rc == 1 ? 0 : rc < 0 ? rc : -EPROTO;
}

/* Says to a new server what the client said to the first. */
static int repeat_handshake(struct keeper *k, int server)
{
    uint8_t greeting[NBD_GREETING_SIZE];
    int64_t rc = take(server, greeting, sizeof(greeting));
    k->known = false;
    if (rc == 0)
        rc = give(server, k->talk, k->talked);
    for (uint32_t at = 4; rc >= 0 && at < k->talked; at += NBD_OPTION_SIZE + nbd_get32(k->talk + at + 12))
        rc = take_answers(k, server, false);
    return rc < 0 ? (int)rc : rc == NBD_REP_ACK ? 0 : -EPROTO;
}

/* --- the connection to the server ---------------------------------------------- */

/* A connected socket, or a negative errno. Who listens in our server's place is as good as nobody. */
static int connect_to(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    if (fd >= 0 && !ours_listens(fd)) {
        close(fd);
        return -ECONNREFUSED;
    }
    return fd < 0 ? -errno : fd;
}

/* Limits how long a read from it may take; 0: not at all. */
static void limit_wait(int fd, time_t seconds)
{
    struct timeval limit = { .tv_sec = seconds };
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

static time_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

static void put_server(struct keeper *k, int server)
{
    pthread_mutex_lock(&k->wire);
    if (k->server >= 0)
        close(k->server);
    k->server = server;
    k->life += server >= 0;
    pthread_mutex_unlock(&k->wire);
}

static int connect_again(struct keeper *k)
{
    time_t began = now_s(), seen = began;       /* when its socket was last there */
    while (!load_acquire(&k->closing)) {
        int fd = connect_to(k->path);
        if (fd >= 0) {
            seen = now_s();
            limit_wait(fd, NBD_KEEP_PATIENCE_S);
            if (repeat_handshake(k, fd) == 0) {
                limit_wait(fd, 0);
                put_server(k, fd);
                return 0;
            }
            close(fd);
        }
        if (now_s() - seen > NBD_KEEP_ABSENT_S || now_s() - began > NBD_KEEP_PATIENCE_S)
            return -ETIMEDOUT;
        usleep(NBD_KEEP_POLL_US);
    }
    return 0;
}

/* --- requests ------------------------------------------------------------------ */

/* Writes what this connection to the server has not got yet. A failure shows to who reads from it. */
static void send_rest(struct keeper *k)
{
    pthread_mutex_lock(&k->wire);
    for (int i = 0; i < NBD_KEEP_COMMANDS && k->server >= 0; i++) {
        struct kept *slot = &k->slots[i];
        pthread_mutex_lock(&k->table);
        bool due = slot->frame && slot->life != k->life;
        if (due)
            slot->life = k->life;
        pthread_mutex_unlock(&k->table);
        if (due && give(k->server, slot->frame, slot->size) < 0)
            break;
    }
    pthread_mutex_unlock(&k->wire);
}

static void *send_again(void *keeper)
{
    send_rest(keeper);
    return NULL;
}

/* Keeps a request. Waits for a slot. */
static void keep(struct keeper *k, uint8_t *frame, uint32_t size)
{
    pthread_mutex_lock(&k->table);
    for (;;) {
        for (int i = 0; i < NBD_KEEP_COMMANDS; i++) {
            if (k->slots[i].frame)
                continue;
            k->slots[i] = (struct kept){ .frame = frame, .size = size };
            pthread_mutex_unlock(&k->table);
            return;
        }
        pthread_cond_wait(&k->room, &k->table);
    }
}

/* Takes one request from the client. */
static int carry_request(struct keeper *k)
{
    uint8_t head[NBD_REQUEST_SIZE];
    int rc = take(k->client, head, sizeof(head));
    if (rc < 0)
        return rc;
    uint32_t command = nbd_get16(head + 6), size = command == NBD_CMD_WRITE ? nbd_get32(head + 24) : 0;
    if (nbd_get32(head) != NBD_REQUEST_MAGIC || size > NBD_KEEP_FRAME_MAX)
        return -EPROTO;
    if (command == NBD_CMD_DISC)
        return -EPIPE;              /* all that matters of it */
    uint8_t *frame = malloc(sizeof(head) + size);
    if (!frame)
        return -ENOMEM;
    memcpy(frame, head, sizeof(head));
    rc = take(k->client, frame + sizeof(head), size);
    if (rc < 0) {
        free(frame);
        return rc;
    }
    keep(k, frame, (uint32_t)sizeof(head) + size);
    send_rest(k);
    return 0;
}

/* The thread of requests. Ends with the client. */
static void *carry_requests(void *keeper)
{
    struct keeper *k = keeper;
    while (carry_request(k) == 0)
        continue;
    store_release(&k->closing, true);
    pthread_mutex_lock(&k->wire);
    if (k->server >= 0)
        shutdown(k->server, SHUT_RDWR);
    pthread_mutex_unlock(&k->wire);
    return NULL;
}

/* --- replies ------------------------------------------------------------------- */

/* The slot of a request by its cookie, or NULL. Only this thread frees slots. */
static struct kept *find(struct keeper *k, const uint8_t *cookie)
{
    struct kept *found = NULL;
    pthread_mutex_lock(&k->table);
    for (int i = 0; i < NBD_KEEP_COMMANDS && !found; i++) {
        struct kept *slot = &k->slots[i];
        if (slot->frame && slot->life == k->life && memcmp(slot->frame + 8, cookie, 8) == 0)
            found = slot;
    }
    pthread_mutex_unlock(&k->table);
    return found;
}

static void finish(struct keeper *k, struct kept *slot)
{
    pthread_mutex_lock(&k->table);
    free(slot->frame);
    *slot = (struct kept){ 0 };
    pthread_cond_signal(&k->room);
    pthread_mutex_unlock(&k->table);
}

static int make_room(struct keeper *k, uint32_t size)
{
    if (size <= k->reply_room)
        return 0;
    uint8_t *larger = size > NBD_KEEP_FRAME_MAX ? NULL : realloc(k->reply, size);
    if (!larger)
        return size > NBD_KEEP_FRAME_MAX ? -EPROTO : -ENOMEM;
    k->reply = larger;
    k->reply_room = size;
    return 0;
}

/* Takes one reply, or chunk of one, whole into k->reply. Its size, or a negative errno. */
static int64_t take_reply(struct keeper *k)
{
    int rc = take(k->server, k->reply, NBD_SIMPLE_SIZE);
    if (rc < 0)
        return rc;
    struct kept *slot = find(k, k->reply + 8);
    bool chunk = nbd_get32(k->reply) == NBD_CHUNK_MAGIC;
    if (!slot || (!chunk && nbd_get32(k->reply) != NBD_SIMPLE_MAGIC))
        return -EPROTO;
    uint32_t head = chunk ? NBD_CHUNK_SIZE : NBD_SIMPLE_SIZE, size = 0;
    rc = take(k->server, k->reply + NBD_SIMPLE_SIZE, head - NBD_SIMPLE_SIZE);
    if (rc < 0)
        return rc;
    if (chunk)
        size = nbd_get32(k->reply + 16);
    else if (nbd_get32(k->reply + 4) == 0 && nbd_get16(slot->frame + 6) == NBD_CMD_READ)
        size = nbd_get32(slot->frame + 24);
    rc = size > NBD_KEEP_FRAME_MAX ? -EPROTO : make_room(k, head + size);
    if (rc == 0)
        rc = take(k->server, k->reply + head, size);
    if (rc < 0)
        return rc;
    if (!chunk || nbd_get16(k->reply + 4) & NBD_DONE)
        finish(k, slot);
    return (int64_t)head + size;
}

/* Until the client has gone, or the server for good. */
static int carry_replies(struct keeper *k)
{
    for (;;) {
        int64_t size = take_reply(k);
        if (size >= 0 && give(k->client, k->reply, (size_t)size) < 0)
            return 0;
        if (size >= 0)
            continue;
        shutdown(k->server, SHUT_RDWR);         /* whoever writes to it lets go of `wire` */
        put_server(k, -1);
        int rc = connect_again(k);
        pthread_t thread;
        if (rc < 0 || load_acquire(&k->closing))
            return rc;
        rc = -pthread_create(&thread, NULL, send_again, k);
        if (rc < 0)
            return rc;
        pthread_detach(thread);
    }
}

int nbd_keep(int client, const char *path, const char *name, const char *id)
{
    static struct keeper keeper = { .wire = PTHREAD_MUTEX_INITIALIZER, .table = PTHREAD_MUTEX_INITIALIZER,
                                    .room = PTHREAD_COND_INITIALIZER, .life = 1 };
    struct keeper *k = &keeper;     /* one in a process, and its threads may outlive this call */
    assert(!k->path && *id && strlen(id) <= NBD_KEEP_ID_MAX);
    k->client = client;
    k->path = path;
    k->name = name;
    k->id = id;
    k->server = connect_to(path);
    int rc = k->server < 0 ? k->server : make_room(k, NBD_CHUNK_SIZE);
    if (rc == 0)
        rc = pass_handshake(k);
    pthread_t thread;
    if (rc == 0)
        rc = -pthread_create(&thread, NULL, carry_requests, k);
    if (rc < 0)
        return rc;
    pthread_detach(thread);
    return carry_replies(k);
}
