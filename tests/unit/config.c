/* SPDX-License-Identifier: MIT */
/* config - both dialects give the same numbers, and what is not computed is refused by its name */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/model/config.h"
#include "tests/unit/tap.h"

static char why[REASON_MAX];

#define QWEN2 "\"model_type\":\"qwen2\",\"hidden_size\":64,\"num_hidden_layers\":3," \
	"\"num_attention_heads\":4,\"intermediate_size\":176,\"vocab_size\":515"
#define LLAMA "\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":3," \
	"\"num_attention_heads\":4,\"intermediate_size\":176,\"vocab_size\":515"
#define GPT2 "\"model_type\":\"gpt2\",\"n_embd\":48,\"n_layer\":2,\"n_head\":4,\"n_positions\":96,\"vocab_size\":503"

static int
parse(struct config *c, const char *fields)
{
	char *text = mem_format("{%s}", fields);
	json_t *json = json_parse(text, strlen(text), why);
	int rc = json ? config_parse(c, json, why) : -1;

	json_decref(json);
	free(text);
	return rc;
}

static void
check_defaults(void)
{
	struct config c;

	ok(!parse(&c, QWEN2), "a Qwen2 config of shapes alone is read");
	ok(c.family == FAMILY_QWEN2 && c.kv_heads == 4 && c.d == 16 && !c.tied && c.qkv_bias &&
	    c.positions == 32768 && c.rope_theta == 10000 && c.norm_eps == 1e-6f && c.dtype == DT_F32 &&
	    c.init_range == 0.02f, "what it leaves out has Transformers' defaults");
	config_free(&c);
	ok(!parse(&c, LLAMA) && !c.qkv_bias && c.positions == 2048, "Llama's are its own");
	config_free(&c);
	ok(!parse(&c, GPT2), "a GPT-2 config of shapes alone is read");
	ok(c.tied && c.ffn == 192 && c.d == 12 && c.kv_heads == 4 && c.embed_drop == 0.1f && c.positions == 96,
	    "its head is tied, its inner width four times the hidden one");
	config_free(&c);
	ok(!parse(&c, GPT2 ",\"n_inner\":100,\"tie_word_embeddings\":false,\"attn_pdrop\":0") && c.ffn == 100 &&
	    !c.tied && c.attention_drop == 0, "n_inner, an own head and no dropout are taken over");
	config_free(&c);
	ok(!parse(&c, LLAMA ",\"head_dim\":24,\"num_key_value_heads\":null") && c.d == 24 && c.kv_heads == 4,
	    "head_dim is free of hidden_size, and null is absent");
	config_free(&c);
}

static void
check_dialects(void)
{
	static const char *const old[] = {
		"\"rope_theta\":500000", "\"rope_theta\":500000.0,\"rope_scaling\":null",
		"\"rope_theta\":5e5,\"rope_scaling\":{\"type\":\"default\"}",
		"\"rope_parameters\":{\"rope_theta\":500000.0,\"rope_type\":\"default\"}",
		"\"rope_parameters\":{\"rope_theta\":500000},\"rope_theta\":500000",
	};
	static const char *const types[] = { "\"torch_dtype\":\"bfloat16\"", "\"dtype\":\"bfloat16\"",
	    "\"dtype\":\"torch.bfloat16\"" };
	static const char *const full[] = {
		"\"sliding_window\":4", "\"sliding_window\":4,\"use_sliding_window\":true,\"max_window_layers\":3",
		"\"sliding_window\":null,\"use_sliding_window\":true,\"max_window_layers\":0",
		"\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\"]",
	};
	struct config c;
	char *fields;
	size_t i;

	for (i = 0; i < sizeof old / sizeof *old; i++) {
		fields = mem_format("%s,%s", QWEN2, old[i]);
		ok(!parse(&c, fields) && c.rope_theta == 500000, "theta is read from %s", old[i]);
		config_free(&c);
		free(fields);
	}
	for (i = 0; i < sizeof types / sizeof *types; i++) {
		fields = mem_format("%s,%s", QWEN2, types[i]);
		ok(!parse(&c, fields) && c.dtype == DT_BF16, "bf16 is read from %s", types[i]);
		config_free(&c);
		free(fields);
	}
	for (i = 0; i < sizeof full / sizeof *full; i++) {
		fields = mem_format("%s,%s", QWEN2, full[i]);
		ok(!parse(&c, fields), "no layer slides with %s", full[i]);
		config_free(&c);
		free(fields);
	}
}

