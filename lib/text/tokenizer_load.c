/* SPDX-License-Identifier: MIT */
/*
 * A tokenizer's files. The two long parts, vocabulary and merges, go straight
 * from the text into the tables; the rest is small and becomes json_t.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/text/reader.h"
#include "lib/text/tokenizer_private.h"

/* The bytes that a string of vocab.json or merges.txt means; what is not in the printable form is itself. */
static const unsigned char *
token_bytes(const char *s, size_t *n, unsigned char *room, size_t size)
{
	ptrdiff_t k = *n <= size ? bpe_unprintable(s, *n, room) : -1;

	if (k < 0)
		return (const unsigned char *)s;
	*n = (size_t)k;
	return room;
}

static int
load_vocab(struct tokenizer *t, struct reader *r)
{
	unsigned char room[1024];
	const unsigned char *bytes;
	char *text = NULL;
	const char *s;
	size_t n;
	int64_t id;
	int first, rc;

	if (reader_expect(r, '{'))
		return -1;
	for (first = 1; (rc = reader_next(r, '}', &first)) > 0; ) {
		if (reader_key(r, &s, &n))
			return -1;
		bytes = token_bytes(s, &n, room, sizeof room);
		if (bytes != room)
			bytes = (unsigned char *)(text = mem_copy(s, n));
		rc = reader_integer(r, &id) || bpe_token(t->bpe, id, bytes, n, r->why);
		free(text);
		text = NULL;
		if (rc)
			return -1;
	}
	return rc;
}

static int
merge_texts(struct tokenizer *t, const char *left, size_t nleft, const char *right, size_t nright, char *why)
{
	unsigned char rooms[2][1024];
	const unsigned char *l = token_bytes(left, &nleft, rooms[0], sizeof rooms[0]);
	const unsigned char *r = token_bytes(right, &nright, rooms[1], sizeof rooms[1]);

	return bpe_merge(t->bpe, l, nleft, r, nright, why);
}

/* "left right" */
static int
merge_line(struct tokenizer *t, const char *line, size_t n, char *why)
{
	const char *space = memchr(line, ' ', n);
	size_t left = space ? (size_t)(space - line) : 0;

	if (!left || left + 1 == n || memchr(space + 1, ' ', n - left - 1))
		return reason(why, "merge %u is not two tokens with a space between: '%.*s'", t->bpe->merges, (int)n, line);
	return merge_texts(t, line, left, space + 1, n - left - 1, why);
}

static int
merge_pair(struct tokenizer *t, struct reader *r)
{
	const char *s;
	char *left;
	size_t nleft, n;
	int rc;

	if (reader_expect(r, '[') || reader_string(r, &s, &nleft))
		return -1;
	left = mem_copy(s, nleft);
	rc = reader_expect(r, ',') || reader_string(r, &s, &n) || merge_texts(t, left, nleft, s, n, r->why);
	free(left);
	return rc ? -1 : reader_expect(r, ']');
}

static int
load_merges(struct tokenizer *t, struct reader *r)
{
	const char *s;
	size_t n;
	int first, rc;

	if (reader_expect(r, '['))
		return -1;
	for (first = 1; (rc = reader_next(r, ']', &first)) > 0; ) {
		if (reader_peek(r) == '[' ? merge_pair(t, r) :
		    reader_string(r, &s, &n) || merge_line(t, s, n, r->why))
			return -1;
	}
	return rc;
}

/* model: vocab and merges by their place, the rest into *rest. */
static int
load_model(struct tokenizer *t, struct reader *r, json_t *rest)
{
	const char *s, *vocab = NULL, *merges = NULL, *after;
	json_t *value;
	size_t n;
	int first, rc;

	if (reader_expect(r, '{'))
		return -1;
	for (first = 1; (rc = reader_next(r, '}', &first)) > 0; ) {
		if (reader_key(r, &s, &n))
			return -1;
		if (n == 5 && !memcmp(s, "vocab", 5)) {
			vocab = r->p;
			rc = reader_skip(r);
		} else if (n == 6 && !memcmp(s, "merges", 6)) {
			merges = r->p;
			rc = reader_skip(r);
		} else {
			char *key = mem_copy(s, n);

			if (!(rc = reader_value(r, &value)))
				json_object_setn_new_nocheck(rest, key, n, value);
			free(key);
		}
		if (rc)
			return -1;
	}
	if (rc)
		return -1;
	if (!vocab || !merges)
		return reason(r->why, "the model has no %s", vocab ? "merges" : "vocab");
	after = r->p;
	r->p = vocab;
	if (load_vocab(t, r))
		return -1;
	r->p = merges;
	if (load_merges(t, r))
		return -1;
	r->p = after;
	return 0;
}

