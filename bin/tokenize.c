/* SPDX-License-Identifier: MIT */
/*
 * tokenize - JSON lines on stdin, tokens on stdout
 *
 * Each line is a record; a template makes a prompt and a response of it. They
 * are tokenised apart:
 *
 *	ids = prompt + response + EOS	supervised = [|prompt|, |ids|)
 *
 * A prompt that is too long drops the record, a response that is too long is
 * cut, and then EOS is not to be learnt. With --decode, the other way round.
 */
#include <errno.h>
#include <inttypes.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/base/options.h"
#include "lib/stream/stream.h"
#include "lib/text/corpus.h"
#include "lib/text/example.h"
#include "lib/text/reader.h"
#include "lib/text/unicode.h"

enum { BATCH = 1 << 16 };		/* bytes of input for each thread between two writes: they stay in its caches */

static char *model, *template, *field, *eos, *output, *rows, *references;
static int max_prompt = 256, max_length = 512, learn_prompt, skip_bad, decode;

static const struct poptOption options[] = {
	{ "model", 'm', POPT_ARG_STRING, &model, 0, "directory with the tokenizer", "DIR" },
	{ "template", 't', POPT_ARG_STRING, &template, 0,
	    "dolly, dolly-es, bugnet, pytorrent, cot, chat, or the path of a template file", "NAME" },
	{ "text", '\0', POPT_ARG_STRING, &field, 0,
	    "no template: all of FIELD is to be learnt, in windows of --max-length", "FIELD" },
	{ "max-prompt", '\0', POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &max_prompt, 0,
	    "drop records whose prompt has more ids", "N" },
	{ "max-length", '\0', POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &max_length, 0,
	    "cut responses so that an example has at most N ids", "N" },
	{ "eos", '\0', POPT_ARG_STRING, &eos, 0,
	    "token, id or none to end responses with (default: the model's; with --text, none)", "TOKEN" },
	{ "learn-prompt", '\0', POPT_ARG_NONE, &learn_prompt, 0,
	    "the prompt is to be learnt too, as a base model learns text", NULL },
	{ "rows", '\0', POPT_ARG_STRING, &rows, 0, "only the records A to B - 1, counted from 0; either may be absent", "A:B" },
	{ "references", '\0', POPT_ARG_STRING, &references, 0,
	    "the accepted responses are in FIELD, a string or a list", "FIELD" },
	{ "skip-bad", '\0', POPT_ARG_NONE, &skip_bad, 0, "count bad lines and go on", NULL },
	{ "decode", '\0', POPT_ARG_NONE, &decode, 0,
	    "from a stream, or from the \"ids\" in a file of JSON lines, to text as JSON lines", NULL },
	{ "output", 'o', POPT_ARG_STRING, &output, 0, "write to FILE", "FILE" },
	OPTIONS_THREADS_QUIET
};

/* One line on its way through the threads. */
struct job {
	struct example example;
	struct text id, rest;		/* of its text in the stream: {"id":ID and REST */
	const char *left_out;		/* a field of its own with a tensor's name */
	char *why;			/* it is a bad line; NULL: it is not */
};

struct output {
	struct stream_out *stream;
	struct text text;		/* of the record that is written */
	const char *left_out;
	uint64_t records, written, dropped, cut, bad, ids, supervised;
};

static void
parse_rows(uint64_t *first, uint64_t *last)
{
	char *end = rows;

	*first = 0;
	*last = UINT64_MAX;
	if (!rows)
		return;
	errno = 0;
	if (*end >= '0' && *end <= '9')
		*first = strtoull(end, &end, 10);
	if (*end == ':' && end[1] >= '0' && end[1] <= '9')
		*last = strtoull(end + 1, &end, 10);
	else if (*end == ':')
		end++;
	if (errno || *end || end == rows || *first > *last)
		die_usage("--rows wants A:B, not '%s'", rows);
}

/* What --eos says: a number is an id, anything else a token. */
static int32_t
eos_said(const struct tokenizer *t)
{
	char *end;
	long id;

	errno = 0;
	id = strtol(eos, &end, 10);
	if (end == eos || *end)
		id = tokenizer_id(t, eos);
	if (errno || id < 0 || id >= tokenizer_vocab(t))
		die("--eos: the tokenizer in '%s' has no '%s'", model, eos);
	return (int32_t)id;
}

