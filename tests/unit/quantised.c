/* SPDX-License-Identifier: MIT */
/*
 * quantised - GPTQ checkpoints in memory: what stays codes, what it computes, and what is refused
 *
 * A checkpoint is made here, whole or damaged in one place, beside the same model in whole weights.
 */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/model/forward.h"
#include "lib/quant/pack.h"
#include "lib/quant/weight.h"
#include "tests/unit/tap.h"

enum { HIDDEN = 64, FFN = 96, VOCAB = 40, TENSORS = 64, TOKENS = 5 };

static const char config[] = "{\"model_type\":\"llama\",\"vocab_size\":40,\"hidden_size\":64,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"intermediate_size\":96,\"max_position_embeddings\":32,"
    "\"torch_dtype\":\"float16\"}";

static const struct { const char *name; int n, k; } linears[] = {
	{ "self_attn.q_proj", 64, 64 }, { "self_attn.k_proj", 32, 64 }, { "self_attn.v_proj", 32, 64 },
	{ "self_attn.o_proj", 64, 64 }, { "mlp.gate_proj", FFN, 64 }, { "mlp.up_proj", FFN, 64 },
	{ "mlp.down_proj", 64, FFN },
};

enum { SAME, SCATTERED, APART, UNEVEN };		/* groups */

/* How the checkpoint is made; the rest are damages. */
struct how {
	int bits, group, sym, version, groups;
	int skip;		/* this linear, counted from 1, is left whole */
	int fine;		/* scales are f32 that no f16 holds */
	int codes;		/* matrices that stay codes, of 4 */
	int cut, beyond, nan, no_zeros, bias, twice;
	const char *meta;	/* in the place of the quantization_config */
	const char *word;	/* in the reason */
};

struct tensors {
	struct safetensor list[TENSORS];
	void *data[TENSORS];
	int n;
};

static char root[] = "/tmp/quantised.XXXXXX";
static uint64_t seed = 7;

static uint32_t
draw(uint32_t below)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33) % below;
}

static void
add(struct tensors *t, const char *layer, const char *what, enum dtype type, int rows, int columns, void *data)
{
	struct safetensor *x = &t->list[t->n];

	*x = (struct safetensor){ .name = mem_format("%s%s", layer, what), .type = type, .rank = columns ? 2 : 1,
	    .shape = { (uint64_t)rows, (uint64_t)columns } };
	x->bytes = (size_t)rows * (size_t)(columns ? columns : 1) * dtype_size(type);
	t->data[t->n++] = data;
}

/* The group of each input. APART: the key's inputs are sorted otherwise than the query's. */
static int32_t *
groups(const struct how *h, int linear, int k)
{
	int size = h->group == -1 ? k : h->group, count = (k + size - 1) / size, i;
	int32_t *g = mem_zero((size_t)k, sizeof *g);

	for (i = 0; i < k; i++) {
		int at = h->groups == SCATTERED || (h->groups == APART && linear == 1) ? (i * 5 + 3) % k : i;

		g[i] = h->groups == UNEVEN ? i > 7 ? count - 1 : 0 : at / size;
	}
	return g;
}

static void
put(const char *directory, const char *json, struct tensors *t)
{
	char *path = file_join(directory, "config.json"), *weights = file_join(directory, "model.safetensors");
	json_t *parsed = json_loads(json, 0, NULL);
	struct safetensors_writer *w;
	int i;

	json_write(path, parsed);
	w = safetensors_create(weights, t->list, t->n, NULL);
	for (i = 0; i < t->n; i++)
		safetensors_put(w, t->data[i], t->list[i].bytes);
	safetensors_finish(w);
	json_decref(parsed);
	free(path);
	free(weights);
	for (i = 0; i < t->n; i++) {
		free(t->list[i].name);
		free(t->data[i]);
	}
	t->n = 0;
}

static uint16_t *
halves(int n, float scale, float least)
{
	uint16_t *x = mem_zero((size_t)n, sizeof *x);
	int i;

	for (i = 0; i < n; i++)
		x[i] = f32_to_f16(least + scale * ((float)draw(2001) - 1000) / 1000);
	return x;
}

