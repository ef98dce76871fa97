/* SPDX-License-Identifier: MIT */
/* train: steps of SFT or distillation, then every parameter's change */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/train/optimizer.h"
#include "lib/train/schedule.h"
#include "tests/conformance/train.h"

static struct adamw_options
options_of(const json_t *c)
{
	const json_t *o = json_object_get(c, "optimizer");

	return (struct adamw_options){
		.beta1 = get_number(o, "beta1", 0), .beta2 = get_number(o, "beta2", 0), .eps = get_number(o, "eps", 0),
		.decay = get_number(o, "weight_decay", 0), .clip = get_number(c, "clip", 0),
	};
}

static struct schedule
schedule_of(const json_t *c)
{
	const json_t *s = json_object_get(c, "schedule");

	return (struct schedule){
		.kind = SCHEDULE_COSINE, .lr = get_number(s, "lr", 0), .end = get_number(s, "lr_end", 0),
		.warmup = (long)get_number(s, "warmup", 0), .steps = (long)get_number(s, "steps", 0),
	};
}

static void
expect_step(struct verdict *v, const json_t *expected, const char *name, size_t step, double got)
{
	const json_t *e = json_object_get(expected, name), *tol = json_object_get(e, "tol");
	double want = json_number_value(json_array_get(json_object_get(e, "value"), step));
	char what[64];

	snprintf(what, sizeof what, "%s of step %zu", name, step);
	expect_near(v, what, &got, &want, 1,
	    fabs(want) * json_number_value(json_is_array(tol) ? json_array_get(tol, step) : tol));
}

static int
targets_of(const struct sequences *s, const json_t *step)
{
	size_t i, j;
	int n = 0;
	json_t *micro, *which;

	json_array_foreach(step, i, micro)
		json_array_foreach(micro, j, which) {
			json_int_t q = json_integer_value(which);

			n += s->first[q + 1] - s->first[q];
		}
	return n;
}

static double
dev_loss(struct model *m, const json_t *c, const struct divergence *d)
{
	struct sequences s = sequences_read(json_object_get(c, "dev"));
	struct divergence ce = *d;
	struct gradients g;
	struct sums sums;
	json_t *all = json_array();
	int i;

	ce.kind = LOSS_CE;
	for (i = 0; i < s.count; i++)
		json_array_append_new(all, json_integer(i));
	gradients_init(&g, m);
	sums = micro_batch(m, (int)get_number(c, "vocab", 0), &s, all, &ce, NULL, s.first[s.count], &g);
	gradients_free(&g);
	sequences_free(&s);
	json_decref(all);
	return sums.ce;
}

/* The L2 norm of final - initial, without the elements that `not_compared` names ("c_attn.bias[n : 2n]"). */
static double
change_norm(const struct param *p, const double *final, const double *initial, size_t n)
{
	size_t length = strlen(p->name), tail = strlen("attn.c_attn.bias"), i;
	int skips = length > tail && !strcmp(p->name + length - tail, "attn.c_attn.bias");
	double sum = 0;

	for (i = 0; i < n; i++)
		if (!skips || i / (n / 3) != 1)
			sum += (final[i] - initial[i]) * (final[i] - initial[i]);
	return sqrt(sum);
}

static void
compare_parameters(struct verdict *v, const json_t *c, const struct kit *k, const struct model *m,
    const struct safetensors *st)
{
	const struct model *initial = kit_model(k, get_string(c, "model"));
	size_t n, i, j;
	double *probe_index = kit_tensor(v, st, "probe_index", &n), *probe_value = kit_tensor(v, st, "probe_value", &n);
	json_t *expected;

	json_array_foreach(json_object_get(json_object_get(c, "expect"), "parameters"), i, expected) {
		const char *name = get_string(expected, "name");
		const struct param *p = param_find(m, name);
		const json_t *probes = json_object_get(expected, "probes");
		size_t first = (size_t)json_integer_value(json_array_get(probes, 0));
		size_t count = (size_t)json_integer_value(json_array_get(probes, 1));
		double allowed = get_number(expected, "tol", 0) * get_number(expected, "scale", 0), *is, *was;

		expect(v, p != NULL, "the model has no parameter '%s'", name);
		if (!p)
			continue;
		is = param_values(m, p, param_storage(m, p), &n);
		was = param_values(initial, param_find(initial, name), param_storage(initial, param_find(initial, name)), &n);
		expect_value(v, name, change_norm(p, is, was, n), json_object_get(expected, "change_norm"), 0);
		for (j = first; j < first + count; j++)
			if ((size_t)probe_index[j] < n)
				expect_near(v, name, &is[(size_t)probe_index[j]], &probe_value[j], 1, allowed);
			else
				expect(v, 0, "%s has no element %g", name, probe_index[j]);
		free(is);
		free(was);
	}
	free(probe_index);
	free(probe_value);
}

void
kind_train(struct verdict *v, const json_t *c, const struct kit *k)
{
	const json_t *expected = json_object_get(c, "expect");
	struct safetensors *st = kit_tensors(v, k, get_string(c, "tensors"));
	char *path = kit_path(k, get_string(c, "model"));
	struct model *m = model_load(path, k->be, DT_F32);
	struct sequences s = sequences_read(json_object_get(c, "data"));
	struct stored_teacher t = teacher_read(v, c, k, &s);
	struct adamw_options options = options_of(c);
	struct schedule schedule = schedule_of(c);
	struct divergence d;
	struct optimizer o;
	size_t step, i;
	json_t *batch, *micro;

	expect(v, divergence_read(&d, c), "no loss '%s'", get_string(c, "loss"));
	optimizer_init(&o, m, &options);
	json_array_foreach(json_object_get(c, "batches"), step, batch) {
		int targets = targets_of(&s, batch);
		struct sums sums = { 0, 0 };
		double lr = schedule_lr(&schedule, (long)step), norm;

		/* the gradient of sums: the optimizer divides by the targets of the step */
		json_array_foreach(batch, i, micro) {
			struct sums part = micro_batch(m, (int)get_number(c, "vocab", 0), &s, micro, &d, &t, 1, &o.gradients);

			sums.ce += part.ce;
			sums.div += part.div;
		}
		norm = optimizer_norm(&o, targets);
		expect_step(v, expected, "loss", step,
		    ((1 - (double)d.kd_ratio) * sums.ce + (double)d.kd_ratio * sums.div) / targets);
		expect_step(v, expected, "grad_norm", step, norm);
		expect_step(v, expected, "lr", step, lr);
		optimizer_step(&o, lr, targets, norm);
	}
	expect_value(v, "dev_loss", dev_loss(m, c, &d), json_object_get(expected, "dev_loss"), 0);
	if (st)
		compare_parameters(v, c, k, m, st);
	optimizer_free(&o);
	model_free(m);
	teacher_release(&t);
	sequences_free(&s);
	free(path);
	if (st)
		safetensors_close(st);
}
