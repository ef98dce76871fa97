/* SPDX-License-Identifier: MIT */
/* minillm and its kin: values of tokens, the policy's loss and gradient, with models and without; mixtures */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/replies/minillm.h"
#include "tests/conformance/train.h"

struct options {
	struct minillm m;
	int single_step;
	float temperature;
	double lm_coef, lm_kd_ratio;
};

/* By token of all sequences. */
struct tokens {
	const struct options *o;
	int n;
	float *logp, *teacher_logp, *old;
	struct token_value *values;
	double *pg, *kl;
};

static int
is_on(const json_t *o, const char *key, int otherwise)
{
	const json_t *value = json_object_get(o, key);

	return value ? json_is_true(value) : otherwise;
}

/* What a case does not write is minillm's, or all of it off for on_policy_distillation. */
static struct options
options_read(const json_t *c)
{
	const json_t *o = json_object_get(c, "options");
	int on = strcmp(get_string(c, "kind"), "on_policy_distillation") != 0;

	return (struct options){
		.m = {
			.alpha = get_number(o, "alpha", on ? 0.2 : 0), .gamma = get_number(o, "gamma", on ? 0.95 : 0),
			.length_norm = is_on(o, "length_norm", on), .whiten = is_on(o, "whiten", on),
			.clip = get_number(o, "clip", on && !json_object_get(o, "clip") ? 0.2 : 0),
			.reward_scale = get_number(o, "reward_scale", 1), .reward_clip = get_number(o, "reward_clip", 0),
		},
		.single_step = is_on(o, "single_step", on),
		.temperature = (float)get_number(o, "temperature", 1),
		.lm_coef = get_number(o, "lm_coef", 0), .lm_kd_ratio = get_number(o, "lm_kd_ratio", 0),
	};
}

static struct tokens
tokens_new(const struct options *o, int n)
{
	size_t size = (size_t)n + 1;

	return (struct tokens){ o, n, mem_zero(size, sizeof(float)), mem_zero(size, sizeof(float)),
		mem_zero(size, sizeof(float)), mem_zero(size, sizeof(struct token_value)),
		mem_zero(size, sizeof(double)), mem_zero(size, sizeof(double)) };
}

static void
tokens_free(struct tokens *t)
{
	free(t->logp);
	free(t->teacher_logp);
	free(t->old);
	free(t->values);
	free(t->pg);
	free(t->kl);
}

/* struct policy_loss's weights, divided by the tokens of the step. */
static void
weights(float *weight, const float *logp, int first, int count, void *user)
{
	struct tokens *t = user;
	double factor;
	int i;

	for (i = 0; i < count; i++) {
		t->pg[first + i] = minillm_loss(&factor, &t->o->m, &t->values[first + i], t->old[first + i], logp[i]);
		weight[i] = (float)(factor / t->n);
	}
}

static void
compare_tokens(struct verdict *v, const json_t *expected, const struct safetensors *st, const char *name,
    const double *got, int n)
{
	const json_t *e = json_object_get(expected, name);
	double *want;
	size_t count;

	if (!e)
		return;
	want = kit_tensor(v, st, get_string(e, "tensor"), &count);
	expect(v, count == (size_t)n, "%s has %d elements, not %zu", name, n, count);
	if (count == (size_t)n)
		expect_near(v, name, got, want, count, get_number(e, "tol", 0) * get_number(e, "scale", 0));
	free(want);
}

static void
compare_floats(struct verdict *v, const json_t *expected, const struct safetensors *st, const char *name,
    const float *got, size_t stride, int n)
{
	double *wide = mem_zero((size_t)n + 1, sizeof *wide);
	int i;

	for (i = 0; i < n; i++)
		wide[i] = got[(size_t)i * stride];
	compare_tokens(v, expected, st, name, wide, n);
	free(wide);
}

static double
mean(const double *x, int n)
{
	double sum = 0;
	int i;

	for (i = 0; i < n; i++)
		sum += x[i] / n;
	return sum;
}

static void
compare_value(struct verdict *v, const json_t *expected, const char *name, double got)
{
	const json_t *e = json_object_get(expected, name);

	if (e)
		expect_value(v, name, got, e, get_number(e, "scale", 0));
}

