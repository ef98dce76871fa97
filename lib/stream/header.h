/* SPDX-License-Identifier: MIT */
/*
 * header - what a stream's JSON header says of its records
 *
 * {"type": "tokens", "fields": [{"name": "ids", "dtype": "i32", "shape": []}, ...], ...}
 * where shape is what follows the ragged dimension. Parsers return -1 with a reason.
 */
#ifndef STREAM_HEADER_H
#define STREAM_HEADER_H

#include <jansson.h>

#include "lib/stream/frame.h"
#include "lib/stream/stream.h"

enum { STREAM_VERSION = 1, HEADER_START = 16, HEADER_MAX = 1 << 24 };

struct field {
	const char *name;		/* owned by the header */
	enum dtype type;
	int ntrailing;
	uint64_t trailing[TENSOR_RANK - 1];
	uint64_t row;			/* bytes of one row */
	int shuffled;			/* stored as byte planes */
};

struct layout {
	int nfields;
	struct field fields[RECORD_TENSORS];
};

/* The fields of a header; checked against the schema of its type, if there is one. */
int layout_parse(const json_t *header, struct layout *layout, char *why);

/* The content of a header frame, and back; `header` is a new reference. */
void header_pack(const json_t *header, struct buffer *out);
int header_unpack(const unsigned char *content, size_t size, json_t **header,
    struct layout *layout, char *why);

/* Whether records of both may stand in one stream. */
int header_agrees(const json_t *first, const json_t *next, char *why);

/* schemas/TYPE.json parsed, a new reference; NULL if there is none of that type. */
json_t *header_schema(const char *type);

#endif
