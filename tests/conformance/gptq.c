/* SPDX-License-Identifier: MIT */
/* gptq: layers against the reference, what degenerate inputs may do, whole models */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/quant/quantise.h"
#include "tests/conformance/kit.h"

struct layer {
	int n, k, tokens;
	double *w, *x;		/* [n, k], [tokens, k] */
	size_t nw, nx;
};

/* log(error / reference) of the cases that count, by row and number of threads alike. */
static struct { double sum; int count; } ratios;

static struct gptq_options
options_of(const json_t *c)
{
	static const char *const orders[] = { "off", "static", "full", "group" };
	const json_t *json = json_object_get(c, "options");
	struct gptq_options o = { .bits = (int)get_number(json, "bits", 4),
	    .group = (int)get_number(json, "group_size", 128), .sym = json_is_true(json_object_get(json, "sym")),
	    .damp = (float)get_number(json, "damp", 0.01), .mse = (float)get_number(json, "mse", 0) };

	while (strcmp(orders[o.order], get_string(json, "act_order")))
		if (++o.order > ORDER_GROUP)
			die("act_order '%s' is unknown", get_string(json, "act_order"));
	return o;
}

static float *
to_f32(const double *x, size_t n)
{
	float *f = mem_alloc(n * sizeof *f);
	size_t i;

	for (i = 0; i < n; i++)
		f[i] = (float)x[i];
	return f;
}

/* As a reader of the checkpoint has it, [n, k]. */
static float *
quantise(struct verdict *v, struct quantised *q, const struct layer *l, const struct gptq_options *o,
    const struct kit *k)
{
	float *w = to_f32(l->w, l->nw), *x = to_f32(l->x, l->nx), *inputs = k->be->alloc(l->nx * sizeof *inputs);
	struct hessian h;
	struct factor f;
	char why[REASON_MAX];
	int rc;

	hessian_init(&h, k->be, DT_F32, l->k, l->tokens, NULL);
	k->be->upload(inputs, x, l->nx * sizeof *x);
	hessian_add(&h, inputs, NULL, l->tokens);
	k->be->free(inputs);
	free(x);
	if ((rc = factor_init(&f, &h, o, why))) {
		fail(v, "%s", why);
	} else {
		gptq_begin(q, l->n, &f, o);
		gptq_quantise(q, w, 0, l->n, &h, 0, &f, o, NULL);
		factor_free(&f);
	}
	hessian_free(&h);
	free(w);
	if (rc)
		return NULL;
	w = mem_alloc(l->nw * sizeof *w);
	quantised_weights(w, q, 0, l->n);
	return w;
}

/* ||X W^T - X Q^T||^2 / ||X W^T||^2 of one output */
static double
row_error(const struct layer *l, const float *q, int o, double *error, double *energy)
{
	const double *w = l->w + (size_t)o * (size_t)l->k;
	double lost = 0, all = 0;
	int t, i;

	for (t = 0; t < l->tokens; t++) {
		const double *x = l->x + (size_t)t * (size_t)l->k;
		double d = 0, y = 0;

		for (i = 0; i < l->k; i++) {
			d += x[i] * (w[i] - (double)q[(size_t)o * (size_t)l->k + (size_t)i]);
			y += x[i] * w[i];
		}
		lost += d * d;
		all += y * y;
	}
	*error += lost;
	*energy += all;
	return all > 0 ? lost / all : 0;
}

static void
at_most(struct verdict *v, const char *what, double got, double limit)
{
	double zero = 0;

	expect_near(v, what, &got, &zero, 1, limit);
}

/* The error as a whole, and by rows where the case bounds these. */
static double
check_error(struct verdict *v, const struct layer *l, const float *q, const json_t *rules)
{
	const json_t *rows = json_object_get(rules, "row_error_at_most"), *limit;
	double error = 0, energy = 0;
	char name[32];
	int o;

	for (o = 0; o < l->n; o++) {
		double own = row_error(l, q, o, &error, &energy);

		snprintf(name, sizeof name, "%d", o);
		if ((limit = json_object_get(rows, name)))
			at_most(v, "error of a row", own, json_number_value(limit));
	}
	error = energy > 0 ? error / energy : error;
	if (json_object_get(rules, "error_at_most"))
		at_most(v, "error", error, get_number(rules, "error_at_most", 0));
	return error;
}

static void
check_sane(struct verdict *v, const struct quantised *q, const float *w, const json_t *c)
{
	const json_t *dead = json_object_get(c, "dead"), *input;
	size_t i, n = (size_t)q->n * (size_t)q->k;
	int o;

	for (i = 0; i < n; i++)
		expect(v, isfinite(w[i]), "weight %zu is not finite", i);
	for (i = 0; i < (size_t)q->groups * (size_t)q->n; i++)
		expect(v, isfinite(q->scales[i]) && q->scales[i] != 0, "scale %zu is %g", i, (double)q->scales[i]);
	json_array_foreach(dead, i, input)
		for (o = 0; o < q->n; o++)
			expect(v, w[(size_t)o * (size_t)q->k + (size_t)json_integer_value(input)] == 0,
			    "a weight of a dead input is not 0");
}