static void
compare_all(struct verdict *v, const json_t *c, const struct safetensors *st, const struct tokens *t, double lm)
{
	const json_t *expected = json_object_get(c, "expect");
	size_t stride = sizeof *t->values / sizeof(float);
	double pg = mean(t->pg, t->n), kl = t->o->single_step ? mean(t->kl, t->n) : 0;

	compare_floats(v, expected, st, "logp", t->logp, 1, t->n);
	compare_floats(v, expected, st, "teacher_logp", t->teacher_logp, 1, t->n);
	compare_floats(v, expected, st, "reward", &t->values->reward, stride, t->n);
	compare_floats(v, expected, st, "weight", &t->values->weight, stride, t->n);
	compare_floats(v, expected, st, "return", &t->values->total, stride, t->n);
	compare_floats(v, expected, st, "advantage", &t->values->advantage, stride, t->n);
	compare_tokens(v, expected, st, "token_pg", t->pg, t->n);
	compare_tokens(v, expected, st, "token_kl", t->kl, t->n);
	compare_value(v, expected, "loss_pg", pg);
	compare_value(v, expected, "loss_kl", kl);
	compare_value(v, expected, "loss_lm", lm);
	compare_value(v, expected, "loss", pg + kl + t->o->lm_coef * lm);
}

/* The old log-probabilities of the case, or those of the policy. */
static void
read_old(struct verdict *v, const struct safetensors *st, struct tokens *t)
{
	double *old;
	size_t n;
	int i;

	memcpy(t->old, t->logp, (size_t)t->n * sizeof *t->old);
	if (!safetensors_find(st, "old_logp"))
		return;
	old = kit_tensor(v, st, "old_logp", &n);
	for (i = 0; i < t->n && (size_t)i < n; i++)
		t->old[i] = (float)old[i];
	free(old);
}

/* Rows of logits in the backend's memory, to be freed there. */
static float *
upload_logits(struct verdict *v, const struct kit *k, const struct safetensors *st, const char *name, int rows,
    size_t *ld)
{
	size_t n, i;
	double *wide = kit_tensor(v, st, name, &n);
	float *host = mem_zero(n + 1, sizeof *host), *x = k->be->alloc((n + 1) * sizeof *x);

	for (i = 0; i < n; i++)
		host[i] = (float)wide[i];
	k->be->upload(x, host, n * sizeof *x);
	*ld = n / (size_t)rows;
	free(host);
	free(wide);
	return x;
}

static void
logprobs(const struct backend *be, float *host, const float *logits, size_t ld, const int *ids, float temperature,
    int n, int vocab)
{
	float *x = be->alloc(((size_t)n + 1) * sizeof *x);

	be->logprob(x, NULL, logits, ld, ids, temperature, n, vocab);
	be->download(host, x, (size_t)n * sizeof *x);
	be->free(x);
}

