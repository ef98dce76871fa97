/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/stream/frame.h"

enum { BLOCK = 1 << 17 };		/* the most that one block of zstd unpacks to, from 4 bytes or more */

static const char label_mark[4] = "psfr", index_mark[8] = "psindex\n";

unsigned char *
buffer_reserve(struct buffer *b, size_t size)
{
	size_t need = b->size + size;

	if (need > b->cap) {
		b->cap = need > 2 * b->cap ? need : 2 * b->cap;
		b->data = mem_grow(b->data, b->cap, 1);
	}
	return b->data + b->size;
}

void
buffer_aligned(struct buffer *b, size_t size)
{
	if (size <= b->cap)
		return;
	free(b->data);
	b->cap = aligned(size);
	b->data = aligned_alloc(ALIGN, b->cap);
	if (!b->data)
		die("out of memory, asking for %zu bytes", b->cap);
}

static uint64_t
label_checksum(const unsigned char *bytes, const unsigned char *packed, size_t size)
{
	return XXH3_64bits_withSeed(packed, size, XXH3_64bits(bytes, LABEL - 8));
}

const char *
frame_pack(ZSTD_CCtx *z, const void *content, size_t size, uint32_t records, struct buffer *out)
{
	size_t bound = ZSTD_compressBound(size), n;
	unsigned char *label = buffer_reserve(out, LABEL + bound);

	n = ZSTD_compress2(z, label + LABEL, bound, content, size);
	if (ZSTD_isError(n))
		return ZSTD_getErrorName(n);
	put32(label, FRAME_SKIP);
	put32(label + 4, LABEL - 8);
	memcpy(label + 8, label_mark, sizeof label_mark);
	put32(label + 12, (uint32_t)n);
	put32(label + 16, (uint32_t)size);
	put32(label + 20, records);
	put64(label + 24, label_checksum(label, label + LABEL, n));
	out->size += LABEL + n;
	return NULL;
}

int
label_parse(const unsigned char *bytes, struct label *label, char *why)
{
	if (get32(bytes) != FRAME_SKIP || get32(bytes + 4) != LABEL - 8 ||
	    memcmp(bytes + 8, label_mark, sizeof label_mark))
		return reason(why, "no frame begins there");
	label->packed = get32(bytes + 12);
	label->size = get32(bytes + 16);
	label->records = get32(bytes + 20);
	label->checksum = get64(bytes + 24);
	if (label->size > FRAME_MAX || label->size % ALIGN || label->records > label->size / ALIGN ||
	    label->size / BLOCK > label->packed / 4 || label->packed > ZSTD_COMPRESSBOUND(label->size))
		return reason(why, "its label claims impossible sizes");
	return 0;
}

int
frame_unpack(ZSTD_DCtx *z, const unsigned char *bytes, const struct label *label,
    const unsigned char *packed, struct buffer *content, char *why)
{
	size_t n;

	if (label_checksum(bytes, packed, label->packed) != label->checksum)
		return reason(why, "its checksum does not match");
	buffer_aligned(content, label->size);
	n = ZSTD_decompressDCtx(z, content->data, label->size, packed, label->packed);
	if (ZSTD_isError(n))
		return reason(why, "%s", ZSTD_getErrorName(n));
	if (n != label->size)
		return reason(why, "it unpacks to %zu bytes, not %u", n, label->size);
	content->size = n;
	return 0;
}

void
index_pack(const unsigned char *entries, uint32_t n, uint64_t records, uint64_t part_before,
    struct buffer *out)
{
	size_t body = (size_t)n * INDEX_ENTRY, size = INDEX_START + body + FOOTER;
	unsigned char *p = buffer_reserve(out, size), *footer = p + INDEX_START + body;

	put32(p, FRAME_INDEX);
	put32(p + 4, (uint32_t)(size - 8));
	memcpy(p + INDEX_START, entries, body);
	put64(footer, part_before + size);
	put64(footer + 8, records);
	put32(footer + 16, n);
	put32(footer + 20, 0);
	memcpy(footer + 24, index_mark, sizeof index_mark);
	put64(footer + 32, XXH3_64bits(p, size - 8));
	out->size += size;
}

int
footer_parse(const unsigned char *bytes, struct footer *footer, char *why)
{
	if (memcmp(bytes + 24, index_mark, sizeof index_mark))
		return reason(why, "no index ends there");
	footer->part = get64(bytes);
	footer->records = get64(bytes + 8);
	footer->entries = get32(bytes + 16);
	footer->checksum = get64(bytes + 32);
	return 0;
}
