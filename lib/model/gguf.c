/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/dtype.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/base/text.h"
#include "lib/model/gguf.h"

enum { ALIGN = 32 };

/* Types of a value. */
enum value { VALUE_U32 = 4, VALUE_I32 = 5, VALUE_F32 = 6, VALUE_BOOL = 7, VALUE_STRING = 8, VALUE_ARRAY = 9 };

struct gguf {
	struct file *file;
	struct text meta, infos;
	uint64_t nmeta, ntensors;
	uint64_t offset;		/* of the next tensor */
	uint64_t *bytes;		/* [ntensors] */
	int nbytes, cap;
	int began;			/* the head is written */
	int at;				/* tensor that is being filled */
	uint64_t filled;		/* bytes of it */
};

struct gguf *
gguf_create(const char *path)
{
	struct gguf *g = mem_zero(1, sizeof *g);

	g->file = file_create(path);
	return g;
}

/* Numbers are little-endian, as on every machine that this is built for. */
static void
add(struct text *t, const void *data, size_t n)
{
	text_add(t, data, n);
}

static void
add_string(struct text *t, const char *s, size_t n)
{
	uint64_t length = n;

	add(t, &length, sizeof length);
	add(t, s, n);
}

static void
add_u32(struct text *t, uint32_t value)
{
	add(t, &value, sizeof value);
}

static void
key(struct gguf *g, const char *name, enum value type)
{
	add_string(&g->meta, name, strlen(name));
	add_u32(&g->meta, type);
	g->nmeta++;
}

void
gguf_u32(struct gguf *g, const char *name, uint32_t value)
{
	key(g, name, VALUE_U32);
	add_u32(&g->meta, value);
}

void
gguf_f32(struct gguf *g, const char *name, float value)
{
	key(g, name, VALUE_F32);
	add(&g->meta, &value, sizeof value);
}

void
gguf_bool(struct gguf *g, const char *name, int value)
{
	char byte = value != 0;

	key(g, name, VALUE_BOOL);
	add(&g->meta, &byte, 1);
}

void
gguf_string(struct gguf *g, const char *name, const char *s, size_t n)
{
	key(g, name, VALUE_STRING);
	add_string(&g->meta, s, n);
}

static void
array(struct gguf *g, const char *name, enum value type, uint64_t count)
{
	key(g, name, VALUE_ARRAY);
	add_u32(&g->meta, type);
	add(&g->meta, &count, sizeof count);
}

void
gguf_strings(struct gguf *g, const char *name, uint64_t count)
{
	array(g, name, VALUE_STRING, count);
}

void
gguf_strings_item(struct gguf *g, const char *s, size_t n)
{
	add_string(&g->meta, s, n);
}

void
gguf_i32s(struct gguf *g, const char *name, uint64_t count)
{
	array(g, name, VALUE_I32, count);
}

void
gguf_i32s_item(struct gguf *g, int32_t value)
{
	add(&g->meta, &value, sizeof value);
}

size_t
gguf_bytes(enum gguf_type type, size_t elements)
{
	switch (type) {
	case GGUF_F32: return 4 * elements;
	case GGUF_Q4_0: return elements / GGUF_BLOCK * 18;
	case GGUF_Q8_0: return elements / GGUF_BLOCK * 34;
	default: return 2 * elements;
	}
}

void
gguf_tensor(struct gguf *g, const char *name, enum gguf_type type, uint64_t columns, uint64_t rows)
{
	uint64_t bytes = gguf_bytes(type, columns * (rows ? rows : 1));

	add_string(&g->infos, name, strlen(name));
	add_u32(&g->infos, rows ? 2 : 1);
	add(&g->infos, &columns, sizeof columns);
	if (rows)
		add(&g->infos, &rows, sizeof rows);
	add_u32(&g->infos, type);
	add(&g->infos, &g->offset, sizeof g->offset);
	g->offset += (bytes + ALIGN - 1) / ALIGN * ALIGN;
	g->ntensors++;
	MEM_PUSH(g->bytes, g->nbytes, g->cap, bytes);
}

static void
pad(struct gguf *g, uint64_t written)
{
	static const char zeros[ALIGN];

	file_write(g->file, zeros, (size_t)((ALIGN - written % ALIGN) % ALIGN));
}

static void
begin(struct gguf *g)
{
	struct text head = { .n = 0 };

	text_puts(&head, "GGUF");
	add_u32(&head, 3);
	add(&head, &g->ntensors, sizeof g->ntensors);
	add(&head, &g->nmeta, sizeof g->nmeta);
	file_write(g->file, head.s, head.n);
	file_write(g->file, g->meta.s, g->meta.n);
	file_write(g->file, g->infos.s, g->infos.n);
	pad(g, head.n + g->meta.n + g->infos.n);
	free(head.s);
	g->began = 1;
}

void
gguf_put(struct gguf *g, const void *data, size_t bytes)
{
	if (!g->began)
		begin(g);
	file_write(g->file, data, bytes);
	g->filled += bytes;
	if (g->filled == g->bytes[g->at]) {
		pad(g, g->filled);
		g->filled = 0;
		g->at++;
	}
}

static void
let_go(struct gguf *g)
{
	free(g->meta.s);
	free(g->infos.s);
	free(g->bytes);
	free(g);
}

void
gguf_finish(struct gguf *g)
{
	if (!g->began)
		begin(g);
	file_commit(g->file);
	let_go(g);
}

void
gguf_discard(struct gguf *g)
{
	file_discard(g->file);
	let_go(g);
}

/* d = max |x| / 127, codes x / d to nearest, halves away from zero; d is rounded after that. */
static void
convert_q8_0(unsigned char *to, const float *x)
{
	float most = 0, d, inverse;
	uint16_t half;
	int i;

	for (i = 0; i < GGUF_BLOCK; i++)
		most = fmaxf(most, fabsf(x[i]));
	d = most / 127;
	inverse = d > 0 ? 1 / d : 0;
	half = f32_to_f16(d);
	memcpy(to, &half, sizeof half);
	for (i = 0; i < GGUF_BLOCK; i++)
		to[2 + i] = (unsigned char)(signed char)roundf(x[i] * inverse);
}

void
gguf_convert(void *to, enum gguf_type type, const float *x, size_t n)
{
	size_t i;

	if (type == GGUF_Q8_0)
		for (i = 0; i < n; i += GGUF_BLOCK)
			convert_q8_0((unsigned char *)to + gguf_bytes(type, i), x + i);
	else
		dtype_convert(to, type == GGUF_F32 ? DT_F32 : type == GGUF_F16 ? DT_F16 : DT_BF16, x, DT_F32, n);
}

void
gguf_q4_0(void *to, const uint8_t *codes, const uint16_t *scales, size_t n)
{
	unsigned char *block = to;
	size_t i, j;

	for (i = 0; i < n; i += GGUF_BLOCK, block += 18) {
		memcpy(block, &scales[i / GGUF_BLOCK], 2);
		for (j = 0; j < GGUF_BLOCK / 2; j++)
			block[2 + j] = (unsigned char)(codes[i + j] | codes[i + GGUF_BLOCK / 2 + j] << 4);
	}
}
