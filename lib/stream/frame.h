/* SPDX-License-Identifier: MIT */
/*
 * frame - the bytes of a stream: zstd frames with a checked label before each
 *
 * A stream is one part or several, end to end. A part is a header frame, frames
 * of whole records, an end frame, and an index. Before each frame stands a
 * label, a skippable frame of LABEL bytes, which says what follows and whose
 * checksum covers itself and all of the compressed frame. man/pipestill-stream.5
 * has the tables.
 *
 * The parsers here trust nothing and return -1 with a reason.
 */
#ifndef STREAM_FRAME_H
#define STREAM_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include <zstd.h>

enum {
	LABEL = 32,			/* bytes of a label */
	FOOTER = 40,			/* bytes of an index after its entries */
	INDEX_START = 8,		/* bytes of an index before its entries */
	INDEX_ENTRY = 8,
	ALIGN = 64,			/* what a frame's content is made of */
	FRAME_MAX = 1 << 30,		/* no frame unpacks to more */
	RECORD_MAX = FRAME_MAX - (1 << 24)
};
enum { FRAME_SKIP = 0x184d2a50, FRAME_INDEX = 0x184d2a51 };	/* magics of skippable frames */

struct label {
	uint32_t packed;		/* bytes of the zstd frame that follows */
	uint32_t size;			/* what it unpacks to */
	uint32_t records;		/* how many that holds; none in a header or end frame */
	uint64_t checksum;
};

/* An index: the part's frames from its header to its end, each with its packed size and records. */
struct footer {
	uint64_t part;			/* bytes of the whole part, this index included */
	uint64_t records;
	uint32_t entries;
	uint64_t checksum;		/* of all bytes of the index before it */
};

/* A buffer that grows. */
struct buffer {
	unsigned char *data;
	size_t size, cap;
};

static inline uint64_t
aligned(uint64_t size)
{
	return (size + ALIGN - 1) / ALIGN * ALIGN;
}

/* At least `size` more bytes behind data[size]; the pointer to them. */
unsigned char *buffer_reserve(struct buffer *b, size_t size);
/* Room for `size` bytes from an address divisible by ALIGN; what was there is lost. */
void buffer_aligned(struct buffer *b, size_t size);

static inline uint32_t
get32(const unsigned char *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t
get64(const unsigned char *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static inline void
put32(unsigned char *p, uint32_t x)
{
	p[0] = (unsigned char)x;
	p[1] = (unsigned char)(x >> 8);
	p[2] = (unsigned char)(x >> 16);
	p[3] = (unsigned char)(x >> 24);
}

static inline void
put64(unsigned char *p, uint64_t x)
{
	put32(p, (uint32_t)x);
	put32(p + 4, (uint32_t)(x >> 32));
}

/* Compress `content` behind a label; appended to `out`. NULL, or zstd's name for what failed. */
const char *frame_pack(ZSTD_CCtx *z, const void *content, size_t size, uint32_t records,
    struct buffer *out);

/* A label from its LABEL bytes. 0, or -1 when these are no label. */
int label_parse(const unsigned char *bytes, struct label *label, char *why);

/* Check the frame of `label` against its checksum, and unpack it into `content`, aligned. */
int frame_unpack(ZSTD_DCtx *z, const unsigned char *bytes, const struct label *label,
    const unsigned char *packed, struct buffer *content, char *why);

/* The whole of a part's index from its entries, INDEX_ENTRY bytes each; appended to `out`. */
void index_pack(const unsigned char *entries, uint32_t n, uint64_t records, uint64_t part_before,
    struct buffer *out);
/* The footer from the last FOOTER bytes of an index; whether its checksum holds is the caller's. */
int footer_parse(const unsigned char *bytes, struct footer *footer, char *why);

#endif
