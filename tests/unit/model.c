/* SPDX-License-Identifier: MIT */
/* model - weights come back from a directory as they were made, and what Transformers would guess is refused */
#include <ftw.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/model/layout.h"
#include "lib/model/safetensors.h"
#include "tests/unit/tap.h"

static char why[REASON_MAX], directory[] = "/tmp/model.XXXXXX";
static const struct backend *be;

#define GPT2 "{\"model_type\":\"gpt2\",\"n_embd\":12,\"n_layer\":3,\"n_head\":2,\"n_positions\":40," \
	"\"vocab_size\":37}"
#define QWEN2 "{\"model_type\":\"qwen2\",\"hidden_size\":20,\"num_hidden_layers\":3," \
	"\"num_attention_heads\":5,\"num_key_value_heads\":1,\"head_dim\":6,\"intermediate_size\":33," \
	"\"vocab_size\":301,\"tie_word_embeddings\":true,\"rope_theta\":1e4," \
	"\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\"]}"
#define LLAMA "{\"model_type\":\"llama\",\"hidden_size\":16,\"num_hidden_layers\":2," \
	"\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":24," \
	"\"vocab_size\":65,\"torch_dtype\":\"bfloat16\"}"

static const char *const configs[] = { GPT2, QWEN2, LLAMA };

static struct model *
make(const char *text, enum dtype type, uint64_t seed)
{
	json_t *json = json_loads(text, 0, NULL);
	struct config c;
	struct model *m;

	if (config_parse(&c, json, why))
		die("%s", why);
	json_decref(json);
	m = model_new(&c, be, type);
	model_randomise(m, seed);
	return m;
}

/* Every parameter's numbers, one after the other, in f32. */
static float *
numbers(const struct model *m, size_t *n)
{
	float *x = NULL;
	int i;

	*n = 0;
	for (i = 0; i < m->nparams; i++) {
		const struct param *p = &m->params[i];
		const struct storage *s = &m->storage[p->storage];
		size_t count = (size_t)p->rows * (size_t)(p->columns ? p->columns : 1);

		x = mem_grow(x, *n + count, sizeof *x);
		if (s->matrix)
			be->weight_get(x + *n, DT_F32, s->matrix, p->row, p->rows, 0);
		else
			be->download(x + *n, *s->vector + p->row, count * sizeof *x);
		*n += count;
	}
	return x;
}

static int
equal(const struct model *a, const struct model *b)
{
	size_t n, k;
	float *x = numbers(a, &n), *y = numbers(b, &k);
	int same = n == k && !memcmp(x, y, n * sizeof *x);

	free(x);
	free(y);
	return same;
}

static struct model *
reopen(enum dtype type)
{
	struct model *m = model_open(directory, be, type, why);

	if (!m)
		printf("# %s\n", why);
	return m;
}

static int
has(const char *name)
{
	char *path = file_join(directory, name);
	int there = file_exists(path);

	free(path);
	return there;
}

static void
check_round_trip(int family, enum dtype type)
{
	struct model *m = make(configs[family], type, 7), *back;
	char *text, *again;

	model_save(m, directory, NULL, type);
	back = reopen(DT_NONE);
	ok(back && back->type == type && back->nparams == m->nparams && equal(m, back) &&
	    back->config.dtype == type && back->config.hidden == m->config.hidden,
	    "a %s model in %s comes back as it was", json_string_value(json_object_get(m->config.json, "model_type")),
	    dtype_name(type));
	ok(back->config.tied ? back->head.data == back->embed.data : back->head.data != back->embed.data,
	    "its head is %s", m->config.tied ? "the embedding" : "its own");
	text = model_digest(directory);
	model_save(back, directory, directory, type);
	again = model_digest(directory);
	ok(!strcmp(text, again), "written again, it is the same on disk");
	free(text);
	free(again);
	model_free(m);
	model_free(back);
}

static void
check_types(void)
{
	struct model *m = make(configs[0], DT_F32, 3), *half, *narrow;
	size_t n, i, wrong = 0;
	float *x, *y;

	model_save(m, directory, NULL, DT_F16);
	half = reopen(DT_NONE);
	ok(half && half->type == DT_F32, "f16 is computed as f32");
	x = numbers(m, &n);
	y = numbers(half, &n);
	for (i = 0; i < n; i++)
		wrong += y[i] != f16_to_f32(f32_to_f16(x[i]));
	ok(wrong == 0, "each of %zu numbers was rounded to f16 and widened", n);
	free(y);
	model_save(m, directory, NULL, DT_F32);
	narrow = reopen(DT_BF16);
	ok(narrow && narrow->type == DT_BF16 && narrow->blocks[0].up.b[1] == m->blocks[0].up.b[1],
	    "a type can be asked for; vectors stay f32");
	y = numbers(narrow, &n);
	for (i = wrong = 0; i < (size_t)m->embed.n * (size_t)m->embed.k; i++)
		wrong += y[i] != bf16_to_f32(f32_to_bf16(x[i]));
	ok(wrong == 0, "matrices are rounded to it");
	free(x);
	free(y);
	model_free(m);
	model_free(half);
	model_free(narrow);
}