static int32_t
eos_of(const struct tokenizer *t, const struct formatting *r)
{
	int32_t id;

	if (eos ? !strcmp(eos, "none") : r->field != NULL)
		return -1;
	if (eos)
		return eos_said(t);
	id = r->chat ? tokenizer_id(t, "<|im_end|>") : tokenizer_eos(t);
	if (id < 0)
		die("the files in '%s' name no end of sequence; say it with --eos", model);
	return id;
}

static struct formatting
make_formatting(const struct tokenizer *t)
{
	struct formatting r = { .tokenizer = t, .max_prompt = (size_t)max_prompt, .max_length = (size_t)max_length };
	char why[REASON_MAX];

	r.field = field;
	if (template && !strcmp(template, "chat") && !(r.chat = chat_open(model, why)))
		die("%s", why);
	if (template && !r.chat && !(r.template = template_open(template, why)))
		die("%s", why);
	r.eos = eos_of(t, &r);
	return r;
}

static json_t *
make_header(const struct formatting *r, const struct common *common)
{
	const uint64_t pair = 2;
	json_t *header = header_new("tokens", NULL, common);

	header_field(header, "ids", DT_I32, 0, NULL);
	header_field(header, "supervised", DT_I32, 1, &pair);
	json_object_set_new(header, "tokenizer", json_string(tokenizer_digest(r->tokenizer)));
	json_object_set_new(header, "vocab", json_integer(tokenizer_vocab(r->tokenizer)));
	json_object_set_new(header, "eos", r->eos < 0 ? json_null() : json_integer(r->eos));
	json_object_set_new(header, "max_prompt", json_integer(max_prompt));
	json_object_set_new(header, "max_length", json_integer(max_length));
	if (template)
		json_object_set_new(header, "template", json_string(template));
	return header;
}

static int
is_ours(const struct formatting *r, const char *key)
{
	static const char *const ours[] = { "id", "prompt", "target" };
	size_t i;

	for (i = 0; i < sizeof ours / sizeof *ours; i++)
		if (!strcmp(key, ours[i]))
			return 1;
	if (references && (!strcmp(key, references) || !strcmp(key, "references")))
		return 1;
	return r->template ? template_uses(r->template, key) : r->field && !strcmp(key, r->field);
}

static void
add_field(struct text *out, const char *key, size_t n, const json_t *value)
{
	text_puts(out, ",");
	json_append_string(out, key, n);
	text_puts(out, ":");
	json_append(out, value, 0);
}

static int
add_references(struct text *out, const json_t *record, char *why)
{
	const json_t *value = json_object_get(record, references), *one;
	size_t i;

	if (!json_is_string(value) && !json_is_array(value))
		return reason(why, "there are no references in field '%s'", references);
	json_array_foreach(value, i, one)
		if (!json_is_string(one))
			return reason(why, "a reference in field '%s' is not a string", references);
	text_puts(out, json_is_array(value) ? ",\"references\":" : ",\"references\":[");
	json_append(out, value, 0);
	text_puts(out, json_is_array(value) ? "" : "]");
	return 0;
}

static void
set_id(struct text *out, const json_t *id, uint64_t number)
{
	char name[24];

	out->n = 0;
	if (json_is_string(id))
		text_add(out, json_string_value(id), json_string_length(id));
	else {
		snprintf(name, sizeof name, "%" PRId64, json_is_integer(id) ? (int64_t)json_integer_value(id) : (int64_t)number);
		text_puts(out, name);
	}
}

/* The record's text in the stream: id, prompt, target, then what the template did not use. */
static int
set_text(const struct formatting *r, struct job *job, json_t *record, uint64_t number, char *why)
{
	const char *key, *reserved;
	json_t *value;
	size_t n;

	set_id(&job->id, json_object_get(record, "id"), number);
	job->rest.n = 0;
	if (!r->field) {
		text_puts(&job->rest, ",\"prompt\":");
		json_append_string(&job->rest, job->example.prompt.s, job->example.prompt.n);
		text_puts(&job->rest, ",\"target\":");
		json_append_string(&job->rest, job->example.target.s, job->example.target.n);
	}
	if (references && add_references(&job->rest, record, why))
		return -1;
	json_object_keylen_foreach(record, key, n, value) {
		if (is_ours(r, key))
			continue;
		if ((reserved = stream_reserved(key)))
			job->left_out = reserved;
		else
			add_field(&job->rest, key, n, value);
	}
	text_puts(&job->rest, "}");
	return 0;
}

static void
do_job(const struct formatting *r, struct job *job, const char *line, size_t n, uint64_t number)
{
	char why[REASON_MAX];
	json_t *record = reader_parse(line, n, why);

	job->left_out = NULL;
	job->why = !record || example_make(r, record, &job->example, why) ||
	    (!job->example.dropped && set_text(r, job, record, number, why)) ? mem_string(why) : NULL;
	json_decref(record);
}