void
kind_minillm_logits(struct verdict *v, const json_t *c, const struct kit *k)
{
	const struct backend *be = k->be;
	struct options o = options_read(c);
	struct safetensors *st = kit_tensors(v, k, get_string(c, "tensors"));
	int n, nseq, vocab = (int)get_number(c, "vocab", 0), i;
	int32_t *ids = get_ids(json_object_get(c, "ids"), &n), *offsets = get_ids(json_object_get(c, "offsets"), &nseq);
	struct tokens t = tokens_new(&o, n);
	struct teacher_rows rows = { .form = o.single_step ? TEACHER_DENSE : TEACHER_NONE };
	size_t ld, bytes = ((size_t)n + 1) * sizeof(float);
	float *student = upload_logits(v, k, st, "student_logits", n, &ld), *host = mem_zero((size_t)n + 1, sizeof *host);
	float *teacher = upload_logits(v, k, st, "teacher_logits", n, &rows.ld), *gradient;
	float *d_weight = be->alloc(bytes), *d_kl = be->alloc(bytes);
	int *d_ids = be->alloc(bytes);

	rows.dense = teacher;
	be->upload(d_ids, ids, (size_t)n * sizeof *ids);
	logprobs(be, t.logp, student, ld, d_ids, o.temperature, n, vocab);
	logprobs(be, t.teacher_logp, teacher, rows.ld, d_ids, o.temperature, n, vocab);
	read_old(v, st, &t);
	minillm_values(t.values, &o.m, t.teacher_logp, t.old, offsets, nseq - 1);
	weights(host, t.logp, 0, n, &t);
	be->upload(d_weight, host, (size_t)n * sizeof *host);
	be->policy(student, ld, d_ids, d_weight, &rows, 1 / (float)n, o.temperature, d_kl, n, vocab);
	be->download(host, d_kl, (size_t)n * sizeof *host);
	for (i = 0; i < n; i++)
		t.kl[i] = host[i];
	compare_all(v, c, st, &t, 0);
	gradient = mem_zero((size_t)n * ld, sizeof *gradient);
	be->download(gradient, student, (size_t)n * ld * sizeof *gradient);
	compare_floats(v, json_object_get(c, "expect"), st, "dlogits", gradient, 1, n * (int)ld);
	be->free(student);
	be->free(teacher);
	be->free(d_weight);
	be->free(d_kl);
	be->free(d_ids);
	free(gradient);
	free(host);
	free(ids);
	free(offsets);
	tokens_free(&t);
	safetensors_close(st);
}

/* A case's teacher as teacher_read() wants it. */
static struct stored_teacher
computed_teacher(struct verdict *v, const json_t *c, const struct kit *k, const struct sequences *s)
{
	json_t *as = json_pack("{s{ssss} si}", "teacher", "form", "computed", "model", get_string(c, "teacher"),
	    "vocab", (int)get_number(c, "vocab", 0));
	struct stored_teacher t = teacher_read(v, as, k, s);

	json_decref(as);
	return t;
}

/* log p of the batch's targets, from the teacher's logits. */
static void
teacher_logprobs(const struct kit *k, struct tokens *t, const struct stored_teacher *teacher, const struct batch *b)
{
	size_t n = (size_t)t->n * (size_t)teacher->width;
	float *logits = k->be->alloc((n + 1) * sizeof *logits);

	k->be->upload(logits, teacher->all.dense, n * sizeof *logits);
	logprobs(k->be, t->teacher_logp, logits, (size_t)teacher->width, b->d_targets, t->o->temperature, t->n,
	    teacher->width);
	k->be->free(logits);
}

/* The term on plain text, its gradient added; 0 where it is off. */
static double
language_model(struct verdict *v, const json_t *c, const struct kit *k, struct model *m, const struct options *o,
    struct gradients *g)
{
	struct sequences s = sequences_read(json_object_get(c, "plain_text"));
	struct divergence d = { LOSS_KD, (float)o->lm_kd_ratio, 1, 0, 0 };
	struct stored_teacher t;
	struct sums sums = { 0, 0 };
	json_t *all = json_array();
	int i;

	if (o->lm_coef > 0) {
		for (i = 0; i < s.count; i++)
			json_array_append_new(all, json_integer(i));
		t = computed_teacher(v, c, k, &s);
		sums = micro_batch(m, (int)get_number(c, "vocab", 0), &s, all, &d, &t, s.first[s.count] / o->lm_coef, g);
		sums.ce /= o->lm_coef;
		sums.div /= o->lm_coef;
		teacher_release(&t);
	}
	json_decref(all);
	sequences_free(&s);
	return (1 - o->lm_kd_ratio) * sums.ce + o->lm_kd_ratio * sums.div;
}

