/* SPDX-License-Identifier: MIT */
/* forward, seq_logprob: scores of given sequences */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/model/forward.h"
#include "lib/train/head.h"
#include "tests/conformance/kit.h"

/* The model run on one sequence, everything in double on the host. */
struct scored {
	int n;
	double *hidden;		/* [n, hidden] */
	double *logits;		/* [n, vocab of the head] */
	double *logp;		/* [n - 1], softmax over `columns` */
};

static double *
fetch(const struct backend *be, const void *device, size_t n)
{
	float *f = mem_zero(n + 1, sizeof *f);
	double *d = mem_zero(n + 1, sizeof *d);
	size_t i;

	be->download(f, device, n * sizeof *f);
	for (i = 0; i < n; i++)
		d[i] = f[i];
	free(f);
	return d;
}

static struct scored
score(struct model *m, const int32_t *ids, int n, int columns)
{
	int32_t all[2] = { 0, n };
	struct scored s = { .n = n };
	struct batch b;
	struct forward *f = forward_new(m, n, KEEP_NONE);
	struct head *h = head_new(m, columns, 16);
	float *logits = m->be->alloc((size_t)n * (size_t)m->config.vocab * sizeof *logits);
	float *logp = mem_zero((size_t)n, sizeof *logp);
	const void *hidden;
	int i;

	model_rope(m, n);
	batch_init(&b, m->be);
	batch_add(&b, ids, n, all, 1, 0);
	batch_upload(&b);
	hidden = forward_run(f, &b, NULL, FOR_SCORES, 0, 0);
	s.hidden = fetch(m->be, hidden, (size_t)n * (size_t)m->config.hidden);
	m->be->matmul(logits, DT_F32, hidden, DT_F32, &m->head, NULL, n, m->config.vocab, 0);
	s.logits = fetch(m->be, logits, (size_t)n * (size_t)m->config.vocab);
	s.logp = mem_zero((size_t)n, sizeof *s.logp);
	head_logprob(h, &b, hidden, 1, logp, NULL);
	m->be->sync();
	for (i = 0; i < n - 1; i++)
		s.logp[i] = logp[i];
	free(logp);
	m->be->free(logits);
	head_free(h);
	forward_free(f);
	batch_free(&b);
	return s;
}

static void
scored_free(struct scored *s)
{
	free(s->hidden);
	free(s->logits);
	free(s->logp);
}

double *
kit_logits(struct model *m, const int32_t *ids, int n)
{
	struct scored s = score(m, ids, n, m->config.vocab);
	double *logits = s.logits;

	s.logits = NULL;
	scored_free(&s);
	return logits;
}

/* Rows `rows` of got [.., width] against the tensor NAME.index. */
static void
compare_rows(struct verdict *v, const struct safetensors *st, const char *name, size_t index, const double *got,
    const json_t *rows, size_t width, const json_t *expected)
{
	char tensor[64];
	size_t n, i, count = json_array_size(rows);
	double allowed = get_number(expected, "tol", 0) * get_number(expected, "scale", 0), *want;
	json_t *row;

	snprintf(tensor, sizeof tensor, "%s.%zu", name, index);
	want = kit_tensor(v, st, tensor, &n);
	expect(v, want && n == count * width, "%s has %zu elements, not %zu", tensor, n, count * width);
	if (want && n == count * width)
		json_array_foreach(rows, i, row)
			expect_near(v, tensor, got + (size_t)json_integer_value(row) * width, want + i * width, width,
			    allowed);
	free(want);
}

static void
compare_logp(struct verdict *v, const struct safetensors *st, size_t index, const struct scored *s,
    const json_t *expected)
{
	char tensor[64];
	size_t n;
	double *want;

	if (s->n < 2)
		return;
	snprintf(tensor, sizeof tensor, "logprobs.%zu", index);
	want = kit_tensor(v, st, tensor, &n);
	expect(v, n == (size_t)s->n - 1, "%s has %zu elements", tensor, n);
	if (n == (size_t)s->n - 1)
		expect_near(v, tensor, s->logp, want, n,
		    get_number(expected, "tol", 0) * get_number(expected, "scale", 0));
	free(want);
}

static const json_t *
group_of(const json_t *groups, size_t sequence)
{
	size_t i, j;
	json_t *group, *index;

	json_array_foreach(groups, i, group)
		json_array_foreach(json_object_get(group, "sequences"), j, index)
			if ((size_t)json_integer_value(index) == sequence)
				return group;
	return NULL;
}

