/* SPDX-License-Identifier: MIT */
/*
 * to-json - any stream on stdin, JSON lines on stdout
 *
 * The first line is {"header": ...}; each other line is one record, its tensors
 * as nested arrays among its text. Numbers have as many digits as give the same
 * bits back; what JSON has no number for is "nan", "inf" or "-inf".
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/base/options.h"
#include "lib/stream/stream.h"

static int only_header, only_history, only_records, only_text;

static void
print_json(const json_t *json)
{
	if (json_dumpf(json, stdout, JSON_COMPACT))
		die("cannot write <stdout>:");
}

static void
print_history(const json_t *header)
{
	json_t *line;
	size_t i;

	json_array_foreach(json_object_get(header, "history"), i, line)
		puts(json_string_value(line));
}

static void
print_float(double x, int digits)
{
	char s[40];

	if (isnan(x))
		fputs("\"nan\"", stdout);
	else if (isinf(x))
		fputs(x < 0 ? "\"-inf\"" : "\"inf\"", stdout);
	else {
		snprintf(s, sizeof s, "%.*g", digits, x);
		fputs(strcmp(s, "-0") ? s : "-0.0", stdout);
	}
}

/* The fewest digits of those tried that give the same float back. */
static void
print_f32(float x)
{
	char s[40];
	int digits;

	for (digits = 6; digits < 9; digits++) {
		snprintf(s, sizeof s, "%.*g", digits, (double)x);
		if (strtof(s, NULL) == x)
			break;
	}
	print_float((double)x, digits);
}

static void
print_f64(double x)
{
	char s[40];
	int digits;

	for (digits = 15; digits < 17; digits++) {
		snprintf(s, sizeof s, "%.*g", digits, x);
		if (strtod(s, NULL) == x)
			break;
	}
	print_float(x, digits);
}

static void
print_number(const void *data, enum dtype type, uint64_t i)
{
	switch (type) {
	case DT_F32: print_f32(((const float *)data)[i]); break;
	case DT_BF16: print_float((double)bf16_to_f32(((const uint16_t *)data)[i]), 4); break;
	case DT_F16: print_float((double)f16_to_f32(((const uint16_t *)data)[i]), 5); break;
	case DT_F64: print_f64(((const double *)data)[i]); break;
	case DT_I8: printf("%d", ((const int8_t *)data)[i]); break;
	case DT_U8: printf("%d", ((const uint8_t *)data)[i]); break;
	case DT_I16: printf("%d", ((const int16_t *)data)[i]); break;
	case DT_U16: printf("%d", ((const uint16_t *)data)[i]); break;
	case DT_I32: printf("%" PRId32, ((const int32_t *)data)[i]); break;
	case DT_U32: printf("%" PRIu32, ((const uint32_t *)data)[i]); break;
	case DT_I64: printf("%" PRId64, ((const int64_t *)data)[i]); break;
	case DT_U64: printf("%" PRIu64, ((const uint64_t *)data)[i]); break;
	case DT_NONE: break;
	}
}

/* Dimension `axis` of t from element *i on. */
static void
print_axis(const struct tensor *t, int axis, uint64_t *i)
{
	uint64_t n;

	if (axis == t->rank) {
		print_number(t->data, t->type, (*i)++);
		return;
	}
	putchar('[');
	for (n = 0; n < t->shape[axis]; n++) {
		if (n)
			putchar(',');
		print_axis(t, axis + 1, i);
	}
	putchar(']');
}

static void
print_record(const struct record *r)
{
	char *text = json_dumps(r->text, JSON_COMPACT);
	int i, n = only_text ? 0 : r->ntensors;
	uint64_t element;

	if (!text)
		die("out of memory");
	text[strlen(text) - 1] = '\0';
	fputs(text, stdout);
	for (i = 0; i < n; i++) {
		printf("%s\"%s\":", i || text[1] ? "," : "", r->tensors[i].name);
		print_axis(&r->tensors[i], 0, (element = 0, &element));
	}
	puts("}");
	free(text);
}

int
main(int argc, const char **argv)
{
	int count = -1;
	static char *shard;
	const struct poptOption options[] = {
		{ "count", 'n', POPT_ARG_INT, &count, 0, "print at most N records", "N" },
		{ "shard", 0, POPT_ARG_STRING, &shard, 0, "print every n-th record, from the i-th", "i/n" },
		{ "text", 0, POPT_ARG_NONE, &only_text, 0, "leave the tensors out", NULL },
		{ "records", 0, POPT_ARG_NONE, &only_records, 0, "leave the header's line out", NULL },
		{ "header", 0, POPT_ARG_NONE, &only_header, 0, "print the header only", NULL },
		{ "history", 0, POPT_ARG_NONE, &only_history, 0,
		    "print only the command lines that made the stream, oldest first", NULL },
		OPTIONS_HELP
	};
	struct common common;
	struct stream_in *in;
	struct record r;

	/* arguments */
	options_parse(argc, argv, options, "[STREAM]", "Print any stream as JSON lines.", 1, &common);

	/* prepare */
	in = stream_open(options_input(&common), "any");
	stream_shard(in, shard);
	if (only_history)
		print_history(stream_header(in));
	else if (only_header)
		print_json(stream_header(in)), putchar('\n');
	else if (!only_records && !only_text)
		fputs("{\"header\":", stdout), print_json(stream_header(in)), puts("}");

	/* stream */
	if (!only_header && !only_history)
		while (count-- && stream_get(in, &r)) {
			print_record(&r);
			if (!stream_more(in))
				fflush(stdout);
		}

	/* finish */
	stream_close(in);
	if (fflush(stdout) || ferror(stdout))
		die("cannot write <stdout>:");
	return 0;
}
