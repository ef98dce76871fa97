/* SPDX-License-Identifier: MIT */
/* loss: the divergence kernel alone, and whole models with every form of teacher */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "tests/conformance/train.h"

struct sequences
sequences_read(const json_t *list)
{
	struct sequences s = { .count = (int)json_array_size(list) };
	size_t i;
	json_t *sequence;

	s.ids = mem_zero((size_t)s.count, sizeof *s.ids);
	s.n = mem_zero((size_t)s.count, sizeof *s.n);
	s.supervised = mem_zero((size_t)s.count, sizeof *s.supervised);
	s.first = mem_zero((size_t)s.count + 1, sizeof *s.first);
	json_array_foreach(list, i, sequence) {
		const json_t *span = json_object_get(sequence, "supervised");

		s.ids[i] = get_ids(json_object_get(sequence, "ids"), &s.n[i]);
		s.supervised[i][0] = (int32_t)json_integer_value(json_array_get(span, 0));
		s.supervised[i][1] = (int32_t)json_integer_value(json_array_get(span, 1));
		s.first[i + 1] = s.first[i] + s.supervised[i][1] - s.supervised[i][0];
	}
	return s;
}

void
sequences_free(struct sequences *s)
{
	int i;

	for (i = 0; i < s->count; i++)
		free(s->ids[i]);
	free(s->ids);
	free(s->n);
	free(s->supervised);
	free(s->first);
}

int
divergence_read(struct divergence *d, const json_t *c)
{
	static const char *const names[] = { "ce", "kd", "forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_rkl",
		"alpha_beta" };
	size_t i;

	d->kd_ratio = (float)get_number(c, "kd_ratio", 0);
	d->tau = (float)get_number(c, "temperature", 1);
	d->alpha = (float)get_number(c, "alpha", 0);
	d->beta = (float)get_number(c, "beta", 0);
	for (i = 0; i < sizeof names / sizeof *names; i++)
		if (!strcmp(names[i], get_string(c, "loss"))) {
			d->kind = (enum divergence_kind)i;
			return 1;
		}
	return 0;
}

static void *
to_backend(const struct backend *be, const void *host, size_t bytes)
{
	void *p = be->alloc(bytes + 1);

	be->upload(p, host, bytes);
	return p;
}

/* A float tensor of the kit in f32. */
static float *
floats(struct verdict *v, const struct safetensors *st, const char *name, size_t *n)
{
	double *d = kit_tensor(v, st, name, n);
	float *f = mem_zero(*n + 1, sizeof *f);
	size_t i;

	for (i = 0; i < *n; i++)
		f[i] = (float)d[i];
	free(d);
	return f;
}

static int32_t *
integers(struct verdict *v, const struct safetensors *st, const char *name, size_t *n)
{
	double *d = kit_tensor(v, st, name, n);
	int32_t *out = mem_zero(*n + 1, sizeof *out);
	size_t i;

	for (i = 0; i < *n; i++)
		out[i] = (int32_t)d[i];
	free(d);
	return out;
}

/* Logits of the teacher at every target: its own forward, or its head on stored states. */
static float *
computed_logits(struct model *m, const struct sequences *s, const float *states, int columns)
{
	int targets = s->first[s->count], h = m->config.hidden, i;
	const struct backend *be = m->be;
	float *logits = mem_zero((size_t)targets * (size_t)columns, sizeof *logits);
	float *rows = be->alloc((size_t)targets * (size_t)columns * sizeof *rows + 1);

	for (i = 0; !states && i < s->count; i++) {
		struct forward *f = forward_new(m, s->n[i], KEEP_NONE);
		struct batch b;
		const void *hidden;
		float *x;

		batch_init(&b, be);
		batch_add(&b, s->ids[i], s->n[i], s->supervised[i], 1, 0);
		batch_upload(&b);
		model_rope(m, s->n[i]);
		hidden = forward_run(f, &b, NULL, FOR_SCORES, 0, 0);
		x = be->alloc((size_t)(b.p + 1) * (size_t)h * sizeof *x);
		be->gather(x, hidden, DT_F32, b.d_rows, b.p, h);
		if (b.p)
			be->matmul(rows + (size_t)s->first[i] * (size_t)columns, DT_F32, x, DT_F32, &m->head, NULL,
			    b.p, columns, 0);
		be->free(x);
		batch_free(&b);
		forward_free(f);
	}
	if (states) {
		float *x = to_backend(be, states, (size_t)targets * (size_t)h * sizeof *x);

		be->matmul(rows, DT_F32, x, DT_F32, &m->head, NULL, targets, columns, 0);
		be->free(x);
	}
	be->download(logits, rows, (size_t)targets * (size_t)columns * sizeof *logits);
	be->free(rows);
	return logits;
}

