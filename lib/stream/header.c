/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <pthread.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/stream/header.h"
#include "lib/stream/schema.h"

enum { ROW_MAX = FRAME_MAX };

static const char magic[8] = "pstream\n";

json_t *
header_schema(const char *type)
{
	const struct schema *s;
	json_error_t error;
	json_t *schema;

	for (s = schemas; s->type; s++)
		if (!strcmp(s->type, type)) {
			if (!(schema = json_loads(s->text, 0, &error)))
				die("schemas/%s.json:%d: %s", type, error.line, error.text);
			return schema;
		}
	return NULL;
}

/* Whether `word` is one of "a|b|c". */
static int
listed(const char *list, const char *word)
{
	size_t n = strlen(word);
	const char *p;

	for (p = list; p; p = (p = strchr(p, '|')) ? p + 1 : NULL)
		if (!strncmp(p, word, n) && (!p[n] || p[n] == '|'))
			return 1;
	return 0;
}

static int
shape_parse(const json_t *shape, struct field *f, char *why)
{
	size_t i;
	json_t *d;

	if (!json_is_array(shape) || json_array_size(shape) > TENSOR_RANK - 1)
		return reason(why, "field '%s' needs a shape of 0 to %d numbers", f->name, TENSOR_RANK - 1);
	f->row = dtype_size(f->type);
	f->ntrailing = (int)json_array_size(shape);
	json_array_foreach(shape, i, d) {
		if (!json_is_integer(d) || json_integer_value(d) < 1 ||
		    (uint64_t)json_integer_value(d) > ROW_MAX / f->row)
			return reason(why, "field '%s' has an impossible shape", f->name);
		f->trailing[i] = (uint64_t)json_integer_value(d);
		f->row *= f->trailing[i];
	}
	return 0;
}

static int
field_parse(const json_t *json, struct field *f, char *why)
{
	const char *type = json_string_value(json_object_get(json, "dtype"));

	memset(f, 0, sizeof *f);
	f->name = json_string_value(json_object_get(json, "name"));
	if (!f->name || !*f->name)
		return reason(why, "a field has no name");
	if (!type || !(f->type = dtype_parse(type)))
		return reason(why, "field '%s' has no known dtype", f->name);
	f->shuffled = json_is_true(json_object_get(json, "shuffle"));
	return shape_parse(json_object_get(json, "shape"), f, why);
}

static const struct field *
layout_field(const struct layout *layout, const char *name)
{
	int i;

	for (i = 0; i < layout->nfields; i++)
		if (!strcmp(layout->fields[i].name, name))
			return &layout->fields[i];
	return NULL;
}

/* A field as the schema has it: a letter in a shape stands for any number. */
static int
field_check(const struct field *f, const json_t *schema, char *why)
{
	const json_t *shape = json_object_get(schema, "shape"), *d;
	int i;

	if (!listed(json_string_value(json_object_get(schema, "dtype")), dtype_name(f->type)))
		return reason(why, "field '%s' is %s, not %s", f->name, dtype_name(f->type),
		    json_string_value(json_object_get(schema, "dtype")));
	if ((size_t)f->ntrailing + 1 != json_array_size(shape))
		return reason(why, "field '%s' has %d dimensions, not %zu", f->name, f->ntrailing + 1,
		    json_array_size(shape));
	for (i = 0; i < f->ntrailing; i++) {
		d = json_array_get(shape, (size_t)i + 1);
		if (json_is_integer(d) && (uint64_t)json_integer_value(d) != f->trailing[i])
			return reason(why, "dimension %d of field '%s' is not %lld", i + 1, f->name,
			    (long long)json_integer_value(d));
	}
	return 0;
}

static int
schema_check(const char *type, const struct layout *layout, char *why)
{
	json_t *schema = header_schema(type), *json;
	const struct field *f;
	const char *name;
	int rc = 0;

	json_object_foreach(json_object_get(schema, "fields"), name, json) {
		if ((f = layout_field(layout, name)))
			rc = field_check(f, json, why);
		else if (json_is_true(json_object_get(json, "required")))
			rc = reason(why, "%s need a field '%s'", type, name);
		if (rc)
			break;
	}
	json_decref(schema);
	return rc;
}

int
layout_parse(const json_t *header, struct layout *layout, char *why)
{
	const char *type = json_string_value(json_object_get(header, "type"));
	const json_t *fields = json_object_get(header, "fields"), *json;
	struct field f;
	size_t i;

	layout->nfields = 0;
	if (!type)
		return reason(why, "the header names no type");
	if (!json_is_array(fields) || json_array_size(fields) > RECORD_TENSORS)
		return reason(why, "the header needs a list of at most %d fields", RECORD_TENSORS);
	json_array_foreach(fields, i, json) {
		if (field_parse(json, &f, why))
			return -1;
		if (layout_field(layout, f.name))
			return reason(why, "there are two fields '%s'", f.name);
		layout->fields[layout->nfields++] = f;
	}
	return schema_check(type, layout, why);
}

void
header_pack(const json_t *header, struct buffer *out)
{
	char *text = json_dumps(header, JSON_COMPACT);
	size_t n = text ? strlen(text) : 0, size = aligned(HEADER_START + n);
	unsigned char *p = buffer_reserve(out, size);

	if (!n || n > HEADER_MAX)
		die("the stream's header does not fit into %d bytes", HEADER_MAX);
	memset(p, 0, size);
	memcpy(p, magic, sizeof magic);
	put32(p + 8, STREAM_VERSION);
	put32(p + 12, (uint32_t)n);
	memcpy(p + HEADER_START, text, n);
	out->size += size;
	free(text);
}