/* What to do to the directory's tensors, by name. */
struct edit {
	const char *drop, *add, *transpose, *nan;
	const char *strip;		/* a first word, off every name that has it */
	const char *copy;		/* this tensor once more, as lm_head.weight */
};

static void
edit_tensor(struct safetensor *t, const struct edit *e)
{
	size_t n = e->strip ? strlen(e->strip) : 0;
	uint64_t rows = t->shape[0];

	if (e->transpose && !strcmp(t->name, e->transpose)) {
		t->shape[0] = t->shape[1];
		t->shape[1] = rows;
	}
	t->name = mem_string(n && !strncmp(t->name, e->strip, n) ? t->name + n : t->name);
}

static void
rewrite(const struct edit *e)
{
	static const unsigned char byte[1], nan[4] = { 0xff, 0xff, 0xff, 0xff };
	struct safetensors *st = safetensors_open_model(directory, why);
	struct safetensor *t = mem_zero((size_t)st->count + 2, sizeof *t);
	char *path = file_join(directory, "model.safetensors");
	struct safetensors_writer *w;
	int i, n = 0;

	if (e->add)
		t[n++] = (struct safetensor){ .name = mem_string(e->add), .type = DT_U8, .rank = 1, .shape = { 1 },
		    .data = byte, .bytes = 1 };
	for (i = 0; i < st->count; i++)
		if (!e->drop || strcmp(st->tensors[i].name, e->drop))
			t[n++] = st->tensors[i];
	for (i = e->add != NULL; i < n; i++)
		edit_tensor(&t[i], e);
	if (e->copy) {
		t[n] = *safetensors_find(st, e->copy);
		t[n++].name = mem_string("lm_head.weight");
	}
	w = safetensors_create(path, t, n, NULL);
	for (i = 0; i < n; i++) {
		int bad = e->nan && !strcmp(t[i].name, e->nan);

		safetensors_put(w, t[i].data, t[i].bytes - (bad ? 4 : 0));
		if (bad)
			safetensors_put(w, nan, 4);
		free(t[i].name);
	}
	safetensors_finish(w);
	safetensors_close(st);
	free(t);
	free(path);
}

static void
check_odd_files(int family, const char *strip, const char *buffer)
{
	struct model *m = make(configs[family], DT_F32, 5), *back;
	struct edit edit = { .strip = strip };

	model_save(m, directory, NULL, DT_F32);
	rewrite(&edit);
	back = reopen(DT_NONE);
	ok(back && equal(m, back), "a base model, without '%s', is read", strip);
	model_free(back);
	edit = (struct edit){ .add = buffer };
	rewrite(&edit);
	back = reopen(DT_NONE);
	ok(back && equal(m, back), "'%s' is ignored, and unaligned numbers are read", buffer);
	model_free(back);
	model_free(m);
}

static void
check_stored_twice(void)
{
	struct model *m = make(configs[1], DT_F32, 5), *back;
	struct edit edit = { .copy = "model.embed_tokens.weight" };

	model_save(m, directory, NULL, DT_F32);
	rewrite(&edit);
	back = reopen(DT_NONE);
	ok(back && equal(m, back) && back->head.data == back->embed.data,
	    "a tied head that is stored too is read as tied, if it is the embedding");
	model_free(back);
	model_free(m);
}