/* Host memory throughout; teacher_chunk() uploads what a chunk needs. */
struct stored_teacher
teacher_read(struct verdict *v, const json_t *c, const struct kit *k, const struct sequences *s)
{
	struct stored_teacher t = { .be = k->be };
	const json_t *teacher = json_object_get(c, "teacher");
	const char *form = get_string(teacher, "form");
	int columns = (int)get_number(c, "vocab", 0);
	struct safetensors *st = NULL;
	size_t n;

	if (!teacher)
		return t;
	if (*get_string(teacher, "tensors"))
		st = kit_tensors(v, k, get_string(teacher, "tensors"));
	t.width = columns;
	t.all.form = TEACHER_DENSE;
	if (!strcmp(form, "computed")) {
		t.all.dense = computed_logits(kit_model(k, get_string(teacher, "model")), s, NULL, columns);
	} else if (!strcmp(form, "full")) {
		t.all.dense = floats(v, st, get_string(teacher, "logprobs"), &n);
	} else if (!strcmp(form, "hidden")) {
		float *states = floats(v, st, get_string(teacher, "hidden"), &n);

		t.all.dense = computed_logits(kit_model(k, get_string(teacher, "head")), s, states, columns);
		free(states);
	} else if (!strcmp(form, "topk")) {
		t.all.form = strcmp(get_string(c, "tail"), "bucket") ? TEACHER_TOPK_RENORMALISE : TEACHER_TOPK_BUCKET;
		t.all.ids = integers(v, st, get_string(teacher, "ids"), &n);
		t.all.logprobs = floats(v, st, get_string(teacher, "logprobs"), &n);
		t.all.log_tail = floats(v, st, get_string(teacher, "log_tail"), &n);
		t.all.k = (int)get_number(c, "k", 0);
	} else if (!strcmp(form, "sample")) {
		int32_t *counts = integers(v, st, get_string(teacher, "counts"), &n);
		uint16_t *narrow = mem_zero(n + 1, sizeof *narrow);
		size_t i;

		for (i = 0; i < n; i++)
			narrow[i] = (uint16_t)counts[i];
		free(counts);
		t.all.form = TEACHER_SAMPLE;
		t.all.counts = narrow;
		t.all.ids = integers(v, st, get_string(teacher, "ids"), &n);
		t.all.offsets = integers(v, st, get_string(teacher, "offsets"), &n);
	} else {
		fail(v, "no teacher form '%s'", form);
	}
	if (st)
		safetensors_close(st);
	return t;
}

static void
drop_chunk(struct stored_teacher *t)
{
	int i;

	for (i = 0; i < 5; i++) {
		t->be->free(t->buffers[i]);
		t->buffers[i] = NULL;
	}
}

