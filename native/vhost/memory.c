/* SPDX-License-Identifier: Apache-2.0
 *
 * vhost/memory.c - guest memory: regions, translation, the dirty log, what happens if it is torn away. See
 * vhost/parts.h.
 *
 * A process has one list of mappings, as it has one loop. It changes on the thread that makes the loop, while that does
 * not run yet or any more, and then on the loop's own, never in the middle of an access to guest memory: so the handler,
 * which runs in the middle of one, finds it whole.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost/parts.h"

#define LOG_PAGE_SHIFT 12           /* a bit of the log stands for so much memory */

static struct vhost_map *mappings;
static struct sigaction before;

/* --- what is torn away ---------------------------------------------------------------- */

/* The file behind a mapping has become shorter: there are zeros from now on, and its session ends. */
static void torn(int number, siginfo_t *info, void *context)
{
    uint8_t *at = info->si_addr;

    for (struct vhost_map *map = mappings; map; map = map->next)
        if (at >= map->base && at < map->base + map->size) {
            map->torn = true;
            if (mmap(map->base, map->size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS
                     | MAP_NORESERVE, -1, 0) != MAP_FAILED)
                return;
        }
    if (before.sa_flags & SA_SIGINFO && before.sa_sigaction) {
        before.sa_sigaction(number, info, context);
        return;
    }
    sigaction(number, &before, NULL);   /* it comes again when this returns */
}

void vhost_memory_guard(void)
{
    struct sigaction now = { .sa_sigaction = torn, .sa_flags = SA_SIGINFO | SA_NODEFER };
    struct sigaction was;

    if (sigaction(SIGBUS, NULL, &was) == 0 && was.sa_flags & SA_SIGINFO && was.sa_sigaction == torn)
        return;
    before = was;
    sigaction(SIGBUS, &now, NULL);
}

int vhost_map_in(struct vhost_map *map, int fd, uint64_t offset, uint64_t size)
{
    struct stat now;
    void *base;

    assert(!map->base);
    if (size == 0 || offset + size < offset || fstat(fd, &now) < 0 || offset + size > (uint64_t)now.st_size)
        return -EINVAL;
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)offset);
    if (base == MAP_FAILED)
        return -errno;
    madvise(base, size, MADV_DONTDUMP);
    *map = (struct vhost_map){ .base = base, .size = size, .next = mappings };
    mappings = map;
    return 0;
}

void vhost_map_out(struct vhost_map *map)
{
    if (!map->base)
        return;
    for (struct vhost_map **link = &mappings; *link; link = &(*link)->next)
        if (*link == map) {
            *link = map->next;
            break;
        }
    munmap(map->base, map->size);
    map->base = NULL;
}

bool vhost_memory_torn(const struct vhost_session *session)
{
    bool any = session->log.torn || session->marks.torn;

    for (uint32_t i = 0; i < session->region_count; i++)
        any |= session->regions[i].map.torn;
    return any;
}

/* --- regions ------------------------------------------------------------------------------ */

static bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

/* 0, or why not: it wraps, is nothing, or lies over another. */
static int check_area(const struct vhost_session *session, const struct vhost_area *area)
{
    uint64_t all = area->size;

    if (area->size == 0 || area->guest + area->size < area->guest || area->user + area->size < area->user
        || area->offset + area->size < area->offset)
        return -EINVAL;
    for (uint32_t i = 0; i < session->region_count; i++) {
        const struct vhost_area *other = &session->regions[i].area;

        if (overlaps(area->guest, area->size, other->guest, other->size)
            || overlaps(area->user, area->size, other->user, other->size))
            return -EINVAL;
        if (other->size > UINT64_MAX - all)
            return -EINVAL;
        all += other->size;
    }
    return all > (uint64_t)session->vhost->memory_gib << 30 ? -ENOMEM : 0;
}

/* The list of mappings has the place of each region's: it is moved with care. */
static void move(struct vhost_region *to, const struct vhost_region *from)
{
    for (struct vhost_map **link = &mappings; *link; link = &(*link)->next)
        if (*link == &from->map) {
            *to = *from;
            *link = &to->map;
            return;
        }
    *to = *from;
}

int vhost_memory_add(struct vhost_session *session, const struct vhost_area *area, uint32_t number, int fd)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), slack = area->offset % page;
    struct vhost_region region = { .area = *area, .number = number, .fd = fd };
    uint32_t place = 0;
    int rc;

    if (session->region_count == VHOST_REGIONS_MAX)
        return -ENOSPC;
    rc = check_area(session, area);
    if (rc)
        return rc;
    while (place < session->region_count && session->regions[place].area.guest < area->guest)
        place++;
    for (uint32_t i = session->region_count; i > place; i--)
        move(&session->regions[i], &session->regions[i - 1]);
    session->regions[place] = region;
    rc = vhost_map_in(&session->regions[place].map, fd, area->offset - slack, area->size + slack);
    if (rc) {
        for (uint32_t i = place; i < session->region_count; i++)
            move(&session->regions[i], &session->regions[i + 1]);
        return rc;
    }
    session->regions[place].at = session->regions[place].map.base + slack;
    session->region_count++;
    session->last_region = place;
    return 0;
}

void vhost_memory_remove(struct vhost_session *session, uint32_t i)
{
    assert(i < session->region_count);
    vhost_map_out(&session->regions[i].map);
    close(session->regions[i].fd);
    session->region_count--;
    for (; i < session->region_count; i++)
        move(&session->regions[i], &session->regions[i + 1]);
    session->last_region = 0;
}

void vhost_memory_clear(struct vhost_session *session)
{
    while (session->region_count)
        vhost_memory_remove(session, session->region_count - 1);
}

/* --- translation ---------------------------------------------------------------------------- */

static uint8_t *in_region(const struct vhost_region *region, uint64_t guest, uint64_t *length)
{
    uint64_t at = guest - region->area.guest;

    if (guest < region->area.guest || at >= region->area.size)
        return NULL;
    if (*length > region->area.size - at)
        *length = region->area.size - at;
    return region->at + at;
}

uint8_t *vhost_memory_guest(struct vhost_session *session, uint64_t guest, uint64_t *length)
{
    uint8_t *at = NULL;

    if (session->last_region < session->region_count)
        at = in_region(&session->regions[session->last_region], guest, length);
    for (uint32_t i = 0; i < session->region_count && !at; i++) {
        at = in_region(&session->regions[i], guest, length);
        if (at)
            session->last_region = i;
    }
    return at;
}

uint8_t *vhost_memory_user(const struct vhost_session *session, uint64_t user, uint64_t length)
{
    for (uint32_t i = 0; i < session->region_count; i++) {
        const struct vhost_area *area = &session->regions[i].area;
        uint64_t at = user - area->user;

        if (user >= area->user && at < area->size && length <= area->size - at)
            return session->regions[i].at + at;
    }
    return NULL;
}

/* --- the dirty log ------------------------------------------------------------------------------ */

void vhost_memory_mark(const struct vhost_session *session, uint64_t guest, uint64_t length)
{
    if (!session->log.base || !vhost_has(session, VHOST_F_LOG_ALL) || length == 0)
        return;
    for (uint64_t page = guest >> LOG_PAGE_SHIFT; page <= (guest + length - 1) >> LOG_PAGE_SHIFT; page++) {
        if (page / 8 >= session->log_size)
            return;
        fetch_or(session->log.base + (session->log.size - session->log_size) + page / 8, (uint8_t)(1u << page % 8));
    }
}