static const char *
type_of(const json_t *object)
{
	const char *type = json_string_value(json_object_get(object, "type"));

	return type ? type : "";
}

static int
is_type(const json_t *object, const char *type)
{
	return !strcmp(type_of(object), type);
}

/* Options of the model that would change ids, and their values that do not. */
static int
check_model(struct tokenizer *t, const json_t *model, char *why)
{
	static const char *const absent[] = { "dropout", "continuing_subword_prefix", "end_of_word_suffix" };
	const json_t *value;
	size_t i;

	if (!is_type(model, "BPE") && json_object_get(model, "type"))
		return reason(why, "the model is %s, not BPE", type_of(model));
	for (i = 0; i < sizeof absent / sizeof *absent; i++) {
		value = json_object_get(model, absent[i]);
		if (value && !json_is_null(value) && (!json_is_string(value) || json_string_length(value)))
			return reason(why, "the model's %s is not supported", absent[i]);
	}
	if (json_is_true(json_object_get(model, "byte_fallback")))
		return reason(why, "the model is SentencePiece's (byte_fallback), not byte-level BPE");
	t->bpe->take_whole = json_is_true(json_object_get(model, "ignore_merges"));
	return 0;
}

static int
load_normalizer(struct tokenizer *t, const json_t *n, char *why)
{
	const json_t *list = json_object_get(n, "normalizers");
	size_t i;

	if (!n || json_is_null(n))
		return 0;
	if (is_type(n, "Sequence")) {
		for (i = 0; i < json_array_size(list); i++)
			if (load_normalizer(t, json_array_get(list, i), why))
				return -1;
		return 0;
	}
	if (!is_type(n, "NFC"))
		return reason(why, "the normalizer '%s' is not supported", type_of(n));
	t->nfc = 1;
	return 0;
}

static const char *
split_pattern(const json_t *split, char *why)
{
	const json_t *pattern = json_object_get(split, "pattern");
	const char *regex = json_string_value(json_object_get(pattern, "Regex"));
	const char *behavior = json_string_value(json_object_get(split, "behavior"));
	int invert = json_is_true(json_object_get(split, "invert"));

	if (!regex || !behavior || !(strcmp(behavior, "Isolated") ? !strcmp(behavior, "Removed") && invert : !invert)) {
		reason(why, "the pre_tokenizer's Split is not one that isolates a Regex");
		return NULL;
	}
	return regex;
}

/* The pattern of ByteLevel with its own, or of Split and ByteLevel without. */
static int
load_pre_tokenizer(struct tokenizer *t, const json_t *p, char *why)
{
	const json_t *list = is_type(p, "Sequence") ? json_object_get(p, "pretokenizers") : NULL;
	const json_t *split = json_array_size(list) == 2 ? json_array_get(list, 0) : NULL;
	const json_t *level = split ? json_array_get(list, 1) : p;
	const json_t *own = json_object_get(level, "use_regex");
	const char *pattern = scan_gpt2;

	if (!is_type(level, "ByteLevel") || (split && !is_type(split, "Split")))
		return reason(why, "the pre_tokenizer is not ByteLevel, or Split and ByteLevel");
	if (json_is_true(json_object_get(level, "add_prefix_space")))
		return reason(why, "the pre_tokenizer's add_prefix_space is not supported");
	if ((split != NULL) != json_is_false(own))
		return reason(why, "the pre_tokenizer has %s pattern", split ? "more than one" : "no");
	if (split && !(pattern = split_pattern(split, why)))
		return -1;
	t->scan = scan_open(pattern, why);
	return t->scan ? 0 : -1;
}

static int
load_added_token(struct tokenizer *t, const json_t *token, json_int_t id, char *why)
{
	static const char *const options[] = { "lstrip", "rstrip", "single_word" };
	const json_t *content = json_object_get(token, "content");
	size_t i;

	if (!json_is_string(content))
		return reason(why, "an added token has no content");
	for (i = 0; i < sizeof options / sizeof *options; i++)
		if (json_is_true(json_object_get(token, options[i])))
			return reason(why, "added token '%s' wants %s, which is not supported",
			    json_string_value(content), options[i]);
	return tokenizer_add(t, json_string_value(content), json_string_length(content), id,
	    json_is_true(json_object_get(token, "special")), json_is_true(json_object_get(token, "normalized")), why);
}

static int
load_added_tokens(struct tokenizer *t, const json_t *list, char *why)
{
	const json_t *id;
	size_t i;

	if (list && !json_is_array(list))
		return reason(why, "added_tokens is no list");
	for (i = 0; i < json_array_size(list); i++) {
		id = json_object_get(json_array_get(list, i), "id");
		if (!json_is_integer(id))
			return reason(why, "an added token has no id");
		if (load_added_token(t, json_array_get(list, i), json_integer_value(id), why))
			return -1;
	}
	return 0;
}