void
compare_gradients(struct verdict *v, const json_t *c, const struct model *m, const struct gradients *g,
    const struct safetensors *st)
{
	const json_t *expected = json_object_get(c, "expect"), *probes = json_object_get(c, "grad_probes"), *e;
	const json_t *all = json_object_get(expected, "grad_probes");
	int zero = !strcmp(get_string(c, "gradients"), "all zero"), i;
	double *want = all ? kit_tensor(v, st, "grad_probes", &(size_t){ 0 }) : NULL;
	double *at = want;
	const char *name;
	json_t *places, *place;
	char key[300];
	size_t n, j;

	for (i = 0; i < m->nparams; i++) {
		const struct param *p = &m->params[i];
		double *got = param_values(m, p, g->of[p->storage], &n), norm = 0;

		for (j = 0; j < n; j++)
			norm += got[j] * got[j];
		snprintf(key, sizeof key, "gradnorm.%s", p->name);
		if ((e = json_object_get(expected, key)))
			expect_value(v, key, sqrt(norm), e, get_number(e, "scale", 0));
		snprintf(key, sizeof key, "grad.%s", p->name);
		compare_tokens(v, expected, st, key, got, (int)n);
		if (zero)
			expect(v, !(norm > 0), "the gradient of %s is not zero", p->name);
		free(got);
	}
	json_object_foreach((json_t *)(uintptr_t)probes, name, places) {
		const struct param *p = param_find(m, name);
		double *got;

		expect(v, p != NULL && want != NULL, "nothing to compare the gradient of '%s' with", name);
		if (!p || !want)
			break;
		got = param_values(m, p, g->of[p->storage], &n);
		json_array_foreach(places, j, place) {
			size_t k = (size_t)json_integer_value(place);

			expect(v, k < n, "%s has no element %zu", name, k);
			if (k < n)
				expect_near(v, name, &got[k], at, 1, get_number(all, "tol", 0) * get_number(all, "scale", 0));
			at++;
		}
		free(got);
	}
	free(want);
}

void
kind_minillm(struct verdict *v, const json_t *c, const struct kit *k)
{
	struct options o = options_read(c);
	struct safetensors *st = kit_tensors(v, k, get_string(c, "tensors"));
	struct sequences s = sequences_read(json_object_get(c, "sequences"));
	struct model *m = kit_model(k, get_string(c, "model"));
	struct stored_teacher teacher = computed_teacher(v, c, k, &s);
	struct tokens t = tokens_new(&o, s.first[s.count]);
	struct policy_loss loss = {
		.weights = weights, .user = &t, .kl_weight = 1 / (float)t.n, .temperature = o.temperature
	};
	struct head *h = head_new(m, teacher.width, 7);
	int *order = mem_zero((size_t)t.n + 1, sizeof *order), i;
	float *kl = mem_zero((size_t)t.n + 1, sizeof *kl);
	const void *hidden;
	struct gradients g;
	struct forward *f;
	struct batch b;

	batch_init(&b, k->be);
	for (i = 0; i < s.count; i++) {
		batch_add(&b, s.ids[i], s.n[i], s.supervised[i], 1, 1);
		model_rope(m, s.n[i]);
	}
	for (i = 0; i < t.n; i++)
		order[i] = i;
	teacher.order = order;
	gradients_init(&g, m);
	f = forward_new(m, b.m, KEEP_ALL);
	batch_upload(&b);
	hidden = forward_run(f, &b, NULL, FOR_SCORES, 0, 0);
	head_logprob(h, &b, hidden, o.temperature, t.logp, NULL);
	k->be->sync();
	teacher_logprobs(k, &t, &teacher, &b);
	read_old(v, st, &t);
	minillm_values(t.values, &o.m, t.teacher_logp, t.old, s.first, s.count);
	forward_backward(f, &b, head_policy(h, &b, hidden, &loss, o.single_step ? teacher_chunk : NULL, &teacher, &g), &g);
	k->be->download(kl, h->div, (size_t)t.n * sizeof *kl);
	for (i = 0; i < t.n; i++)
		t.kl[i] = kl[i];
	compare_all(v, c, st, &t, language_model(v, c, k, m, &o, &g));
	compare_gradients(v, c, m, &g, st);
	forward_free(f);
	gradients_free(&g);
	head_free(h);
	batch_free(&b);
	teacher_release(&teacher);
	tokens_free(&t);
	sequences_free(&s);
	safetensors_close(st);
	free(order);
	free(kl);
}

