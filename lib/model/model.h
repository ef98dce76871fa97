/* SPDX-License-Identifier: MIT */
/*
 * model - weights in a backend's memory, read from and written to a Hugging Face directory
 *
 * One description of the block serves all families; what a family lacks is NULL.
 *
 *   x += attention(norm1(x));  x += mlp(norm2(x));  h = final norm(x);  logits = h head^T
 *
 * Matrices are fused where one input feeds several: qkv = [q; k; v], up = [gate; up].
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "kernels/op.h"
#include "lib/model/config.h"

struct linear {
	struct weight w;	/* [n, k] */
	float *b;		/* [n] or NULL */
};

struct norm {
	float *w;		/* [c] */
	float *b;		/* [c], or NULL: RMSNorm */
};

struct block {
	struct norm norm1, norm2;
	struct linear qkv;	/* [(heads + 2 kv_heads) d, hidden] */
	struct linear o;	/* [hidden, heads d] */
	struct linear up;	/* gate and up [2 ffn, hidden]; GPT-2: [ffn, hidden] */
	struct linear down;	/* [hidden, ffn] */
};

/*
 * What the optimizer, the gradient and the state on disk go by: every matrix or
 * vector once, in a fixed order. A vector is always f32.
 */
struct storage {
	struct weight *matrix;	/* or NULL */
	float **vector;		/* or NULL */
	size_t n;		/* elements, padding of the layout included */
	int decays;		/* two-dimensional: weight decay applies */
	int layer;		/* -1 outside the blocks */
	int param, nparams;	/* its parameters: params[param] and the following, by row */
};

/* A parameter as Hugging Face names it: rows of a storage. A tied head is not listed. */
struct param {
	char *name;
	int storage;		/* index */
	int row, rows;		/* of the matrix; of a vector: its elements */
	int columns;		/* k; 0 for a vector */
	int transposed;		/* stored [k, rows] in the file (Conv1D) */
};

struct model {
	const struct backend *be;
	struct config config;
	enum dtype type;	/* of matrices and activations: DT_F32 or DT_BF16 */
	char *directory;	/* where it was read, or NULL */
	struct weight embed;	/* [vocab, hidden] */
	struct weight position;	/* GPT-2 [positions, hidden]; data NULL else */
	struct weight head;	/* [vocab, hidden]; the same memory as embed when tied, but for a rounded one */
	struct weight exact_head;	/* of a rounded head, where model_round_head() kept it; data NULL else */
	struct norm final;
	struct block *blocks;	/* [layers] */
	float *rope;		/* {cos, sin} [positions][d / 2][2], grown on demand; NULL for GPT-2 */
	int rope_positions;
	struct storage *storage;
	int nstorage;
	struct param *params;	/* in the order they are written */
	int nparams;
};

/*
 * Read a model; `type` DT_NONE takes the file's own (f16 becomes f32). Returns
 * NULL with a reason: a missing weight, one that nobody would use, a wrong
 * shape, a NaN, a config that is refused. Quantised layers stay so in memory
 * (lib/quant/weight.h), or where that could not be exact, become whole weights.
 */
struct model *model_open(const char *directory, const struct backend *be, enum dtype type, char *why);
struct model *model_load(const char *directory, const struct backend *be, enum dtype type);	/* dies */

/* Other weights of the same config, into the memory that is there; dies. */
void model_reload(struct model *m, const char *directory);

/*
 * An unquantised model whose weights stay on the disk until they are taken, block by block. `m` is laid out, its
 * weights are checked by name and shape. Layer -1 is embeddings, final norm and head. All die.
 */
struct safetensor;
struct shelf {
	struct model *m;
	struct safetensors *st;
	const struct safetensor **of;	/* [nparams of m]: where each parameter lies */
};
struct shelf *shelf_open(const char *directory, const struct backend *be, enum dtype type);
void shelf_take(struct shelf *s, int layer);
void shelf_put_back(struct shelf *s, int layer);
void shelf_close(struct shelf *s);

/* Zero weights of a config's shapes, of the config's dtype for DT_NONE; config is taken over. */
struct model *model_new(const struct config *config, const struct backend *be, enum dtype type);
/* Normal(0, initializer_range) as Transformers initialises each family, from Philox and seed. */
void model_randomise(struct model *m, uint64_t seed);

/*
 * Write a directory that Transformers loads unchanged: config.json,
 * generation_config.json and the tokenizer's files copied from `from` (where not
 * NULL), model.safetensors in `type`. Complete when it has its name; dies.
 */
void model_save(const struct model *m, const char *directory, const char *from, enum dtype type);
extern size_t model_shard;	/* bytes that a file of weights may have: 5 GB, as Transformers cuts */
/* The tokenizer's files and generation_config.json alone, where there are such. */
void model_copy_tokenizer(const char *from, const char *to);
void model_free(struct model *m);

/* Drop all layers but the n that are listed, in ascending order. */
void model_keep_layers(struct model *m, const int *layers, int n);

/*
 * Hold the head in 8 bits, a scale a row: reading it is half of what a small model reads for a token. `keep` the
 * head as it was, too, for comparison: of a tied head that is the embedding, which costs nothing.
 */
void model_round_head(struct model *m, int keep);

/* The table of angles must reach `positions`; call before a forward of longer sequences. */
void model_rope(struct model *m, int positions);

/*
 * XXH3-128 in hex of config and weights as they are on disk; and of the head
 * alone (the teacher's part of a hidden cache). Cheap: names, shapes and a sample
 * of every tensor's bytes are hashed, not gigabytes. To be freed.
 */
char *model_digest(const char *directory);
char *model_head_digest(const char *directory);
/* The head alone, with the config: what distill needs of a teacher whose hidden states are cached. */
struct model *model_load_head(const char *directory, const struct backend *be, enum dtype type);

#endif
