/* SPDX-License-Identifier: MIT */
/* gguf: files for llama.cpp, read back by a reader of their own */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/quant/export.h"
#include "tests/conformance/kit.h"
#include "tests/conformance/sha256.h"

struct reader {
	const char *p, *end;
	struct verdict *v;
};

static const void *
take(struct reader *r, size_t n)
{
	static const char nothing[16];
	const char *p = r->p;

	if ((size_t)(r->end - p) < n) {
		fail(r->v, "the file ends early");
		r->p = r->end;
		return nothing;
	}
	r->p += n;
	return p;
}

static uint64_t
number(struct reader *r, size_t bytes)
{
	uint64_t x = 0;

	memcpy(&x, take(r, bytes), bytes);
	return x;
}

static json_t *
string(struct reader *r)
{
	uint64_t n = number(r, 8);
	const char *s = n <= (uint64_t)(r->end - r->p) ? take(r, n) : take(r, SIZE_MAX);

	return json_stringn_nocheck(s, r->p == r->end ? 0 : n);
}

/* The value, and its type as the kit spells it. */
static json_t *
value(struct reader *r, uint32_t type, char *spelled)
{
	static const char *const words[] = { [4] = "UINT32", [5] = "INT32", [6] = "FLOAT32", [7] = "BOOL", [8] = "STRING" };
	float f;

	if (type == 9) {
		uint32_t of = (uint32_t)number(r, 4);
		uint64_t n = number(r, 8), i;
		json_t *list = json_array();
		char inner[40] = "";

		for (i = 0; i < n && r->p < r->end; i++)
			json_array_append_new(list, value(r, of, inner));
		snprintf(spelled, 40, "ARRAY[%.30s]", inner);
		return list;
	}
	snprintf(spelled, 40, "%s", type < 9 && words[type] ? words[type] : "?");
	switch (type) {
	case 4: return json_integer((json_int_t)number(r, 4));
	case 5: return json_integer((int32_t)number(r, 4));
	case 6: return memcpy(&f, take(r, 4), 4), json_real((double)f);
	case 7: return json_boolean(number(r, 1) == 1);
	case 8: return string(r);
	default: return fail(r->v, "a value of type %u", type), json_null();
	}
}

static int
listed(const json_t *list, const char *name)
{
	json_t *one;
	size_t i;

	json_array_foreach(list, i, one)
		if (!strcmp(json_string_value(one), name))
			return 1;
	return 0;
}

/* An integral real of the kit may be written as an integer. */
static int
same(const json_t *a, const json_t *b)
{
	return json_is_number(a) && json_is_number(b) ? json_number_value(a) == json_number_value(b) : json_equal(a, b);
}

static void
check_metadata(struct reader *r, uint64_t count, const json_t *c)
{
	const json_t *expected = json_object_get(c, "metadata"), *optional = json_object_get(c, "optional_metadata"), *want;
	json_t *got = json_object();
	const char *name;
	uint64_t i;

	for (i = 0; i < count && r->p < r->end; i++) {
		json_t *key = string(r), *x;
		char type[40];

		x = value(r, (uint32_t)number(r, 4), type);
		name = json_string_value(key);
		want = json_object_get(expected, name);
		expect(r->v, !json_object_get(got, name), "%s is there twice", name);
		if (expected && !listed(optional, name))
			expect(r->v, want && !strcmp(get_string(want, "type"), type) && same(json_object_get(want, "value"), x),
			    "%s, of type %s, is not what was expected", name, type);
		if (!strcmp(name, "general.file_type") && json_object_get(c, "file_type"))
			expect(r->v, json_equal(x, json_object_get(c, "file_type")), "%s differs", name);
		json_object_set_new(got, name, x);
		json_decref(key);
	}
	json_object_foreach((json_t *)(uintptr_t)expected, name, want)
		expect(r->v, listed(optional, name) || json_object_get(got, name), "%s is missing", name);
	json_decref(got);
}

struct tensor {
	char *name;
	int rank;
	uint64_t ne[2], offset;
	uint32_t type;
};

static const char *
type_name(uint32_t type)
{
	return type == GGUF_F32 ? "F32" : type == GGUF_F16 ? "F16" : type == GGUF_BF16 ? "BF16" : type == GGUF_Q8_0 ? "Q8_0" :
	    type == GGUF_Q4_0 ? "Q4_0" : "?";
}

static void
check_tensor(struct reader *r, const struct tensor *t, const char *base, const json_t *want)
{
	const json_t *ne = json_object_get(want, "ne");
	size_t bytes = gguf_bytes((enum gguf_type)t->type, t->ne[0] * t->ne[1]);
	char hex[65];

	expect(r->v, !strcmp(get_string(want, "type"), type_name(t->type)), "%s is %s", t->name, type_name(t->type));
	expect(r->v, json_array_size(ne) == (size_t)t->rank &&
	    (uint64_t)json_integer_value(json_array_get(ne, 0)) == t->ne[0] &&
	    (t->rank == 1 || (uint64_t)json_integer_value(json_array_get(ne, 1)) == t->ne[1]), "%s has another shape", t->name);
	expect(r->v, bytes == (size_t)get_number(want, "bytes", 0) && t->offset % 32 == 0 &&
	    bytes <= (size_t)(r->end - base) && t->offset <= (size_t)(r->end - base) - bytes, "%s has no place", t->name);
	if (r->v->failure[0])
		return;
	sha256_hex(hex, base + t->offset, bytes);
	expect(r->v, !strcmp(hex, get_string(want, "sha256")), "the data of %s differ", t->name);
}

