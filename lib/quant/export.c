/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/model/model.h"
#include "lib/quant/checkpoint.h"
#include "lib/quant/export.h"
#include "lib/text/chat.h"
#include "lib/bpe/scan.h"
#include "lib/text/tokenizer_list.h"

/* What a parameter is called there; the layer's number goes between "blk." and the rest. */
static const struct { const char *ours, *theirs; } names[] = {
	{ "model.embed_tokens", "token_embd" }, { "model.norm", "output_norm" }, { "lm_head", "output" },
	{ "transformer.wte", "token_embd" }, { "transformer.wpe", "position_embd" }, { "transformer.ln_f", "output_norm" },
	{ "input_layernorm", "attn_norm" }, { "post_attention_layernorm", "ffn_norm" },
	{ "self_attn.q_proj", "attn_q" }, { "self_attn.k_proj", "attn_k" }, { "self_attn.v_proj", "attn_v" },
	{ "self_attn.o_proj", "attn_output" }, { "mlp.gate_proj", "ffn_gate" }, { "mlp.up_proj", "ffn_up" },
	{ "mlp.down_proj", "ffn_down" },
	{ "ln_1", "attn_norm" }, { "ln_2", "ffn_norm" }, { "attn.c_attn", "attn_qkv" }, { "attn.c_proj", "attn_output" },
	{ "mlp.c_fc", "ffn_up" }, { "mlp.c_proj", "ffn_down" },
};

struct export {
	struct model *m;
	struct safetensors *st;
	struct quant_config quant;
	enum export_type type;
	struct gguf *g;
	int bare;		/* there is no tokenizer */
	char *why;
};

/* "model.layers.3.mlp.up_proj", without the ".weight" or ".bias" that `kind` is then. To be freed. */
static char *
stem(const char *name, const char **kind)
{
	char *s = mem_string(name), *dot = strrchr(s, '.');

	*kind = name + (dot - s);
	*dot = 0;
	return s;
}

/* To be freed. */
static char *
their_name(const char *name)
{
	const char *kind, *rest, *layers[] = { "model.layers.", "transformer.h." };
	char *ours = stem(name, &kind), *theirs = NULL, *end;
	long layer = -1;
	size_t i;

	for (rest = ours, i = 0; i < 2; i++)
		if (!strncmp(ours, layers[i], strlen(layers[i]))) {
			layer = strtol(ours + strlen(layers[i]), &end, 10);
			rest = end + 1;
		}
	for (i = 0; i < sizeof names / sizeof *names && !theirs; i++)
		if (!strcmp(rest, names[i].ours))
			theirs = layer < 0 ? mem_format("%s%s", names[i].theirs, kind) :
			    mem_format("blk.%ld.%s%s", layer, names[i].theirs, kind);
	free(ours);
	return theirs;
}

/* A layer that becomes Q4_0: its name, to be freed; NULL of any other parameter. */
static char *
quantised_layer(const struct export *e, const struct param *p)
{
	const char *kind;
	char *layer;

	if (e->type != EXPORT_Q4_0 || !p->columns)
		return NULL;
	layer = stem(p->name, &kind);
	if (quantised_lies(e->st, layer))
		return layer;
	free(layer);
	return NULL;
}

static enum gguf_type
tensor_type(const struct export *e, const struct param *p)
{
	char *layer;

	if (!p->columns || e->m->storage[p->storage].matrix == &e->m->position)
		return GGUF_F32;
	if (e->type == EXPORT_BF16)
		return GGUF_BF16;
	if (e->type == EXPORT_Q8_0 && p->columns % GGUF_BLOCK == 0)
		return GGUF_Q8_0;
	if (!(layer = quantised_layer(e, p)))
		return GGUF_F16;
	free(layer);
	return GGUF_Q4_0;
}

/* Heads whose rows Llama's rotation wants side by side that Hugging Face has half a head apart; 0: none. */
static int
permuted_heads(const struct export *e, const char *name)
{
	const struct config *c = &e->m->config;

	if (c->family != FAMILY_LLAMA)
		return 0;
	return strstr(name, ".q_proj.") ? c->heads : strstr(name, ".k_proj.") ? c->kv_heads : 0;
}

/* The row that becomes row `to`. */
static int
source_row(int heads, int d, int to)
{
	return heads ? to / d * d + to % 2 * (d / 2) + to % d / 2 : to;
}

