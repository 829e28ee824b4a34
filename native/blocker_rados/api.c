/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/api.c - loads librados.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "blocker_rados/api.h"

struct rados_api rados;
static const char *lacking;
static int status;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill(void *library, const char *symbol, void *member)
{
    void *found = dlsym(library, symbol);

    if (!found && !lacking)
        lacking = symbol;
    memcpy(member, &found, sizeof(found));
}

static void load(void)
{
    void *library = dlopen(RADOS_LIBRARY, RTLD_NOW | RTLD_LOCAL);

    if (!library) {
        status = -ENOENT;
        return;
    }
#define X(type, name, arguments) fill(library, "rados_" #name, &rados.name);
    RADOS_FUNCTIONS(X)
#undef X
    if (lacking)
        status = -ENOENT;
}

int rados_load(const char **missing)
{
    pthread_once(&once, load);
    *missing = lacking;
    return status;
}
