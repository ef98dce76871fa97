/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "lib/base/clock.h"
#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/quant/quantise.h"

enum { SLICE = 1024 };		/* rows of a matrix that are quantised together: what their f32 takes */

static const struct storage *
storage_of(const struct model *m, const struct weight *w)
{
	const struct storage *s = m->storage;

	while (s->matrix != w)
		s++;
	return s;
}

int
plan_takes(const struct model *m, const struct param *p)
{
	const struct storage *s = &m->storage[p->storage];

	return s->matrix && s->layer >= 0;
}

static int
wanted(const struct storage *s, const struct plan *p)
{
	int i, n = 0;

	for (i = s->param; i < s->param + s->nparams; i++)
		n += !p->skipped[i];
	return n;
}

/* Codes of one parameter, and what a reader makes of them in the place of its rows of q. */
static void
quantise_param(const struct model *m, const struct param *param, const struct weight *w, struct weight *q,
    const struct hessian *h, const struct factor *f, const struct plan *p, double *seconds)
{
	const struct backend *be = m->be;
	struct quantised l;
	struct quantised_layer done = { .param = param, .codes = &l, .damp = f->damp, .dead = f->ndead };
	int slice = param->rows < SLICE ? param->rows : SLICE, row, n;
	float *rows = mem_alloc(mem_mul((size_t)slice * sizeof *rows, (size_t)w->k));
	double all = 0, energy;

	gptq_begin(&l, param->rows, f, &p->options);
	for (row = 0; row < param->rows; row += n) {
		n = param->rows - row < slice ? param->rows - row : slice;
		be->weight_get(rows, DT_F32, w, param->row + row, n, 0);
		done.error += gptq_quantise(&l, rows, row, n, h, param->row + row, f, &p->options, &energy);
		all += energy;
		quantised_weights(rows, &l, row, n);
		be->weight_put(q, param->row + row, n, rows, DT_F32, 0);
	}
	free(rows);
	done.error = all > 0 ? done.error / all : 0;
	done.seconds = clock_now() - *seconds;
	*seconds += done.seconds;
	p->done(p->user, &done);
	quantised_free(&l);
}

/* All parameters of a matrix, whose Hessian is summed. */
static void
quantise_matrix(const struct model *m, const struct weight *w, struct weight *q, const struct hessian *h,
    const struct plan *p, double started)
{
	const struct storage *s = storage_of(m, w);
	struct factor f;
	char why[REASON_MAX];
	int i;

	if (factor_init(&f, h, &p->options, why))
		die("'%s' cannot be quantised: %s", m->params[s->param].name, why);
	for (i = s->param; i < s->param + s->nparams; i++)
		if (!p->skipped[i])
			quantise_param(m, &m->params[i], w, q, h, &f, p, &started);
	factor_free(&f);
}

static void
copy_linear(const struct model *m, struct linear *l)
{
	void *own = backend_alloc(m->be, l->w.elements, dtype_size(m->type), "the quantised weights");

	m->be->copy(own, l->w.data, l->w.elements * dtype_size(m->type));
	l->w.data = own;
}

static struct linear *
linear_at(struct block *b, enum stage stage)
{
	struct linear *linears[] = { &b->qkv, &b->o, &b->up, &b->down };

	return linears[stage];
}

void
quantise_block(struct calibration *c, int layer, const struct plan *p)
{
	struct model *m = c->m;
	struct block *block = &m->blocks[layer], q = *block;
	size_t bytes = c->total * (size_t)m->config.hidden * dtype_size(m->type);
	void *before = NULL;
	enum stage stage;

	for (stage = STAGE_QKV; stage < STAGE_END; stage++)
		copy_linear(m, linear_at(&q, stage));
	if (p->at_once) {
		before = backend_alloc(m->be, bytes, 1, "a copy of the activations");
		m->be->copy(before, c->y, bytes);
	}
	for (stage = STAGE_QKV; stage < STAGE_END; stage++) {
		const struct weight *w = &linear_at(block, stage)->w;
		double started = clock_now();
		struct hessian h;

		if (!wanted(storage_of(m, w), p)) {
			calibration_pass(c, stage, block, before ? block : &q, 1, NULL);
			continue;
		}
		hessian_init(&h, m->be, m->type, w->k, c->most, c->corrected ? w : NULL);
		calibration_pass(c, stage, block, before ? block : &q, 1, &h);
		quantise_matrix(m, w, &linear_at(&q, stage)->w, &h, p, started);
		hessian_free(&h);
	}
	if (before) {
		m->be->copy(c->y, before, bytes);
		m->be->free(before);
	}
	for (stage = before ? STAGE_O : STAGE_END; stage <= STAGE_END; stage++)
		calibration_pass(c, stage, block, &q, 0, NULL);
	for (stage = STAGE_QKV; stage < STAGE_END; stage++)
		m->be->free(linear_at(&q, stage)->w.data);
}

void
quantise_head(struct calibration *c, struct weight *q, const struct plan *p)
{
	struct model *m = c->m;
	double started = clock_now();
	struct hessian h;

	hessian_init(&h, m->be, m->type, m->head.k, c->most, c->corrected ? &m->head : NULL);
	calibration_pass_head(c, &h);
	quantise_matrix(m, &m->head, q, &h, p, started);
	hessian_free(&h);
}

/* Hessian, factor, and what a slice of rows takes: itself, the corrected, copies for the backend, its energy's parts. */
static size_t
matrix_bytes(const struct calibration *c, const struct weight *w)
{
	size_t k = (size_t)w->k, n = (size_t)(w->n < SLICE ? w->n : SLICE);

	return hessian_bytes(c->m->be, c->m->type, w->k, c->most, c->corrected ? w : NULL) + k * k * sizeof(float) +
	    (c->corrected ? 5 : 4) * n * k * sizeof(float) + (size_t)w->n * k;
}

size_t
quantise_bytes(const struct calibration *c, const struct plan *p)
{
	struct model *m = c->m;
	size_t matrices = 0, most = 0, copies = p->at_once ? c->total * (size_t)m->config.hidden : 0;
	enum stage stage;

	for (stage = STAGE_QKV; stage < STAGE_END; stage++) {
		const struct weight *w = &linear_at(&m->blocks[0], stage)->w;
		size_t bytes = matrix_bytes(c, w);

		matrices += w->elements;
		most = bytes > most ? bytes : most;
	}
	return most + (2 * matrices + copies) * dtype_size(m->type);
}
