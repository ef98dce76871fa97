/* SPDX-License-Identifier: MIT */
/*
 * rouge - rollouts or JSON lines on stdin, scores on stdout
 *
 * Rouge-L and exact match of predictions against references, in sum or record
 * by record. Records are read and scored in batches, a record per thread, and
 * added up in their order.
 */
#include <ctype.h>
#include <fcntl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/base/options.h"
#include "lib/stream/stream.h"
#include "lib/text/match.h"
#include "lib/text/reader.h"
#include "lib/text/rouge.h"
#include "lib/text/runs.h"

enum { BATCH = 4096 };

struct verdict {
	struct rouge_score rouge;
	int match;
};

struct item {
	char *line;			/* of JSON, or NULL */
	size_t size, capacity;
	json_t *record;			/* of a stream, or what the line says */
	size_t place;			/* line or record of the input, from 1 */
	size_t n;			/* predictions */
	struct verdict *verdicts;
	char *why;			/* it cannot be scored */
};

struct input {
	const char *name;
	json_int_t seed;		/* of records that name none */
	struct stream_in *stream;	/* or */
	FILE *lines;
	size_t place;
};

static int each;

/* The byte that a descriptor would give next, left where it is; 0 at the end, -1 if it cannot be told. */
static int
next_byte(int fd)
{
	unsigned char c;
	int copy[2];
	off_t at = lseek(fd, 0, SEEK_CUR);
	ssize_t n = at < 0 ? recv(fd, &c, 1, MSG_PEEK) : pread(fd, &c, 1, at);

	if (n < 0 && !pipe(copy)) {
		n = tee(fd, copy[1], 1, 0);
		n = n == 1 ? read(copy[0], &c, 1) : n;
		close(copy[0]);
		close(copy[1]);
	}
	return n == 1 ? c : n ? -1 : 0;
}

static struct input
input_open(const char *path, json_int_t number)
{
	struct input in = { .name = path ? path : "<stdin>", .seed = number };
	int c, fd = path ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
	const json_t *seed;

	if (fd < 0)
		die("cannot open '%s':", path);
	c = next_byte(fd);
	if (c < 0 || c == '{' || isspace(c)) {
		in.lines = fdopen(fd, "r");
		return in;
	}
	if (path)
		close(fd);
	in.stream = stream_open(path, "rollouts");
	seed = json_object_get(stream_header(in.stream), "seed");
	if (json_is_integer(seed))
		in.seed = json_integer_value(seed);
	return in;
}

static void
input_close(struct input *in)
{
	if (in->stream)
		stream_close(in->stream);
	else if (in->lines != stdin)
		fclose(in->lines);
}

/* The next line that is not blank, or record. */
static int
input_get(struct input *in, struct item *item)
{
	struct record r;
	ssize_t n;

	item->record = NULL;
	if (in->stream) {
		if (!stream_get(in->stream, &r))
			return 0;
		item->record = json_incref(r.text);
		item->place = ++in->place;
		return 1;
	}
	do {
		n = getline(&item->line, &item->capacity, in->lines);
		in->place++;
	} while (n > 0 && strspn(item->line, " \t\r\n") == (size_t)n);
	if (n < 0 && ferror(in->lines))
		die("cannot read '%s':", in->name);
	item->size = n > 0 ? (size_t)n : 0;
	item->place = in->place;
	return n > 0;
}

/* A string, or an array of strings that is not empty. */
static int
is_texts(const json_t *texts)
{
	const json_t *text;
	size_t i;

	if (json_is_string(texts))
		return 1;
	json_array_foreach(texts, i, text)
		if (!json_is_string(text))
			return 0;
	return json_array_size(texts) > 0;
}

/* What the record has under the first of two names that it has at all, or NULL. */
static const json_t *
texts(const json_t *record, const char *name, const char *other)
{
	const json_t *found = json_object_get(record, name);

	if (!found || json_is_null(found) || (json_is_array(found) && !json_array_size(found)))
		found = json_object_get(record, other);
	return is_texts(found) ? found : NULL;
}

/* Returns -1 and the reason if the item cannot be scored. */
static int
score(struct item *item, struct rouge *rouge, char *why)
{
	const json_t *predictions, *references, *prediction;
	size_t i;

	if (!item->record && !(item->record = reader_parse(item->line, item->size, why)))
		return -1;
	predictions = texts(item->record, "prediction", "completion");
	references = texts(item->record, "references", "target");
	if (!predictions)
		return reason(why, "no 'prediction' or 'completion' that is text");
	if (!references)
		return reason(why, "no 'references' or 'target' that are text");
	item->n = json_is_array(predictions) ? json_array_size(predictions) : 1;
	item->verdicts = mem_grow(item->verdicts, item->n, sizeof *item->verdicts);
	for (i = 0; i < item->n; i++) {
		prediction = json_is_array(predictions) ? json_array_get(predictions, i) : predictions;
		item->verdicts[i].rouge = rouge_best(rouge, prediction, references);
		item->verdicts[i].match = match_any(prediction, references);
	}
	return 0;
}

