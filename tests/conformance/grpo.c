/* SPDX-License-Identifier: MIT */
/* grpo: advantages, loss, gradients of log-probabilities and of parameters, metrics, for every cut of the batch */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/replies/grpo.h"
#include "tests/conformance/train.h"

enum { CHUNK = 7 };		/* targets that the head takes at a time: replies are longer and shorter */

/* A case, as the library takes it; by token: in the order of the sequences. */
struct batch_case {
	struct grpo g;
	double temperature;
	struct sequences s;
	struct sample *samples;
	double *weights, *rewards;	/* [nrewards], [count, nrewards] */
	int nrewards;
	float *old, *ref, *sampled;	/* by token, or NULL */
	struct judged judged;
	/* results, by token */
	float *logp, *dlogp;
	double *terms, entropy;
	struct grpo_sums sums;
};

/* The first name where none is given, -1 where it is unknown. */
static int
index_of(const char *name, const char *const *names)
{
	int i;

	if (!*name)
		return 0;
	for (i = 0; names[i]; i++)
		if (!strcmp(name, names[i]))
			return i;
	return -1;
}

/* 0 when the project lacks what the options name. */
static int
options_read(struct grpo *g, const json_t *o)
{
	static const char *const losses[] = { "grpo", "dapo", "dr_grpo", "luspo", "cispo", "sapo", NULL };
	static const char *const ratios[] = { "token", "sequence", NULL }, *const scales[] = { "group", "batch", "none", NULL };
	static const char *const modes[] = { "token_truncate", "token_mask", "sequence_truncate", "sequence_mask", NULL };
	const char *loss = get_string(o, "loss");
	int kind = index_of(strcmp(loss, "bnpo") ? loss : "dapo", losses), ratio = index_of(get_string(o, "ratio"), ratios);
	int scale = index_of(get_string(o, "scale"), scales), tis = index_of(get_string(o, "tis_mode"), modes);

	*g = (struct grpo){
		.loss = (enum grpo_loss)kind, .ratio = (enum grpo_ratio)ratio, .scale = (enum grpo_scale)scale,
		.low = get_number(o, "eps_low", 0.2), .high = get_number(o, "eps_high", 0.2),
		.delta = get_number(o, "delta", INFINITY), .cispo_max = get_number(o, "cispo_max", INFINITY),
		.sapo_pos = get_number(o, "sapo_pos", 1), .sapo_neg = get_number(o, "sapo_neg", 1),
		.beta = get_number(o, "beta", 0.04),
		.kl = json_is_true(json_object_get(o, "kl_ratio")) ? KL_K3_RATIO : KL_K3,
		.tis_cap = get_number(o, "tis_cap", INFINITY), .tis = (enum grpo_tis)tis,
		.max_completion = (int)get_number(o, "max_completion", 0),
		.drop_truncated = json_is_true(json_object_get(o, "drop_truncated")),
		.skip_zero_std = json_is_true(json_object_get(o, "skip_zero_std")),
	};
	return kind >= 0 && ratio >= 0 && scale >= 0 && tis >= 0;
}

static float *
input(struct verdict *v, const json_t *c, const struct safetensors *st, const char *name)
{
	size_t i, n;
	double *d;
	float *f;
	json_t *listed;

	json_array_foreach(json_object_get(c, "inputs"), i, listed)
		if (!strcmp(json_string_value(listed), name))
			break;
	if (i == json_array_size(json_object_get(c, "inputs")) || !(d = kit_tensor(v, st, name, &n)))
		return NULL;
	f = mem_zero(n + 1, sizeof *f);
	for (i = 0; i < n; i++)
		f[i] = (float)d[i];
	free(d);
	return f;
}

