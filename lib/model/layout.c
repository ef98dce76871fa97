/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "lib/base/mem.h"
#include "lib/model/layout.h"

struct names {
	const char *embed, *position, *norm1, *norm2, *final;
	const char *qkv[4], *o[2], *up[3], *down[2];	/* parts of a fused matrix, then NULL */
};

static const struct names names_gpt2 = {
	"transformer.wte.weight", "transformer.wpe.weight", "ln_1", "ln_2", "transformer.ln_f",
	{ "attn.c_attn" }, { "attn.c_proj" }, { "mlp.c_fc" }, { "mlp.c_proj" }
};

static const struct names names_llama = {
	"model.embed_tokens.weight", NULL,
	"input_layernorm", "post_attention_layernorm", "model.norm",
	{ "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj" }, { "self_attn.o_proj" },
	{ "mlp.gate_proj", "mlp.up_proj" }, { "mlp.down_proj" }
};

static const struct names *
names_of(const struct config *c)
{
	return c->family == FAMILY_GPT2 ? &names_gpt2 : &names_llama;
}

static void
add_matrix(struct model *m, struct weight *w, int n, int k)
{
	w->type = m->type;
	w->n = n;
	w->k = k;
	w->elements = m->be->weight_elements(m->type, n, k);
	m->storage[m->nstorage++] = (struct storage){ .matrix = w, .n = w->elements, .decays = 1,
	    .layer = -1, .param = m->nparams };
}

static void
add_vector(struct model *m, float **v, int n)
{
	m->storage[m->nstorage++] = (struct storage){ .vector = v, .n = (size_t)n, .layer = -1,
	    .param = m->nparams };
}

/* The next `rows` rows of the last storage. */
static void
add_param(struct model *m, int rows, int transposed, char *name)
{
	struct storage *s = &m->storage[m->nstorage - 1];
	const struct param *before = s->nparams ? &m->params[m->nparams - 1] : NULL;

	m->params[m->nparams++] = (struct param){ .name = name, .storage = m->nstorage - 1,
	    .row = before ? before->row + before->rows : 0, .rows = rows,
	    .columns = s->matrix ? s->matrix->k : 0, .transposed = transposed };
	s->nparams++;
}

static void
add_norm(struct model *m, struct norm *norm, const char *prefix, const char *name)
{
	int n = m->config.hidden;

	add_vector(m, &norm->w, n);
	add_param(m, n, 0, mem_format("%s%s.weight", prefix, name));
	if (m->config.family == FAMILY_GPT2) {
		add_vector(m, &norm->b, n);
		add_param(m, n, 0, mem_format("%s%s.bias", prefix, name));
	}
}

/* Of several parts the first has `first` rows, the others share the rest evenly. */
static void
add_parts(struct model *m, const char *prefix, const char *const *parts, const char *what,
    int n, int first, int transposed)
{
	int i, count = 0;

	while (parts[count])
		count++;
	for (i = 0; i < count; i++) {
		int rows = count == 1 ? n : i == 0 ? first : (n - first) / (count - 1);

		add_param(m, rows, transposed, mem_format("%s%s.%s", prefix, parts[i], what));
	}
}

static void
add_linear(struct model *m, struct linear *l, const char *prefix, const char *const *parts,
    int n, int first, int k, int bias)
{
	int gpt2 = m->config.family == FAMILY_GPT2;

	add_matrix(m, &l->w, n, k);
	add_parts(m, prefix, parts, "weight", n, first, gpt2);
	if (bias || gpt2) {
		add_vector(m, &l->b, n);
		add_parts(m, prefix, parts, "bias", n, first, 0);
	}
}

static void
add_block(struct model *m, int layer)
{
	const struct config *c = &m->config;
	const struct names *names = names_of(c);
	struct block *b = &m->blocks[layer];
	int gpt2 = c->family == FAMILY_GPT2, first = m->nstorage, i;
	int q = c->heads * c->d, kv = c->kv_heads * c->d, up = gpt2 ? c->ffn : 2 * c->ffn;
	char *prefix = mem_format(gpt2 ? "transformer.h.%d." : "model.layers.%d.", layer);

	add_norm(m, &b->norm1, prefix, names->norm1);
	add_linear(m, &b->qkv, prefix, names->qkv, q + 2 * kv, q, c->hidden, c->qkv_bias);
	add_linear(m, &b->o, prefix, names->o, c->hidden, 0, q, 0);
	add_norm(m, &b->norm2, prefix, names->norm2);
	add_linear(m, &b->up, prefix, names->up, up, c->ffn, c->hidden, 0);
	add_linear(m, &b->down, prefix, names->down, c->hidden, 0, c->ffn, 0);
	for (i = first; i < m->nstorage; i++)
		m->storage[i].layer = layer;
	free(prefix);
}