/* One linear, as codes in q and as whole weights in w. */
static void
linear(struct tensors *q, struct tensors *w, const struct how *h, int at)
{
	int n = linears[at].n, k = linears[at].k, size = h->group == -1 ? k : h->group, count = (k + size - 1) / size;
	char *layer = mem_format("model.layers.0.%s", linears[at].name);
	struct quantised l = { n, k, h->bits, count, mem_zero((size_t)(n * k), 1), mem_zero((size_t)(n * count), 1),
	    mem_zero((size_t)(n * count), sizeof *l.scales), groups(h, at, k) };
	uint32_t *words = mem_zero((size_t)(n * k), 4), *zeros = mem_zero((size_t)(n * count), 4);
	float *whole = mem_zero((size_t)(n * k), sizeof *whole);
	uint16_t *scales = halves(n * count, 0.01f, 0.02f);
	int i, damaged = at == 3;

	for (i = 0; i < n * k; i++)
		l.q[i] = (uint8_t)draw(1u << h->bits);
	for (i = 0; i < n * count; i++) {
		l.zeros[i] = (uint8_t)(h->sym ? 1u << (h->bits - 1) : 1 + draw((1u << h->bits) - 1));
		l.scales[i] = f16_to_f32(scales[i]) * (h->fine ? 1.0001f : 1);
	}
	quantised_weights(whole, &l, 0, n);
	pack_codes(words, l.q, k, n, h->bits);
	pack_zeros(zeros, l.zeros, count, n, h->bits, h->version);
	if (damaged && h->nan)
		scales[5] = 0x7e00;
	if (damaged && h->beyond)
		l.group[9] = count;
	if (h->skip == at + 1 || (damaged && h->twice))
		add(q, layer, ".weight", DT_F32, n, k, mem_copy(whole, (size_t)(n * k) * sizeof *whole));
	if (h->skip != at + 1) {
		add(q, layer, ".qweight", DT_I32, (k - (damaged ? h->cut : 0)) * h->bits / 32, n,
		    mem_copy(words, (size_t)(n * k) * 4));
		if (!damaged || !h->no_zeros)
			add(q, layer, ".qzeros", DT_I32, count, n * h->bits / 32, mem_copy(zeros, (size_t)(n * count) * 4));
		add(q, layer, ".scales", h->fine ? DT_F32 : DT_F16, count, n, h->fine ?
		    mem_copy(l.scales, (size_t)(n * count) * 4) : mem_copy(scales, (size_t)(n * count) * 2));
		add(q, layer, ".g_idx", DT_I32, k, 0, mem_copy(l.group, (size_t)k * 4));
		add(q, layer, ".bias", DT_F16, n, 0, damaged && h->bias ? halves(n, 1, 0) : mem_zero((size_t)n, 2));
	}
	add(w, layer, ".weight", DT_F32, n, k, whole);
	free(layer);
	free(l.q);
	free(l.zeros);
	free(l.scales);
	free(l.group);
	free(words);
	free(zeros);
	free(scales);
}

static void
both(struct tensors *q, struct tensors *w, const char *name, int rows, int columns, float scale, float least)
{
	int n = rows * (columns ? columns : 1);
	uint16_t *x = halves(n, scale, least);

	add(q, name, "", DT_F16, rows, columns, x);
	add(w, name, "", DT_F16, rows, columns, mem_copy(x, (size_t)n * 2));
}

static char *
meta(const struct how *h)
{
	if (h->meta)
		return mem_string(h->meta);
	return mem_format("{\"quant_method\":\"gptq\",\"bits\":%d,\"group_size\":%d,\"sym\":%s,\"desc_act\":%s,"
	    "\"checkpoint_format\":\"%s\"}", h->bits, h->group, h->sym ? "true" : "false",
	    h->groups == SAME ? "false" : "true", h->version == 2 ? "gptq_v2" : "gptq");
}

