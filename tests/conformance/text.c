/* SPDX-License-Identifier: MIT */
/* tokenize, decode, chat, template, train_bpe */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/bpe/bpe_train.h"
#include "lib/text/chat.h"
#include "lib/text/example.h"
#include "tests/conformance/kit.h"

static struct tokenizer *
open_tokenizer(struct verdict *v, const json_t *c, const struct kit *k)
{
	char why[REASON_MAX], *path = kit_path(k, get_string(c, "tokenizer"));
	struct tokenizer *t = tokenizer_open(path, why);

	if (!t)
		fail(v, "cannot read the tokenizer of '%.150s': %.200s", path, why);
	free(path);
	return t;
}

static void
expect_ids(struct verdict *v, const char *what, const int32_t *got, size_t n, const json_t *expected)
{
	size_t i;

	expect(v, n == json_array_size(expected), "%s: %zu ids, not %zu", what, n, json_array_size(expected));
	for (i = 0; i < n && i < json_array_size(expected); i++)
		expect(v, got[i] == json_integer_value(json_array_get(expected, i)), "%s: id %zu is %d", what, i, got[i]);
}

void
kind_tokenize(struct verdict *v, const json_t *c, const struct kit *k)
{
	char *samples = kit_text(k, get_string(c, "samples")), why[REASON_MAX];
	const char *at = samples;
	struct tokenizer *t = open_tokenizer(v, c, k);
	struct ids ids = { .n = 0 };
	json_t *sample;

	while (t && (sample = kit_sample(&at))) {
		const json_t *text = json_object_get(sample, "text");

		ids.n = 0;
		if (tokenizer_encode(t, json_string_value(text), json_string_length(text),
		    json_is_true(json_object_get(c, "parse_special")), &ids, why))
			fail(v, "'%.60s': %s", json_string_value(text), why);
		expect_ids(v, json_string_value(text), ids.id, ids.n, json_object_get(sample, "ids"));
		json_decref(sample);
	}
	free(ids.id);
	free(samples);
	if (t)
		tokenizer_close(t);
}

static size_t
from_base64(const char *text, unsigned char *out)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint32_t bits = 0;
	size_t n = 0;
	int have = 0;

	for (; *text && *text != '='; text++) {
		bits = bits << 6 | (uint32_t)(strchr(digits, *text) - digits);
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[n++] = (unsigned char)(bits >> have);
		}
	}
	return n;
}

void
kind_decode(struct verdict *v, const json_t *c, const struct kit *k)
{
	char *samples = kit_text(k, get_string(c, "samples"));
	const char *at = samples;
	struct tokenizer *t = open_tokenizer(v, c, k);
	json_t *sample;

	while (t && (sample = kit_sample(&at))) {
		const char *base64 = get_string(sample, "bytes");
		unsigned char *want = mem_alloc(strlen(base64) + 1);
		size_t wanted = from_base64(base64, want), size;
		int n;
		int32_t *ids = get_ids(json_object_get(sample, "ids"), &n);
		char *got = tokenizer_decode(t, ids, (size_t)n, json_is_true(json_object_get(sample, "skip_special")), &size);

		expect(v, size == wanted && !memcmp(got, want, size), "%d ids give '%.80s'", n, got);
		free(got);
		free(ids);
		free(want);
		json_decref(sample);
	}
	free(samples);
	if (t)
		tokenizer_close(t);
}

/* The chat template of the tokenizer_config.json that the case names. */
static struct chat *
open_chat(struct verdict *v, const json_t *c, const struct kit *k)
{
	char why[REASON_MAX];
	json_t *config = kit_json(k, get_string(c, "chat_template"));
	const json_t *template = json_object_get(config, "chat_template");
	struct chat *chat = chat_parse(json_string_value(template), json_string_length(template), why);

	if (!chat)
		fail(v, "%s", why);
	json_decref(config);
	return chat;
}

static void
expect_text(struct verdict *v, const char *what, const struct text *got, const json_t *expected)
{
	expect(v, got->n == json_string_length(expected) && !memcmp(got->s ? got->s : "", json_string_value(expected), got->n),
	    "%s is '%.*s', not '%.100s'", what, (int)(got->n < 100 ? got->n : 100), got->s ? got->s : "",
	    json_string_value(expected));
}

void
kind_chat(struct verdict *v, const json_t *c, const struct kit *k)
{
	char *samples = kit_text(k, get_string(c, "samples")), why[REASON_MAX];
	const char *at = samples;
	struct tokenizer *t = open_tokenizer(v, c, k);
	struct chat *chat = open_chat(v, c, k);
	json_t *sample;

	while (t && chat && (sample = kit_sample(&at))) {
		struct text text = { .n = 0 };
		struct ids ids = { .n = 0 };

		if (chat_render(chat, json_object_get(sample, "messages"), json_object_get(sample, "tools"),
		    json_is_true(json_object_get(sample, "add_generation_prompt")), &text, why) ||
		    tokenizer_encode(t, text.s, text.n, 1, &ids, why))
			fail(v, "%s", why);
		expect_text(v, "the text", &text, json_object_get(sample, "text"));
		expect_ids(v, "chat", ids.id, ids.n, json_object_get(sample, "ids"));
		free(text.s);
		free(ids.id);
		json_decref(sample);
	}
	free(samples);
	if (chat)
		chat_close(chat);
	if (t)
		tokenizer_close(t);
}

