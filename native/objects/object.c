/* SPDX-License-Identifier: Apache-2.0
 *
 * objects/object.c - contents of objects: are they zeros, and what is their digest.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "objects/object.h"

const uint8_t content_nothing[32] = {
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
};

bool content_is_zero(const void *data, uint64_t size)
{
    const uint8_t *byte = data;

    return size == 0 || (byte[0] == 0 && memcmp(byte, byte + 1, size - 1) == 0);
}

int content_begin(struct content *content)
{
    *content = (struct content){ .sha = EVP_MD_CTX_new() };
    if (!content->sha)
        return -ENOMEM;
    return EVP_DigestInit_ex(content->sha, EVP_sha256(), NULL) ? 0 : -EIO;
}

/* Zeros that turned out not to be the last. */
static int feed_zeros(struct content *content)
{
    static const uint8_t zeros[CONTENT_PIECE];

    while (content->zeros) {
        uint64_t n = content->zeros < CONTENT_PIECE ? content->zeros : CONTENT_PIECE;
        if (!EVP_DigestUpdate(content->sha, zeros, n))
            return -EIO;
        content->zeros -= n;
        content->length += n;
    }
    return 0;
}

int content_feed(struct content *content, const void *data, uint64_t size)
{
    const uint8_t *byte = data;
    uint64_t used = size;

    while (used && byte[used - 1] == 0)
        used--;
    if (used) {
        int rc = feed_zeros(content);
        if (rc)
            return rc;
        if (!EVP_DigestUpdate(content->sha, data, used))
            return -EIO;
        content->length += used;
    }
    content->zeros += size - used;
    return 0;
}

int content_end(struct content *content, uint8_t digest[32])
{
    int rc = digest && !EVP_DigestFinal_ex(content->sha, digest, NULL) ? -EIO : 0;

    EVP_MD_CTX_free(content->sha);
    content->sha = NULL;
    return rc;
}

int content_digest(const void *data, uint64_t size, uint64_t *length, uint8_t digest[32])
{
    struct content content;
    int rc = content_begin(&content), ended;

    if (rc == 0)
        rc = content_feed(&content, data, size);
    *length = content.length;
    ended = content_end(&content, rc ? NULL : digest);
    return rc ? rc : ended;
}