static void
make(const struct how *h, const char *quantised, const char *whole)
{
	struct tensors q = { .n = 0 }, w = { .n = 0 };
	char *about = meta(h), *json = mem_format("%.*s,\"quantization_config\":%s}", (int)strlen(config) - 1, config, about);
	size_t i;

	both(&q, &w, "model.embed_tokens.weight", VOCAB, HIDDEN, 1, 0);
	both(&q, &w, "model.layers.0.input_layernorm.weight", HIDDEN, 0, 0.1f, 1);
	both(&q, &w, "model.layers.0.post_attention_layernorm.weight", HIDDEN, 0, 0.1f, 1);
	both(&q, &w, "model.norm.weight", HIDDEN, 0, 0.1f, 1);
	both(&q, &w, "lm_head.weight", VOCAB, HIDDEN, 0.3f, 0);
	for (i = 0; i < sizeof linears / sizeof *linears; i++)
		linear(&q, &w, h, (int)i);
	put(quantised, json, &q);
	put(whole, config, &w);
	free(json);
	free(about);
}

/* Final states of a few tokens. */
static float *
states(struct model *m)
{
	static const int32_t ids[TOKENS] = { 3, 39, 0, 17, 3 };
	struct forward *f = forward_new(m, TOKENS, KEEP_NONE);
	float *x = mem_zero(TOKENS * HIDDEN, sizeof *x);
	struct batch b;

	model_rope(m, TOKENS);
	batch_init(&b, m->be);
	batch_add(&b, ids, TOKENS, NULL, 0, 0);
	batch_upload(&b);
	m->be->download(x, forward_run(f, &b, NULL, FOR_SCORES, 0, 0), TOKENS * HIDDEN * sizeof *x);
	batch_free(&b);
	forward_free(f);
	return x;
}

static double
distance(struct model *a, struct model *b)
{
	float *x = states(a), *y = states(b);
	double worst = 0;
	int i;

	for (i = 0; i < TOKENS * HIDDEN; i++)
		worst = fmax(worst, fabs((double)x[i] - (double)y[i]));
	free(x);
	free(y);
	return worst;
}

static int
count_codes(const struct model *m)
{
	int i, n = 0;

	for (i = 0; i < m->nstorage; i++)
		n += m->storage[i].matrix && m->storage[i].matrix->type == DT_U8;
	return n;
}

static void
check(const struct how *h, const char *quantised, const char *whole, const char *sentence)
{
	const struct backend *const *be;
	char why[REASON_MAX];

	make(h, quantised, whole);
	for (be = backends; *be; be++) {
		struct model *q, *w;

		if (!(*be)->usable())
			continue;
		q = model_open(quantised, *be, DT_NONE, why);
		w = model_open(whole, *be, DT_NONE, why);
		if (!ok(q && w, "%s, %s: is read", (*be)->name, sentence)) {
			printf("# %s\n", why);
			continue;
		}
		ok(count_codes(q) == h->codes, "%s, %s: %d of 4 matrices stay codes", (*be)->name, sentence, count_codes(q));
		ok(distance(q, w) < 2e-4, "%s, %s: computes what the whole weights do", (*be)->name, sentence);
		model_free(q);
		model_free(w);
	}
}

static void
refused(const struct how *h, const char *quantised, const char *whole)
{
	char why[REASON_MAX] = "";
	struct model *m;

	make(h, quantised, whole);
	m = model_open(quantised, backend_pick(NULL), DT_NONE, why);
	ok(!m && strstr(why, h->word), "refused: %s", why);
	if (m)
		model_free(m);
}

static void
check_head(const char *whole)
{
	struct model *m = model_load(whole, backend_pick(NULL), DT_F32);
	float *exact = mem_zero(VOCAB * HIDDEN, sizeof *exact), *rounded = mem_zero(VOCAB * HIDDEN, sizeof *exact);
	int i, o, wrong = 0;

	m->be->weight_get(exact, DT_F32, &m->head, 0, VOCAB, 0);
	model_round_head(m, 1);
	m->be->weight_get(rounded, DT_F32, &m->head, 0, VOCAB, 0);
	for (o = 0; o < VOCAB; o++) {
		float most = 0;

		for (i = 0; i < HIDDEN; i++)
			most = fmaxf(most, fabsf(exact[o * HIDDEN + i]));
		for (i = 0; i < HIDDEN; i++)
			wrong += !(fabsf(exact[o * HIDDEN + i] - rounded[o * HIDDEN + i]) <= most / 127 * 0.51f);
	}
	ok(m->head.type == DT_U8 && !wrong, "a rounded head is off by half a step of its row at most");
	m->be->weight_get(rounded, DT_F32, &m->exact_head, 0, VOCAB, 0);
	ok(!memcmp(exact, rounded, VOCAB * HIDDEN * sizeof *exact), "and the exact one is kept");
	model_free(m);
	free(exact);
	free(rounded);
}