static void
rewards_read(struct batch_case *b, const json_t *rewards)
{
	const json_t *values = json_object_get(rewards, "values"), *weights = json_object_get(rewards, "weights");
	json_t *row, *value;
	size_t i, j;

	b->nrewards = (int)json_array_size(weights);
	b->weights = mem_zero((size_t)b->nrewards, sizeof *b->weights);
	b->rewards = mem_zero((size_t)(b->s.count * b->nrewards), sizeof *b->rewards);
	json_array_foreach(weights, i, value)
		b->weights[i] = json_number_value(value);
	json_array_foreach(values, i, row)
		json_array_foreach(row, j, value)
			b->rewards[i * (size_t)b->nrewards + j] = json_is_null(value) ? NAN : json_number_value(value);
}

/* log-probabilities of all targets under a model. */
static float *
score(struct model *m, int columns, const struct sequences *s, double temperature)
{
	float *logp = mem_zero((size_t)s->first[s->count] + 1, sizeof *logp);
	struct head *h = head_new(m, columns, CHUNK);
	struct batch b;
	struct forward *f;
	int i;

	batch_init(&b, m->be);
	for (i = 0; i < s->count; i++) {
		batch_add(&b, s->ids[i], s->n[i], s->supervised[i], 1, 1);
		model_rope(m, s->n[i]);
	}
	f = forward_new(m, b.m, KEEP_NONE);
	batch_upload(&b);
	head_logprob(h, &b, forward_run(f, &b, NULL, FOR_SCORES, 0, 0), (float)temperature, logp, NULL);
	m->be->sync();
	forward_free(f);
	head_free(h);
	batch_free(&b);
	return logp;
}

static struct batch_case
case_read(struct verdict *v, const json_t *c, const struct kit *k, const struct safetensors *st)
{
	const json_t *sequences = json_object_get(c, "sequences");
	struct batch_case b = { .s = sequences_read(sequences) };
	size_t tokens = (size_t)b.s.first[b.s.count], i;
	json_t *sequence;

	if (!options_read(&b.g, json_object_get(c, "options")))
		snprintf(v->skipped, sizeof v->skipped, "the project has no such loss");
	b.temperature = get_number(json_object_get(c, "options"), "temperature", 1);
	b.old = input(v, c, st, "old_logp");
	b.ref = input(v, c, st, "ref_logp");
	b.sampled = input(v, c, st, "sampling_logp");
	if (*get_string(c, "reference_model"))
		b.ref = score(kit_model(k, get_string(c, "reference_model")), (int)get_number(c, "vocab", 0), &b.s,
		    b.temperature);
	rewards_read(&b, json_object_get(c, "rewards"));
	b.samples = mem_zero((size_t)b.s.count, sizeof *b.samples);
	json_array_foreach(sequences, i, sequence) {
		int first = b.s.first[i];

		b.samples[i] = (struct sample){
			.n = b.s.first[i + 1] - first, .group = (int)get_number(sequence, "group", -1),
			.terminated = json_is_true(json_object_get(sequence, "terminated")),
			.rewards = b.rewards + i * (size_t)b.nrewards, .old = b.old ? b.old + first : NULL,
			.ref = b.ref ? b.ref + first : NULL, .sampled = b.sampled ? b.sampled + first : NULL,
		};
	}
	b.logp = mem_zero(tokens + 1, sizeof *b.logp);
	b.dlogp = mem_zero(tokens + 1, sizeof *b.dlogp);
	b.terms = mem_zero(tokens + 1, sizeof *b.terms);
	grpo_judge(&b.g, b.samples, b.s.count, b.weights, b.nrewards, &b.judged);
	return b;
}

static void
case_free(struct batch_case *b)
{
	sequences_free(&b->s);
	judged_free(&b->judged);
	free(b->samples);
	free(b->weights);
	free(b->rewards);
	free(b->old);
	free(b->ref);
	free(b->sampled);
	free(b->logp);
	free(b->dlogp);
	free(b->terms);
}

static void
weights(float *weight, const float *logp, int first, int count, void *user)
{
	struct batch_case *b = user;
	int i = 0, end = first + count, t;

	while (b->s.first[i] < end - count)
		i++;
	for (; b->s.first[i] < end; i++) {
		int target = b->s.first[i], at = target - (end - count), n = b->samples[i].n;

		grpo_sample(&b->g, &b->judged, &b->samples[i], logp + at, b->dlogp + target, b->terms + target, &b->sums);
		memcpy(b->logp + target, logp + at, (size_t)n * sizeof *logp);
		for (t = 0; t < n; t++)
			weight[at + t] = -b->dlogp[target + t];
	}
}

