/* SPDX-License-Identifier: MIT */
/*
 * record - one record as bytes
 *
 * "recd", the size of its text, the size of each field in the header's order;
 * then the text and the fields. Each of these begins at a multiple of ALIGN.
 */
#ifndef STREAM_RECORD_H
#define STREAM_RECORD_H

#include "lib/stream/header.h"

/* Append a record; dies when it is not as the layout says. */
void record_pack(const struct layout *layout, const struct record *r, struct buffer *out);

/* The bytes that the record at p takes, at most `left`; -1 and a reason if there is none. */
int64_t record_size(const struct layout *layout, const unsigned char *p, size_t left, char *why);

/*
 * The record at p, whose size was checked. Tensors point into p, or where they
 * are shuffled into `plain`; r->text is a new reference.
 */
int record_unpack(const struct layout *layout, const unsigned char *p, struct record *r,
    struct buffer *plain, char *why);

/* An end frame's content, and the number of records that it says came before it. */
void end_pack(uint64_t records, struct buffer *out);
int end_unpack(const unsigned char *content, size_t size, uint64_t *records);

#endif