/* Hugging Face's name of a quantised layer, from its tensor's. */
static void
source_name(char name[100], const char *theirs)
{
	static const char *const words[][3] = {
		{ "attn_q", "model.layers", "self_attn.q_proj" }, { "attn_k", "model.layers", "self_attn.k_proj" },
		{ "attn_v", "model.layers", "self_attn.v_proj" }, { "attn_output", "model.layers", "self_attn.o_proj" },
		{ "ffn_gate", "model.layers", "mlp.gate_proj" }, { "ffn_up", "model.layers", "mlp.up_proj" },
		{ "ffn_down", "model.layers", "mlp.down_proj" }, { "attn_qkv", "transformer.h", "attn.c_attn" },
		{ "attn_output", "transformer.h", "attn.c_proj" }, { "ffn_up", "transformer.h", "mlp.c_fc" },
		{ "ffn_down", "transformer.h", "mlp.c_proj" },
	};
	char what[40] = "";
	int layer = 0, gpt2 = name[0], end = 0;
	size_t i;

	name[0] = 0;
	if (sscanf(theirs, "blk.%d.%39[a-z_].weight%n", &layer, what, &end) != 2 || !end || theirs[end])
		return;
	for (i = 0; i < sizeof words / sizeof *words; i++)
		if (!strcmp(words[i][0], what) && (words[i][1][0] == 't') == gpt2)
			snprintf(name, 100, "%s.%d.%s", words[i][1], layer, words[i][2]);
}

static void
check_tensors(struct reader *r, const char *begin, uint64_t count, const json_t *c)
{
	const json_t *expected = json_object_get(c, "tensors"), *optional = json_object_get(c, "optional_tensors");
	const json_t *sources = json_object_get(c, "tensors_by_source_name");
	struct tensor *t = mem_zero(count + 1, sizeof *t);
	size_t i, found = 0, wanted = json_object_size(sources ? sources : expected);
	const char *base, *key;
	json_t *one;

	for (i = 0; i < count && r->p < r->end; i++) {
		one = string(r);
		t[i].name = mem_string(json_string_value(one));
		json_decref(one);
		t[i].rank = (int)number(r, 4);
		t[i].ne[0] = number(r, 8);
		t[i].ne[1] = t[i].rank == 2 ? number(r, 8) : 1;
		t[i].type = (uint32_t)number(r, 4);
		t[i].offset = number(r, 8);
	}
	base = begin + (r->p - begin + 31) / 32 * 32;
	for (i = 0; i < count; i++) {
		char name[100] = "";
		const json_t *want = json_object_get(expected, t[i].name);

		if (sources) {
			name[0] = strstr(json_object_iter_key(json_object_iter((json_t *)(uintptr_t)sources)), "transformer") != NULL;
			source_name(name, t[i].name);
			want = json_object_get(sources, name);
		}
		found += want != NULL;
		if (want)
			check_tensor(r, &t[i], base, want);
		else
			expect(r->v, sources || listed(optional, t[i].name), "%s is one too many", t[i].name);
		free(t[i].name);
	}
	if (!sources)
		json_object_foreach((json_t *)(uintptr_t)expected, key, one)
			wanted -= listed(optional, key);
	expect(r->v, found >= wanted, "%zu of %zu tensors are there", found, wanted);
	free(t);
}

static void
check_file(struct verdict *v, const json_t *c, const char *path)
{
	size_t size;
	char *text = file_read(path, &size);
	struct reader r;
	uint64_t tensors, metadata;

	if (!text)
		die("cannot read '%s':", path);
	r = (struct reader){ text, text + size, v };
	expect(v, size > 24 && !memcmp(text, "GGUF\3\0\0\0", 8), "it is no GGUF of version 3");
	r.p += 8;
	tensors = number(&r, 8);
	metadata = number(&r, 8);
	check_metadata(&r, metadata, c);
	check_tensors(&r, text, tensors, c);
	free(text);
}

void
kind_gguf(struct verdict *v, const json_t *c, const struct kit *k)
{
	static const struct { const char *name; enum export_type type; } types[] = {
		{ "f16", EXPORT_F16 }, { "bf16", EXPORT_BF16 }, { "q8_0", EXPORT_Q8_0 }, { "q4_0", EXPORT_Q4_0 },
	};
	char why[REASON_MAX], *model = kit_path(k, get_string(c, "model")), path[] = "/tmp/conformance.XXXXXX";
	int file = mkstemp(path), rc;
	size_t i;

	for (i = 0; i < 3 && strcmp(types[i].name, get_string(c, "outtype")); i++)
		;
	if (file < 0)
		die("cannot make '%s':", path);
	close(file);
	rc = export_gguf(model, path, types[i].type, why);
	if (json_object_get(c, "refused"))
		expect(v, rc == -1, "what should be refused is written");
	else if (rc < 0)
		fail(v, "%s", why);
	else
		check_file(v, c, path);
	unlink(path);
	free(model);
}