void
teacher_chunk(struct teacher_rows *rows, int first, int count, void *user)
{
	struct stored_teacher *t = user;
	const struct teacher_rows *all = &t->all;
	size_t width = (size_t)(all->form == TEACHER_DENSE ? t->width : all->k), n = (size_t)count;
	float *dense = mem_zero(n * width + 1, sizeof *dense), *tail = mem_zero(n + 1, sizeof *tail);
	int32_t *ids = mem_zero(n * 600 + 1, sizeof *ids), *offsets = mem_zero(n + 1, sizeof *offsets);
	uint16_t *counts = mem_zero(n * 600 + 1, sizeof *counts);
	size_t r, entries = 0;

	drop_chunk(t);
	*rows = *all;
	rows->ld = width;
	for (r = 0; r < n; r++) {
		size_t target = (size_t)t->order[(size_t)first + r];

		if (all->form == TEACHER_SAMPLE) {
			int32_t a = all->offsets[target], b = all->offsets[target + 1];

			for (; a < b; a++, entries++) {
				ids[entries] = all->ids[a];
				counts[entries] = all->counts[a];
			}
			offsets[r + 1] = (int32_t)entries;
			continue;
		}
		memcpy(dense + r * width, (all->form == TEACHER_DENSE ? all->dense : all->logprobs) + target * width,
		    width * sizeof *dense);
		if (all->form == TEACHER_DENSE)
			continue;
		memcpy(ids + r * width, all->ids + target * width, width * sizeof *ids);
		tail[r] = all->log_tail[target];
	}
	rows->dense = rows->logprobs = t->buffers[0] = to_backend(t->be, dense, n * width * sizeof *dense);
	rows->log_tail = t->buffers[1] = to_backend(t->be, tail, n * sizeof *tail);
	rows->ids = t->buffers[2] = to_backend(t->be, ids, n * 600 * sizeof *ids);
	rows->offsets = t->buffers[3] = to_backend(t->be, offsets, (n + 1) * sizeof *offsets);
	rows->counts = t->buffers[4] = to_backend(t->be, counts, n * 600 * sizeof *counts);
	free(dense);
	free(tail);
	free(ids);
	free(offsets);
	free(counts);
}

void
teacher_release(struct stored_teacher *t)
{
	drop_chunk(t);
	free((void *)t->all.dense);
	free((void *)t->all.ids);
	free((void *)t->all.logprobs);
	free((void *)t->all.log_tail);
	free((void *)t->all.counts);
	free((void *)t->all.offsets);
}

static double
sum_of(const struct backend *be, const float *device, int n)
{
	float *f = mem_zero((size_t)n + 1, sizeof *f);
	double sum = 0;
	int i;

	be->download(f, device, (size_t)n * sizeof *f);
	for (i = 0; i < n; i++)
		sum += f[i];
	free(f);
	return sum;
}

struct sums
micro_batch(struct model *m, int columns, const struct sequences *s, const json_t *index,
    const struct divergence *d, struct stored_teacher *t, double targets, struct gradients *g)
{
	struct batch b;
	struct sums sums = { 0, 0 };
	struct forward *f;
	struct head *h = head_new(m, columns, 7);
	int *order = mem_zero((size_t)s->first[s->count] + 1, sizeof *order), longest = 0, j;
	size_t i;
	json_t *which;

	batch_init(&b, m->be);
	json_array_foreach(index, i, which) {
		json_int_t q = json_integer_value(which);
		int before = b.p, added = batch_add(&b, s->ids[q], s->n[q], s->supervised[q], 1, 1);

		for (j = 0; j < added; j++)
			order[before + j] = s->first[q] + j;
		longest = s->n[q] > longest ? s->n[q] : longest;
	}
	if (b.p) {
		f = forward_new(m, b.m, KEEP_ALL);
		model_rope(m, longest);
		batch_upload(&b);
		if (t)
			t->order = order;
		forward_backward(f, &b, head_run(h, &b, forward_run(f, &b, NULL, FOR_SCORES, 0, 0), d,
		    t && t->all.form != TEACHER_NONE ? teacher_chunk : NULL, t, (float)(1 / targets), g), g);
		sums.ce = sum_of(m->be, h->ce, b.p) / targets;
		sums.div = sum_of(m->be, h->div, b.p) / targets;
		forward_free(f);
	}
	head_free(h);
	batch_free(&b);
	free(order);
	return sums;
}

const struct param *
param_find(const struct model *m, const char *name)
{
	int i;

	for (i = 0; i < m->nparams; i++)
		if (!strcmp(m->params[i].name, name))
			return &m->params[i];
	return NULL;
}

float *
param_storage(const struct model *m, const struct param *p)
{
	const struct storage *s = &m->storage[p->storage];

	return s->matrix ? s->matrix->data : *s->vector;
}