void
kind_forward(struct verdict *v, const json_t *c, const struct kit *k)
{
	const json_t *expected = json_object_get(c, "expect");
	struct safetensors *st;
	struct model *m;
	double sum = 0, targets = get_number(c, "targets", 0);
	size_t i;
	int t;
	json_t *sequence;

	st = kit_tensors(v, k, get_string(c, "tensors"));
	m = kit_model(k, get_string(c, "model"));
	if (!st)
		return;
	json_array_foreach(json_object_get(c, "sequences"), i, sequence) {
		const json_t *group = group_of(json_object_get(expected, "groups"), i);
		int n;
		int32_t *ids = get_ids(json_object_get(sequence, "ids"), &n);
		struct scored s = score(m, ids, n, (int)get_number(c, "vocab", 0));

		compare_rows(v, st, "hidden", i, s.hidden, json_object_get(sequence, "hidden_rows"),
		    (size_t)m->config.hidden, json_object_get(group, "hidden"));
		compare_rows(v, st, "logits", i, s.logits, json_object_get(sequence, "logits_rows"),
		    (size_t)m->config.vocab, json_object_get(group, "logits"));
		compare_logp(v, st, i, &s, json_object_get(group, "logprobs"));
		for (t = 0; t < n - 1; t++)
			sum -= s.logp[t];
		scored_free(&s);
		free(ids);
	}
	expect_value(v, "mean_nll", sum / targets, json_object_get(expected, "mean_nll"), 0);
	expect_value(v, "perplexity", exp(sum / targets), json_object_get(expected, "perplexity"), 0);
	safetensors_close(st);
}

/* log-probability and entropy of every reply token of all sequences at one temperature. */
static void
reply_scores(struct model *m, const json_t *c, float temperature, double *logp, double *entropy)
{
	size_t i, at = 0;
	json_t *sequence;

	json_array_foreach(json_object_get(c, "sequences"), i, sequence) {
		const json_t *span = json_object_get(sequence, "supervised");
		int n, j;
		int32_t *ids = get_ids(json_object_get(sequence, "ids"), &n);
		int32_t supervised[2] = { (int32_t)json_integer_value(json_array_get(span, 0)),
			(int32_t)json_integer_value(json_array_get(span, 1)) };
		struct forward *f = forward_new(m, n, KEEP_NONE);
		struct head *h = head_new(m, (int)get_number(c, "vocab", 0), 16);
		float *l = mem_zero((size_t)n, sizeof *l), *e = mem_zero((size_t)n, sizeof *e);
		struct batch b;

		batch_init(&b, m->be);
		batch_add(&b, ids, n, supervised, 1, 0);
		batch_upload(&b);
		model_rope(m, n);
		head_logprob(h, &b, forward_run(f, &b, NULL, FOR_SCORES, 0, 0), temperature, l, e);
		m->be->sync();
		for (j = 0; j < b.p; j++, at++) {
			logp[at] = l[j];
			entropy[at] = e[j];
		}
		batch_free(&b);
		head_free(h);
		forward_free(f);
		free(l);
		free(e);
		free(ids);
	}
}

static void
compare_expected(struct verdict *v, const struct safetensors *st, const json_t *expected, const char *name,
    const double *got, size_t count)
{
	const json_t *e = json_object_get(expected, name);
	size_t n;
	double *want;

	if (!e)
		return;
	want = kit_tensor(v, st, get_string(e, "tensor"), &n);
	expect(v, n == count, "%s has %zu elements, not %zu", name, n, count);
	if (n == count)
		expect_near(v, name, got, want, n, get_number(e, "tol", 0) * get_number(e, "scale", 0));
	free(want);
}

/* Whatever is expected at this temperature, however many digits its name has. */
static void
compare_at(struct verdict *v, const struct safetensors *st, const json_t *expected, const char *prefix, double T,
    const double *got, size_t count)
{
	size_t length = strlen(prefix);
	const char *name;
	json_t *e;
	int found = 0;

	json_object_foreach((json_t *)(uintptr_t)expected, name, e)
		if (!strncmp(name, prefix, length) && strtod(name + length, NULL) == T) {
			compare_expected(v, st, expected, name, got, count);
			found = 1;
		}
	expect(v, found, "no %s%g is expected", prefix, T);
}

void
kind_seq_logprob(struct verdict *v, const json_t *c, const struct kit *k)
{
	const json_t *expected = json_object_get(c, "expect"), *offsets = json_object_get(c, "offsets");
	size_t sequences = json_array_size(json_object_get(c, "sequences")), i, j;
	size_t total = (size_t)json_integer_value(json_array_get(offsets, sequences));
	struct safetensors *st = kit_tensors(v, k, get_string(c, "tensors"));
	struct model *m = kit_model(k, get_string(c, "model"));
	double *logp = mem_zero(total, sizeof *logp), *entropy = mem_zero(total, sizeof *entropy);
	double *sums = mem_zero(sequences, sizeof *sums);
	json_t *temperature;

	json_array_foreach(json_object_get(c, "temperatures"), i, temperature) {
		double T = json_number_value(temperature);

		reply_scores(m, c, (float)T, logp, entropy);
		compare_at(v, st, expected, "logp.", T, logp, total);
		compare_at(v, st, expected, "entropy.", T, entropy, total);
		if (T != 1)
			continue;
		for (j = 0; j < total; j++) {
			size_t s = 0;

			while (j >= (size_t)json_integer_value(json_array_get(offsets, s + 1)))
				s++;
			sums[s] += logp[j];
		}
		compare_expected(v, st, expected, "sum_logp", sums, sequences);
	}
	free(logp);
	free(entropy);
	free(sums);
	safetensors_close(st);
}