int
main(void)
{
	static const struct how refusals[] = {
		{ .bits = 4, .group = 32, .sym = 1, .version = 1, .cut = 32, .word = "o_proj.qweight" },
		{ .bits = 4, .group = 32, .sym = 1, .version = 1, .beyond = 1, .word = "o_proj.g_idx' has group 2 of 2" },
		{ .bits = 4, .group = 32, .sym = 1, .version = 1, .nan = 1, .word = "o_proj.scales" },
		{ .bits = 4, .group = 32, .sym = 1, .version = 1, .no_zeros = 1, .word = "o_proj.qzeros' is missing" },
		{ .bits = 4, .group = 32, .sym = 1, .version = 1, .bias = 1, .word = "o_proj.bias' would not be used" },
		{ .bits = 4, .group = 32, .sym = 1, .version = 1, .twice = 1, .word = "o_proj.weight' would not be used" },
		{ .bits = 4, .group = 32, .sym = 1, .version = 1, .word = "bits",
		    .meta = "{\"quant_method\":\"gptq\",\"bits\":5,\"group_size\":32}" },
		{ .bits = 4, .group = 32, .sym = 1, .version = 1, .word = "q_proj.qweight' is [8, 64], not [16, 64]",
		    .meta = "{\"quant_method\":\"gptq\",\"bits\":8,\"group_size\":32}" },
		{ .bits = 4, .group = 32, .sym = 1, .version = 1, .word = "awq",
		    .meta = "{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":32}" },
	};
	static const int bits[] = { 2, 3, 4, 8 };
	char *quantised, *whole, sentence[80];
	size_t i;

	if (!mkdtemp(root))
		die("cannot make '%s':", root);
	quantised = file_join(root, "quantised");
	whole = file_join(root, "whole");
	file_make_directories(quantised);
	file_make_directories(whole);
	for (i = 0; i < 8; i++) {
		struct how h = { .bits = bits[i / 2], .group = i % 2 ? 32 : -1, .sym = i % 2, .version = i % 3 ? 1 : 2, .codes = 4 };

		snprintf(sentence, sizeof sentence, "%d bits, %s, version %d", h.bits, h.sym ? "symmetric" : "asymmetric",
		    h.version);
		check(&h, quantised, whole, sentence);
	}
	check(&(struct how){ .bits = 4, .group = 32, .version = 1, .groups = SCATTERED, .codes = 4 }, quantised, whole,
	    "scattered groups");
	check(&(struct how){ .bits = 4, .group = 32, .sym = 1, .version = 1, .groups = APART, .codes = 3 }, quantised, whole,
	    "a key that is grouped otherwise than its query");
	check(&(struct how){ .bits = 4, .group = 48, .sym = 1, .version = 1, .groups = UNEVEN, .codes = 0 }, quantised, whole,
	    "groups of unequal sizes");
	check(&(struct how){ .bits = 4, .group = 32, .sym = 1, .version = 1, .skip = 3, .codes = 3 }, quantised, whole,
	    "a value that is left whole");
	check(&(struct how){ .bits = 4, .group = 32, .sym = 1, .version = 1, .fine = 1, .codes = 0 }, quantised, whole,
	    "scales that no f16 holds");
	for (i = 0; i < sizeof refusals / sizeof *refusals; i++)
		refused(&refusals[i], quantised, whole);
	check_head(whole);
	file_remove(root);
	free(quantised);
	free(whole);
	return done();
}
