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
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/base/options.h"
#include "lib/stream/stream.h"
#include "lib/text/corpus.h"
#include "lib/text/example.h"
#include "lib/text/reader.h"
#include "lib/text/unicode.h"

enum { BATCH = 1 << 20 };		/* bytes of input between two writes */

static char *model, *template, *field, *eos, *output, *rows, *references;
static int max_prompt = 256, max_length = 512, learn_prompt, skip_bad, decode;

static const struct poptOption options[] = {
	{ "model", 'm', POPT_ARG_STRING, &model, 0, "directory with the tokenizer", "DIR" },
	{ "template", 't', POPT_ARG_STRING, &template, 0,
	    "dolly, dolly-es, bugnet, pytorrent, chat, or the path of a template file", "NAME" },
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
	OPTIONS_COMMON
};

/* One line on its way through the threads. */
struct job {
	struct example example;
	json_t *record;
	char *why;			/* it is a bad line; NULL: it is not */
};

struct count {
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

static int
set_references(json_t *text, const json_t *record, char *why)
{
	json_t *value = json_object_get(record, references), *list, *one;
	size_t i;

	if (!json_is_string(value) && !json_is_array(value))
		return reason(why, "there are no references in field '%s'", references);
	list = json_is_array(value) ? json_incref(value) : json_pack("[O]", value);
	json_array_foreach(list, i, one)
		if (!json_is_string(one)) {
			json_decref(list);
			return reason(why, "a reference in field '%s' is not a string", references);
		}
	json_object_set_new(text, "references", list);
	return 0;
}

/* The record's text in the stream: id, prompt, target, then what the template did not use. */
static int
set_text(const struct formatting *r, struct job *job, uint64_t number, char *why)
{
	json_t *id = json_object_get(job->record, "id"), *text = json_object(), *value;
	char name[24];
	const char *key;
	size_t n;
	int rc = 0;

	if (!json_is_string(id))
		snprintf(name, sizeof name, "%" PRId64, json_is_integer(id) ? (int64_t)json_integer_value(id) : (int64_t)number);
	json_object_set_new(text, "id", json_is_string(id) ? json_incref(id) : json_string(name));
	if (!r->field) {
		json_object_set_new(text, "prompt", json_stringn_nocheck(job->example.prompt.s, job->example.prompt.n));
		json_object_set_new(text, "target", json_stringn_nocheck(job->example.target.s, job->example.target.n));
	}
	if (references)
		rc = set_references(text, job->record, why);
	json_object_keylen_foreach(job->record, key, n, value)
		if (!is_ours(r, key))
			json_object_setn_nocheck(text, key, n, value);
	json_decref(job->record);
	job->record = text;
	return rc;
}

static void
do_job(const struct formatting *r, struct job *job, const char *line, size_t n, uint64_t number)
{
	char why[REASON_MAX];

	job->record = reader_parse(line, n, why);
	job->why = !job->record || example_make(r, job->record, &job->example, why) || set_text(r, job, number, why) ?
	    mem_string(why) : NULL;
}

static void
put(struct stream_out *out, json_t *text, const int32_t *ids, size_t n, size_t begin, struct count *count)
{
	const int32_t span[2] = { (int32_t)begin, (int32_t)n };
	const uint64_t length = n, shape[2] = { 1, 2 };
	struct record record = { .text = text };

	record_add(&record, "ids", DT_I32, 1, &length, ids);
	record_add(&record, "supervised", DT_I32, 2, shape, span);
	stream_put(out, &record);
	count->written++;
	count->ids += n;
	count->supervised += n - begin;
}

/* Windows of a long plain text are examples by themselves; from the second on their ids are ID:2, ID:3, ... */
static void
put_windows(struct stream_out *out, const struct job *job, struct count *count)
{
	const struct example *e = &job->example;
	char *id = mem_string(json_string_value(json_object_get(job->record, "id"))), *name;
	size_t at, window;

	for (at = window = 0; at < e->ids.n; at += (size_t)max_length) {
		if (window++) {
			name = mem_format("%s:%zu", id, window);
			json_object_set_new(job->record, "id", json_string(name));
			free(name);
		}
		/* nothing is to be learnt from a single id */
		if (e->ids.n - at > 1)
			put(out, job->record, e->ids.id + at,
			    e->ids.n - at < (size_t)max_length ? e->ids.n - at : (size_t)max_length, 1, count);
	}
	count->dropped += e->ids.n < 2;
	free(id);
}

static void
write_job(struct stream_out *out, const struct job *job, const struct corpus_line *line, struct count *count)
{
	count->records++;
	if (job->why) {
		if (!skip_bad)
			die("%s, line %zu: %s", line->file, line->number, job->why);
		count->bad++;
	} else if (job->example.dropped)
		count->dropped++;
	else if (field)
		put_windows(out, job, count);
	else {
		put(out, job->record, job->example.ids.id, job->example.ids.n,
		    learn_prompt ? 1 : job->example.begin, count);
		count->cut += job->example.cut != 0;
	}
}

static void
summary(const struct count *c)
{
	fprintf(stderr, "%s: %" PRIu64 " of %" PRIu64 " records, %" PRIu64 " ids, %" PRIu64 " to be learnt",
	    progname, c->written, c->records, c->ids, c->supervised);
	if (c->dropped)
		fprintf(stderr, "; %" PRIu64 " dropped (%s)", c->dropped, field ? "too short" : "prompt too long");
	if (c->cut)
		fprintf(stderr, "; %" PRIu64 " cut", c->cut);
	if (c->bad)
		fprintf(stderr, "; %" PRIu64 " bad", c->bad);
	fputc('\n', stderr);
}

static void
encode_all(const struct formatting *r, const struct common *common)
{
	struct corpus *corpus = corpus_open(common->operands);
	json_t *header = make_header(r, common);
	struct stream_out *out = stream_create(output, header);
	struct corpus_batch batch = { .n = 0 };
	struct job *jobs = NULL;
	struct count count = { 0 };
	size_t njobs = 0, i, begin, end;
	uint64_t first, last, row = 0;

	parse_rows(&first, &last);
	for (; row < last && corpus_read(corpus, &batch, BATCH); row += batch.n) {
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
			write_job(out, &jobs[i], &batch.lines[i], &count);
			json_decref(jobs[i].record);
			free(jobs[i].why);
		}
	}
	stream_finish(out);
	if (!common->quiet)
		summary(&count);
	for (i = 0; i < njobs; i++)
		example_free(&jobs[i].example);
	free(jobs);
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