double *
param_values(const struct model *m, const struct param *p, float *storage, size_t *n)
{
	const struct storage *s = &m->storage[p->storage];
	size_t columns = p->columns ? (size_t)p->columns : 1, i;
	float *f;
	double *d;

	*n = (size_t)p->rows * columns;
	f = mem_zero(*n + 1, sizeof *f);
	d = mem_zero(*n + 1, sizeof *d);
	if (s->matrix) {
		struct weight w = *s->matrix;

		w.data = storage;
		m->be->weight_get(f, DT_F32, &w, p->row, p->rows, p->transposed);
	} else {
		m->be->download(f, storage + p->row, *n * sizeof *f);
	}
	for (i = 0; i < *n; i++)
		d[i] = f[i];
	free(f);
	return d;
}

static double
norm_of(const double *x, size_t n)
{
	double sum = 0;
	size_t i;

	for (i = 0; i < n; i++)
		sum += x[i] * x[i];
	return sqrt(sum);
}

/* One parameter's gradient: its norm, and all of it or the probes. Returns the square of the norm. */
static double
compare_gradient(struct verdict *v, const struct model *m, struct gradients *g, const json_t *expected,
    const struct safetensors *st, const double *probe_index, const double *probe_value)
{
	const char *name = get_string(expected, "name");
	const struct param *p = param_find(m, name);
	const json_t *probes = json_object_get(expected, "probes");
	double allowed = get_number(expected, "tol", 0) * get_number(expected, "scale", 0), *got, norm;
	size_t n, i;

	expect(v, p != NULL, "the model has no parameter '%s'", name);
	if (!p)
		return 0;
	got = param_values(m, p, g->of[p->storage], &n);
	norm = norm_of(got, n);
	expect_value(v, name, norm, json_object_get(expected, "norm"), 0);
	if (probes) {
		size_t first = (size_t)json_integer_value(json_array_get(probes, 0));
		size_t count = (size_t)json_integer_value(json_array_get(probes, 1));

		for (i = first; i < first + count; i++) {
			size_t at = (size_t)probe_index[i];

			expect(v, at < n, "%s has no element %zu", name, at);
			if (at < n)
				expect_near(v, name, &got[at], &probe_value[i], 1, allowed);
		}
	} else {
		size_t count;
		double *want = kit_tensor(v, st, get_string(expected, "tensor"), &count);

		expect(v, count == n, "%s has %zu elements, not %zu", name, n, count);
		if (count == n)
			expect_near(v, name, got, want, n, allowed);
		free(want);
	}
	free(got);
	return norm * norm;
}

static void
compare_cut(struct verdict *v, const json_t *c, struct model *m, const struct sequences *s, const json_t *cut,
    const struct divergence *d, struct stored_teacher *t, const struct safetensors *st)
{
	const json_t *expected = json_object_get(c, "expect");
	double targets = get_number(c, "targets", 0), squares = 0;
	size_t i, n;
	double *probe_index = safetensors_find(st, "probe_index") ? kit_tensor(v, st, "probe_index", &n) : NULL;
	double *probe_value = safetensors_find(st, "probe_value") ? kit_tensor(v, st, "probe_value", &n) : NULL;
	struct gradients g;
	struct sums sums = { 0, 0 };
	json_t *micro, *gradient;

	gradients_init(&g, m);
	json_array_foreach(cut, i, micro) {
		struct sums part = micro_batch(m, (int)get_number(c, "vocab", 0), s, micro, d, t, targets, &g);

		sums.ce += part.ce;
		sums.div += part.div;
	}
	expect_value(v, "loss", (1 - (double)d->kd_ratio) * sums.ce + (double)d->kd_ratio * sums.div,
	    json_object_get(expected, "loss"), 0);
	expect_value(v, "ce", sums.ce, json_object_get(expected, "ce"), 0);
	if (json_object_get(expected, "div"))
		expect_value(v, "div", sums.div, json_object_get(expected, "div"), 0);
	json_array_foreach(json_object_get(expected, "grad"), i, gradient)
		squares += compare_gradient(v, m, &g, gradient, st, probe_index, probe_value);
	expect_value(v, "grad_norm", sqrt(squares), json_object_get(expected, "grad_norm"), 0);
	gradients_free(&g);
	free(probe_index);
	free(probe_value);
}