static void
add_embedding(struct model *m, struct weight *w, int n, const char *name)
{
	add_matrix(m, w, n, m->config.hidden);
	add_param(m, n, 0, mem_string(name));
}

/* A block has at most 12 storages and 16 parameters, the rest of a model 5. */
static void
reset(struct model *m, int layers)
{
	int i;

	for (i = 0; i < m->nparams; i++)
		free(m->params[i].name);
	free(m->params);
	free(m->storage);
	m->storage = mem_zero((size_t)layers * 12 + 5, sizeof *m->storage);
	m->params = mem_zero((size_t)layers * 16 + 5, sizeof *m->params);
	m->nstorage = m->nparams = 0;
}

void
layout_build(struct model *m)
{
	const struct config *c = &m->config;
	const struct names *names = names_of(c);
	int i;

	reset(m, c->layers);
	if (!m->blocks)
		m->blocks = mem_zero((size_t)c->layers, sizeof *m->blocks);
	add_embedding(m, &m->embed, c->vocab, names->embed);
	if (names->position)
		add_embedding(m, &m->position, c->positions, names->position);
	for (i = 0; i < c->layers; i++)
		add_block(m, i);
	add_norm(m, &m->final, "", names->final);
	if (!c->tied)
		add_embedding(m, &m->head, c->vocab, "lm_head.weight");
}

const char *
layout_head_name(const struct config *c)
{
	return c->tied ? names_of(c)->embed : "lm_head.weight";
}

void
layout_build_head(struct model *m)
{
	reset(m, 0);
	add_embedding(m, &m->head, m->config.vocab, layout_head_name(&m->config));
}

void
layout_allocate_matrix(const struct model *m, const struct storage *s)
{
	if (!s->matrix->data)
		s->matrix->data = backend_alloc(m->be, s->n, dtype_size(s->matrix->type), "the weights");
}

static void
allocate_storage(const struct model *m, const struct storage *s)
{
	if (s->matrix)
		layout_allocate_matrix(m, s);
	else if (!*s->vector)
		*s->vector = backend_alloc(m->be, s->n, sizeof **s->vector, "the weights");
}

void
layout_allocate_layer(struct model *m, int layer)
{
	int i;

	for (i = 0; i < m->nstorage; i++)
		if (m->storage[i].layer == layer)
			allocate_storage(m, &m->storage[i]);
	if (m->config.tied && m->embed.data)
		m->head = m->embed;
}

void
layout_allocate(struct model *m)
{
	int i;

	for (i = 0; i < m->nstorage; i++)
		allocate_storage(m, &m->storage[i]);
	if (m->config.tied && m->embed.data)
		m->head = m->embed;
}

void
layout_release_layer(struct model *m, int layer)
{
	int i;

	for (i = 0; i < m->nstorage; i++) {
		struct storage *s = &m->storage[i];
		void **data = s->matrix ? &s->matrix->data : (void **)s->vector;

		if (s->layer != layer)
			continue;
		m->be->free(*data);
		*data = NULL;
	}
	if (layer == -1 && m->config.tied)
		m->head.data = NULL;
}

enum { SLICE = 256 };	/* rows; a multiple of any panel, so that slices share no memory */

void
layout_each_slice(const struct model *m,
    void (*act)(void *context, const struct storage *s, int row, int rows), void *context)
{
	struct slice { const struct storage *s; int row, rows; } *slices = NULL;
	int i, row, n = 0, cap = 0;

	for (i = 0; i < m->nstorage; i++) {
		const struct storage *s = &m->storage[i];
		int rows = s->matrix ? s->matrix->n : (int)s->n, step = s->matrix ? SLICE : rows;

		for (row = 0; row < rows; row += step)
			MEM_PUSH(slices, n, cap,
			    ((struct slice){ s, row, rows - row < step ? rows - row : step }));
	}
	#pragma omp parallel for schedule(dynamic)
	for (i = 0; i < n; i++)
		act(context, slices[i].s, slices[i].row, slices[i].rows);
	free(slices);
}