/* Rows whose columns have one constant magnitude of zero must stay zero. */
static void
check_zero_rows(struct verdict *v, const struct layer *l, const struct quantised *q, const float *w)
{
	int o, i, size = l->k / q->groups;

	for (o = 0; o < l->n; o++)
		for (i = 0; i < l->k; i += size) {
			const double *own = l->w + (size_t)o * (size_t)l->k + (size_t)i;
			int j, zero = 1, kept = 1;

			for (j = 0; j < size; j++) {
				zero &= own[j] == 0;
				kept &= w[(size_t)o * (size_t)l->k + (size_t)(i + j)] == 0;
			}
			/* what the other groups lost may come here, unless the whole row is zero */
			expect(v, !zero || kept || i, "row %d, group of column %d is zero, and is not kept", o, i);
		}
}

static void
check_default(struct verdict *v, const struct layer *l, const json_t *c, const struct kit *k)
{
	struct gptq_options o = options_of(c);
	const json_t *rules = json_object_get(c, "rules"), *own = json_object_get(rules, "default_mode");
	struct quantised q = { 0 };
	float *w;
	double error;

	o.signs = 1;
	o.least_zero = 1;
	w = quantise(v, &q, l, &o, k);
	if (!w)
		return;
	check_sane(v, &q, w, c);
	if (json_object_get(rules, "exactly_zero"))
		check_zero_rows(v, l, &q, w);
	error = check_error(v, l, w, own ? own : rules);
	if (json_is_true(json_object_get(own, "counts_in_geometric_mean"))) {
		ratios.sum += log(error / get_number(json_object_get(c, "reference"), "error", NAN));
		ratios.count++;
	}
	quantised_free(&q);
	free(w);
}

/* Rows with a different code; the scales of the others must agree. */
static void
check_codes(struct verdict *v, const struct quantised *q, const struct safetensors *st, const json_t *c)
{
	const json_t *names = json_object_get(c, "expected");
	const json_t *rules = json_object_get(json_object_get(c, "rules"), "reference_mode");
	size_t nq, ns, nz, ng, k = (size_t)q->k;
	double *codes = kit_tensor(v, st, get_string(names, "q"), &nq);
	double *scales = kit_tensor(v, st, get_string(names, "scale"), &ns);
	double *zeros = kit_tensor(v, st, get_string(names, "zero"), &nz);
	double *groups = kit_tensor(v, st, get_string(names, "g_idx"), &ng);
	int o, i, g, different = 0;

	expect(v, nq == k * (size_t)q->n && ns == (size_t)q->groups * (size_t)q->n && nz == ns && ng == k,
	    "the expected codes are of another shape");
	for (i = 0; i < q->k && !v->failure[0]; i++)
		expect(v, q->group[i] == (int)groups[i], "input %d is in group %d, not %g", i, q->group[i], groups[i]);
	for (o = 0; o < q->n && !v->failure[0]; o++) {
		int same = 1;

		for (i = 0; i < q->k; i++)
			same &= q->q[(size_t)i * (size_t)q->n + (size_t)o] == codes[(size_t)o * k + (size_t)i];
		different += !same;
		for (g = 0; same && g < q->groups; g++) {
			size_t at = (size_t)g * (size_t)q->n + (size_t)o, there = (size_t)o * (size_t)q->groups + (size_t)g;
			double got = q->scales[at], f16 = f16_to_f32(f32_to_f16((float)scales[there]));

			/* f16 on both sides: a scale between two of its numbers may go either way */
			expect(v, q->zeros[at] == zeros[there], "a zero of row %d differs", o);
			expect(v, fabs(got - f16) <= fabs(f16) * (0x1p-10 + get_number(rules,
			    "scales_relative_in_equal_rows", 0)), "a scale of row %d is %g, not %g", o, got, f16);
		}
	}
	at_most(v, "share of rows with a different code", (double)different / q->n,
	    get_number(rules, "rows_with_a_different_code_at_most", 0));
	free(codes);
	free(scales);
	free(zeros);
	free(groups);
}

static void
check_reference(struct verdict *v, const struct layer *l, const struct safetensors *st, const json_t *c,
    const struct kit *k)
{
	struct gptq_options o = options_of(c);
	struct quantised q = { 0 };
	float *w;

	o.plain = 1;
	w = quantise(v, &q, l, &o, k);
	if (!w)
		return;
	check_codes(v, &q, st, c);
	check_error(v, l, w, json_object_get(json_object_get(c, "rules"), "reference_mode"));
	quantised_free(&q);
	free(w);
}

