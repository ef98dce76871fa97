/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/stream/record.h"
#include "lib/text/reader.h"

static const char record_mark[4] = "recd", end_mark[8] = "pstend\n";

const struct tensor *
record_tensor(const struct record *r, const char *name)
{
	int i;

	for (i = 0; i < r->ntensors; i++)
		if (!strcmp(r->tensors[i].name, name))
			return &r->tensors[i];
	return NULL;
}

const struct tensor *
record_need(const struct record *r, const char *name, enum dtype type)
{
	const struct tensor *t = record_tensor(r, name);

	if (!t)
		die("record '%s' has no '%s'", record_id(r), name);
	if (t->type != type)
		die("'%s' of record '%s' is %s, not %s", name, record_id(r), dtype_name(t->type),
		    dtype_name(type));
	return t;
}

void
record_add(struct record *r, const char *name, enum dtype type, int rank, const uint64_t *shape,
    const void *data)
{
	struct tensor *t = (struct tensor *)(uintptr_t)record_tensor(r, name);

	if (!t) {
		if (r->ntensors == RECORD_TENSORS)
			die("record '%s' has no room for '%s'", record_id(r), name);
		t = &r->tensors[r->ntensors++];
	}
	memset(t, 0, sizeof *t);
	t->name = name;
	t->type = type;
	t->rank = rank;
	memcpy(t->shape, shape, (size_t)rank * sizeof *shape);
	t->data = data;
}

static size_t
data_bytes(const struct tensor *t)
{
	size_t bytes = dtype_size(t->type);
	int i;

	for (i = 0; i < t->rank; i++)
		bytes = mem_mul(bytes, t->shape[i]);
	return bytes;
}

void
record_copy(struct record *to, const struct record *from)
{
	int i;

	*to = *from;
	json_incref(from->text);
	for (i = 0; i < from->ntensors; i++)
		to->tensors[i].data = mem_copy(from->tensors[i].data, data_bytes(&from->tensors[i]));
}

void
record_free(struct record *r)
{
	int i;

	json_decref(r->text);
	for (i = 0; i < r->ntensors; i++)
		free((void *)(uintptr_t)r->tensors[i].data);
}

const char *
record_id(const struct record *r)
{
	const char *id = json_string_value(json_object_get(r->text, "id"));

	return id ? id : "?";
}

static size_t
start_size(const struct layout *layout)
{
	return aligned(8 + 8 * (size_t)layout->nfields);
}

/* Bytes of the tensor for field f, which must be as the header says. */
static uint64_t
tensor_bytes(const struct record *r, const struct field *f, const struct tensor **tensor)
{
	const struct tensor *t = record_need(r, f->name, f->type);
	uint64_t size;

	if (t->rank != f->ntrailing + 1 ||
	    memcmp(t->shape + 1, f->trailing, (size_t)f->ntrailing * sizeof *f->trailing))
		die("'%s' of record '%s' has not the shape that the header says", f->name, record_id(r));
	if (json_object_get(r->text, f->name))
		die("record '%s' has '%s' both as text and as a tensor", record_id(r), f->name);
	if (__builtin_mul_overflow(t->shape[0], f->row, &size) || size > FRAME_MAX)
		die("'%s' of record '%s' is too large", f->name, record_id(r));
	*tensor = t;
	return size;
}

static void
append_text(const struct record *r, struct buffer *out)
{
	struct text text = { (char *)out->data, out->size, out->cap };

	if (r->text)
		json_append(&text, r->text, 0);
	else
		text_add(&text, r->json, r->json_size);
	*out = (struct buffer){ (unsigned char *)text.s, text.n, text.cap };
}

static void
pad(struct buffer *out, size_t from)
{
	size_t n = from + aligned(out->size - from) - out->size;

	memset(buffer_reserve(out, n), 0, n);
	out->size += n;
}

