/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/text/tokenizer_private.h"
#include "lib/text/unicode.h"

void
tokenizer_close(struct tokenizer *t)
{
	size_t i;

	if (!t)
		return;
	for (i = 0; i < TOKENIZER_CACHES; i++)
		bpe_cache_free(t->caches[i]);
	for (i = 0; i < t->nadded; i++)
		free(t->added[i].text);
	free(t->added);
	bpe_free(t->bpe);
	scan_close(t->scan);
	json_decref(t->config);
	free(t->directory);
	free(t);
}

static struct tokenizer *
tokenizer_new(void)
{
	struct tokenizer *t = mem_zero(1, sizeof *t);

	t->bpe = bpe_new();
	t->eos = -1;
	return t;
}

struct tokenizer *
tokenizer_open(const char *directory, char *why)
{
	struct tokenizer *t = tokenizer_new();

	if (!tokenizer_load(t, directory, why) && !tokenizer_finish(t, why))
		return t;
	tokenizer_close(t);
	return NULL;
}

struct tokenizer *
tokenizer_parse(const void *json, size_t n, char *why)
{
	struct tokenizer *t = tokenizer_new();

	if (!tokenizer_load_json(t, json, n, why) && !tokenizer_finish(t, why))
		return t;
	tokenizer_close(t);
	return NULL;
}

int
tokenizer_add(struct tokenizer *t, const char *text, size_t n, int64_t id, int special, int normalized, char *why)
{
	struct added a = { NULL, n, (int32_t)id, special != 0, normalized != 0 };
	size_t i;

	if (!n)
		return reason(why, "an added token without text");
	if (id < 0 || id >= BPE_MAX)
		return reason(why, "added token '%.*s' has id %lld", (int)n, text, (long long)id);
	for (i = 0; i < t->nadded; i++)
		if (t->added[i].n == n && !memcmp(t->added[i].text, text, n))
			break;
	if (i < t->nadded)
		free(t->added[i].text);
	a.text = mem_copy(text, n);
	if (i < t->nadded)
		t->added[i] = a;
	else
		MEM_PUSH(t->added, t->nadded, t->cap, a);
	return 0;
}

static int
added_order(const void *a, const void *b)
{
	const struct added *x = a, *y = b;
	int c = (unsigned char)x->text[0] - (unsigned char)y->text[0];

	if (c)
		return c;
	if (x->n != y->n)
		return x->n < y->n ? 1 : -1;
	return memcmp(x->text, y->text, x->n);
}

static int
id_order(const void *a, const void *b)
{
	const struct added *x = a, *y = b;

	return (x->id > y->id) - (x->id < y->id);
}

static void
update_number(XXH3_state_t *h, uint64_t x)
{
	XXH3_128bits_update(h, &x, sizeof x);
}

/* The same for every way to write it in files. Added tokens are sorted by id here. */
static void
make_digest(struct tokenizer *t)
{
	XXH3_state_t *h = XXH3_createState();
	XXH128_canonical_t sum;
	uint32_t id;
	size_t i = 0, n;

	if (!h)
		die("out of memory");
	XXH3_128bits_reset(h);
	update_number(h, (uint64_t)t->nfc);
	update_number(h, (uint64_t)t->bpe->take_whole);
	XXH3_128bits_update(h, scan_pattern(t->scan), strlen(scan_pattern(t->scan)) + 1);
	for (id = 0; id < t->bpe->n; id++) {
		while (i < t->nadded && (uint32_t)t->added[i].id < id)
			i++;
		/* some files have added tokens in the vocabulary too */
		n = i < t->nadded && (uint32_t)t->added[i].id == id ? 0 : t->bpe->text[id].n;
		update_number(h, n);
		XXH3_128bits_update(h, t->bpe->bytes + t->bpe->text[id].at, n);
	}
	update_number(h, t->bpe->merges);
	XXH3_128bits_update(h, t->bpe->made_of, t->bpe->merges * sizeof *t->bpe->made_of);
	for (i = 0; i < t->nadded; i++) {
		update_number(h, (uint64_t)t->added[i].id);
		update_number(h, t->added[i].n);
		XXH3_128bits_update(h, t->added[i].text, t->added[i].n);
	}
	XXH128_canonicalFromHash(&sum, XXH3_128bits_digest(h));
	for (i = 0; i < sizeof sum.digest; i++)
		snprintf(t->digest + 2 * i, 3, "%02x", sum.digest[i]);
	XXH3_freeState(h);
}

int
tokenizer_finish(struct tokenizer *t, char *why)
{
	uint32_t vocab;
	size_t i, c;

	if (bpe_finish(t->bpe, why))
		return -1;
	vocab = t->bpe->n;
	for (i = 0; i < t->nadded; i++)
		if ((uint32_t)t->added[i].id >= vocab)
			vocab = (uint32_t)t->added[i].id + 1;
	t->vocab = (int)vocab;
	if (t->eos >= t->vocab)
		return reason(why, "eos_token_id is %lld, and the tokenizer has %d ids", (long long)t->eos, t->vocab);
	if (t->nadded)
		qsort(t->added, t->nadded, sizeof *t->added, id_order);
	make_digest(t);
	if (t->nadded)
		qsort(t->added, t->nadded, sizeof *t->added, added_order);
	for (c = i = 0; c < 256; c++) {
		t->bucket[c] = i;
		while (i < t->nadded && (unsigned char)t->added[i].text[0] == c)
			i++;
	}
	t->bucket[256] = i;
	return 0;
}