static void
compare_row(struct verdict *v, const char *what, const double *got, const double *want, size_t n,
    const json_t *expected, size_t row)
{
	expect_near(v, what, got, want, n,
	    json_number_value(json_array_get(json_object_get(expected, "tol"), row)) *
	    json_number_value(json_array_get(json_object_get(expected, "scale"), row)));
}

/* The kernel alone on given logits, each row by its own normaliser. */
static void
check_rows(struct verdict *v, const json_t *c, const struct kit *k)
{
	const struct backend *be = k->be;
	int v_true = (int)get_number(c, "vocab", 0);
	size_t ld = (size_t)get_number(c, "columns", 0), n, m, i, r, j;
	struct safetensors *st = kit_tensors(v, k, get_string(c, "tensors"));
	float *student = floats(v, st, "student_logits", &n), *teacher = floats(v, st, "teacher_logprobs", &n);
	int32_t *targets = integers(v, st, "targets", &m);
	float *logits = be->alloc(m * ld * sizeof *logits), *ce = be->alloc(m * sizeof *ce);
	float *div = be->alloc(m * sizeof *div);
	float *row = mem_zero(ld, sizeof *row), row_ce, row_div;
	double *got = mem_zero(ld, sizeof *got);
	struct teacher_rows t = { .form = TEACHER_DENSE, .ld = (size_t)v_true };
	void *d_targets = to_backend(be, targets, m * sizeof *targets);
	json_t *check;

	t.dense = to_backend(be, teacher, n * sizeof *teacher);
	json_array_foreach(json_object_get(c, "checks"), i, check) {
		const json_t *loss_rows = json_object_get(check, "loss_rows"), *grad_rows = json_object_get(check, "grad_rows");
		double *want_loss = kit_tensor(v, st, get_string(loss_rows, "tensor"), &n);
		double *want_grad = kit_tensor(v, st, get_string(grad_rows, "tensor"), &n);
		struct divergence d;

		expect(v, divergence_read(&d, check), "no divergence '%s'", get_string(check, "loss"));
		be->upload(logits, student, m * ld * sizeof *logits);
		be->loss(logits, ld, d_targets, d.kind == LOSS_CE ? &(struct teacher_rows){ .form = TEACHER_NONE } : &t,
		    &d, 1, ce, div, (int)m, v_true);
		for (r = 0; r < m && want_loss && want_grad; r++) {
			be->download(row, logits + r * ld, ld * sizeof *row);
			be->download(&row_ce, ce + r, sizeof row_ce);
			be->download(&row_div, div + r, sizeof row_div);
			for (j = 0; j < ld; j++)
				got[j] = row[j];
			compare_row(v, get_string(check, "loss"), got, want_grad + r * ld, ld, grad_rows, r);
			got[0] = (1 - (double)d.kd_ratio) * row_ce + (double)d.kd_ratio * row_div;
			compare_row(v, get_string(check, "loss"), got, want_loss + r, 1, loss_rows, r);
		}
		free(want_loss);
		free(want_grad);
	}
	be->free(logits);
	be->free(ce);
	be->free(div);
	be->free(d_targets);
	be->free((void *)t.dense);
	free(student);
	free(teacher);
	free(targets);
	free(row);
	free(got);
	safetensors_close(st);
}

void
kind_loss(struct verdict *v, const json_t *c, const struct kit *k)
{
	struct divergence d;
	struct sequences s;
	struct stored_teacher t;
	struct safetensors *st;
	struct model *m;
	size_t i;
	json_t *cut;

	if (json_object_get(c, "checks")) {
		check_rows(v, c, k);
		return;
	}
	if (!divergence_read(&d, c)) {
		snprintf(v->skipped, sizeof v->skipped, "the project has no loss '%.100s'", get_string(c, "loss"));
		return;
	}
	st = kit_tensors(v, k, get_string(c, "tensors"));
	if (!st)
		return;
	s = sequences_read(json_object_get(c, "sequences"));
	t = teacher_read(v, c, k, &s);
	m = kit_model(k, get_string(c, "model"));
	json_array_foreach(json_object_get(c, "micro_batches"), i, cut)
		compare_cut(v, c, m, &s, cut, &d, &t, st);
	teacher_release(&t);
	sequences_free(&s);
	safetensors_close(st);
}