static int
put_rows(struct export *e, const struct param *p, enum gguf_type type, const float *x, int k)
{
	int heads = permuted_heads(e, p->name), r;
	size_t n = (size_t)k, bytes = p->columns ? gguf_bytes(type, n) : gguf_bytes(type, 1), i;
	unsigned char *out = mem_alloc(bytes);

	for (r = 0; r < p->rows; r++) {
		const float *row = x + (size_t)source_row(heads, e->m->config.d, r) * n;

		for (i = 0; type == GGUF_F16 && i < n; i++)
			if (fabsf(row[i]) >= 65520) {
				free(out);
				return reason(e->why, "'%s' has %g, which is no f16; bf16 holds it", p->name, (double)row[i]);
			}
		gguf_convert(out, type, row, n);
		gguf_put(e->g, out, bytes);
	}
	free(out);
	return 0;
}

/* The layer as it is in the file, if that is a Q4_0; -1 and the reason. */
static int
read_layer(const struct export *e, const struct param *p, const char *layer, struct quantised *l)
{
	int size = e->quant.group == -1 ? p->columns : e->quant.group;
	size_t i, count;

	if (e->quant.bits != 4)
		return reason(e->why, "Q4_0 has 4 bits, the model %d; --type q8_0 or f16 holds it", e->quant.bits);
	if (quantised_read(l, e->st, layer, &e->quant, p->rows, p->columns, e->why))
		return -1;
	count = (size_t)l->groups * (size_t)l->n;
	for (i = 0; i < count && l->zeros[i] == 8 && f16_to_f32(f32_to_f16(l->scales[i])) == l->scales[i]; i++)
		;
	if (i == count && size % GGUF_BLOCK == 0 && quantised_in_order(l, size))
		return 0;
	quantised_free(l);
	return reason(e->why, "'%s' is no exact Q4_0: that is symmetric, in groups of neighbours by multiples of 32; "
	    "--type q8_0 or f16 holds it", layer);
}

static void
put_layer(struct export *e, const struct param *p, const struct quantised *l)
{
	int heads = permuted_heads(e, p->name), r, i;
	size_t bytes = gguf_bytes(GGUF_Q4_0, (size_t)l->k);
	uint8_t *codes = mem_alloc((size_t)l->k);
	uint16_t *scales = mem_alloc((size_t)l->k / GGUF_BLOCK * sizeof *scales);
	unsigned char *out = mem_alloc(bytes);

	for (r = 0; r < l->n; r++) {
		int o = source_row(heads, e->m->config.d, r);

		for (i = 0; i < l->k; i++)
			codes[i] = l->q[(size_t)i * (size_t)l->n + (size_t)o];
		for (i = 0; i < l->k; i += GGUF_BLOCK)
			scales[i / GGUF_BLOCK] = f32_to_f16(l->scales[(size_t)l->group[i] * (size_t)l->n + (size_t)o]);
		gguf_q4_0(out, codes, scales, (size_t)l->k);
		gguf_put(e->g, out, bytes);
	}
	free(codes);
	free(scales);
	free(out);
}

/* All numbers of a parameter, row-major; to be freed. */
static float *
numbers(const struct model *m, const struct param *p)
{
	const struct storage *s = &m->storage[p->storage];
	float *x = mem_alloc(mem_mul((size_t)p->rows * (size_t)(p->columns ? p->columns : 1), sizeof *x));

	if (s->matrix)
		m->be->weight_get(x, DT_F32, s->matrix, p->row, p->rows, 0);
	else
		m->be->download(x, *s->vector + p->row, (size_t)p->rows * sizeof *x);
	return x;
}

static int
put_param(struct export *e, const struct param *p)
{
	char *layer = quantised_layer(e, p);
	struct quantised l;
	float *x;
	int rc;

	if (layer) {
		if (!(rc = read_layer(e, p, layer, &l))) {
			put_layer(e, p, &l);
			quantised_free(&l);
		}
	} else {
		x = numbers(e->m, p);
		rc = put_rows(e, p, tensor_type(e, p), x, p->columns ? p->columns : 1);
		free(x);
	}
	free(layer);
	return rc;
}

/* The output of GPT-2 is the embedding once more: old readers want it. */
static const struct param *
copied_output(const struct export *e)
{
	return e->m->config.family == FAMILY_GPT2 && e->m->config.tied ? e->m->params : NULL;
}

static void
describe(struct export *e, const struct param *p, const char *name)
{
	enum gguf_type type = tensor_type(e, p);

	if (p->columns)
		gguf_tensor(e->g, name, type, (uint64_t)p->columns, (uint64_t)p->rows);
	else
		gguf_tensor(e->g, name, type, (uint64_t)p->rows, 0);
}