static void
check_layer(struct verdict *v, const json_t *c, const struct kit *k)
{
	struct safetensors *st = kit_tensors(v, k, get_string(c, "tensors"));
	struct safetensors *inputs = kit_tensors(v, k, get_string(c, "inputs"));
	const struct safetensor *shape = inputs ? safetensors_find(inputs, "W") : NULL;
	struct layer l = { 0 };

	if (st && shape) {
		l.n = (int)shape->shape[0];
		l.k = (int)shape->shape[1];
		l.w = kit_tensor(v, inputs, "W", &l.nw);
		l.x = kit_tensor(v, inputs, "X", &l.nx);
		l.tokens = (int)(l.nx / (size_t)l.k);
		check_default(v, &l, c, k);
		if (json_object_get(json_object_get(c, "rules"), "reference_mode"))
			check_reference(v, &l, st, c, k);
		free(l.w);
		free(l.x);
	}
	safetensors_close(st);
	safetensors_close(inputs);
}

static void
add_records(struct verdict *v, struct calibration *calibration, const struct safetensors *st, const char *name,
    int held_out)
{
	const struct safetensor *t = safetensors_find(st, name);
	int32_t *ids, span[2], r, n;

	if (!t || t->rank != 2 || t->type != DT_I32) {
		fail(v, "the kit has no records '%s'", name);
		return;
	}
	ids = mem_copy(t->data, t->bytes);
	n = (int32_t)t->shape[1];
	span[0] = 0;
	span[1] = n;
	for (r = 0; r < (int32_t)t->shape[0]; r++)
		calibration_add(calibration, ids + (size_t)r * (size_t)n, n, span, 1, held_out);
	free(ids);
}

static void
ignore(void *user, const struct quantised_layer *l)
{
	(void)user;
	(void)l;
}

/* Quantise a model by the case's options, with what is the default on top. */
static struct measure
quantise_model(struct verdict *v, const json_t *c, const struct kit *k, const struct safetensors *st)
{
	char *path = kit_path(k, get_string(c, "model"));
	struct shelf *shelf = shelf_open(path, k->be, DT_F32);
	struct plan plan = { .options = options_of(c), .done = ignore,
	    .skipped = mem_zero((size_t)shelf->m->nparams, 1) };
	struct calibration calibration;
	struct measure measure = { .targets = 0 };
	int l;

	plan.at_once = json_is_false(json_object_get(json_object_get(c, "options"), "true_sequential"));
	plan.options.signs = plan.options.least_zero = 1;
	plan.options.target = 0.5f;
	calibration_init(&calibration, shelf->m, 2048, 1);
	add_records(v, &calibration, st, get_string(c, "calibration"), 0);
	add_records(v, &calibration, st, get_string(c, "heldout"), 1);
	if (!v->failure[0]) {
		shelf_take(shelf, -1);
		calibration_start(&calibration);
		for (l = 0; l < shelf->m->config.layers; l++) {
			shelf_take(shelf, l);
			quantise_block(&calibration, l, &plan);
			shelf_put_back(shelf, l);
		}
		measure = calibration_measure(&calibration, &shelf->m->head);
	}
	calibration_free(&calibration);
	shelf_close(shelf);
	free(plan.skipped);
	free(path);
	return measure;
}

static void
check_model(struct verdict *v, const json_t *c, const struct kit *k)
{
	const json_t *rules = json_object_get(c, "rules");
	double unquantised = get_number(rules, "unquantised_perplexity", 0), before;
	struct safetensors *st = kit_tensors(v, k, get_string(c, "tensors"));
	struct measure m;

	if (!st)
		return;
	if (k->be == &backend_ref && v->compared) {	/* minutes; the other rows are held to it elsewhere */
		safetensors_close(st);
		return;
	}
	m = quantise_model(v, c, k, st);
	before = exp(m.nll);
	expect_near(v, "perplexity before", &before, &unquantised, 1,
	    unquantised * get_number(rules, "unquantised_relative", 0));
	at_most(v, "perplexity", exp(m.quantised_nll), get_number(rules, "perplexity_at_most", 0));
	at_most(v, "KL per token", m.kl, get_number(rules, "kl_at_most", 0));
	safetensors_close(st);
}

void
kind_gptq(struct verdict *v, const json_t *c, const struct kit *k)
{
	(json_object_get(c, "model") ? check_model : check_layer)(v, c, k);
}

void
all_gptq(struct verdict *v)
{
	if (ratios.count)
		at_most(v, "geometric mean of error / reference", exp(ratios.sum / ratios.count), 1.001);
}