static int
load_parts(struct tokenizer *t, struct reader *r, json_t *rest, json_t *model)
{
	json_t *value;
	const char *s;
	char *key;
	size_t n;
	int first, rc, found = 0;

	if (reader_expect(r, '{'))
		return -1;
	for (first = 1; (rc = reader_next(r, '}', &first)) > 0; ) {
		if (reader_key(r, &s, &n))
			return -1;
		if (n == 5 && !memcmp(s, "model", 5)) {
			if (found++)
				return reason(r->why, "two models");
			rc = load_model(t, r, model);
		} else {
			key = mem_copy(s, n);
			if (!(rc = reader_value(r, &value)))
				json_object_setn_new_nocheck(rest, key, n, value);
			free(key);
		}
		if (rc)
			return -1;
	}
	if (rc || reader_end(r))
		return -1;
	return found ? 0 : reason(r->why, "there is no model");
}

int
tokenizer_load_json(struct tokenizer *t, const void *json, size_t n, char *why)
{
	json_t *rest = json_object(), *model = json_object();
	struct reader r;
	int rc;

	reader_init(&r, json, n, why);
	rc = load_parts(t, &r, rest, model) || check_model(t, model, why) ||
	    load_normalizer(t, json_object_get(rest, "normalizer"), why) ||
	    load_pre_tokenizer(t, json_object_get(rest, "pre_tokenizer"), why) ||
	    load_added_tokens(t, json_object_get(rest, "added_tokens"), why) ? -1 : 0;
	reader_free(&r);
	json_decref(rest);
	json_decref(model);
	return rc;
}

/* A file of the directory, NULL if it has none; *rc is -1 and why set if it is there but cannot be read. */
static char *
read_part(const char *directory, const char *name, size_t *n, int *rc, char *why)
{
	char *path = file_join(directory, name), *text = file_read(path, n);

	if (!text && errno != ENOENT)
		*rc = reason(why, "cannot read '%s': %s", path, strerror(errno));
	free(path);
	return text;
}

static json_t *
read_json(const char *directory, const char *name, int *rc, char *why)
{
	char inner[REASON_MAX], *text;
	json_t *value;
	size_t n;

	if (!(text = read_part(directory, name, &n, rc, why)))
		return NULL;
	value = reader_parse(text, n, inner);
	free(text);
	if (!value)
		*rc = reason(why, "%s: %.400s", name, inner);
	else if (!json_is_object(value)) {
		json_decref(value);
		value = NULL;
		*rc = reason(why, "%s is no JSON object", name);
	}
	return value;
}

/* Only a first line of "#version" is none: others that begin with # are merges. */
static int
load_merges_text(struct tokenizer *t, const char *text, size_t n, char *why)
{
	const char *p = text, *end = text + n, *line;
	size_t size;

	while (p < end) {
		line = p;
		p = memchr(p, '\n', (size_t)(end - p));
		size = (size_t)((p ? p : end) - line);
		p = p ? p + 1 : end;
		if (size && line[size - 1] == '\r')
			size--;
		if (!size || (line == text && size >= 8 && !memcmp(line, "#version", 8)))
			continue;
		if (merge_line(t, line, size, why))
			return -1;
	}
	return 0;
}

static int
load_vocab_text(struct tokenizer *t, const char *text, size_t n, char *why)
{
	struct reader r;
	int rc;

	reader_init(&r, text, n, why);
	rc = load_vocab(t, &r) || reader_end(&r) ? -1 : 0;
	reader_free(&r);
	return rc;
}

/* Is this the text of one of the tokens that the configuration names (eos_token, additional_special_tokens)? */
static int
is_named(const json_t *config, const char *text)
{
	const json_t *value;
	const char *key, *s;
	size_t i;

	json_object_foreach((json_t *)config, key, value) {
		for (i = 0; i < json_array_size(value); i++)
			if ((s = json_string_value(json_array_get(value, i))) && !strcmp(s, text))
				return 1;
		s = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
		if (s && !strcmp(s, text))
			return 1;
	}
	return 0;
}

static int
load_added_decoder(struct tokenizer *t, const json_t *decoder, char *why)
{
	const json_t *token;
	const char *key;
	char *end;
	long id;

	if (!json_is_object(decoder))
		return reason(why, "added_tokens_decoder is no object");
	json_object_foreach((json_t *)decoder, key, token) {
		errno = 0;
		id = strtol(key, &end, 10);
		if (errno || end == key || *end)
			return reason(why, "added_tokens_decoder has the key '%s', which is no id", key);
		if (load_added_token(t, token, id, why))
			return -1;
	}
	return 0;
}

