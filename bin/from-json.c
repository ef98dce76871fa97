/* SPDX-License-Identifier: MIT */
/*
 * from-json - JSON lines on stdin, a stream on stdout
 *
 * The inverse of to-json: a first line {"header": ...} says what the stream is.
 * Without one, or without fields in it, the type's schema says which keys are
 * tensors, and the first record gives the shapes that the schema leaves open.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/base/options.h"
#include "lib/stream/header.h"
#include "lib/stream/stream.h"
#include "lib/text/reader.h"

static const char *name = "<stdin>";	/* of the input */
static size_t line;

/* The next line as an object, or NULL at the end. */
static json_t *
next_line(FILE *f)
{
	static char *s;
	static size_t cap;
	char why[REASON_MAX];
	json_t *json;
	ssize_t n = getline(&s, &cap, f);

	if (n < 0) {
		if (ferror(f))
			die("cannot read '%s':", name);
		free(s);
		return NULL;
	}
	line++;
	json = reader_parse(s, (size_t)n, why);
	if (!json)
		die("%s, line %zu: not JSON: %s", name, line, why);
	if (!json_is_object(json))
		die("%s, line %zu: not a JSON object", name, line);
	return json;
}

static enum dtype
first_type(const json_t *schema)
{
	char *list = mem_string(json_string_value(json_object_get(schema, "dtype")));
	enum dtype type;

	list[strcspn(list, "|")] = '\0';
	type = dtype_parse(list);
	free(list);
	return type;
}

/* Declare the field that `array` shows; where it is empty the schema must know the shape. */
static void
infer_field(json_t *header, const char *field, const json_t *schema, const json_t *array)
{
	const json_t *shape = json_object_get(schema, "shape"), *d;
	uint64_t trailing[TENSOR_RANK - 1];
	int n = (int)json_array_size(shape) - 1, i;

	for (i = 0; i < n; i++) {
		d = json_array_get(shape, (size_t)i + 1);
		array = json_array_get(array, 0);
		trailing[i] = json_is_integer(d) ? (uint64_t)json_integer_value(d) : json_array_size(array);
		if (!trailing[i])
			die("%s, line %zu: the shape of '%s' cannot be seen from an empty array", name, line, field);
	}
	header_field(header, field, first_type(schema), n, trailing);
}

static void
infer_fields(json_t *header, const char *type, const json_t *first)
{
	json_t *schema = header_schema(type), *field, *array;
	const char *key;

	if (!schema)
		die("there is no type '%s'", type);
	json_object_set_new(header, "fields", json_array());
	json_object_foreach(json_object_get(schema, "fields"), key, field)
		if ((array = json_object_get(first, key)))
			infer_field(header, key, field, array);
		else if (!first && json_is_true(json_object_get(field, "required")))
			infer_field(header, key, field, NULL);
	json_decref(schema);
}

static double
real(const json_t *x, const char *field)
{
	const char *s = json_string_value(x);

	if (json_is_number(x))
		return json_number_value(x);
	if (s && !strcmp(s, "nan"))
		return NAN;
	if (s && (!strcmp(s, "inf") || !strcmp(s, "-inf")))
		return *s == '-' ? -INFINITY : INFINITY;
	die("%s, line %zu: '%s' holds what is no number", name, line, field);
}

static long long
integer(const json_t *x, long long min, long long max, const char *field)
{
	long long i = json_integer_value(x);

	if (!json_is_integer(x))
		die("%s, line %zu: '%s' holds what is no integer", name, line, field);
	if (i < min || i > max)
		die("%s, line %zu: %lld in '%s' is out of range", name, line, i, field);
	return i;
}

/* Element i of data, from a number. */
static void
store(void *data, uint64_t i, const json_t *x, const struct field *f)
{
	const char *s = f->name;

	switch (f->type) {
	case DT_F32: ((float *)data)[i] = (float)real(x, s); break;
	case DT_BF16: ((uint16_t *)data)[i] = f32_to_bf16((float)real(x, s)); break;
	case DT_F16: ((uint16_t *)data)[i] = f32_to_f16((float)real(x, s)); break;
	case DT_F64: ((double *)data)[i] = real(x, s); break;
	case DT_I8: ((int8_t *)data)[i] = (int8_t)integer(x, INT8_MIN, INT8_MAX, s); break;
	case DT_U8: ((uint8_t *)data)[i] = (uint8_t)integer(x, 0, UINT8_MAX, s); break;
	case DT_I16: ((int16_t *)data)[i] = (int16_t)integer(x, INT16_MIN, INT16_MAX, s); break;
	case DT_U16: ((uint16_t *)data)[i] = (uint16_t)integer(x, 0, UINT16_MAX, s); break;
	case DT_I32: ((int32_t *)data)[i] = (int32_t)integer(x, INT32_MIN, INT32_MAX, s); break;
	case DT_U32: ((uint32_t *)data)[i] = (uint32_t)integer(x, 0, UINT32_MAX, s); break;
	case DT_I64: ((int64_t *)data)[i] = integer(x, INT64_MIN, INT64_MAX, s); break;
	case DT_U64: ((uint64_t *)data)[i] = (uint64_t)integer(x, 0, INT64_MAX, s); break;
	case DT_NONE: break;
	}
}