/* Each is refused by a message that names the tensor. */
static void
check_refusals(void)
{
	static const struct { int family; struct edit edit; const char *word; } bad[] = {
		{ 0, { .drop = "transformer.ln_f.weight" }, "ln_f.weight' is missing" },
		{ 0, { .transpose = "transformer.h.1.attn.c_attn.weight" }, "h.1.attn.c_attn.weight' has shape [36, 12]" },
		{ 0, { .nan = "transformer.h.2.mlp.c_proj.bias" }, "h.2.mlp.c_proj.bias' is not finite" },
		{ 0, { .nan = "transformer.h.2.mlp.c_proj.weight" }, "h.2.mlp.c_proj.weight' is not finite" },
		{ 0, { .add = "transformer.h.3.ln_1.weight" }, "h.3.ln_1.weight' would not be used" },
		{ 0, { .add = "transformer.h.0.attn.bias2" }, "attn.bias2' would not be used" },
		{ 1, { .drop = "model.layers.2.self_attn.v_proj.bias" }, "v_proj.bias' is missing" },
		{ 1, { .transpose = "model.layers.1.mlp.up_proj.weight" }, "up_proj.weight' has shape [20, 33]" },
		{ 1, { .nan = "model.embed_tokens.weight" }, "embed_tokens.weight' is not finite" },
		{ 1, { .add = "lm_head.weight" }, "lm_head.weight' is not the embedding" },
		{ 1, { .add = "model.layers.0.self_attn.q_norm.weight" }, "q_norm.weight' would not be used" },
		{ 1, { .drop = "model.norm.weight", .add = "model.norm.weight" }, "norm.weight' is of type U8" },
		{ 2, { .drop = "lm_head.weight" }, "lm_head.weight' is missing" },
		{ 2, { .add = "model.layers.0.self_attn.q_proj.bias" }, "q_proj.bias' would not be used" },
	};
	struct model *m;
	size_t i;

	for (i = 0; i < sizeof bad / sizeof *bad; i++) {
		m = make(configs[bad[i].family], DT_F32, 5);
		model_save(m, directory, NULL, DT_F32);
		model_free(m);
		rewrite(&bad[i].edit);
		m = model_open(directory, be, DT_NONE, why);
		ok(!m && strstr(why, bad[i].word), "refused: %s", why);
		if (m)
			model_free(m);
	}
}

static void
check_shards(void)
{
	struct model *m = make(configs[1], DT_F32, 11), *back;
	char *one, *many;

	model_save(m, directory, NULL, DT_F32);
	one = model_digest(directory);
	model_shard = 10000;
	model_save(m, directory, NULL, DT_F32);
	model_shard = 5000000000;
	ok(!has("model.safetensors") && has("model.safetensors.index.json") &&
	    has("model-00001-of-00006.safetensors") && has("model-00006-of-00006.safetensors"),
	    "a large model is cut into files of at most so many bytes");
	back = reopen(DT_NONE);
	ok(back && equal(m, back), "they are read as one model");
	many = model_digest(directory);
	ok(!strcmp(one, many), "and are the same on disk to the digest");
	model_free(back);
	model_free(m);
	free(one);
	free(many);
}

static void
check_digests(void)
{
	char *all[3], *head[3];
	struct model *m;
	int i;

	for (i = 0; i < 3; i++) {
		m = make(configs[2], DT_F32, 11);
		if (i == 1)
			m->final.w[3] = 2;
		if (i == 2)
			be->weight_put(&m->head, 64, 1, m->final.w, DT_F32, 0);
		model_save(m, directory, NULL, DT_F32);
		model_free(m);
		all[i] = model_digest(directory);
		head[i] = model_head_digest(directory);
	}
	ok(strlen(all[0]) == 32 && strcmp(all[0], all[1]) && strcmp(all[0], all[2]) && strcmp(all[1], all[2]),
	    "one number changes the digest of a model");
	ok(!strcmp(head[0], head[1]) && strcmp(head[0], head[2]), "and the head's only when it is the head's");
	for (i = 0; i < 3; i++) {
		free(all[i]);
		free(head[i]);
	}
}

static void
check_heads(void)
{
	int family;

	for (family = 0; family < 3; family++) {
		struct model *m = make(configs[family], DT_F32, 2), *head;
		size_t n = (size_t)m->head.n * (size_t)m->head.k;
		float *x = mem_alloc(n * sizeof *x), *y = mem_alloc(n * sizeof *y);

		model_save(m, directory, NULL, DT_F32);
		head = model_load_head(directory, be, DT_NONE);
		be->weight_get(x, DT_F32, &m->head, 0, m->head.n, 0);
		be->weight_get(y, DT_F32, &head->head, 0, head->head.n, 0);
		ok(!memcmp(x, y, n * sizeof *x) && head->nparams == 1 && !head->blocks && !head->embed.data,
		    "the head can be read alone, %s", m->config.tied ? "tied" : "untied");
		free(x);
		free(y);
		model_free(m);
		model_free(head);
	}
}

static void
check_random(void)
{
	struct model *a = make(configs[0], DT_F32, 1), *b = make(configs[0], DT_F32, 1), *c = make(configs[0], DT_F32, 2);
	const struct block *block = &a->blocks[1];
	size_t n = (size_t)block->up.w.n * (size_t)block->up.w.k, i;
	float *x = mem_alloc(n * sizeof *x);
	double up = 0, down = 0, mean = 0;

	ok(equal(a, b) && !equal(a, c), "a seed makes the weights, another makes others");
	be->weight_get(x, DT_F32, &block->up.w, 0, block->up.w.n, 0);
	for (i = 0; i < n; i++) {
		mean += (double)x[i] / (double)n;
		up += (double)x[i] * (double)x[i] / (double)n;
	}
	be->weight_get(x, DT_F32, &block->down.w, 0, block->down.w.n, 0);
	for (i = 0; i < n; i++)
		down += (double)x[i] * (double)x[i] / (double)n;
	/* 576 numbers: the error of a deviation is 1 / sqrt(2 n) = 3 %, and 4 of those are allowed */
	ok(fabs(sqrt(up) / 0.02 - 1) < 0.12 && fabs(mean) < 4 * 0.02 / 24, "matrices have the deviation 0.02, mean 0");
	ok(fabs(sqrt(down) / (0.02 / sqrt(6)) - 1) < 0.12, "GPT-2's projections 1/sqrt(2 layers) of it");
	ok(block->norm1.w[11] == 1 && block->norm1.b[11] == 0 && a->final.w[0] == 1 && block->qkv.b[35] == 0,
	    "norms are 1, biases 0");
	free(x);
	model_free(a);
	model_free(b);
	model_free(c);
}