/* Each is refused by a message that has the word. */
static void
check_refusals(void)
{
	static const struct { const char *fields, *word; } bad[] = {
		{ "", "model_type" },
		{ "\"model_type\":\"mamba\"", "mamba" },
		{ "\"model_type\":7", "model_type" },
		{ "\"model_type\":\"qwen2\",\"vocab_size\":9", "hidden_size is missing" },
		{ GPT2 ",\"activation_function\":\"relu\"", "relu" },
		{ GPT2 ",\"scale_attn_weights\":false", "scale_attn_weights" },
		{ GPT2 ",\"scale_attn_by_inverse_layer_idx\":true", "scale_attn_by_inverse_layer_idx" },
		{ GPT2 ",\"add_cross_attention\":true", "add_cross_attention" },
		{ GPT2 ",\"embd_pdrop\":-1", "embd_pdrop" },
		{ QWEN2 ",\"hidden_act\":\"gelu\"", "gelu" },
		{ QWEN2 ",\"head_dim\":3", "head_dim" },
		{ QWEN2 ",\"head_dim\":0", "head_dim" },
		{ QWEN2 ",\"num_key_value_heads\":3", "num_key_value_heads" },
		{ QWEN2 ",\"rms_norm_eps\":\"small\"", "rms_norm_eps" },
		{ QWEN2 ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}", "linear" },
		{ QWEN2 ",\"rope_parameters\":{\"rope_type\":\"yarn\"}", "yarn" },
		{ QWEN2 ",\"rope_parameters\":{\"full_attention\":{}}", "rope_parameters" },
		{ QWEN2 ",\"rope_parameters\":{\"rope_theta\":2},\"rope_theta\":3", "rope_theta" },
		{ QWEN2 ",\"partial_rotary_factor\":0.5", "partial_rotary_factor" },
		{ QWEN2 ",\"rope_scaling\":3", "rope_scaling" },
		{ QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":4,\"max_window_layers\":2", "sliding" },
		{ QWEN2 ",\"layer_types\":[\"full_attention\",\"sliding_attention\",\"x\"]", "sliding_attention" },
		{ QWEN2 ",\"layer_types\":[\"full_attention\"]", "layer_types" },
		{ QWEN2 ",\"use_mrope\":true", "use_mrope" },
		{ QWEN2 ",\"dtype\":\"float8\"", "float8" },
		{ QWEN2 ",\"tie_word_embeddings\":1", "tie_word_embeddings" },
		{ LLAMA ",\"attention_bias\":true", "attention_bias" },
		{ LLAMA ",\"mlp_bias\":true", "mlp_bias" },
	};
	struct config c;
	size_t i;

	for (i = 0; i < sizeof bad / sizeof *bad; i++) {
		why[0] = '\0';
		ok(parse(&c, bad[i].fields) && strstr(why, bad[i].word), "refused: %s", why);
	}
}

static void
check_limits(void)
{
	static const char *const keys[] = { "hidden_size", "num_hidden_layers", "num_attention_heads",
	    "intermediate_size", "vocab_size" };
	static const char *const values[] = { "0", "-8", "1099511627776", "\"eight\"", "true", "[1]", "8.5" };
	struct config c;
	size_t i, j, right = 0;

	for (i = 0; i < sizeof keys / sizeof *keys; i++)
		for (j = 0; j < sizeof values / sizeof *values; j++) {
			json_t *json = json_loads("{" QWEN2 "}", 0, NULL), *value;

			value = json_loads(values[j], JSON_DECODE_ANY, NULL);
			json_object_set_new(json, keys[i], value);
			right += config_parse(&c, json, why) && strstr(why, keys[i]);
			json_decref(json);
		}
	ok(right == i * j, "each of %zu shapes that are none is refused by its key", i * j);
}

static void
write_file(const char *directory, const char *name, const char *text)
{
	char *path = file_join(directory, name);
	struct file *f = file_create(path);

	file_write(f, text, strlen(text));
	file_commit(f);
	free(path);
}

static void
check_eos(const char *directory)
{
	int ids[4];

	ok(config_eos(directory, ids, 4, why) == 0, "a directory without files has no end of sequence");
	write_file(directory, "config.json", "{\"eos_token_id\": 7}");
	ok(config_eos(directory, ids, 4, why) == 1 && ids[0] == 7, "config.json has one");
	write_file(directory, "generation_config.json", "{\"eos_token_id\": [9, 2]}");
	ok(config_eos(directory, ids, 4, why) == 2 && ids[0] == 9 && ids[1] == 2, "generation_config.json has two, and wins");
	ok(config_eos(directory, ids, 1, why) == -1 && strstr(why, "generation_config.json"), "more than asked for: %s", why);
	write_file(directory, "generation_config.json", "{\"eos_token_id\": [-9]}");
	ok(config_eos(directory, ids, 4, why) == -1, "a negative id is none: %s", why);
	write_file(directory, "generation_config.json", "{");
	ok(config_eos(directory, ids, 4, why) == -1, "half a file: %s", why);
	write_file(directory, "generation_config.json", "{\"eos_token_id\": null}");
	ok(config_eos(directory, ids, 4, why) == 1 && ids[0] == 7, "null leaves it to config.json");
}

int
main(void)
{
	char directory[] = "/tmp/config.XXXXXX", *path;
	static const char *const names[] = { "config.json", "generation_config.json" };
	struct config c;
	int i;

	check_defaults();
	check_dialects();
	check_refusals();
	check_limits();
	if (!mkdtemp(directory))
		die("cannot make '%s':", directory);
	check_eos(directory);
	path = file_join(directory, "config.json");
	ok(config_read(&c, path, why) && strstr(why, path), "a refusal names the file: %s", why);
	free(path);
	for (i = 0; i < 2; i++) {
		path = file_join(directory, names[i]);
		unlink(path);
		free(path);
	}
	rmdir(directory);
	return done();
}
