/* SPDX-License-Identifier: MIT */
/*
 * train-bpe - text on stdin, a tokenizer's directory
 *
 * Byte-level BPE: start from all 256 bytes, merge the most frequent adjacent
 * pair of the corpus, and again, until the vocabulary is full.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/base/options.h"
#include "lib/bpe/bpe_train.h"
#include "lib/text/corpus.h"
#include "lib/text/reader.h"
#include "lib/text/template.h"

enum { BATCH = 1 << 20, BYTES = 256 };

static char *output, *pre_tokenizer = "qwen2", *template, *fields;
static char **specials;
static int vocab_size = 8192, min_frequency = 2, plain;
static size_t documents;		/* so far */

static const struct poptOption options[] = {
	{ "output", 'o', POPT_ARG_STRING, &output, 0, "directory to make: tokenizer.json, tokenizer_config.json", "DIR" },
	{ "vocab-size", 'n', POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &vocab_size, 0,
	    "ids in all: 256 bytes, merges, special tokens", "N" },
	{ "min-frequency", '\0', POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &min_frequency, 0,
	    "merge only pairs that occur N times", "N" },
	{ "pre-tokenizer", '\0', POPT_ARG_STRING | POPT_ARGFLAG_SHOW_DEFAULT, &pre_tokenizer, 0,
	    "qwen2 (with NFC) or gpt2", "NAME" },
	{ "special", '\0', POPT_ARG_ARGV, &specials, 0,
	    "a special token, behind the merges; the first is EOS (default: <|endoftext|>)", "TOKEN" },
	{ "text", '\0', POPT_ARG_STRING, &fields, 0,
	    "JSON lines: learn from these fields, separated by commas", "FIELDS" },
	{ "template", 't', POPT_ARG_STRING, &template, 0,
	    "JSON lines: learn from prompt and response as tokenize makes them", "NAME" },
	{ "plain", '\0', POPT_ARG_NONE, &plain, 0, "each file is a text", NULL },
	OPTIONS_THREADS_QUIET
};

static void
add(struct bpe_train *t, const char *s, size_t n, const char *file, size_t line)
{
	char why[REASON_MAX];

	documents++;
	if (!bpe_train_add(t, s, n, 1, why))
		return;
	if (line)
		die("%s, line %zu: %s", file, line, why);
	die("%s: %s", file, why);
}

static void
add_fields(struct bpe_train *t, const json_t *record, const struct corpus_line *line)
{
	const json_t *value;
	const char *s, *end;
	char *name;

	for (s = fields; s; s = *end ? end + 1 : NULL) {
		end = strchr(s, ',');
		end = end ? end : s + strlen(s);
		name = mem_format("%.*s", (int)(end - s), s);
		value = json_object_get(record, name);
		if (json_is_string(value))
			add(t, json_string_value(value), json_string_length(value), line->file, line->number);
		else if (value && !json_is_null(value))
			die("%s, line %zu: field '%s' is not a string", line->file, line->number, name);
		free(name);
	}
}

static void
add_line(struct bpe_train *t, const struct template *form, const char *s, const struct corpus_line *line)
{
	struct text prompt = { NULL, 0, 0 }, target = { NULL, 0, 0 };
	char why[REASON_MAX];
	json_t *record = reader_parse(s + line->at, line->n, why);

	if (record && !json_is_object(record))
		reason(why, "this is not a JSON object");
	if (!json_is_object(record))
		die("%s, line %zu: %s", line->file, line->number, why);
	if (form && template_render(form, record, &prompt, &target, why))
		die("%s, line %zu: %s", line->file, line->number, why);
	if (form) {
		add(t, prompt.s, prompt.n, line->file, line->number);
		add(t, target.s, target.n, line->file, line->number);
	} else
		add_fields(t, record, line);
	free(prompt.s);
	free(target.s);
	json_decref(record);
}

static void
add_corpus(struct bpe_train *t, const struct template *form, const struct common *common)
{
	struct corpus *corpus = corpus_open(common->operands);
	struct corpus_batch batch = { .n = 0 };
	struct text text = { NULL, 0, 0 };
	const char *name;
	size_t i, lines = 0;

	if (plain)
		while (corpus_file(corpus, &text, &name))
			add(t, text.s, text.n, name, 0);
	else
		for (; corpus_read(corpus, &batch, BATCH); lines += batch.n)
			for (i = 0; i < batch.n; i++)
				add_line(t, form, batch.text.s, &batch.lines[i]);
	if (lines && !documents)
		die("not one of %zu lines has a field '%s'", lines, fields);
	free(text.s);
	corpus_batch_free(&batch);
	corpus_close(corpus);
}

