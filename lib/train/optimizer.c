/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>

#include "lib/base/mem.h"
#include "lib/train/optimizer.h"

static int
is_split(const struct storage *s, enum dtype type, int stochastic)
{
	return s->matrix && type == DT_BF16 && !stochastic;
}

void
optimizer_init(struct optimizer *o, struct model *m, const struct adamw_options *options)
{
	size_t count = (size_t)m->nstorage;
	int i;

	*o = (struct optimizer){ .m = m, .options = *options };
	gradients_init(&o->gradients, m);
	o->mean = mem_zero(count, sizeof *o->mean);
	o->variance = mem_zero(count, sizeof *o->variance);
	o->low = mem_zero(count, sizeof *o->low);
	o->squares = backend_alloc(m->be, 1, sizeof *o->squares, "the optimizer's state");
	for (i = 0; i < m->nstorage; i++) {
		const struct storage *s = &m->storage[i];

		o->mean[i] = backend_alloc(m->be, s->n, sizeof **o->mean, "the optimizer's state");
		o->variance[i] = backend_alloc(m->be, s->n, sizeof **o->variance, "the optimizer's state");
		if (is_split(s, m->type, options->stochastic))
			o->low[i] = backend_alloc(m->be, s->n, sizeof **o->low, "the optimizer's state");
	}
}

void
optimizer_free(struct optimizer *o)
{
	const struct backend *be = o->m->be;
	int i;

	for (i = 0; i < o->m->nstorage; i++) {
		be->free(o->mean[i]);
		be->free(o->variance[i]);
		be->free(o->low[i]);
	}
	be->free(o->squares);
	gradients_free(&o->gradients);
	free(o->mean);
	free(o->variance);
	free(o->low);
}

size_t
optimizer_bytes(const struct model *m, enum dtype type, int stochastic)
{
	size_t bytes = 0;
	int i;

	for (i = 0; i < m->nstorage; i++)
		bytes += m->storage[i].n *
		    (3 * sizeof(float) + (is_split(&m->storage[i], type, stochastic) ? sizeof(int16_t) : 0));
	return bytes;
}

double
optimizer_norm(struct optimizer *o, double targets)
{
	const struct backend *be = o->m->be;
	double sum;
	int i;

	be->zero(o->squares, sizeof *o->squares);
	for (i = 0; i < o->m->nstorage; i++)
		be->sum_squares(o->squares, o->gradients.of[i], o->m->storage[i].n);
	be->download(&sum, o->squares, sizeof sum);
	return sqrt(sum) / targets;
}

void
optimizer_step(struct optimizer *o, double lr, double targets, double norm)
{
	const struct adamw_options *p = &o->options;
	double t = (double)++o->step, clip = p->clip > 0 ? fmin(1, p->clip / (norm + 1e-6)) : 1;
	struct adamw h = {
		.lr = (float)lr, .beta1 = (float)p->beta1, .beta2 = (float)p->beta2, .eps = (float)p->eps,
		.scale = (float)(clip / targets), .seed = p->seed,
	};
	int i;

	/* of the betas as they are rounded: 1 - 0.999f is off by 1e-5 */
	h.correction1 = (float)(1 - pow(h.beta1, t));
	h.correction2 = (float)(1 - pow(h.beta2, t));
	for (i = 0; i < o->m->nstorage; i++) {
		const struct storage *s = &o->m->storage[i];

		h.stream = (uint32_t)o->step * (uint32_t)o->m->nstorage + (uint32_t)i;
		h.decay = s->decays ? (float)p->decay : 0;
		o->m->be->adamw(s->matrix ? s->matrix->data : *s->vector, s->matrix ? s->matrix->type : DT_F32,
		    o->low[i], o->mean[i], o->variance[i], o->gradients.of[i], s->n, &h);
	}
}