static int
load_added_list(struct tokenizer *t, const json_t *list, char *why)
{
	const json_t *id;
	const char *text;

	json_object_foreach((json_t *)list, text, id) {
		if (!json_is_integer(id))
			return reason(why, "added_tokens.json has no id for '%s'", text);
		if (tokenizer_add(t, text, strlen(text), json_integer_value(id), is_named(t->config, text), 0, why))
			return -1;
	}
	return 0;
}

/* What the classes of Transformers do without tokenizer.json. */
static int
load_family(struct tokenizer *t, char *why)
{
	const json_t *class = json_object_get(t->config, "tokenizer_class");
	const char *name = json_is_string(class) ? json_string_value(class) : "GPT2Tokenizer";
	int qwen = !strncmp(name, "Qwen2Tokenizer", 14);

	if (!qwen && strncmp(name, "GPT2Tokenizer", 13))
		return reason(why, "tokenizer_class '%s' needs a tokenizer.json", name);
	if (json_is_true(json_object_get(t->config, "add_prefix_space")))
		return reason(why, "tokenizer_config.json wants add_prefix_space, which is not supported");
	t->nfc = qwen;
	t->scan = scan_open(qwen ? scan_qwen2 : scan_gpt2, why);
	return t->scan ? 0 : -1;
}

static int
load_added(struct tokenizer *t, const char *directory, char *why)
{
	const json_t *decoder = json_object_get(t->config, "added_tokens_decoder");
	int rc = 0;
	json_t *list;
	int32_t id;

	if (decoder)
		return load_added_decoder(t, decoder, why);
	if ((list = read_json(directory, "added_tokens.json", &rc, why))) {
		rc = load_added_list(t, list, why);
		json_decref(list);
	}
	if (!rc && (id = bpe_id(t->bpe, "<|endoftext|>", 13)) >= 0)
		rc = tokenizer_add(t, "<|endoftext|>", 13, id, 1, 0, why);
	return rc;
}

static int
load_two_files(struct tokenizer *t, const char *directory, char *why)
{
	char *vocab, *merges, inner[REASON_MAX];
	size_t nvocab, nmerges;
	int rc = 0;

	if (load_family(t, why))
		return -1;
	vocab = read_part(directory, "vocab.json", &nvocab, &rc, why);
	merges = read_part(directory, "merges.txt", &nmerges, &rc, why);
	if (!rc && (!vocab || !merges))
		rc = reason(why, "there is no tokenizer.json and no %s", vocab ? "merges.txt" : "vocab.json");
	if (!rc && load_vocab_text(t, vocab, nvocab, inner))
		rc = reason(why, "vocab.json: %.400s", inner);
	if (!rc && load_merges_text(t, merges, nmerges, inner))
		rc = reason(why, "merges.txt: %.400s", inner);
	free(vocab);
	free(merges);
	return rc ? rc : load_added(t, directory, why);
}

/* The first of a list, or the only one; -1 if there is none. */
static json_int_t
eos_id(const json_t *config)
{
	const json_t *id = json_object_get(config, "eos_token_id");

	id = json_is_array(id) ? json_array_get(id, 0) : id;
	return json_is_integer(id) ? json_integer_value(id) : -1;
}

/* generation_config.json, tokenizer_config.json, config.json: the first that says it. */
static int
load_eos(struct tokenizer *t, const char *directory, char *why)
{
	const json_t *token = json_object_get(t->config, "eos_token");
	const char *text = json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
	int rc = 0;
	json_t *config = read_json(directory, "generation_config.json", &rc, why);

	t->eos = eos_id(config);
	json_decref(config);
	if (t->eos < 0 && text)
		t->eos = tokenizer_id(t, text);
	if (t->eos < 0 && !rc) {
		config = read_json(directory, "config.json", &rc, why);
		t->eos = eos_id(config);
		json_decref(config);
	}
	if (t->eos < 0)
		t->eos = tokenizer_id(t, "<|endoftext|>");
	return rc;
}

int
tokenizer_load(struct tokenizer *t, const char *directory, char *why)
{
	char inner[REASON_MAX], *json;
	size_t n;
	int rc = 0;

	t->directory = mem_string(directory);
	t->config = read_json(directory, "tokenizer_config.json", &rc, why);
	json = read_part(directory, "tokenizer.json", &n, &rc, why);
	if (!rc && json && tokenizer_load_json(t, json, n, inner))
		rc = reason(why, "tokenizer.json: %.400s", inner);
	else if (!rc && !json)
		rc = load_two_files(t, directory, why);
	free(json);
	return rc ? rc : load_eos(t, directory, why);
}