static double
entropy_of(const struct batch_case *b, const struct head *h, int first, int count)
{
	float *entropy = mem_zero((size_t)b->s.first[b->s.count] + 1, sizeof *entropy);
	int i, t, from = b->s.first[first];
	double sum = 0;

	h->m->be->download(entropy, h->entropy, (size_t)(b->s.first[first + count] - from) * sizeof *entropy);
	for (i = first; i < first + count; i++)
		for (t = 0; b->samples[i].counts && t < b->samples[i].n; t++)
			sum += entropy[b->s.first[i] - from + t];
	free(entropy);
	return sum;
}

/* Sequences first .. first+count-1 as a micro-batch. */
static void
micro_run(struct batch_case *b, struct model *m, int columns, int chunk, int first, int count, struct gradients *g)
{
	struct policy_loss loss = { .weights = weights, .user = b, .first = b->s.first[first],
		.temperature = (float)b->temperature, .entropy = 1 };
	struct head *h = head_new(m, columns, chunk);
	struct batch batch;
	struct forward *f;
	int i;

	batch_init(&batch, m->be);
	for (i = first; i < first + count; i++) {
		batch_add(&batch, b->s.ids[i], b->s.n[i], b->s.supervised[i], 1, 1);
		model_rope(m, b->s.n[i]);
	}
	f = forward_new(m, batch.m, KEEP_ALL);
	batch_upload(&batch);
	forward_backward(f, &batch, head_policy(h, &batch, forward_run(f, &batch, NULL, FOR_SCORES, 0, 0), &loss, NULL, NULL, g),
	    g);
	b->entropy += entropy_of(b, h, first, count);
	forward_free(f);
	head_free(h);
	batch_free(&batch);
}

static double
scale_of(const json_t *expected)
{
	return get_number(expected, "tol", 0) * get_number(expected, "scale", 0);
}

static void
compare_tokens(struct verdict *v, const json_t *c, const struct safetensors *st, const char *name, const float *got)
{
	size_t n, i;
	double *want = kit_tensor(v, st, name, &n), *wide = mem_zero(n + 1, sizeof *wide);

	for (i = 0; i < n; i++)
		wide[i] = got[i];
	if (want)
		expect_near(v, name, wide, want, n, scale_of(json_object_get(json_object_get(c, "expect"), name)));
	free(want);
	free(wide);
}

static void
compare_advantages(struct verdict *v, const json_t *c, const struct safetensors *st, const struct batch_case *b)
{
	size_t n, i;
	double *want = kit_tensor(v, st, "advantages", &n), *got = mem_zero(n + 1, sizeof *got);
	json_t *zero;

	expect(v, n == (size_t)b->s.count, "%zu advantages", n);
	for (i = 0; i < n && i < (size_t)b->s.count; i++)
		got[i] = b->samples[i].advantage;
	if (want)
		expect_near(v, "advantages", got, want, n,
		    scale_of(json_object_get(json_object_get(c, "expect"), "advantages")));
	json_array_foreach(json_object_get(c, "exactly_zero_advantage"), i, zero)
		expect(v, got[json_integer_value(zero)] == 0, "advantage %lld is not 0", json_integer_value(zero));
	expect(v, b->judged.replies == (long)get_number(c, "sequences_in_batch", -1), "%ld replies in the batch",
	    b->judged.replies);
	expect(v, b->judged.tokens == (long)get_number(c, "counted_tokens", -1), "%ld tokens count", b->judged.tokens);
	free(want);
	free(got);
}

static double
share(double part, long of)
{
	return of ? part / (double)of : 0;
}