static void
put(struct output *out, const struct job *job, const int32_t *ids, size_t n, size_t begin)
{
	const int32_t span[2] = { (int32_t)begin, (int32_t)n };
	const uint64_t length = n, shape[2] = { 1, 2 };
	struct record record = { .text = NULL };

	out->text.n = 0;
	text_puts(&out->text, "{\"id\":");
	json_append_string(&out->text, job->id.s, job->id.n);
	text_add(&out->text, job->rest.s, job->rest.n);
	record.json = out->text.s;
	record.json_size = out->text.n;
	record_add(&record, "ids", DT_I32, 1, &length, ids);
	record_add(&record, "supervised", DT_I32, 2, shape, span);
	stream_put(out->stream, &record);
	out->written++;
	out->ids += n;
	out->supervised += n - begin;
}

/* Windows of a long plain text are examples by themselves; from the second on their ids are ID:2, ID:3, ... */
static void
put_windows(struct output *out, struct job *job)
{
	const struct ids *ids = &job->example.ids;
	size_t at, n, window, name = job->id.n;
	char suffix[24];

	for (at = 0, window = 1; at < ids->n; at += n, window++) {
		n = ids->n - at < (size_t)max_length ? ids->n - at : (size_t)max_length;
		snprintf(suffix, sizeof suffix, ":%zu", window);
		job->id.n = name;
		text_puts(&job->id, window > 1 ? suffix : "");
		/* nothing is to be learnt from a single id */
		if (n > 1)
			put(out, job, ids->id + at, n, 1);
	}
	out->dropped += ids->n < 2;
}

static void
write_job(struct output *out, struct job *job, const struct corpus_line *line)
{
	out->records++;
	if (job->why) {
		if (!skip_bad)
			die("%s, line %zu: %s", line->file, line->number, job->why);
		out->bad++;
		return;
	}
	if (job->left_out)
		out->left_out = job->left_out;
	if (job->example.dropped)
		out->dropped++;
	else if (field)
		put_windows(out, job);
	else {
		put(out, job, job->example.ids.id, job->example.ids.n, learn_prompt ? 1 : job->example.begin);
		out->cut += job->example.cut != 0;
	}
}

static void
summary(const struct output *out)
{
	fprintf(stderr, "%s: %" PRIu64 " of %" PRIu64 " records, %" PRIu64 " ids, %" PRIu64 " to be learnt",
	    progname, out->written, out->records, out->ids, out->supervised);
	if (out->dropped)
		fprintf(stderr, "; %" PRIu64 " dropped (%s)", out->dropped, field ? "too short" : "prompt too long");
	if (out->cut)
		fprintf(stderr, "; %" PRIu64 " cut", out->cut);
	if (out->bad)
		fprintf(stderr, "; %" PRIu64 " bad", out->bad);
	if (out->left_out)
		fprintf(stderr, "; field '%s' left out, a tensor has its name", out->left_out);
	fputc('\n', stderr);
}

static void
encode_all(const struct formatting *r, const struct common *common)
{
	struct corpus *corpus = corpus_open(common->operands);
	json_t *header = make_header(r, common);
	struct output out = { .stream = stream_create(output, header) };
	struct corpus_batch batch = { .n = 0 };
	struct job *jobs = NULL;
	size_t njobs = 0, i, begin, end, bytes = (size_t)omp_get_max_threads() * BATCH;
	uint64_t first, last, row = 0;

	parse_rows(&first, &last);
	for (; row < last && corpus_read(corpus, &batch, bytes); row += batch.n) {
		if (batch.n > njobs) {
			jobs = mem_grow(jobs, batch.n, sizeof *jobs);
			memset(jobs + njobs, 0, (batch.n - njobs) * sizeof *jobs);
			njobs = batch.n;
		}
		begin = row >= first ? 0 : first - row < batch.n ? first - row : batch.n;
		end = last - row < batch.n ? last - row : batch.n;
#pragma omp parallel for schedule(dynamic, 8)
		for (i = begin; i < end; i++)
			do_job(r, &jobs[i], batch.text.s + batch.lines[i].at, batch.lines[i].n, row + i + 1);
		for (i = begin; i < end; i++) {
			write_job(&out, &jobs[i], &batch.lines[i]);
			free(jobs[i].why);
		}
	}
	stream_finish(out.stream);
	if (!common->quiet)
		summary(&out);
	for (i = 0; i < njobs; i++) {
		example_free(&jobs[i].example);
		free(jobs[i].id.s);
		free(jobs[i].rest.s);
	}
	free(jobs);
	free(out.text.s);
	corpus_batch_free(&batch);
	corpus_close(corpus);
	json_decref(header);
}

