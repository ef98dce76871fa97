/* SPDX-License-Identifier: MIT */
/*
 * config - what a Hugging Face config.json says of the architecture
 *
 * Both dialects are read (rope_theta and rope_parameters, torch_dtype and
 * dtype); absent keys have Transformers' defaults, except those that make the
 * shape: they must be there. Whatever would change the arithmetic in a way that
 * this program does not compute (rope scaling, sliding windows, another
 * activation ...) is refused with a reason, never guessed.
 */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include <jansson.h>

#include "kernels/dtype.h"

enum family { FAMILY_GPT2, FAMILY_QWEN2, FAMILY_LLAMA };

struct config {
	enum family family;
	int vocab;		/* columns of the head: vocab_size, padding included */
	int hidden, layers, heads, kv_heads, d, ffn;
	int positions;		/* n_positions of GPT-2: a hard limit; max_position_embeddings else: where generation ends */
	int tied;		/* the head is the embedding */
	int qkv_bias;		/* q, k, v have biases (Qwen2; all four of GPT-2's matrices have one) */
	float norm_eps;
	double rope_theta;
	float init_range;	/* standard deviation of random weights */
	float embed_drop, attention_drop, residual_drop;	/* GPT-2's dropout probabilities */
	enum dtype dtype;	/* as torch_dtype says; DT_F32 when absent */
	int quantised;		/* its layers are codes (lib/quant/checkpoint.h): to be run, not trained or written */
	json_t *json;		/* the whole file, to be written back; owned */
};

/* From parsed JSON (a reference is taken); 0, or -1 with a reason. */
int config_parse(struct config *c, json_t *json, char *why);
/* The same from a file; the reason names it. */
int config_read(struct config *c, const char *path, char *why);
void config_free(struct config *c);

/* The key of the number of layers: n_layer or num_hidden_layers. */
const char *config_layers_key(enum family family);

/* End-of-sequence ids of generation_config.json, else config.json: their number, or -1 with a reason. */
int config_eos(const char *directory, int *ids, int max, char *why);

#endif