/* Which kept cache a thread asks for first. */
static unsigned
thread_number(void)
{
	static atomic_uint threads;
	static _Thread_local unsigned number;

	if (!number)
		number = atomic_fetch_add(&threads, 1) + 1;
	return number % TOKENIZER_CACHES;
}

static void
encode_plain(const struct tokenizer *t, const unsigned char *text, size_t n, struct ids *ids)
{
	_Atomic(struct bpe_cache *) *kept = (_Atomic(struct bpe_cache *) *)&t->caches[thread_number()];
	struct bpe_cache *cache = atomic_exchange(kept, NULL);

	if (!cache)
		cache = bpe_cache_new(t->bpe);
	bpe_cache_encode(cache, t->scan, text, n, ids);
	bpe_cache_free(atomic_exchange(kept, cache));
}

/* The added token at p, NULL if there is none. */
static const struct added *
added_at(const struct tokenizer *t, const unsigned char *p, size_t left, int normalized)
{
	size_t i;

	for (i = t->bucket[*p]; i < t->bucket[*p + 1]; i++)
		if (t->added[i].normalized == normalized && t->added[i].n <= left &&
		    !memcmp(t->added[i].text, p, t->added[i].n))
			return &t->added[i];
	return NULL;
}

/* Cut at added tokens of one sort; what lies between goes to `rest`. */
static void
cut(const struct tokenizer *t, const unsigned char *text, size_t n, int normalized, struct ids *ids,
    void (*rest)(const struct tokenizer *, const unsigned char *, size_t, struct ids *))
{
	const struct added *a;
	size_t i, start = 0;

	for (i = 0; i < n; ) {
		a = added_at(t, text + i, n - i, normalized);
		if (!a) {
			i++;
			continue;
		}
		rest(t, text + start, i - start, ids);
		ids_add(ids, a->id);
		start = i += a->n;
	}
	rest(t, text + start, n - start, ids);
}

static void
encode_normalised(const struct tokenizer *t, const unsigned char *text, size_t n, struct ids *ids,
    void (*next)(const struct tokenizer *, const unsigned char *, size_t, struct ids *))
{
	unsigned char *nfc;
	size_t size;
	int unstable;

	unicode_check(text, n, &unstable);
	if (!t->nfc || !unstable) {
		next(t, text, n, ids);
		return;
	}
	nfc = unicode_nfc(text, n, &size);
	next(t, nfc, size, ids);
	free(nfc);
}

static void
cut_normalised(const struct tokenizer *t, const unsigned char *text, size_t n, struct ids *ids)
{
	cut(t, text, n, 1, ids, encode_plain);
}

static void
encode_between(const struct tokenizer *t, const unsigned char *text, size_t n, struct ids *ids)
{
	if (n)
		encode_normalised(t, text, n, ids, cut_normalised);
}

int
tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, int parse_special, struct ids *ids, char *why)
{
	const unsigned char *s = (const unsigned char *)text;
	int unstable;
	size_t valid;

	if (!n)
		return 0;
	if ((valid = unicode_check(s, n, &unstable)) != n)
		return reason(why, "the text is not UTF-8, at its byte %zu", valid);
	if (parse_special)
		cut(t, s, n, 0, ids, encode_between);
	else if (unstable)
		encode_normalised(t, s, n, ids, encode_plain);
	else
		encode_plain(t, s, n, ids);
	return 0;
}

static const struct added *
added_of(const struct tokenizer *t, int32_t id)
{
	size_t i;

	for (i = 0; i < t->nadded; i++)
		if (t->added[i].id == id)
			return &t->added[i];
	return NULL;
}

char *
tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, int skip_special, size_t *size)
{
	const struct added *a;
	const struct bpe_text *text;
	size_t i, cap = 8 * n + 64, used = 0, more;
	char *out = mem_alloc(cap);
	const void *from;

	for (i = 0; i < n; i++) {
		if (ids[i] < 0 || ids[i] >= t->vocab)
			continue;
		a = added_of(t, ids[i]);
		if (a && a->special && skip_special)
			continue;
		text = (uint32_t)ids[i] < t->bpe->n ? &t->bpe->text[ids[i]] : NULL;
		from = a ? (const void *)a->text : text ? t->bpe->bytes + text->at : NULL;
		more = a ? a->n : text ? text->n : 0;
		if (!more)
			continue;
		if (used + more + 1 > cap)
			out = mem_grow(out, cap = 2 * (used + more + 1), 1);
		memcpy(out + used, from, more);
		used += more;
	}
	out[used] = '\0';
	*size = used;
	return out;
}

int
tokenizer_vocab(const struct tokenizer *t)
{
	return t->vocab;
}

int32_t
tokenizer_id(const struct tokenizer *t, const char *text)
{
	size_t i, n = strlen(text);

	for (i = 0; i < t->nadded; i++)
		if (t->added[i].n == n && !memcmp(t->added[i].text, text, n))
			return t->added[i].id;
	return n ? bpe_id(t->bpe, text, n) : -1;
}

int32_t
tokenizer_eos(const struct tokenizer *t)
{
	return (int32_t)t->eos;
}

int
tokenizer_special(const struct tokenizer *t, int32_t id)
{
	const struct added *a = added_of(t, id);

	return a && a->special;
}

const char *
tokenizer_digest(const struct tokenizer *t)
{
	return t->digest;
}

const char *
tokenizer_directory(const struct tokenizer *t)
{
	return t->directory;
}

const json_t *
tokenizer_config(const struct tokenizer *t)
{
	return t->config;
}