static int
tensors(struct export *e)
{
	const struct model *m = e->m;
	const struct param *output = copied_output(e);
	int i, rc = 0;

	for (i = 0; i < m->nparams; i++) {
		char *name = their_name(m->params[i].name);

		describe(e, &m->params[i], name);
		free(name);
	}
	if (output)
		describe(e, output, "output.weight");
	for (i = 0; i < m->nparams && !rc; i++)
		rc = put_param(e, &m->params[i]);
	return rc || !output ? rc : put_param(e, output);
}

/* Metadata */

static const char *
architecture(const struct config *c)
{
	return c->family == FAMILY_GPT2 ? "gpt2" : c->family == FAMILY_QWEN2 ? "qwen2" : "llama";
}

/* "qwen2.block_count" */
static const char *
key(const struct config *c, const char *name)
{
	static char text[80];

	snprintf(text, sizeof text, "%s.%s", architecture(c), name);
	return text;
}

static void
shape(struct gguf *g, const struct config *c)
{
	int gpt2 = c->family == FAMILY_GPT2, llama = c->family == FAMILY_LLAMA;

	gguf_string(g, "general.architecture", architecture(c), strlen(architecture(c)));
	gguf_u32(g, key(c, "block_count"), (uint32_t)c->layers);
	gguf_u32(g, key(c, "context_length"), (uint32_t)c->positions);
	gguf_u32(g, key(c, "embedding_length"), (uint32_t)c->hidden);
	gguf_u32(g, key(c, "feed_forward_length"), (uint32_t)c->ffn);
	gguf_u32(g, key(c, "attention.head_count"), (uint32_t)c->heads);
	gguf_f32(g, key(c, gpt2 ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"), c->norm_eps);
	if (gpt2)
		return;
	gguf_u32(g, key(c, "attention.head_count_kv"), (uint32_t)c->kv_heads);
	gguf_f32(g, key(c, "rope.freq_base"), (float)c->rope_theta);
	if (c->d * c->heads != c->hidden) {
		gguf_u32(g, key(c, "attention.key_length"), (uint32_t)c->d);
		gguf_u32(g, key(c, "attention.value_length"), (uint32_t)c->d);
	}
	if (llama) {
		gguf_u32(g, key(c, "vocab_size"), (uint32_t)c->vocab);
		gguf_u32(g, key(c, "rope.dimension_count"), (uint32_t)c->d);
	}
}

static uint32_t
file_type(enum export_type type)
{
	return type == EXPORT_F16 ? 1 : type == EXPORT_BF16 ? 32 : type == EXPORT_Q8_0 ? 7 : 2;
}

/* What llama.cpp calls the pattern; NULL where it has no name that is known here. */
static const char *
pattern_name(const char *pattern)
{
	static const char llama[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
	    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

	return !strcmp(pattern, scan_qwen2) ? "qwen2" : !strcmp(pattern, scan_gpt2) ? "gpt-2" :
	    !strcmp(pattern, llama) ? "llama-bpe" : NULL;
}

static void
vocabulary(struct gguf *g, const struct tokenizer *t, int vocab)
{
	static const int32_t types[] = { [TOKEN_NONE] = 5, [TOKEN_NORMAL] = 1, [TOKEN_SPECIAL] = 3, [TOKEN_ADDED] = 4 };
	int32_t *type = mem_zero((size_t)vocab, sizeof *type), id;
	struct text token = { .n = 0 };
	size_t r, merges = tokenizer_merges(t);

	gguf_strings(g, "tokenizer.ggml.tokens", (uint64_t)vocab);
	for (id = 0; id < vocab; id++, token.n = 0) {
		enum token_kind kind = tokenizer_token(t, id, &token);
		char unused[32];

		snprintf(unused, sizeof unused, "[PAD%d]", id);
		if (kind == TOKEN_NONE)
			text_puts(&token, unused);
		type[id] = types[kind];
		gguf_strings_item(g, token.s, token.n);
	}
	gguf_i32s(g, "tokenizer.ggml.token_type", (uint64_t)vocab);
	for (id = 0; id < vocab; id++)
		gguf_i32s_item(g, type[id]);
	gguf_strings(g, "tokenizer.ggml.merges", merges);
	for (r = 0; r < merges; r++, token.n = 0) {
		tokenizer_merge(t, r, &token);
		gguf_strings_item(g, token.s, token.n);
	}
	free(token.s);
	free(type);
}

/* A token that tokenizer_config.json names, as a string or an object with its content, or that config.json numbers. */
static int32_t
special_id(const struct tokenizer *t, const json_t *config, const char *what)
{
	char name[32], number[32];
	const json_t *named, *id;

	snprintf(name, sizeof name, "%s_token", what);
	snprintf(number, sizeof number, "%s_token_id", what);
	named = json_object_get(tokenizer_config(t), name);
	if (json_is_object(named))
		named = json_object_get(named, "content");
	if (json_is_string(named))
		return tokenizer_id(t, json_string_value(named));
	id = json_object_get(config, number);
	return json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) <= INT32_MAX ?
	    (int32_t)json_integer_value(id) : -1;
}

static void
special_tokens(struct gguf *g, const struct tokenizer *t, const struct config *c)
{
	static const struct { const char *ours, *theirs; } special[] = {
		{ "bos", "bos" }, { "eos", "eos" }, { "unk", "unknown" }, { "sep", "seperator" }, { "pad", "padding" },
	};
	static const char *const flags[] = { "add_bos_token", "add_eos_token" };
	char name[64];
	size_t i;

	for (i = 0; i < sizeof special / sizeof *special; i++) {
		int32_t id = special_id(t, c->json, special[i].ours);

		snprintf(name, sizeof name, "tokenizer.ggml.%s_token_id", special[i].theirs);
		if (id >= 0 && id < c->vocab)
			gguf_u32(g, name, (uint32_t)id);
	}
	for (i = 0; i < sizeof flags / sizeof *flags; i++) {
		const json_t *flag = json_object_get(tokenizer_config(t), flags[i]);

		snprintf(name, sizeof name, "tokenizer.ggml.%s", flags[i]);
		if (json_is_boolean(flag))
			gguf_bool(g, name, json_is_true(flag));
	}
}

static int
tokenizer(struct export *e, const char *directory)
{
	char inner[REASON_MAX], *template;
	struct tokenizer *t = tokenizer_open(directory, e->why);
	const char *pre = t ? pattern_name(tokenizer_pattern(t)) : NULL;
	size_t n;

	if (!t)
		return -1;
	if (!pre || tokenizer_vocab(t) > e->m->config.vocab) {
		reason(e->why, !pre ? "llama.cpp has no name for the pattern that the tokenizer of '%s' cuts text by" :
		    "the tokenizer of '%s' has more ids than the model", directory);
		tokenizer_close(t);
		return -1;
	}
	gguf_string(e->g, "tokenizer.ggml.model", "gpt2", 4);
	gguf_string(e->g, "tokenizer.ggml.pre", pre, strlen(pre));
	vocabulary(e->g, t, e->m->config.vocab);
	special_tokens(e->g, t, &e->m->config);
	if ((template = chat_template(directory, &n, inner)))
		gguf_string(e->g, "tokenizer.chat_template", template, n);
	free(template);
	tokenizer_close(t);
	return 0;
}

static int
has_tokenizer(const char *directory)
{
	static const char *const files[] = { "tokenizer.json", "vocab.json" };
	int i, has = 0;

	for (i = 0; i < 2; i++) {
		char *path = file_join(directory, files[i]);

		has |= file_exists(path);
		free(path);
	}
	return has;
}

static int
write_all(struct export *e, const char *directory)
{
	const struct config *c = &e->m->config;

	shape(e->g, c);
	gguf_u32(e->g, "general.file_type", file_type(e->type));
	gguf_u32(e->g, "general.quantization_version", 2);
	if (has_tokenizer(directory)) {
		if (tokenizer(e, directory))
			return -1;
	} else {
		e->bare = 1;
		gguf_string(e->g, "tokenizer.ggml.model", "no_vocab", 8);
		if (c->family != FAMILY_LLAMA)
			gguf_u32(e->g, key(c, "vocab_size"), (uint32_t)c->vocab);
	}
	return tensors(e);
}

static enum export_type
stored_type(const struct export *e)
{
	return e->quant.bits ? EXPORT_Q4_0 : e->m->type == DT_BF16 ? EXPORT_BF16 : EXPORT_F16;
}

int
export_gguf(const char *directory, const char *path, enum export_type type, char *why)
{
	struct export e = { .type = type, .why = why };
	int rc = -1;

	if (!(e.m = model_open(directory, &backend_ref, DT_NONE, why)))
		return -1;
	if (!quant_config_read(&e.quant, directory, why) && (e.st = safetensors_open_model(directory, why))) {
		if (type == EXPORT_STORED)
			e.type = stored_type(&e);
		if (e.type == EXPORT_Q4_0 && !e.quant.bits)
			rc = reason(why, "'%s' is not quantised: q4_0 is written from what gptq made", directory);
		else {
			e.g = gguf_create(path);
			rc = write_all(&e, directory);
			(rc ? gguf_discard : gguf_finish)(e.g);
		}
		safetensors_close(e.st);
	}
	model_free(e.m);
	return rc ? rc : e.bare;
}