int
header_unpack(const unsigned char *content, size_t size, json_t **header, struct layout *layout,
    char *why)
{
	json_error_t error;
	uint32_t n;

	if (size < HEADER_START || memcmp(content, magic, sizeof magic))
		return reason(why, "it holds no header");
	if (get32(content + 8) != STREAM_VERSION)
		return reason(why, "it has version %u of the format, known is %d", get32(content + 8),
		    STREAM_VERSION);
	n = get32(content + 12);
	if (n > HEADER_MAX || aligned(HEADER_START + (uint64_t)n) != size)
		return reason(why, "its header has an impossible size");
	*header = json_loadb((const char *)content + HEADER_START, n, JSON_ALLOW_NUL, &error);
	if (!*header)
		return reason(why, "its header is not JSON: %s", error.text);
	if (layout_parse(*header, layout, why)) {
		json_decref(*header);
		*header = NULL;
		return -1;
	}
	return 0;
}

int
header_agrees(const json_t *first, const json_t *next, char *why)
{
	static const char *const keys[] = { "type", "fields", "tokenizer", "form", "head", "vocab" };
	json_t *a, *b;
	size_t i;

	for (i = 0; i < sizeof keys / sizeof *keys; i++) {
		a = json_object_get(first, keys[i]);
		b = json_object_get(next, keys[i]);
		if (a != b && !json_equal(a, b))
			return reason(why, "its '%s' is not that of the stream before it", keys[i]);
	}
	return 0;
}

static char *
quoted(const char *arg)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	    "_./=:,@%+-";
	char *s = mem_alloc(4 * strlen(arg) + 3), *p = s;

	if (*arg && !arg[strspn(arg, plain)])
		return strcpy(s, arg);
	for (*p++ = '\''; *arg; arg++)
		p = *arg == '\'' ? stpcpy(p, "'\\''") : (*p = *arg, p + 1);
	strcpy(p, "'");
	return s;
}

/* The command line as a shell would take it; bytes that are no UTF-8 become question marks. */
static json_t *
command_line(const struct common *common)
{
	char *line = mem_string(progname), *arg, *longer, *p;
	json_t *json;
	int i;

	for (i = 1; i < common->argc; i++) {
		arg = quoted(common->argv[i]);
		longer = mem_format("%s %s", line, arg);
		free(line);
		free(arg);
		line = longer;
	}
	json = json_string(line);
	for (p = line; !json && *p; p++)
		if (!isascii((unsigned char)*p))
			*p = '?';
	if (!json)
		json = json_string(line);
	free(line);
	return json;
}

/* What both types have travels on. */
static json_t *
shared_fields(const char *type, const json_t *from)
{
	json_t *schema = header_schema(type), *fields = json_array(), *f;
	const json_t *known = json_object_get(schema, "fields");
	size_t i;

	json_array_foreach(json_object_get(from, "fields"), i, f)
		if (json_object_get(known, json_string_value(json_object_get(f, "name"))))
			json_array_append(fields, f);
	json_decref(schema);
	return fields;
}

json_t *
header_new(const char *type, const struct stream_in *from, const struct common *common)
{
	const json_t *old = from ? stream_header(from) : NULL;
	json_t *header = json_object(), *value, *history;
	const char *key;

	json_object_set_new(header, "type", json_string(type));
	json_object_set_new(header, "fields", shared_fields(type, old));
	json_object_foreach((json_t *)(uintptr_t)old, key, value)
		if (!json_object_get(header, key) && strcmp(key, "history"))
			json_object_set_new(header, key, json_deep_copy(value));
	json_object_set_new(header, "version", json_string(PIPESTILL_VERSION));
	history = json_deep_copy(json_object_get(old, "history"));
	if (!json_is_array(history)) {
		json_decref(history);
		history = json_array();
	}
	json_array_append_new(history, command_line(common));
	json_object_set_new(header, "history", history);
	return header;
}

static json_t *tensors;			/* their names, of all types */

static void
collect_tensors(void)
{
	const struct schema *s;
	json_t *schema;

	tensors = json_object();
	for (s = schemas; s->type; s++) {
		schema = header_schema(s->type);
		json_object_update(tensors, json_object_get(schema, "fields"));
		json_decref(schema);
	}
}

const char *
stream_reserved(const char *name)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	void *at;

	pthread_once(&once, collect_tensors);
	at = json_object_iter_at(tensors, name);
	return at ? json_object_iter_key(at) : NULL;
}

int
header_has(const json_t *header, const char *name)
{
	const json_t *field;
	size_t i;

	json_array_foreach(json_object_get(header, "fields"), i, field)
		if (!strcmp(json_string_value(json_object_get(field, "name")), name))
			return 1;
	return 0;
}

void
header_field(json_t *header, const char *name, enum dtype type, int ntrailing,
    const uint64_t *trailing)
{
	json_t *fields = json_object_get(header, "fields"), *shape = json_array(), *field, *f;
	int shuffled = type == DT_F32 || type == DT_BF16 || type == DT_F16;
	size_t i;

	for (i = 0; i < (size_t)ntrailing; i++)
		json_array_append_new(shape, json_integer((json_int_t)trailing[i]));
	field = json_pack("{ss ss so}", "name", name, "dtype", dtype_name(type), "shape", shape);
	if (shuffled)
		json_object_set_new(field, "shuffle", json_true());
	json_array_foreach(fields, i, f)
		if (!strcmp(json_string_value(json_object_get(f, "name")), name)) {
			json_array_set_new(fields, i, field);
			return;
		}
	json_array_append_new(fields, field);
}