void
record_pack(const struct layout *layout, const struct record *r, struct buffer *out)
{
	size_t from = out->size, start = start_size(layout), text;
	const struct tensor *tensors[RECORD_TENSORS];
	uint64_t bytes[RECORD_TENSORS];
	const struct field *f;
	int i;

	for (i = 0; i < layout->nfields; i++)
		bytes[i] = tensor_bytes(r, &layout->fields[i], &tensors[i]);
	memset(buffer_reserve(out, start), 0, start);
	out->size += start;
	append_text(r, out);
	text = out->size - from - start;
	pad(out, from);
	for (i = 0; i < layout->nfields; i++) {
		f = &layout->fields[i];
		buffer_reserve(out, bytes[i] + ALIGN);
		if (f->shuffled)
			dtype_shuffle(out->data + out->size, tensors[i]->data,
			    bytes[i] / dtype_size(f->type), dtype_size(f->type));
		else if (bytes[i])
			memcpy(out->data + out->size, tensors[i]->data, bytes[i]);
		out->size += bytes[i];
		pad(out, from);
		put64(out->data + from + 8 + 8 * (size_t)i, bytes[i]);
	}
	if (out->size - from > RECORD_MAX)
		die("record '%s' is larger than %d bytes", record_id(r), RECORD_MAX);
	memcpy(out->data + from, record_mark, sizeof record_mark);
	put32(out->data + from + 4, (uint32_t)text);
}

int64_t
record_size(const struct layout *layout, const unsigned char *p, size_t left, char *why)
{
	uint64_t size = start_size(layout), bytes;
	int i;

	if (size > left || memcmp(p, record_mark, sizeof record_mark))
		return reason(why, "no record begins where one should");
	size += aligned(get32(p + 4));
	for (i = 0; i < layout->nfields; i++) {
		bytes = get64(p + 8 + 8 * (size_t)i);
		if (bytes > left || bytes % layout->fields[i].row)
			return reason(why, "a record's '%s' has an impossible size", layout->fields[i].name);
		size += aligned(bytes);
	}
	if (size > left)
		return reason(why, "a record is larger than its frame");
	return (int64_t)size;
}

static uint64_t
shuffled_size(const struct layout *layout, const unsigned char *p)
{
	uint64_t size = 0;
	int i;

	for (i = 0; i < layout->nfields; i++)
		if (layout->fields[i].shuffled)
			size += aligned(get64(p + 8 + 8 * (size_t)i));
	return size;
}

static int
text_unpack(const unsigned char *p, size_t size, struct record *r, char *why)
{
	char what[REASON_MAX];

	r->text = size ? reader_parse(p, size, what) : json_object();
	if (!r->text)
		return reason(why, "a record's text is not JSON: %.*s", REASON_MAX - 64, what);
	if (json_is_object(r->text))
		return 0;
	json_decref(r->text);
	r->text = NULL;
	return reason(why, "a record's text is not a JSON object");
}

int
record_unpack(const struct layout *layout, const unsigned char *p, struct record *r,
    struct buffer *plain, char *why)
{
	const unsigned char *at = p + start_size(layout);
	const struct field *f;
	struct tensor *t;
	uint64_t bytes;
	int i;

	if (text_unpack(at, get32(p + 4), r, why))
		return -1;
	at += aligned(get32(p + 4));
	buffer_aligned(plain, shuffled_size(layout, p));
	plain->size = 0;
	r->ntensors = layout->nfields;
	for (i = 0; i < layout->nfields; i++) {
		f = &layout->fields[i];
		t = &r->tensors[i];
		bytes = get64(p + 8 + 8 * (size_t)i);
		*t = (struct tensor){ .name = f->name, .type = f->type, .rank = f->ntrailing + 1,
		    .shape = { bytes / f->row }, .data = at };
		memcpy(t->shape + 1, f->trailing, (size_t)f->ntrailing * sizeof *f->trailing);
		if (f->shuffled && bytes) {
			t->data = plain->data + plain->size;
			dtype_unshuffle(plain->data + plain->size, at, bytes / dtype_size(f->type),
			    dtype_size(f->type));
			plain->size += aligned(bytes);
		}
		at += aligned(bytes);
	}
	return 0;
}

void
end_pack(uint64_t records, struct buffer *out)
{
	unsigned char *p = buffer_reserve(out, ALIGN);

	memset(p, 0, ALIGN);
	memcpy(p, end_mark, sizeof end_mark);
	put64(p + 8, records);
	out->size += ALIGN;
}

int
end_unpack(const unsigned char *content, size_t size, uint64_t *records)
{
	if (size != ALIGN || memcmp(content, end_mark, sizeof end_mark))
		return -1;
	*records = get64(content + 8);
	return 0;
}