static json_t *
pre_tokenizer_json(int qwen)
{
	json_t *level = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
	    "trim_offsets", 1, "use_regex", !qwen);

	if (!qwen)
		return level;
	return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, o]}", "type", "Sequence", "pretokenizers",
	    "type", "Split", "pattern", "Regex", scan_qwen2, "behavior", "Isolated", "invert", 0, level);
}

static json_t *
model_json(const struct bpe_train *t, size_t merges)
{
	json_t *vocab = json_object(), *list = json_array();
	uint32_t id, left, right;
	char *token, *other, *line;

	for (id = 0; id < BYTES + merges; id++) {
		token = bpe_train_token(t, id);
		json_object_set_new(vocab, token, json_integer(id));
		free(token);
	}
	for (id = 0; id < merges; id++) {
		bpe_train_merge(t, id, &left, &right);
		token = bpe_train_token(t, left);
		other = bpe_train_token(t, right);
		line = mem_format("%s %s", token, other);
		json_array_append_new(list, json_string(line));
		free(token);
		free(other);
		free(line);
	}
	return json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
	    "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
	    "ignore_merges", 0, "vocab", vocab, "merges", list);
}

static json_t *
added_json(size_t merges)
{
	json_t *list = json_array();
	size_t i;

	for (i = 0; specials[i]; i++)
		json_array_append_new(list, json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id",
		    (json_int_t)(BYTES + merges + i), "content", specials[i], "single_word", 0, "lstrip", 0,
		    "rstrip", 0, "normalized", 0, "special", 1));
	return list;
}

static void
write_json(const char *directory, const char *name, json_t *json)
{
	char *path = file_join(directory, name);

	json_write(path, json);
	json_decref(json);
	free(path);
}

static void
write_directory(const struct bpe_train *t, size_t merges, int qwen)
{
	char *part = file_directory(output);
	json_t *level = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1,
	    "trim_offsets", 1, "use_regex", 1);

	write_json(part, "tokenizer.json", json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:n, s:o, s:o}",
	    "version", "1.0", "truncation", "padding", "added_tokens", added_json(merges),
	    "normalizer", qwen ? json_pack("{s:s}", "type", "NFC") : json_null(),
	    "pre_tokenizer", pre_tokenizer_json(qwen), "post_processor", "decoder", level,
	    "model", model_json(t, merges)));
	write_json(part, "tokenizer_config.json", json_pack("{s:s, s:b, s:b, s:s, s:s, s:s, s:s}",
	    "tokenizer_class", qwen ? "Qwen2Tokenizer" : "GPT2Tokenizer", "add_prefix_space", 0,
	    "clean_up_tokenization_spaces", 0, "bos_token", specials[0], "eos_token", specials[0],
	    "pad_token", specials[0], "unk_token", specials[0]));
	file_directory_commit(part, output);
}

int
main(int argc, const char **argv)
{
	static const char *const names[] = { "qwen2", "gpt2", NULL };
	static char *usual[] = { "<|endoftext|>", NULL };
	struct common common;
	struct template *form = NULL;
	struct bpe_train *t;
	struct scan *scan;
	char why[REASON_MAX];
	size_t merges, nspecials;
	int qwen;

	/* arguments */
	options_parse(argc, argv, options, "-o DIR [FILE...]", "Learn a byte-level BPE tokenizer.", -1, &common);
	if (!output)
		die_usage("--output is missing");
	if (plain + !!fields + !!template != 1)
		die_usage("one of --text, --template and --plain is needed");
	qwen = !options_choice("pre-tokenizer", pre_tokenizer, names);
	specials = specials ? specials : usual;
	for (nspecials = 0; specials[nspecials]; nspecials++)
		if (!*specials[nspecials])
			die_usage("--special is empty");
	if (vocab_size < BYTES + (int)nspecials || min_frequency < 1)
		die_usage("--vocab-size must be at least %d, --min-frequency 1", BYTES + (int)nspecials);

	/* prepare */
	file_check_directory(output);
	if (template && !(form = template_open(template, why)))
		die("%s", why);
	if (!(scan = scan_open(qwen ? scan_qwen2 : scan_gpt2, why)))
		die("%s", why);
	t = bpe_train_new(scan, qwen);

	/* count, merge */
	add_corpus(t, form, &common);
	merges = bpe_train_run(t, (size_t)vocab_size - BYTES - nspecials, (uint64_t)min_frequency);

	/* finish */
	write_directory(t, merges, qwen);
	if (!common.quiet)
		fprintf(stderr, "%s: %zu merges, %zu ids\n", progname, merges, BYTES + merges + nspecials);
	bpe_train_free(t);
	template_close(form);
	scan_close(scan);
	return 0;
}