static void
score_all(struct item *items, size_t n, struct rouge *const *rouges)
{
	char why[REASON_MAX];
	size_t i;

	#pragma omp parallel for private(why) schedule(dynamic, 64)
	for (i = 0; i < n; i++)
		if (score(&items[i], rouges[omp_get_thread_num()], why))
			items[i].why = mem_string(why);
}

static enum finish
finish_of(const json_t *record)
{
	const char *finish = json_string_value(json_object_get(record, "finish"));

	if (!finish)
		return FINISH_UNKNOWN;
	return strcmp(finish, "stop") ? FINISH_LENGTH : FINISH_STOP;
}

static json_int_t
integer(const json_t *record, const char *name, json_int_t otherwise)
{
	const json_t *value = json_object_get(record, name);

	return json_is_integer(value) ? json_integer_value(value) : otherwise;
}

static void
print(json_t *json)
{
	if (json_dumpf(json, stdout, JSON_COMPACT | JSON_REAL_PRECISION(12)) || putchar('\n') < 0)
		die("cannot write <stdout>:");
	json_decref(json);
}

static void
print_verdict(const json_t *record, json_int_t seed, json_int_t sample, const struct verdict *v)
{
	print(json_pack("{s:O*, s:I, s:I, s:f, s:f, s:f, s:f}", "id", json_object_get(record, "id"),
	    "seed", seed, "sample", sample, "rouge_l", 100 * v->rouge.f, "precision", 100 * v->rouge.p,
	    "recall", 100 * v->rouge.r, "exact_match", 100. * v->match));
}

static void
add(struct runs *runs, const struct input *in, struct item *item)
{
	json_int_t seed, sample;
	const struct verdict *v;
	size_t i;

	if (item->why)
		die("%s, %s %zu: %s", in->name, in->stream ? "record" : "line", item->place, item->why);
	seed = integer(item->record, "seed", in->seed);
	sample = integer(item->record, "sample", 0);
	for (i = 0; i < item->n; i++, sample++) {
		v = &item->verdicts[i];
		runs_add(runs, seed, sample, v->rouge.f, v->match, finish_of(item->record));
		if (each)
			print_verdict(item->record, seed, sample, v);
	}
	json_decref(item->record);
}

static void
read_input(struct runs *runs, struct input in, struct item *items, struct rouge *const *rouges)
{
	size_t n, i;

	do {
		for (n = 0; n < BATCH && input_get(&in, &items[n]); n++)
			;
		score_all(items, n, rouges);
		for (i = 0; i < n; i++)
			add(runs, &in, &items[i]);
	} while (n == BATCH);
	input_close(&in);
}

int
main(int argc, const char **argv)
{
	int unicode = 0;
	const struct poptOption options[] = {
		{ "each", 0, POPT_ARG_NONE, &each, 0, "print the scores of each prediction, not their means", NULL },
		{ "unicode", 'u', POPT_ARG_NONE, &unicode, 0,
		    "words of any script, no stemmer; does not compare with other programs' scores", NULL },
		OPTIONS_THREADS
	};
	struct runs runs = { 0 };
	struct common common;
	struct rouge **rouges;
	struct item *items;
	json_t *summary;
	int i, threads;

	/* arguments */
	options_parse(argc, argv, options, "[FILE...]",
	    "Score rollouts or JSON lines by Rouge-L and exact match.", -1, &common);

	/* prepare */
	threads = omp_get_max_threads();
	items = mem_zero(BATCH, sizeof *items);
	rouges = mem_alloc((size_t)threads * sizeof *rouges);
	for (i = 0; i < threads; i++)
		rouges[i] = rouge_new(unicode ? ROUGE_UNICODE : ROUGE_GOOGLE);

	/* records */
	if (!common.noperands)
		read_input(&runs, input_open(NULL, 1), items, rouges);
	for (i = 0; i < common.noperands; i++)
		read_input(&runs, input_open(options_operand(&common, i), i + 1), items, rouges);
	if (!runs.n)
		die("nothing to score");

	/* summary */
	if (!each) {
		summary = runs_summary(&runs);
		json_object_set_new(summary, "mode", json_string(unicode ? "unicode" : "google"));
		json_object_set_new(summary, "comparable", json_boolean(!unicode));
		print(summary);
	}
	if (fflush(stdout) || ferror(stdout))
		die("cannot write <stdout>:");
	return 0;
}