static void
fill_axis(void *data, uint64_t *i, const json_t *array, const struct field *f, int axis)
{
	const json_t *x;
	size_t n;

	if (axis > f->ntrailing) {
		store(data, (*i)++, array, f);
		return;
	}
	if (!json_is_array(array))
		die("%s, line %zu: '%s' is no array of %d dimensions", name, line, f->name, f->ntrailing + 1);
	if (axis && json_array_size(array) != f->trailing[axis - 1])
		die("%s, line %zu: '%s' has a row of %zu, not %llu", name, line, f->name, json_array_size(array),
		    (unsigned long long)f->trailing[axis - 1]);
	json_array_foreach(array, n, x)
		fill_axis(data, i, x, f, axis + 1);
}

static void *
add_tensor(struct record *r, json_t *json, const struct field *f)
{
	json_t *array = json_object_get(json, f->name);
	uint64_t shape[TENSOR_RANK] = { json_array_size(array) }, element = 0;
	void *data;

	if (!array)
		die("%s, line %zu: there is no '%s'", name, line, f->name);
	data = mem_zero(shape[0], f->row);
	fill_axis(data, &element, array, f, 0);
	memcpy(shape + 1, f->trailing, sizeof f->trailing);
	record_add(r, f->name, f->type, f->ntrailing + 1, shape, data);
	json_object_del(json, f->name);
	return data;
}

static void
put_line(struct stream_out *out, const struct layout *layout, json_t *json)
{
	struct record r = { .text = json };
	void *data[RECORD_TENSORS];
	int i;

	for (i = 0; i < layout->nfields; i++)
		data[i] = add_tensor(&r, json, &layout->fields[i]);
	stream_put(out, &r);
	for (i = 0; i < layout->nfields; i++)
		free(data[i]);
	json_decref(json);
}

/* The header that the first line is, or one for `type`; *first becomes the first record. */
static json_t *
make_header(FILE *f, const char *type, const struct common *common, json_t **first)
{
	json_t *header = json_object_get(*first, "header");
	const char *said = json_string_value(json_object_get(header, "type"));

	if (said) {
		if (type && strcmp(type, said))
			die("%s, line %zu: the header says %s, not %s", name, line, said, type);
		json_incref(header);
		json_decref(*first);
		*first = next_line(f);
	} else {
		if (!type)
			die_usage("--type is needed where the first line is no header");
		header = header_new(type, NULL, common);
	}
	if (!said || !json_object_get(header, "fields"))
		infer_fields(header, said ? said : type, *first);
	return header;
}

int
main(int argc, const char **argv)
{
	static char *type, *output;
	const struct poptOption options[] = {
		{ "type", 't', POPT_ARG_STRING, &type, 0,
		    "the records are of this type: tokens, logits, rollouts, rewards, scores", "TYPE" },
		{ "output", 'o', POPT_ARG_STRING, &output, 0, "write to FILE (default: stdout)", "FILE" },
		OPTIONS_HELP
	};
	struct common common;
	struct layout layout;
	struct stream_out *out;
	json_t *header, *json;
	char why[REASON_MAX];
	FILE *f = stdin;

	/* arguments */
	options_parse(argc, argv, options, "[FILE]", "Make a stream of JSON lines.", 1, &common);
	if (options_input(&common) && !(f = fopen(name = options_input(&common), "re")))
		die("cannot open '%s':", name);

	/* prepare */
	if (!(json = next_line(f)) && !type)
		die("%s is empty", name);
	header = make_header(f, type, &common, &json);
	if (layout_parse(header, &layout, why))
		die("%s, line %zu: %s", name, line, why);
	out = stream_create(output, header);

	/* stream */
	for (; json; json = next_line(f))
		put_line(out, &layout, json);

	/* finish */
	stream_finish(out);
	json_decref(header);
	return 0;
}
