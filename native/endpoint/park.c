/* SPDX-License-Identifier: Apache-2.0
 *
 * endpoint/park.c - see endpoint/park.h.
 */
#include "endpoint/park.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "segment/ours.h"

#define WAIT_MS 5000                /* for what the last life had */
#define PACKET_MAX 128              /* bytes */

union control { struct cmsghdr head; char space[CMSG_SPACE(sizeof(int))]; };

static void lose(struct park *park)
{
    if (park->fd >= 0)
        close(park->fd);
    park->fd = -1;
}

/* 0 or a negative errno. */
static int say(struct park *park, const char *verb, const char *what, int fd)
{
    char text[PACKET_MAX];
    int length = snprintf(text, sizeof(text), "%s %s", verb, what);
    struct iovec part = { text, (size_t)length };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    union control control;

    if (park->fd < 0)
        return -ENOTCONN;
    if (length < 0 || (size_t)length >= sizeof(text))
        return -EINVAL;
    if (fd >= 0) {
        message.msg_control = control.space;
        message.msg_controllen = sizeof(control.space);
        memset(&control, 0, sizeof(control));
        control.head = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
    }
    if (sendmsg(park->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
        return 0;
    if (errno == EAGAIN || errno == ENOBUFS || errno == ETOOMANYREFS)
        return -EAGAIN;
    lose(park);
    return -ENOTCONN;
}

static bool reach(struct park *park)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd;

    if (!park->path || strlen(park->path) >= sizeof(address.sun_path))
        return false;
    memcpy(address.sun_path, park->path, strlen(park->path));
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 || !ours_listens(fd)) {
        close(fd);
        return false;
    }
    park->fd = fd;
    return true;
}

/* The next packet: its name and descriptor. False: that was all. */
static bool receive(struct park *park, struct park_kept *kept)
{
    struct pollfd wait = { .fd = park->fd, .events = POLLIN };
    struct iovec part = { kept->name, PARK_NAME_MAX };
    union control control;
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space,
                              .msg_controllen = sizeof(control.space) };
    ssize_t length;

    if (poll(&wait, 1, WAIT_MS) <= 0)
        return false;
    length = recvmsg(park->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (length <= 0)
        return false;
    kept->name[length] = 0;
    if (strcmp(kept->name, ".") == 0)
        return false;
    kept->fd = -1;
    if (message.msg_controllen >= CMSG_LEN(sizeof(int)))
        memcpy(&kept->fd, CMSG_DATA(&control.head), sizeof(int));
    return true;
}

void park_open(struct park *park, const char *path, const char *role)
{
    *park = (struct park){ .fd = -1, .path = path, .role = role };
    if (!reach(park) || say(park, "hello", role, -1) != 0)
        return;
    for (uint32_t room = 0; park->kept_count < PARK_KEPT_MAX; park->kept_count++) {
        if (park->kept_count == room) {
            struct park_kept *more = realloc(park->kept, (room = room ? 2 * room : 64) * sizeof(*more));

            if (!more)
                return;
            park->kept = more;
        }
        if (!receive(park, &park->kept[park->kept_count]))
            return;
    }
}

int park_take(struct park *park, const char *name)
{
    int fd = -1;

    for (uint32_t i = 0; i < park->kept_count && fd < 0; i++)
        if (park->kept[i].fd >= 0 && strcmp(park->kept[i].name, name) == 0) {
            fd = park->kept[i].fd;
            park->kept[i].fd = -1;
        }
    return fd;
}

void park_settle(struct park *park)
{
    for (uint32_t i = 0; i < park->kept_count; i++)
        if (park->kept[i].fd >= 0) {
            close(park->kept[i].fd);
            park_drop(park, park->kept[i].name);
        }
    free(park->kept);
    park->kept = NULL;
    park->kept_count = 0;
}

int park_keep(struct park *park, const char *name, int fd) { return say(park, "keep", name, fd); }

/* What cannot be told now is told by being sent anew. */
void park_drop(struct park *park, const char *names)
{
    if (say(park, "drop", names, -1) == -EAGAIN)
        lose(park);
}

bool park_again(struct park *park)
{
    char byte;

    if (park->fd >= 0 && recv(park->fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0)
        lose(park);
    if (park->fd >= 0 || !reach(park))
        return false;
    return say(park, "fresh", park->role, -1) == 0;
}

void park_close(struct park *park)
{
    lose(park);
    for (uint32_t i = 0; i < park->kept_count; i++)
        if (park->kept[i].fd >= 0)
            close(park->kept[i].fd);
    free(park->kept);
    park->kept = NULL;
    park->kept_count = 0;
}
