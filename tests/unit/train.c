/* SPDX-License-Identifier: MIT */
/* train - schedules in closed form, the split master of bf16 against f32, the order of records */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/mem.h"
#include "lib/train/data.h"
#include "lib/train/optimizer.h"
#include "lib/train/schedule.h"
#include "tests/unit/tap.h"

static int
near(double a, double b)
{
	return fabs(a - b) <= 1e-12 * fabs(b);
}

static void
schedules(void)
{
	struct schedule s = { SCHEDULE_COSINE, 1e-3, 1e-7, 0, 40 };

	ok(near(schedule_lr(&s, 0), 1e-3), "without warm-up, step 0 has the whole rate");
	ok(near(schedule_lr(&s, 20), (1e-3 + 1e-7) / 2), "the cosine is half-way in the middle");
	ok(schedule_lr(&s, 39) > 1e-7 && near(schedule_lr(&s, 40), 1e-7), "its last step is a little above the end");
	s.warmup = 4;
	ok(near(schedule_lr(&s, 0), 2.5e-4) && near(schedule_lr(&s, 3), 1e-3) && near(schedule_lr(&s, 4), 1e-3),
	    "the warm-up is linear, and the schedule begins behind it");
	s.kind = SCHEDULE_LINEAR;
	ok(near(schedule_lr(&s, 22), (1e-3 + 1e-7) / 2), "linear is half-way in the middle");
	s.kind = SCHEDULE_CONSTANT;
	ok(near(schedule_lr(&s, 39), 1e-3), "constant is constant");
}

static struct model *
tiny(const struct backend *be, enum dtype type)
{
	static const char text[] = "{\"model_type\": \"gpt2\", \"n_embd\": 24, \"n_layer\": 1, \"n_head\": 2,"
	    "\"n_positions\": 8, \"vocab_size\": 37}";
	struct config c;
	char why[512];
	json_t *json = json_loads(text, 0, NULL);
	struct model *m;

	if (config_parse(&c, json, why))
		return NULL;
	json_decref(json);
	m = model_new(&c, be, type);
	model_randomise(m, 5);
	return m;
}

/*
 * The gradient of a matrix, given row-major in bf16: it has the order of the weight's elements, which is
 * not the same for bf16 and f32, and is itself f32.
 */
static void
put_gradient(float *gradient, const struct weight *w, const struct backend *be, const uint16_t *rows)
{
	struct weight as = *w;

	as.data = be->alloc(w->elements * dtype_size(w->type));
	be->weight_put(&as, 0, w->n, rows, DT_BF16, 0);
	be->convert(gradient, DT_F32, as.data, w->type, w->elements);
	be->free(as.data);
}

static void
put_vector(float *gradient, const struct backend *be, const uint16_t *x, size_t n)
{
	float *wide = mem_alloc(n * sizeof *wide);

	dtype_convert(wide, DT_F32, x, DT_BF16, n);
	be->upload(gradient, wide, n * sizeof *wide);
	free(wide);
}

static void
fill_gradients(struct optimizer *o, int step)
{
	const struct model *m = o->m;
	int i;

	for (i = 0; i < m->nstorage; i++) {
		const struct weight *w = m->storage[i].matrix;
		size_t n = w ? (size_t)w->n * (size_t)w->k : m->storage[i].n, e;
		uint16_t *g = mem_alloc(n * sizeof *g);

		for (e = 0; e < n; e++)
			g[e] = f32_to_bf16(sinf((float)(e * 7 + (size_t)i * 13 + (size_t)step)));
		if (w)
			put_gradient(o->gradients.of[i], w, m->be, g);
		else
			put_vector(o->gradients.of[i], m->be, g, n);
		free(g);
	}
}

/* The largest difference of matrices, in units of the bf16 model's rounding. */
static double
distance(const struct model *a, const struct model *b)
{
	double worst = 0;
	int i, e;

	for (i = 0; i < a->nstorage; i++) {
		const struct weight *w = a->storage[i].matrix;
		int n = w ? w->n * w->k : 0;
		float *x = mem_alloc((size_t)n * sizeof *x), *y = mem_alloc((size_t)n * sizeof *y);

		if (w) {
			a->be->weight_get(x, DT_F32, w, 0, w->n, 0);
			b->be->weight_get(y, DT_F32, b->storage[i].matrix, 0, w->n, 0);
		}
		for (e = 0; e < n; e++)
			worst = fmax(worst, fabs(x[e] - y[e]) / (fabs(x[e]) * 0x1p-8 + 1e-6));
		free(x);
		free(y);
	}
	return worst;
}

