/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/model/config.h"

/* Larger than any model there is; small enough that no size computed from them overflows. */
enum { MAX_LAYERS = 1 << 12, MAX_WIDTH = 1 << 22, MAX_VOCAB = 1 << 24, MAX_POSITIONS = 1 << 28 };

enum { REQUIRED = -1 };

/* Reads keys one by one; the first failure stays, and what is read after it does not count. */
struct reader {
	const json_t *json;
	char *why;
	int failed;
};

__attribute__((format(printf, 2, 3))) static void
fail(struct reader *r, const char *fmt, ...)
{
	char text[REASON_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (!r->failed)
		r->failed = reason(r->why, "%s", text);
}

/* NULL where the key is absent; null is absent. */
static const json_t *
get(const struct reader *r, const char *key)
{
	const json_t *value = json_object_get(r->json, key);

	return json_is_null(value) ? NULL : value;
}

static int
integer(struct reader *r, const char *key, int fallback, int max)
{
	const json_t *value = get(r, key);
	json_int_t n = json_integer_value(value);

	if (!value && fallback == REQUIRED)
		fail(r, "%s is missing", key);
	if (!value)
		return fallback;
	if (!json_is_integer(value))
		fail(r, "%s is no integer", key);
	else if (n < 1 || n > max)
		fail(r, "%s is %lld, not from 1 to %d", key, (long long)n, max);
	return r->failed ? 1 : (int)n;
}

static double
real(struct reader *r, const char *key, double fallback, double min, double max)
{
	const json_t *value = get(r, key);
	double x = json_number_value(value);

	if (!value)
		return fallback;
	if (!json_is_number(value))
		fail(r, "%s is no number", key);
	else if (!(x >= min && x <= max))
		fail(r, "%s is %g, not from %g to %g", key, x, min, max);
	return r->failed ? fallback : x;
}

static int
flag(struct reader *r, const char *key, int fallback)
{
	const json_t *value = get(r, key);

	if (!value)
		return fallback;
	if (!json_is_boolean(value))
		fail(r, "%s is neither true nor false", key);
	return json_is_true(value);
}

/* A switch that must stand where it stands by default. */
static void
fixed(struct reader *r, const char *key, int must)
{
	if (flag(r, key, must) != must)
		fail(r, "%s %s is not computed here", key, must ? "false" : "true");
}

static const char *
word(struct reader *r, const char *key, const char *fallback)
{
	const json_t *value = get(r, key);

	if (!value)
		return fallback;
	if (!json_is_string(value))
		fail(r, "%s is no string", key);
	return json_is_string(value) ? json_string_value(value) : "";
}

static void
activation(struct reader *r, const char *key, const char *name, const char *alias)
{
	const char *w = word(r, key, name);

	if (strcmp(w, name) && strcmp(w, alias))
		fail(r, "%s is '%s'; only '%s' is computed here", key, w, name);
}

static void
gpt2(struct reader *r, struct config *c)
{
	c->hidden = integer(r, "n_embd", REQUIRED, MAX_WIDTH);
	c->layers = integer(r, "n_layer", REQUIRED, MAX_LAYERS);
	c->heads = c->kv_heads = integer(r, "n_head", REQUIRED, MAX_WIDTH);
	c->positions = integer(r, "n_positions", REQUIRED, MAX_WIDTH);
	c->ffn = integer(r, "n_inner", 4 * c->hidden, MAX_WIDTH);
	c->tied = flag(r, "tie_word_embeddings", 1);
	c->qkv_bias = 1;
	c->norm_eps = (float)real(r, "layer_norm_epsilon", 1e-5, 0, 1);
	c->embed_drop = (float)real(r, "embd_pdrop", 0.1, 0, 0.99);
	c->attention_drop = (float)real(r, "attn_pdrop", 0.1, 0, 0.99);
	c->residual_drop = (float)real(r, "resid_pdrop", 0.1, 0, 0.99);
	activation(r, "activation_function", "gelu_new", "gelu_pytorch_tanh");
	fixed(r, "scale_attn_weights", 1);
	fixed(r, "scale_attn_by_inverse_layer_idx", 0);
	fixed(r, "add_cross_attention", 0);
	if (!r->failed && c->hidden % c->heads)
		fail(r, "n_embd %d is no multiple of n_head %d", c->hidden, c->heads);
	c->d = c->hidden / c->heads;
}

/* rope_scaling of old files, rope_parameters of new ones; the second holds theta too. */
static void
rope(struct reader *r, struct config *c)
{
	static const char *const keys[] = { "rope_scaling", "rope_parameters" };
	size_t i;

	c->rope_theta = real(r, "rope_theta", 0, 1e-3, 1e15);
	for (i = 0; i < sizeof keys / sizeof *keys; i++) {
		const json_t *value = get(r, keys[i]);
		struct reader in = { value, r->why, r->failed };
		const char *type;
		double theta;

		if (!value)
			continue;
		if (!json_is_object(value)) {
			fail(r, "%s is no object", keys[i]);
			return;
		}
		type = word(&in, "rope_type", word(&in, "type", "default"));
		theta = real(&in, "rope_theta", c->rope_theta, 1e-3, 1e15);
		r->failed = in.failed;
		if (strcmp(type, "default"))
			fail(r, "%s of type '%s' is not computed here", keys[i], type);
		if (get(&in, "full_attention") || get(&in, "sliding_attention"))
			fail(r, "%s of each kind of layer is not computed here", keys[i]);
		if (real(&in, "partial_rotary_factor", 1, 0, 1e9) != 1)
			fail(r, "%s with a partial_rotary_factor is not computed here", keys[i]);
		if (c->rope_theta && theta != c->rope_theta)
			fail(r, "rope_theta is %g, and %g in %s", c->rope_theta, theta, keys[i]);
		c->rope_theta = theta;
	}
	if (real(r, "partial_rotary_factor", 1, 0, 1e9) != 1)
		fail(r, "a partial_rotary_factor is not computed here");
	if (!c->rope_theta)
		c->rope_theta = 10000;
}

/* Layers from max_window_layers on slide, unless layer_types says which. */
static void
sliding(struct reader *r, const struct config *c)
{
	const json_t *types = get(r, "layer_types"), *type;
	size_t i;

	json_array_foreach(types, i, type) {
		if (!json_is_string(type) || strcmp(json_string_value(type), "full_attention"))
			fail(r, "layer_types has '%s'; only 'full_attention' is computed here",
			    json_is_string(type) ? json_string_value(type) : "");
	}
	if (types && json_array_size(types) != (size_t)c->layers)
		fail(r, "layer_types is no list of num_hidden_layers %d words", c->layers);
	if (!types && c->family == FAMILY_QWEN2 && flag(r, "use_sliding_window", 0) &&
	    get(r, "sliding_window") && real(r, "max_window_layers", 28, 0, 1e15) < c->layers)
		fail(r, "a sliding_window is not computed here");
}

static void
llama(struct reader *r, struct config *c)
{
	c->hidden = integer(r, "hidden_size", REQUIRED, MAX_WIDTH);
	c->layers = integer(r, "num_hidden_layers", REQUIRED, MAX_LAYERS);
	c->heads = integer(r, "num_attention_heads", REQUIRED, MAX_WIDTH);
	c->kv_heads = integer(r, "num_key_value_heads", c->heads, MAX_WIDTH);
	c->ffn = integer(r, "intermediate_size", REQUIRED, MAX_WIDTH);
	c->positions = integer(r, "max_position_embeddings",
	    c->family == FAMILY_QWEN2 ? 32768 : 2048, MAX_POSITIONS);
	if (!r->failed && !get(r, "head_dim") && c->hidden % c->heads)
		fail(r, "hidden_size %d is no multiple of num_attention_heads %d", c->hidden,
		    c->heads);
	c->d = integer(r, "head_dim", c->heads ? c->hidden / c->heads : 0, 1 << 14);
	c->tied = flag(r, "tie_word_embeddings", 0);
	c->qkv_bias = c->family == FAMILY_QWEN2;
	c->norm_eps = (float)real(r, "rms_norm_eps", 1e-6, 0, 1);
	activation(r, "hidden_act", "silu", "swish");
	fixed(r, "attention_bias", 0);
	fixed(r, "mlp_bias", 0);
	fixed(r, "use_mrope", 0);
	if (!r->failed && c->heads % c->kv_heads)
		fail(r, "num_attention_heads %d is no multiple of num_key_value_heads %d", c->heads,
		    c->kv_heads);
	if (!r->failed && c->d % 2)
		fail(r, "head_dim %d is odd", c->d);
	if (!r->failed && (long)(c->heads + 2 * c->kv_heads) * c->d > MAX_WIDTH)
		fail(r, "num_attention_heads %d of head_dim %d are too wide", c->heads, c->d);
	rope(r, c);
	sliding(r, c);
}

static enum family
family(struct reader *r)
{
	static const char *const names[] = { "gpt2", "qwen2", "llama" };
	const char *type = word(r, "model_type", NULL);
	size_t i;

	for (i = 0; type && i < sizeof names / sizeof *names; i++)
		if (!strcmp(type, names[i]))
			return (enum family)i;
	if (type)
		fail(r, "model_type '%s' is not known, only gpt2, qwen2 and llama", type);
	else
		fail(r, "model_type is missing");
	return FAMILY_GPT2;
}

/* "bfloat16", or "torch.bfloat16" as old files have it. */
static enum dtype
dtype(struct reader *r)
{
	static const struct { const char *name; enum dtype type; } known[] = {
		{ "float32", DT_F32 }, { "bfloat16", DT_BF16 }, { "float16", DT_F16 },
	};
	const char *name = word(r, "dtype", word(r, "torch_dtype", "float32"));
	size_t i;

	if (!strncmp(name, "torch.", 6))
		name += 6;
	for (i = 0; i < sizeof known / sizeof *known; i++)
		if (!strcmp(name, known[i].name))
			return known[i].type;
	fail(r, "dtype '%s' is not known, only float32, bfloat16 and float16", name);
	return DT_F32;
}

int
config_parse(struct config *c, json_t *json, char *why)
{
	struct reader r = { json, why, 0 };

	memset(c, 0, sizeof *c);
	if (!json_is_object(json))
		return reason(why, "the configuration is no JSON object");
	c->family = family(&r);
	c->quantised = get(&r, "quantization_config") != NULL;
	c->vocab = integer(&r, "vocab_size", REQUIRED, MAX_VOCAB);
	c->init_range = (float)real(&r, "initializer_range", 0.02, 0, 100);
	c->dtype = dtype(&r);
	if (!r.failed)
		(c->family == FAMILY_GPT2 ? gpt2 : llama)(&r, c);
	if (r.failed)
		return -1;
	c->json = json_incref(json);
	return 0;
}

int
config_read(struct config *c, const char *path, char *why)
{
	char inner[REASON_MAX];
	json_t *json = json_read(path, why);
	int rc;

	if (!json)
		return -1;
	if ((rc = config_parse(c, json, inner)))
		reason(why, "'%s': %s", path, inner);
	json_decref(json);
	return rc;
}

void
config_free(struct config *c)
{
	json_decref(c->json);
	c->json = NULL;
}

const char *
config_layers_key(enum family family)
{
	return family == FAMILY_GPT2 ? "n_layer" : "num_hidden_layers";
}

/* A number or a list of numbers; null is none. */
static int
ids_of(const json_t *value, int *ids, int max, char *why)
{
	size_t i, n = json_is_array(value) ? json_array_size(value) : value && !json_is_null(value);

	if (n > (size_t)max)
		return reason(why, "eos_token_id lists %zu ids, more than %d", n, max);
	for (i = 0; i < n; i++) {
		const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;

		if (!json_is_integer(id) || json_integer_value(id) < 0 ||
		    json_integer_value(id) > MAX_VOCAB)
			return reason(why, "eos_token_id is no id and no list of ids");
		ids[i] = (int)json_integer_value(id);
	}
	return (int)n;
}

int
config_eos(const char *directory, int *ids, int max, char *why)
{
	static const char *const names[] = { "generation_config.json", "config.json" };
	char inner[REASON_MAX];
	int i, n = 0;

	for (i = 0; i < 2 && n == 0; i++) {
		char *path = file_join(directory, names[i]);
		json_t *json = NULL;

		if (!file_exists(path))
			n = 0;
		else if (!(json = json_read(path, why)))
			n = -1;
		else if ((n = ids_of(json_object_get(json, "eos_token_id"), ids, max, inner)) < 0)
			reason(why, "'%s': %s", path, inner);
		json_decref(json);
		free(path);
	}
	return n;
}