static void
metric(struct verdict *v, const json_t *c, const char *name, double got)
{
	char key[200];
	const json_t *expected;

	snprintf(key, sizeof key, "metric.%s", name);
	expected = json_object_get(json_object_get(c, "expect"), key);
	if (expected)
		expect_value(v, key, got, expected, get_number(expected, "scale", 0));
	else if (!strncmp(name, "reward", strlen("reward")))
		expect(v, isnan(got), "%s is %g where there is none", key, got);
}

static void
compare_metrics(struct verdict *v, const json_t *c, const struct batch_case *b)
{
	const struct judged *j = &b->judged;
	const struct grpo_sums *s = &b->sums;
	long clipped = b->g.ratio == RATIO_SEQUENCE ? s->samples : s->tokens;
	char name[100];
	size_t i;
	json_t *reward;

	metric(v, c, "clip.low", share((double)s->low, clipped));
	metric(v, c, "clip.high", share((double)s->high, clipped));
	metric(v, c, "kl", share(s->kl, s->tokens));
	metric(v, c, "entropy", share(b->entropy, s->tokens));
	metric(v, c, "zero_std_groups", share(j->zero_std, j->groups));
	metric(v, c, "reward.mean", j->total.mean);
	metric(v, c, "reward.std", j->total.std);
	json_array_foreach(json_object_get(json_object_get(c, "rewards"), "names"), i, reward) {
		snprintf(name, sizeof name, "reward.%s.mean", json_string_value(reward));
		metric(v, c, name, j->rewards[i].mean);
		snprintf(name, sizeof name, "reward.%s.std", json_string_value(reward));
		metric(v, c, name, j->rewards[i].std);
	}
	metric(v, c, "length.mean", j->mean_length);
	metric(v, c, "length.min", j->min_length);
	metric(v, c, "length.max", j->max_length);
	metric(v, c, "terminated", j->terminated);
}

/* `cut`: the sizes of the micro-batches. */
static void
check_cut(struct verdict *v, const json_t *c, const struct kit *k, const struct safetensors *st,
    struct batch_case *b, const json_t *cut, int chunk)
{
	struct model *m = kit_model(k, get_string(c, "model"));
	const json_t *expected = json_object_get(c, "expect");
	size_t tokens = (size_t)b->s.first[b->s.count], n, i;
	double *want = kit_tensor(v, st, "token_loss", &n);
	struct gradients g;
	json_t *size;
	int first = 0;

	gradients_init(&g, m);
	b->sums = (struct grpo_sums){ 0 };
	b->entropy = 0;
	json_array_foreach(cut, i, size) {
		int count = (int)json_integer_value(size);

		micro_run(b, m, (int)get_number(c, "vocab", 0), chunk, first, count, &g);
		first += count;
	}
	expect(v, first == b->s.count, "a cut has %d sequences", first);
	expect_value(v, "loss", b->sums.loss, json_object_get(expected, "loss"),
	    get_number(json_object_get(expected, "loss"), "scale", 0));
	if (want && n == tokens)
		expect_near(v, "token_loss", b->terms, want, n, scale_of(json_object_get(expected, "token_loss")));
	compare_tokens(v, c, st, "logp", b->logp);
	compare_tokens(v, c, st, "dlogp", b->dlogp);
	compare_gradients(v, c, m, &g, st);
	compare_metrics(v, c, b);
	gradients_free(&g);
	free(want);
}

void
kind_grpo(struct verdict *v, const json_t *c, const struct kit *k)
{
	struct safetensors *st = kit_tensors(v, k, get_string(c, "tensors"));
	struct batch_case b;
	json_t *whole, *cut;
	size_t i;

	if (!st)
		return;
	b = case_read(v, c, k, st);
	if (!v->skipped[0]) {
		compare_advantages(v, c, st, &b);
		whole = json_pack("[i]", b.s.count);
		check_cut(v, c, k, st, &b, whole, 1024);
		check_cut(v, c, k, st, &b, whole, CHUNK);
		json_array_foreach(json_object_get(c, "micro_batches"), i, cut)
			check_cut(v, c, k, st, &b, cut, CHUNK);
		json_decref(whole);
	}
	case_free(&b);
	safetensors_close(st);
}