static void
masters(const struct backend *be)
{
	const struct adamw_options options = { 0.9, 0.999, 1e-8, 0.01, 1, 0, 0 };
	struct model *wide = tiny(be, DT_F32), *narrow = tiny(be, DT_BF16);
	struct optimizer o[2];
	struct model *both[2] = { wide, narrow };
	double norms[2] = { 0, 0 };
	size_t matrices = 0;
	int i, k, step;

	/* both begin with the bf16 weights */
	for (i = 0; i < wide->nstorage; i++)
		if (wide->storage[i].matrix) {
			struct weight *w = wide->storage[i].matrix, *n = narrow->storage[i].matrix;
			float *x = mem_alloc((size_t)w->n * (size_t)w->k * sizeof *x);

			be->weight_get(x, DT_F32, n, 0, n->n, 0);
			be->weight_put(w, 0, w->n, x, DT_F32, 0);
			free(x);
		}
	for (k = 0; k < 2; k++) {
		optimizer_init(&o[k], both[k], &options);
		for (step = 0; step < 200; step++) {
			fill_gradients(&o[k], step);
			norms[k] = optimizer_norm(&o[k], 10);
			optimizer_step(&o[k], 1e-5, 10, norms[k]);
		}
	}
	ok(fabs(norms[0] / norms[1] - 1) < 1e-6, "%s: the gradient's norm does not depend on the layout", be->name);
	ok(distance(wide, narrow) < 1.01,
	    "%s: 200 steps, each less than bf16 resolves, end at the f32 weights rounded to bf16", be->name);
	ok(o[0].gradients.of[0][0] == 0, "%s: gradients are zero after a step", be->name);
	for (i = 0; i < narrow->nstorage; i++)
		matrices += narrow->storage[i].matrix ? narrow->storage[i].n : 0;
	ok(optimizer_bytes(narrow, DT_BF16, 0) - optimizer_bytes(narrow, DT_F32, 0) == 2 * matrices &&
	    optimizer_bytes(narrow, DT_BF16, 1) == optimizer_bytes(narrow, DT_F32, 0),
	    "%s: a bf16 model's masters take two bytes more", be->name);
	for (k = 0; k < 2; k++) {
		optimizer_free(&o[k]);
		model_free(both[k]);
	}
}

static void
write_numbers(const char *path, int n)
{
	struct common common = { .argv = NULL };
	json_t *header = header_new("tokens", NULL, &common);
	const uint64_t two = 2;
	struct stream_out *out;
	int32_t i, span[2] = { 0, 1 };
	uint64_t one = 1, shape[2] = { 1, 2 };

	header_field(header, "ids", DT_I32, 0, NULL);
	header_field(header, "supervised", DT_I32, 1, &two);
	out = stream_create(path, header);
	for (i = 0; i < n; i++) {
		struct record r = { .text = json_object() };

		record_add(&r, "ids", DT_I32, 1, &one, &i);
		record_add(&r, "supervised", DT_I32, 2, shape, span);
		stream_put(out, &r);
		json_decref(r.text);
	}
	stream_finish(out);
	json_decref(header);
}

static int
number(struct data *d)
{
	int id = *(const int32_t *)record_need(data_peek(d), "ids", DT_I32)->data;

	data_take(d);
	return id;
}

static void
orders(void)
{
	enum { N = 50, EPOCHS = 3 };
	char path[] = "/tmp/train-XXXXXX";
	int fd = mkstemp(path), order[N * EPOCHS], seen[N] = { 0 }, i, same = 0, again = 1, once = 1;
	struct stream_in *in;
	struct data d;

	close(fd);
	write_numbers(path, N);
	in = stream_open(path, "tokens");
	data_open(&d, in, 1, 10, EPOCHS);
	for (i = 0; i < N * EPOCHS; i++) {
		order[i] = number(&d);
		once &= seen[order[i]]++ == i / N;
		same += i >= N && order[i] == order[i - N];
	}
	ok(once, "each epoch has every record once");
	ok(!data_peek(&d), "the data ends behind the last epoch");
	ok(same < N / 4, "each epoch has an order of its own");
	for (i = N * EPOCHS - 1; i >= 0; i -= 7) {
		data_seek(&d, (uint64_t)i);
		again &= number(&d) == order[i];
	}
	ok(again, "the n-th record is the same whenever it is asked for");
	data_close(&d);
	data_open(&d, in, 0, 10, 1);
	for (i = 0, once = 1; i < N; i++)
		once &= number(&d) == i;
	ok(once, "unshuffled, records come as they lie");
	data_close(&d);
	stream_close(in);
	unlink(path);
}

int
main(void)
{
	int i;

	schedules();
	for (i = 0; backends[i]; i++)
		if (backends[i]->usable())
			masters(backends[i]);
	orders();
	return done();
}
