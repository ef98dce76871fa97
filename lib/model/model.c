/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/model/layout.h"
#include "lib/quant/weight.h"

struct model *
model_new(const struct config *config, const struct backend *be, enum dtype type)
{
	struct model *m = mem_zero(1, sizeof *m);

	m->be = be;
	m->config = *config;
	m->type = type ? type : config->dtype == DT_BF16 ? DT_BF16 : DT_F32;
	layout_build(m);
	layout_allocate(m);
	return m;
}

static void
free_storage(const struct model *m, const struct storage *s)
{
	if (s->matrix)
		weight_release(s->matrix, m->be);
	else
		m->be->free(*s->vector);
}

void
model_free(struct model *m)
{
	int i;

	if (m->config.tied && m->head.data != m->embed.data)
		weight_release(&m->head, m->be);
	if (m->exact_head.data != m->embed.data)
		weight_release(&m->exact_head, m->be);
	for (i = 0; i < m->nstorage; i++)
		free_storage(m, &m->storage[i]);
	for (i = 0; i < m->nparams; i++)
		free(m->params[i].name);
	if (m->rope)
		m->be->free(m->rope);
	free(m->storage);
	free(m->params);
	free(m->blocks);
	free(m->directory);
	config_free(&m->config);
	free(m);
}

/* config.json of the smaller model: the number, and the list that has an entry a layer. */
static void
keep_in_json(struct config *c, const int *layers, int n)
{
	json_t *types = json_object_get(c->json, "layer_types"), *kept = json_array();
	int i;

	json_object_set_new(c->json, config_layers_key(c->family), json_integer(n));
	for (i = 0; i < n; i++)
		json_array_append(kept, json_array_get(types, (size_t)layers[i]));
	if (json_is_array(types))
		json_object_set(c->json, "layer_types", kept);
	json_decref(kept);
}

void
model_keep_layers(struct model *m, const int *layers, int n)
{
	struct block *kept = mem_zero((size_t)n, sizeof *kept);
	int i, next = 0;

	for (i = 0; i < m->nstorage; i++) {
		while (next < n && layers[next] < m->storage[i].layer)
			next++;
		if (m->storage[i].layer >= 0 && (next == n || layers[next] != m->storage[i].layer))
			free_storage(m, &m->storage[i]);
	}
	for (i = 0; i < n; i++)
		kept[i] = m->blocks[layers[i]];
	free(m->blocks);
	m->blocks = kept;
	keep_in_json(&m->config, layers, n);
	m->config.layers = n;
	layout_build(m);
}

void
model_round_head(struct model *m, int keep)
{
	struct weight exact = m->head;
	int i;

	if (exact.type == DT_U8)
		return;
	weight_round(&m->head, m->be, &exact);
	for (i = 0; i < m->nstorage; i++)
		if (m->storage[i].matrix == &m->head)
			m->storage[i].n = m->head.elements;
	if (keep || m->config.tied)
		m->exact_head = exact;
	else
		weight_release(&exact, m->be);
}

void
model_rope(struct model *m, int positions)
{
	int half = m->config.d / 2, i, p;
	size_t bytes;
	float *table;

	if (m->config.family == FAMILY_GPT2 || positions <= m->rope_positions)
		return;
	if (positions < 2 * m->rope_positions)
		positions = 2 * m->rope_positions;
	bytes = (size_t)positions * (size_t)half * 2 * sizeof *table;
	table = mem_alloc(bytes);
	for (i = 0; i < half; i++) {
		double frequency = pow(m->config.rope_theta, -2.0 * i / m->config.d);

		for (p = 0; p < positions; p++) {
			float *pair = table + ((size_t)p * (size_t)half + (size_t)i) * 2;

			pair[0] = (float)cos(p * frequency);
			pair[1] = (float)sin(p * frequency);
		}
	}
	if (m->rope)
		m->be->free(m->rope);
	m->rope = backend_alloc(m->be, bytes, 1, "the angles of positions");
	m->be->upload(m->rope, table, bytes);
	m->rope_positions = positions;
	free(table);
}
