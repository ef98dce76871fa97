/* SPDX-License-Identifier: MIT */
/*
 * checkpoint - GPTQ checkpoints, as vLLM, Transformers and GPTQModel read and write them
 *
 *   W[o, i] = scale[g(i), o] (q[i, o] - zero[g(i), o])
 *
 * In the place of `X.weight` lie X.qweight, X.qzeros (lib/quant/pack.h),
 * X.scales and X.g_idx, the group of each input in the order of the inputs.
 */
#ifndef QUANT_CHECKPOINT_H
#define QUANT_CHECKPOINT_H

#include <jansson.h>
#include <stdint.h>

#include "lib/model/safetensors.h"

struct quant_config {
	int bits;		/* 2, 3, 4 or 8; 0: the model is not quantised */
	int group;		/* inputs that share a scale; -1: all of a layer */
	int sym;		/* every zero is 2^(bits-1) */
	int scattered;		/* desc_act: groups are not of neighbouring inputs, g_idx says which */
	int version;		/* of the zeros, as the label has it: 1 or 2 */
	int lm_head;		/* the head is quantised, too */
};

/* Of a quantization_config or a quantize_config.json; what is no GPTQ, or cannot be read here, is refused. */
int quant_config_parse(struct quant_config *c, const json_t *json, char *why);
/* Of a model directory: quantization_config of its config.json, else its quantize_config.json. */
int quant_config_read(struct quant_config *c, const char *directory, char *why);
/* The object to be written: a new reference. Newer and older names of a key stand side by side. */
json_t *quant_config_json(const struct quant_config *c);

/* A linear layer of n outputs and k inputs. */
struct quantised {
	int n, k, bits, groups;
	uint8_t *q;		/* [k, n] */
	uint8_t *zeros;		/* [groups, n] */
	float *scales;		/* [groups, n]; as f16 holds them in checkpoints that are written here */
	int32_t *group;		/* [k] */
};

int quant_groups(const struct quant_config *c, int k);
/* Whether the layer `name` ("model.layers.0.mlp.up_proj") lies quantised in the file. */
int quantised_lies(const struct safetensors *st, const char *name);
/* Read it; shapes must be those of n, k and the config. 0, or -1 with a reason. */
int quantised_read(struct quantised *l, const struct safetensors *st, const char *name,
    const struct quant_config *c, int n, int k, char *why);
void quantised_free(struct quantised *l);
/* Whether input i is of group i / size for a fixed size. */
int quantised_in_order(const struct quantised *l, int size);

/* Rows row .. row+rows-1 of W, to w[o * k + i]. The product is exact in f32. */
void quantised_weights(float *w, const struct quantised *l, int row, int rows);

#endif