static void
print_decoded(const struct tokenizer *t, const json_t *id, const int32_t *ids, size_t n, FILE *f)
{
	size_t size, valid;
	char *bytes = tokenizer_decode(t, ids, n, 0, &size), *text = unicode_repair(bytes, size, &valid);
	json_t *line = json_pack("{s:O*, s:o}", "id", id, "text", json_stringn_nocheck(text, valid));

	if (json_dumpf(line, f, JSON_COMPACT) || fputc('\n', f) == EOF)
		die("cannot write <stdout>:");
	json_decref(line);
	free(bytes);
	free(text);
}

static void
decode_stream(const struct tokenizer *t, const char *path, FILE *f)
{
	struct stream_in *in = stream_open(path, "any");
	const char *digest = json_string_value(json_object_get(stream_header(in), "tokenizer"));
	const struct tensor *ids;
	struct record record;

	if (digest && strcmp(digest, tokenizer_digest(t)))
		die("%s was made with another tokenizer than that in '%s'", stream_name(in), model);
	while (stream_get(in, &record)) {
		ids = record_need(&record, "ids", DT_I32);
		print_decoded(t, json_object_get(record.text, "id"), ids->data, ids->shape[0], f);
	}
	stream_close(in);
}

static void
decode_line(const struct tokenizer *t, const struct corpus_batch *b, const struct corpus_line *line, FILE *f)
{
	char why[REASON_MAX];
	json_t *record = reader_parse(b->text.s + line->at, line->n, why), *list, *id;
	struct ids ids = { NULL, 0, 0 };
	size_t i;

	if (!record)
		die("%s, line %zu: %s", line->file, line->number, why);
	list = json_object_get(record, "ids");
	if (!json_is_array(list))
		die("%s, line %zu: there is no list 'ids'", line->file, line->number);
	json_array_foreach(list, i, id) {
		if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= tokenizer_vocab(t))
			die("%s, line %zu: ids[%zu] is no id of this tokenizer", line->file, line->number, i);
		ids_add(&ids, (int32_t)json_integer_value(id));
	}
	print_decoded(t, json_object_get(record, "id"), ids.id, ids.n, f);
	free(ids.id);
	json_decref(record);
}

static void
decode_lines(const struct tokenizer *t, const struct common *common, FILE *f)
{
	struct corpus *corpus = corpus_open(common->operands);
	struct corpus_batch batch = { .n = 0 };
	size_t i;

	while (corpus_read(corpus, &batch, BATCH))
		for (i = 0; i < batch.n; i++)
			decode_line(t, &batch, &batch.lines[i], f);
	corpus_batch_free(&batch);
	corpus_close(corpus);
}

static void
decode_all(const struct tokenizer *t, const struct common *common)
{
	const char *path = options_input(common), *json = path ? strstr(path, ".json") : NULL;
	struct file *file = output ? file_create(output) : NULL;
	FILE *f = file ? file->f : stdout;

	if (json)
		decode_lines(t, common, f);
	else
		decode_stream(t, path, f);
	if (file)
		file_commit(file);
	else if (fflush(stdout) || ferror(stdout))
		die("cannot write <stdout>:");
}

int
main(int argc, const char **argv)
{
	struct common common;
	struct tokenizer *t;
	struct formatting formatting;
	char why[REASON_MAX];

	/* arguments */
	options_parse(argc, argv, options, "-m DIR [FILE...]", "From JSON lines to tokens.", -1, &common);
	if (!model)
		die_usage("--model is missing");
	if (!decode && !template == !field)
		die_usage("one of --template and --text is needed");
	if (decode && common.noperands > 1)
		die_usage("--decode takes one file");
	if (max_prompt < 0 || max_length < 1)
		die_usage("--max-prompt and --max-length must be positive");

	/* prepare */
	t = tokenizer_open(model, why);
	if (!t)
		die("'%s': %s", model, why);

	/* stream */
	if (decode)
		decode_all(t, &common);
	else {
		formatting = make_formatting(t);
		encode_all(&formatting, &common);
		template_close((struct template *)formatting.template);
		chat_close((struct chat *)formatting.chat);
	}

	/* finish */
	tokenizer_close(t);
	return 0;
}
