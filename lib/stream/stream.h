/* SPDX-License-Identifier: MIT */
/*
 * stream - typed records between tools: a header, records, an end mark
 *
 * The bytes are in man/pipestill-stream.5; what a type holds is in
 * schemas/TYPE.json. A record is one example: a JSON object of text, and named
 * tensors. Ragged by nature: the leading dimension of every tensor is the
 * record's own, the trailing shape is fixed by the header.
 *
 * All functions do I/O and die, naming the stream and the byte: `<stdin> ends
 * early, at byte 4096`, `<stdin> carries tokens, not logits`.
 */
#ifndef STREAM_STREAM_H
#define STREAM_STREAM_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"
#include "lib/base/options.h"

enum { TENSOR_RANK = 4, RECORD_TENSORS = 16 };

struct tensor {
	const char *name;		/* as in the header's fields */
	enum dtype type;
	int rank;			/* 1 to TENSOR_RANK */
	uint64_t shape[TENSOR_RANK];	/* shape[0] is this record's; the rest is the header's */
	const void *data;		/* little-endian, 64-byte aligned when read from a stream */
};

struct record {
	json_t *text;			/* object; unknown fields travel on */
	const char *json;		/* for stream_put(), instead of it: the object as JSON */
	size_t json_size;
	int ntensors;
	struct tensor tensors[RECORD_TENSORS];
};

/* The tensor of that name, or NULL. */
const struct tensor *record_tensor(const struct record *r, const char *name);
/* The same, dies with the record's id when it is absent or of another type. */
const struct tensor *record_need(const struct record *r, const char *name, enum dtype type);
/* Append a tensor that points to the caller's data; trailing shape after rows may be 0-terminated. */
void record_add(struct record *r, const char *name, enum dtype type, int rank, const uint64_t *shape, const void *data);
/* A record that stays: its own reference to the text, its own copy of the data. */
void record_copy(struct record *to, const struct record *from);
void record_free(struct record *r);
const char *record_id(const struct record *r);		/* text.id, or "?" */

/*
 * Headers. header_new() starts one of `type` with this command line appended to
 * the history of `from` (a stream read, or NULL), and copies the digests and
 * the fields that both types share. header_field() declares a tensor:
 * trailing = its shape after the ragged dimension.
 */
struct stream_in;
struct stream_out;
json_t *header_new(const char *type, const struct stream_in *from, const struct common *common);
/* The name again when a tensor of some type has it, so that no text should; else NULL. */
const char *stream_reserved(const char *name);
void header_field(json_t *header, const char *name, enum dtype type, int ntrailing, const uint64_t *trailing);
/* Whether records have a tensor of that name. */
int header_has(const json_t *header, const char *name);

/*
 * Reading. `path` NULL is stdin. `want` lists the accepted types, "tokens|rollouts".
 * "any" takes all. What lies in memory stays bounded by a frame, whatever the length.
 */
struct stream_in *stream_open(const char *path, const char *want);
/* The same of a path that is open as fd; it is closed with the stream. */
struct stream_in *stream_open_fd(int fd, const char *path, const char *want);
const json_t *stream_header(const struct stream_in *in);	/* owned by the stream */
const char *stream_type(const struct stream_in *in);
const char *stream_name(const struct stream_in *in);		/* as messages have it: 'path', or <stdin> */
int stream_get(struct stream_in *in, struct record *r);	/* 1, or 0 at the end mark; r is valid until the next call */
/*
 * Whether the next record was handed over together with the last one, so that getting it waits for no
 * writer. It depends on the stream's bytes alone, never on time.
 */
int stream_more(const struct stream_in *in);
void stream_shard(struct stream_in *in, const char *spec);	/* "i/n": only records with index % n == i-1 */
void stream_close(struct stream_in *in);

/* Random access; 0 when the stream is a pipe or has no index. Records are numbered from 0. */
int stream_seekable(const struct stream_in *in);
uint64_t stream_count(struct stream_in *in);
void stream_read(struct stream_in *in, uint64_t index, struct record *r);

/*
 * Writing. `path` NULL is stdout (never a terminal); a file has its name only
 * when it is complete. The header is the caller's to json_decref() afterwards.
 * stream_flush() hands over what is buffered: call it where the reader would starve.
 */
struct stream_out *stream_create(const char *path, const json_t *header);
void stream_put(struct stream_out *out, const struct record *r);
void stream_flush(struct stream_out *out);
void stream_finish(struct stream_out *out);		/* end mark, index, close; frees out */

#endif