static int
same_weights(const struct weight *a, const struct weight *b)
{
	size_t n = (size_t)a->n * (size_t)a->k;
	float *x = mem_alloc(n * sizeof *x), *y = mem_alloc(n * sizeof *y);
	int same = a->n == b->n && a->k == b->k;

	be->weight_get(x, DT_F32, a, 0, a->n, 0);
	be->weight_get(y, DT_F32, b, 0, a->n, 0);
	same = same && !memcmp(x, y, n * sizeof *x);
	free(x);
	free(y);
	return same;
}

static void
check_layers(void)
{
	static const int keep[] = { 0, 2 };
	struct model *m = make(configs[1], DT_F32, 4), *all = make(configs[1], DT_F32, 4), *back;
	const struct weight *a, *b;

	model_keep_layers(m, keep, 2);
	model_save(m, directory, NULL, DT_F32);
	back = reopen(DT_NONE);
	ok(back && back->config.layers == 2 && equal(m, back), "a model of fewer layers is a model");
	a = &back->blocks[1].up.w;
	b = &all->blocks[2].up.w;
	ok(same_weights(a, b) && same_weights(&back->embed, &all->embed),
	    "its second layer was the third");
	ok(json_array_size(json_object_get(back->config.json, "layer_types")) == 2, "its config.json says so");
	model_free(m);
	model_free(all);
	model_free(back);
}

static void
check_rope(void)
{
	struct model *m = make(configs[1], DT_F32, 4), *none = make(configs[0], DT_F32, 4);
	const float *pair;

	model_rope(m, 10);
	model_rope(m, 5);
	ok(m->rope_positions == 10, "a table of angles is kept when it reaches far enough");
	model_rope(m, 100);
	pair = m->rope + (99 * 3 + 2) * 2;
	ok(m->rope_positions >= 100 && m->rope[0] == 1 && m->rope[1] == 0 &&
	    fabs((double)pair[0] - cos(99 * pow(1e4, -4.0 / 6))) < 1e-7 &&
	    fabs((double)pair[1] - sin(99 * pow(1e4, -4.0 / 6))) < 1e-7, "it grows, and holds cosine and sine");
	model_rope(none, 40);
	ok(!none->rope, "GPT-2 has none");
	model_free(m);
	model_free(none);
}

static void
check_files(void)
{
	struct model *m = make(configs[0], DT_F32, 4);
	char *path = file_join(directory, "vocab.json"), *left = file_join(directory, "left"), *config;
	json_t *json;

	model_save(m, directory, NULL, DT_F32);
	json_write(path, m->config.json);
	json_write(left, m->config.json);
	model_save(m, directory, directory, DT_BF16);
	ok(has("vocab.json") && !has("left"), "the tokenizer's files are copied, others are not");
	config = file_join(directory, "config.json");
	json = json_read(config, why);
	ok(!strcmp(json_string_value(json_object_get(json, "torch_dtype")), "bfloat16") &&
	    json_integer_value(json_object_get(json, "n_embd")) == 12 &&
	    json_object_size(json) == json_object_size(m->config.json) + 1, "config.json has its own keys, and the type");
	json_decref(json);
	free(path);
	free(left);
	free(config);
	model_free(m);
}

static int
remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st, (void)kind, (void)ftw;
	return remove(path);
}

int
main(void)
{
	int family;

	if (!mkdtemp(directory))
		die("cannot make '%s':", directory);
	be = &backend_ref;		/* files are the same for all, and its memory may be poked at */
	for (family = 0; family < 3; family++) {
		check_round_trip(family, DT_F32);
		check_round_trip(family, DT_BF16);
	}
	check_types();
	check_odd_files(0, "transformer.", "h.0.attn.bias");
	check_odd_files(1, "model.", "model.layers.0.self_attn.rotary_emb.inv_freq");
	check_stored_twice();
	check_refusals();
	check_shards();
	check_digests();
	check_heads();
	check_random();
	check_layers();
	check_rope();
	check_files();
	ok(!nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS), "the directory can go");
	return done();
}
