/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/listen.c - the sockets an NBD server is reached at. See nbd/parts.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "nbd/parts.h"

#define BACKLOG 128
#define ACCEPTS_MAX 16              /* of one wake-up */
#define SEND_BUFFER (1 << 20)       /* bytes: a long reply in few system calls */
#define REFUSE_NS 100000000ull      /* nothing is accepted for so long without descriptors */

/* --- accepting -------------------------------------------------------------------- */

/* Best effort: what the system does not grant only costs speed. */
static void tune(int fd, bool tcp)
{
    int size = SEND_BUFFER, one = 1;

    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    if (!tcp)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
}

static void listener_ready(struct watch *watch, uint32_t events)
{
    struct nbd_listener *listener = (struct nbd_listener *)watch;
    struct nbd *nbd = watch->arg;

    (void)events;
    for (int n = 0; n < ACCEPTS_MAX; n++) {
        int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
            loop_unwatch(nbd->peer->loop, watch);
            listener->watched = false;
            nbd->refused_until_ns = clock_ns() + REFUSE_NS;
        }
        if (fd < 0)
            return;
        tune(fd, listener->tcp);
        nbd_connect(nbd, fd);
    }
}

int nbd_listen_watch(struct nbd *nbd)
{
    for (uint32_t i = 0; i < nbd->listener_count; i++) {
        struct nbd_listener *listener = &nbd->listeners[i];

        if (listener->watched)
            continue;
        int rc = loop_watch(nbd->peer->loop, &listener->watch, EPOLLIN);
        if (rc)
            return rc;
        listener->watched = true;
    }
    return 0;
}

void nbd_listen_pause(struct nbd *nbd)
{
    for (uint32_t i = 0; i < nbd->listener_count; i++) {
        if (nbd->listeners[i].watched)
            loop_unwatch(nbd->peer->loop, &nbd->listeners[i].watch);
        nbd->listeners[i].watched = false;
    }
}

static struct nbd_listener *add(struct nbd *nbd, int fd)
{
    struct nbd_listener *listener = &nbd->listeners[nbd->listener_count++];

    listener->watch = (struct watch){ .fd = fd, .ready = listener_ready, .arg = nbd };
    return listener;
}

void nbd_listen_close(struct nbd *nbd)
{
    nbd_listen_pause(nbd);
    while (nbd->listener_count > 0) {
        struct nbd_listener *listener = &nbd->listeners[--nbd->listener_count];
        struct stat now;

        if (listener->path[0] && stat(listener->path, &now) == 0
            && now.st_dev == listener->dev && now.st_ino == listener->ino)
            unlink(listener->path);
        close(listener->watch.fd);
    }
}

int nbd_listen_inherited(struct nbd *nbd, int fd)
{
    struct sockaddr address;
    socklen_t length = sizeof(address), size = sizeof(int);
    int listens = 0;

    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 || !listens
        || getsockname(fd, &address, &length) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        return -EBADF;
    add(nbd, fd)->tcp = address.sa_family != AF_UNIX;
    return 0;
}

/* --- unix ----------------------------------------------------------------------------- */

/* Removes the socket a dead server left. EADDRINUSE: a live one listens there. EEXIST: it is
 * something else, or another user's. */
static int remove_stale(const struct nbd *nbd, const struct sockaddr_un *address)
{
    struct stat found;
    int fd, rc;

    if (lstat(address->sun_path, &found) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(found.st_mode)
        || (found.st_uid != 0 && found.st_uid != geteuid() && found.st_uid != nbd->socket_uid))
        return -EEXIST;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    rc = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
    close(fd);
    if (rc != -ECONNREFUSED)
        return rc == 0 || rc == -EAGAIN ? -EADDRINUSE : rc;
    return unlink(address->sun_path) < 0 ? -errno : 0;
}

/* The descriptor, which listens now, or a negative errno; it is closed then. */
static int listen_at(int fd, int rc)
{
    if (rc == 0)
        rc = listen(fd, BACKLOG);
    if (rc == 0)
        return fd;
    rc = -errno;
    close(fd);
    return rc;
}

/* A descriptor that listens, or a negative errno. */
static int bind_unix(const struct nbd *nbd, const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), rc;

    if (fd < 0)
        return -errno;
    rc = bind(fd, (const struct sockaddr *)address, sizeof(*address));
    if (rc == 0)                    /* nobody can connect before listen() */
        rc = lchown(address->sun_path, nbd->socket_uid, nbd->socket_gid);
    if (rc == 0)
        rc = chmod(address->sun_path, nbd->socket_mode);
    return listen_at(fd, rc);
}

int nbd_listen_unix(struct nbd *nbd, const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct nbd_listener *listener;
    struct stat made;
    int rc;

    if (strlen(path) >= sizeof(address.sun_path))
        return peer_fail(nbd->peer, -ENAMETOOLONG, "the socket's path has %zu bytes, the system takes %zu: "
                         "set option socket to a shorter one; it begins %.60s",
                         strlen(path), sizeof(address.sun_path) - 1, path);
    memcpy(address.sun_path, path, strlen(path));
    rc = remove_stale(nbd, &address);
    if (rc == 0)
        rc = bind_unix(nbd, &address);
    if (rc < 0)
        return peer_fail(nbd->peer, rc, "cannot listen at %s: %s", path,
                         rc == -EADDRINUSE ? "another server does; stop it or set option socket"
                         : rc == -EPERM ? "it may not be given to option socket_owner or socket_group by this user"
                         : rc == -EEXIST ? "the path holds something that is no socket of ours" : strerror(-rc));
    listener = add(nbd, rc);
    snprintf(listener->path, sizeof(listener->path), "%s", path);
    if (stat(path, &made) == 0) {
        listener->dev = made.st_dev;
        listener->ino = made.st_ino;
    }
    return 0;
}

/* --- TCP --------------------------------------------------------------------------------- */

/* Splits "host:port", "[v6]:port" or ":port" (every address). */
static int split_address(const char *text, char *host, size_t size, const char **service)
{
    const char *colon = strrchr(text, ':'), *end = colon;

    if (!colon || !colon[1])
        return -EINVAL;
    if (text[0] == '[' && colon > text && colon[-1] == ']') {
        text++;
        end--;
    }
    if ((size_t)(end - text) >= size)
        return -EINVAL;
    memcpy(host, text, (size_t)(end - text));
    host[end - text] = 0;
    *service = colon + 1;
    return 0;
}

/* A descriptor that listens, or a negative errno. */
static int bind_tcp(const struct addrinfo *address)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;

    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    return listen_at(fd, bind(fd, address->ai_addr, address->ai_addrlen));
}

int nbd_listen_tcp(struct nbd *nbd, const char *text)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *found;
    const char *service;
    char host[256];
    int rc;

    if (split_address(text, host, sizeof(host), &service) != 0)
        return peer_fail(nbd->peer, -EINVAL, "option listen: %.60s is not host:port", text);
    rc = getaddrinfo(host[0] ? host : NULL, service, &hints, &found);
    if (rc)
        return peer_fail(nbd->peer, -EINVAL, "option listen: %.60s: %s", text, gai_strerror(rc));
    rc = bind_tcp(found);
    freeaddrinfo(found);
    if (rc < 0)
        return peer_fail(nbd->peer, rc, "cannot listen at %.60s: %s", text,
                         rc == -EADDRINUSE ? "the port is in use; stop its server or set option listen"
                         : strerror(-rc));
    add(nbd, rc)->tcp = true;
    return 0;
}
