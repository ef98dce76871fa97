/* SPDX-License-Identifier: MIT */
/*
 * stream - any bytes as a frame with its checksums put right, as the content of a
 * header and of records, and as an index; every byte of every tensor is read
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/stream/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned sum;

static void
read_records(const struct layout *layout, const unsigned char *p, size_t left)
{
	static struct buffer plain;
	char why[REASON_MAX];
	struct record r;
	int64_t size;
	uint64_t bytes, k;
	int i, axis;

	for (; left && (size = record_size(layout, p, left, why)) >= 0; p += size, left -= (size_t)size) {
		if (!size || (uint64_t)size > left)
			abort();
		if (record_unpack(layout, p, &r, &plain, why))
			continue;
		for (i = 0; i < r.ntensors; i++) {
			bytes = dtype_size(r.tensors[i].type);
			for (axis = 0; axis < r.tensors[i].rank; axis++)
				bytes *= r.tensors[i].shape[axis];
			for (k = 0; k < bytes; k++)
				sum += ((const uint8_t *)r.tensors[i].data)[k];
		}
		json_decref(r.text);
	}
}

/* A header's content, and that of records right behind it, as zstd -dc shows them. */
static void
read_content(const unsigned char *p, size_t size)
{
	uint64_t n = size < HEADER_START ? 0 : aligned(HEADER_START + (uint64_t)get32(p + 12));
	char why[REASON_MAX];
	struct layout layout;
	json_t *header;
	uint64_t records;

	end_unpack(p, size, &records);
	if (n > size || header_unpack(p, n, &header, &layout, why))
		return;
	if (header_agrees(header, header, why))
		abort();
	read_records(&layout, p + n, size - n);
	json_decref(header);
}

static void
read_frame(unsigned char *p, size_t size)
{
	static struct buffer content;
	static ZSTD_DCtx *z;
	char why[REASON_MAX];
	struct footer footer;
	struct label label;

	if (size >= FOOTER)
		footer_parse(p + size - FOOTER, &footer, why);
	if (size < LABEL || label_parse(p, &label, why) || label.packed > size - LABEL)
		return;
	label.checksum = XXH3_64bits_withSeed(p + LABEL, label.packed, XXH3_64bits(p, LABEL - 8));
	if (!z)
		z = ZSTD_createDCtx();
	if (!frame_unpack(z, p, &label, p + LABEL, &content, why))
		read_content(content.data, content.size);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned char *copy = mem_copy(data, size);	/* of its size, so that reading past it is seen */

	read_content(copy, size);
	read_frame(copy, size);
	free(copy);
	return 0;
}