static void
check_example(struct verdict *v, const json_t *sample, const struct formatting *formatting)
{
	const json_t *span = json_object_get(sample, "supervised");
	int dropped = json_is_true(json_object_get(sample, "dropped"));
	struct example e = { .dropped = 0 };
	char why[REASON_MAX];

	if (example_make(formatting, json_object_get(sample, "record"), &e, why)) {
		fail(v, "%s", why);
		return;
	}
	expect_text(v, "the prompt", &e.prompt, json_object_get(sample, "prompt"));
	expect_text(v, "the target", &e.target, json_object_get(sample, "target"));
	expect(v, e.dropped == dropped, "dropped is %d", e.dropped);
	if (!dropped && !e.dropped) {
		expect_ids(v, "prompt", e.ids.id, e.begin, json_object_get(sample, "prompt_ids"));
		expect_ids(v, "response", e.ids.id + e.begin, e.end - e.begin, json_object_get(sample, "response_ids"));
		expect(v, e.ids.n == e.end, "ids go on behind the response");
		expect(v, e.cut == json_is_true(json_object_get(sample, "cut")), "cut is %d", e.cut);
		expect(v, e.begin == (size_t)json_integer_value(json_array_get(span, 0)) &&
		    e.end == (size_t)json_integer_value(json_array_get(span, 1)), "supervised is [%zu, %zu]", e.begin, e.end);
	}
	example_free(&e);
}

void
kind_template(struct verdict *v, const json_t *c, const struct kit *k)
{
	char *samples = kit_text(k, get_string(c, "samples")), why[REASON_MAX];
	const char *at = samples;
	struct tokenizer *t = open_tokenizer(v, c, k);
	struct chat *chat = json_object_get(c, "chat_template") ? open_chat(v, c, k) : NULL;
	json_t *sample;

	while (t && !v->failure[0] && (sample = kit_sample(&at))) {
		struct formatting formatting = { .tokenizer = t, .chat = chat, .eos = (int32_t)get_number(c, "eos_id", -1),
			.max_prompt = (size_t)get_number(c, "max_prompt", 0),
			.max_length = (size_t)get_number(c, "max_length", 0) };
		char *path = mem_format("templates/%s.txt", get_string(sample, "template"));
		struct template *template = chat ? NULL : template_open(path, why);

		formatting.template = template;
		if (!chat && !template)
			fail(v, "%s", why);
		else
			check_example(v, sample, &formatting);
		if (template)
			template_close(template);
		free(path);
		json_decref(sample);
	}
	free(samples);
	if (chat)
		chat_close(chat);
	if (t)
		tokenizer_close(t);
}

/* A merge as merges.txt writes it. */
static int
is_merge(const struct bpe_train *t, size_t i, const char *want)
{
	uint32_t left, right;
	char *a, *b, *both;
	int equal;

	bpe_train_merge(t, i, &left, &right);
	a = bpe_train_token(t, left);
	b = bpe_train_token(t, right);
	both = mem_format("%s %s", a, b);
	equal = !strcmp(both, want);
	free(a);
	free(b);
	free(both);
	return equal;
}

void
kind_train_bpe(struct verdict *v, const json_t *c, const struct kit *k)
{
	const json_t *merges = json_object_get(c, "merges");
	char *corpus = kit_text(k, get_string(c, "corpus")), why[REASON_MAX];
	const char *at = corpus;
	struct scan *scan = scan_open(strcmp(get_string(c, "pre_tokenizer"), "gpt2") ? scan_qwen2 : scan_gpt2, why);
	struct bpe_train *t = bpe_train_new(scan, json_is_true(json_object_get(c, "nfc")));
	size_t n, i;
	json_t *document, *merge;

	while ((document = kit_sample(&at))) {
		const json_t *text = json_object_get(document, "text");

		if (bpe_train_add(t, json_string_value(text), json_string_length(text),
		    (uint64_t)get_number(document, "repeat", 1), why))
			fail(v, "%s", why);
		json_decref(document);
	}
	n = bpe_train_run(t, (size_t)get_number(c, "vocab_size", 256) - 256, (uint64_t)get_number(c, "min_frequency", 0));
	expect(v, n == json_array_size(merges), "%zu merges, not %zu", n, json_array_size(merges));
	json_array_foreach(merges, i, merge)
		if (i < n)
			expect(v, is_merge(t, i, json_string_value(merge)), "merge %zu is not '%s'", i,
			    json_string_value(merge));
	bpe_train_free(t);
	scan_close(scan);
	free(corpus);
}