/* The probabilities that one side is sampled from, in the backend's memory, to be freed there. */
static float *
side(struct verdict *v, const json_t *item, const struct kit *k, const struct safetensors *st, const char *what)
{
	struct sampling s = get_sampling(json_object_get(item, "options"));
	char *name = mem_format("%s.%s_logits", get_string(item, "name"), what);
	float *out = k->be->alloc(4 * sizeof *out), *p;
	int *id = k->be->alloc(sizeof *id);
	size_t ld;

	p = upload_logits(v, k, st, name, 1, &ld);
	k->be->sample(id, out + 1, out + 2, p, ld, &s, out, 1, (int)get_number(item, "vocab", 0));
	k->be->free(id);
	k->be->free(out);
	free(name);
	return p;
}

/* log q of the chosen ids at T, without filters. */
static void
chosen_logprobs(struct verdict *v, const json_t *item, const struct kit *k, const struct safetensors *st,
    const char *what, float *logp)
{
	const json_t *chosen = json_object_get(item, "chosen");
	float temperature = (float)get_number(json_object_get(item, "options"), "temperature", 1);
	char *name = mem_format("%s.%s_logits", get_string(item, "name"), what);
	int *d_id = k->be->alloc(sizeof *d_id), id;
	size_t ld, i;
	float *logits = upload_logits(v, k, st, name, 1, &ld);
	json_t *value;

	json_array_foreach(chosen, i, value) {
		id = (int)json_integer_value(value);
		k->be->upload(d_id, &id, sizeof id);
		logprobs(k->be, &logp[i], logits, ld, d_id, temperature, 1, (int)get_number(item, "vocab", 0));
	}
	k->be->free(d_id);
	k->be->free(logits);
	free(name);
}

static void
compare_part(struct verdict *v, const json_t *c, const struct safetensors *st, const json_t *item, const char *part,
    const float *got, size_t stride, int n)
{
	char *name = mem_format("%s.%s", get_string(item, "name"), part);

	expect(v, json_object_get(json_object_get(c, "expect"), name) != NULL, "no %s is expected", name);
	compare_floats(v, json_object_get(c, "expect"), st, name, got, stride, n);
	free(name);
}

static void
check_mixture(struct verdict *v, const json_t *c, const json_t *item, const struct kit *k,
    const struct safetensors *st)
{
	const struct backend *be = k->be;
	double alpha = get_number(json_object_get(item, "options"), "alpha", 0);
	int vocab = (int)get_number(item, "vocab", 0), n = (int)json_array_size(json_object_get(item, "chosen"));
	float *p = side(v, item, k, st, "student"), *other = side(v, item, k, st, "teacher");
	float *host = mem_zero((size_t)vocab, sizeof *host), *out = be->alloc(4 * sizeof *out);
	float *logp = mem_zero((size_t)n + 1, sizeof *logp), *teacher = mem_zero((size_t)n + 1, sizeof *teacher);
	struct token_value *values = mem_zero((size_t)n + 1, sizeof *values);
	struct minillm m = { .alpha = alpha, .reward_scale = 1 };
	int *id = be->alloc(sizeof *id);

	be->mix(id, out + 1, p, other, (size_t)vocab, (float)alpha, out, 1, vocab);
	be->download(host, p, (size_t)vocab * sizeof *host);
	compare_part(v, c, st, item, "probs", host, 1, vocab);
	chosen_logprobs(v, item, k, st, "student", logp);
	chosen_logprobs(v, item, k, st, "teacher", teacher);
	minillm_values(values, &m, teacher, logp, (int[]){ 0, n }, 1);
	compare_part(v, c, st, item, "logp", logp, 1, n);
	compare_part(v, c, st, item, "teacher_logp", teacher, 1, n);
	compare_part(v, c, st, item, "weight", &values->weight, sizeof *values / sizeof(float), n);
	be->free(p);
	be->free(other);
	be->free(out);
	be->free(id);
	free(host);
	free(logp);
	free(teacher);
	free(values);
}

void
kind_minillm_mix(struct verdict *v, const json_t *c, const struct kit *k)
{
	struct safetensors *st = kit_tensors(v, k, get_string(c, "tensors"));
	json_t *item;
	size_t i;

	json_array_foreach(json_object_get(c, "items"), i, item)
		check_mixture(v, c, item, k, st);
	safetensors_close(st);
}
