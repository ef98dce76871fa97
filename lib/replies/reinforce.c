/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/text/agree.h"
#include "lib/replies/groups.h"
#include "lib/replies/reinforce.h"
#include "lib/train/run.h"
#include "lib/train/trainer.h"

/* A model that replies go through, in micro-batches. */
struct engine {
	struct model *m;
	struct forward *forward;
	struct head *head;
	struct batch batch;
	int count;			/* replies that the batch was packed from */
};

struct learner {
	struct reinforce *job;
	struct run run;
	struct groups groups;
	struct engine self, reference;	/* reference.m NULL: none */
	int announced;			/* a rollout may follow */
	int checked;			/* the first step's log-probabilities */
	/* the step */
	struct judged judged;
	struct grpo_sums sums;		/* over all updates */
	double entropy;
	uint64_t rows;
	const char *bad;		/* id of a reply whose loss is not finite */
	double waited, trained, published;	/* seconds */
};

static void
engine_open(struct engine *e, struct model *m, const struct recipe *r, enum keep keep)
{
	*e = (struct engine){ .m = m };
	model_rope(m, r->micro_tokens);
	e->forward = forward_new(m, r->micro_tokens, keep);
	e->head = head_new(m, m->config.vocab, trainer_chunk(m->config.vocab, r->micro_tokens));
	batch_init(&e->batch, m->be);
}

static void
engine_close(struct engine *e)
{
	if (!e->m)
		return;
	forward_free(e->forward);
	head_free(e->head);
	batch_free(&e->batch);
}

/* Rows that a reply needs; the last token predicts nothing. */
static int
rows_of(const struct rollout *r)
{
	return r->n - 1;
}

static void
check_size(const struct learner *l, const struct rollout *r)
{
	const struct config *c = &l->run.model->config;
	int limit = l->run.recipe->micro_tokens;

	if (rows_of(r) > limit)
		die("%s: record '%s' needs %d tokens at once: --micro-tokens is %d", stream_name(l->groups.in), r->id,
		    rows_of(r), limit);
	if (c->family == FAMILY_GPT2 && rows_of(r) > c->positions)
		die("%s: record '%s' needs %d positions, the model has %d", stream_name(l->groups.in), r->id, rows_of(r),
		    c->positions);
}

/* Pack replies from `first` on, as many as fit, of those that count or of all; 0 when none is left. */
static int
pack(const struct learner *l, struct engine *e, int first, int all)
{
	const struct groups *g = &l->groups;
	int i;

	batch_clear(&e->batch);
	for (i = first; i < g->n; i++) {
		const struct rollout *r = &g->rollouts[i];

		if (!g->samples[i].n || !(all || g->samples[i].counts))
			continue;
		if (e->batch.m + rows_of(r) > l->run.recipe->micro_tokens)
			break;
		batch_add(&e->batch, r->ids, r->n, r->span, 1, 1);
	}
	e->count = i - first;
	if (e->batch.m)
		batch_upload(&e->batch);
	return e->batch.m > 0;
}

/*
 * Log-probabilities of all tokens of the step, one reply behind the other: all replies, or those that count, the
 * others left out.
 */
static float *
score(struct learner *l, struct engine *e, float temperature, int all)
{
	size_t tokens = 0, at = 0;
	float *logp;
	int i;

	for (i = 0; i < l->groups.n; i++)
		tokens += (size_t)l->groups.samples[i].n;
	logp = mem_alloc((tokens + 1) * sizeof *logp);
	for (i = 0; pack(l, e, i, all); i += e->count) {
		head_logprob(e->head, &e->batch, forward_run(e->forward, &e->batch, NULL, FOR_SCORES, 0, 0), temperature, logp + at,
		    NULL);
		at += (size_t)e->batch.p;
	}
	e->m->be->sync();
	return logp;
}

/* The models must say of a reply what the sampler said: else these are other weights, or other ids. */
static void
check_sampler(struct learner *l)
{
	const struct groups *g = &l->groups;
	float *logp = score(l, &l->self, 1, 1);
	double worst = 0, sum = 0, x, tolerance = l->job->tolerance;
	const char *where = "";
	size_t at = 0;
	int i, t, token = 0;

	for (i = 0; i < g->n; i++)
		for (t = 0; t < g->samples[i].n; t++) {
			x = fabs((double)logp[at++] - g->rollouts[i].model_logp[t]);
			sum += x;
			if (!(x <= worst)) {
				worst = x;
				where = g->rollouts[i].id;
				token = t;
			}
		}
	free(logp);
	l->checked = 1;
	if (at && !l->run.quiet)
		warn("log-probabilities are the sampler's within %.2g, %.2g in the mean", worst, sum / (double)at);
	if (worst > tolerance || isnan(worst))
		die("%s was not drawn from this model: log-probabilities differ by up to %.3g, in record '%s', token %d, and "
		    "by %.3g in the mean; --tolerance is %g", stream_name(g->in), worst, where, token, sum / (double)at,
		    tolerance);
}

/* Whether replies come from a rollout that follows this very run. */
static int
publishes(const struct learner *l)
{
	return l->announced && l->groups.followed;
}

/* Whether the step was drawn from the weights that we have. */
static int
is_own(const struct learner *l)
{
	return publishes(l) ? l->groups.version == l->run.at.step : !l->run.optimizer.step;
}

static int
uses_stream(const struct learner *l)
{
	return l->job->old == OLD_STREAM || (l->job->old == OLD_AUTO && !l->groups.filtered &&
	    isinf(l->job->grpo.tis_cap));
}

/* What the loss needs beside the model: old and reference log-probabilities. */
static void
prepare_step(struct learner *l)
{
	struct groups *g = &l->groups;
	int i, corrects = !isinf(l->job->grpo.tis_cap);
	float *ref = NULL;
	size_t at = 0;

	if (l->job->grpo.beta > 0 && !g->has_ref)
		ref = score(l, &l->reference, (float)g->temperature, 0);
	for (i = 0; i < g->n; i++) {
		struct rollout *r = &g->rollouts[i];
		struct sample *s = &g->samples[i];

		if (ref && s->counts) {
			r->ref = mem_copy(ref + at, (size_t)s->n * sizeof *ref);
			at += (size_t)s->n;
		}
		s->ref = l->job->grpo.beta > 0 ? r->ref : NULL;
		s->old = uses_stream(l) ? r->sampled : NULL;
		s->sampled = corrects ? r->sampled : NULL;
	}
	free(ref);
}

/* head.h's policy_loss. */
static void
weights(float *weight, const float *logp, int first, int count, void *user)
{
	struct learner *l = user;
	struct groups *g = &l->groups;
	int i, t, at = -first;

	for (i = 0; at < count; i++) {
		struct sample *s = &g->samples[i];

		if (!s->counts)
			continue;
		if (at >= 0) {
			if (!grpo_sample(&l->job->grpo, &l->judged, s, logp + at, weight + at, NULL, &l->sums) && !l->bad)
				l->bad = g->rollouts[i].id;
			/* what the first update saw is what the others start from */
			if (!s->old && l->job->inner > 1)
				s->old = g->rollouts[i].old = mem_copy(logp + at, (size_t)s->n * sizeof *logp);
		}
		at += s->n;
	}
	for (t = 0; t < count; t++)
		weight[t] = -weight[t];
}

static void
add_entropy(void *host, size_t bytes, void *user)
{
	const float *entropy = host;
	struct learner *l = user;
	size_t i;

	for (i = 0; i < bytes / sizeof *entropy; i++)
		l->entropy += entropy[i];
}

/* The gradient over all micro-batches of the step, for whose end the host waits. */
static void
accumulate(struct learner *l)
{
	struct engine *e = &l->self;
	struct run *r = &l->run;
	struct policy_loss loss = {
		.weights = weights, .user = l, .temperature = (float)l->groups.temperature, .entropy = 1
	};
	void *dhidden;
	int i;

	for (i = 0; pack(l, e, i, 0); i += e->count) {
		const void *hidden = forward_run(e->forward, &e->batch, NULL, FOR_POLICY, run_seed(r), r->at.micro++);

		dhidden = head_policy(e->head, &e->batch, hidden, &loss, NULL, NULL, &r->optimizer.gradients);
		e->m->be->visit(e->head->entropy, (size_t)e->batch.p * sizeof *e->head->entropy, add_entropy, l);
		forward_backward(e->forward, &e->batch, dhidden, &r->optimizer.gradients);
		loss.first += e->batch.p;
		l->rows += (uint64_t)e->batch.m;
	}
	e->m->be->sync();
	if (l->bad)
		run_not_finite(r, l->bad);
}

static void
set_number(json_t *line, const char *name, double x)
{
	if (!isnan(x))
		json_object_set_new(line, name, json_real(x));
}

static double
share(double part, double of)
{
	return of > 0 ? part / of : NAN;
}

static void
set_rewards(const struct learner *l, json_t *line)
{
	const struct groups *g = &l->groups;
	char *name;
	int i;

	set_number(line, "reward", l->judged.total.mean);
	set_number(line, "reward_std", l->judged.total.std);
	for (i = 0; i < g->nrewards; i++) {
		name = mem_format("rewards/%s/mean", g->names[i]);
		set_number(line, name, l->judged.rewards[i].mean);
		free(name);
		name = mem_format("rewards/%s/std", g->names[i]);
		set_number(line, name, l->judged.rewards[i].std);
		free(name);
	}
}

/* Under TRL's names, where it has one. */
static void
report(struct learner *l, double lr, double norm)
{
	const struct judged *j = &l->judged;
	const struct grpo_sums *s = &l->sums;
	const struct grpo *g = &l->job->grpo;
	double tokens = (double)s->tokens, clipped = g->ratio == RATIO_SEQUENCE ? (double)s->samples : tokens;
	double loss = s->loss / l->job->inner;
	json_t *line = json_pack("{sI sf}", "step", (json_int_t)l->run.at.step, "loss", loss);

	set_rewards(l, line);
	set_number(line, "frac_reward_zero_std", share(j->zero_std, j->groups));
	set_number(line, "advantage", j->advantage);
	if (g->loss != GRPO_SAPO) {
		set_number(line, "clip_ratio/low_mean", share((double)s->low, clipped));
		set_number(line, "clip_ratio/high_mean", share((double)s->high, clipped));
	}
	if (g->beta > 0)
		set_number(line, "kl", share(s->kl, tokens));
	set_number(line, "entropy", share(l->entropy, tokens));
	set_number(line, "completions/mean_length", j->mean_length);
	set_number(line, "completions/min_length", j->min_length);
	set_number(line, "completions/max_length", j->max_length);
	set_number(line, "completions/clipped_ratio", 1 - j->terminated);
	if (l->groups.followed) {
		json_object_set_new(line, "version", json_integer((json_int_t)l->groups.version));
		set_number(line, "seconds/generate", l->groups.generated);
		set_number(line, "seconds/judge", l->groups.judged);
	}
	set_number(line, "seconds/wait", l->waited);
	set_number(line, "seconds/train", l->trained);
	if (publishes(l))
		set_number(line, "seconds/publish", l->published);
	run_report(&l->run, line, loss, lr, norm);
}

static void
publish(struct learner *l)
{
	double begin = clock_now();

	if (publishes(l))
		run_publish(&l->run, l->groups.version);
	l->published = clock_now() - begin;
}

/* One step; 0 when the rollouts are at their end. */
static int
step(struct learner *l)
{
	struct run *r = &l->run;
	struct groups *g = &l->groups;
	double lr = schedule_lr(&r->schedule, r->at.step), begin = clock_now(), norm = 0;
	int i;

	if (!groups_next(g, r->at.step))
		return 0;
	l->waited = clock_now() - begin;
	for (i = 0; i < g->n; i++)
		check_size(l, &g->rollouts[i]);
	if (!l->checked && l->job->tolerance > 0 && is_own(l))
		check_sampler(l);
	grpo_judge(&l->job->grpo, g->samples, g->n, g->weights, g->nrewards, &l->judged);
	prepare_step(l);
	l->sums = (struct grpo_sums){ 0 };
	l->entropy = 0;
	l->rows = 0;
	for (i = 0; i < l->job->inner && l->judged.tokens; i++) {
		accumulate(l);
		norm = run_update(r, lr, 1, g->rollouts[0].id);
	}
	l->trained = clock_now() - begin - l->waited;
	r->at.records += (uint64_t)g->n;
	run_count(r, l->rows, (uint64_t)l->judged.tokens, l->trained);
	publish(l);
	report(l, lr, norm);
	judged_free(&l->judged);
	return 1;
}

static void
steps(struct learner *l)
{
	struct run *r = &l->run;
	long end = r->schedule.steps;

	if (publishes(l))
		run_publish(r, 0);
	if (!l->groups.followed)
		data_seek(&l->groups.data, r->at.records);
	run_start(r);
	while ((!end || r->at.step < end) && step(l))
		run_save_due(r);
	if (!r->at.records)
		die("%s has nothing to learn", stream_name(l->groups.in));
	if (l->groups.followed && r->at.step < end)
		die("%s ended after %ld of %ld steps", stream_name(l->groups.in), r->at.step, end);
	run_finish(r, stream_name(l->groups.in));
}

/* A pipe of known length may come from a rollout that waits for us. */
static int
may_be_followed(const struct learner *l)
{
	struct stat s;

	return l->run.schedule.steps && !options_input(l->job->common) && !fstat(STDIN_FILENO, &s) && S_ISFIFO(s.st_mode);
}

static void
open_groups(struct learner *l)
{
	struct reinforce *job = l->job;
	struct tokenizer *tokenizer;

	if ((l->announced = may_be_followed(l)))
		run_announce(&l->run, job->place);
	groups_open(&l->groups, stream_open(options_input(job->common), "rewards"), l->run.model->config.vocab,
	    job->recipe->batch);
	if ((tokenizer = agree_tokenizer(l->groups.in, job->recipe->model)))
		tokenizer_close(tokenizer);
	if (!job->grpo.max_completion)
		job->grpo.max_completion = l->groups.max_tokens;
	if (job->grpo.loss == GRPO_DR_GRPO && !job->grpo.max_completion)
		die("%s does not say how long a reply may be, which dr-grpo divides by: give --max-completion",
		    stream_name(l->groups.in));
	if (!l->groups.followed && !l->run.schedule.steps && l->run.schedule.kind != SCHEDULE_CONSTANT)
		die("nobody knows the end of %s: give --steps, or --schedule constant", stream_name(l->groups.in));
}

static int
needs_reference(const struct learner *l)
{
	return l->job->grpo.beta > 0 && !l->groups.has_ref;
}

/* What a reference takes: the weights and a forward that keeps nothing. */
static size_t
reference_bytes(const struct learner *l)
{
	const struct model *m = l->run.model;

	return needs_reference(l) ?
	    trainer_bytes(m, m->type, m->config.vocab, l->run.recipe->micro_tokens, KEEP_NONE) : 0;
}

static void
open_models(struct learner *l)
{
	const struct recipe *r = l->run.recipe;
	struct model *m = l->run.model, *reference;
	enum keep keep = r->recompute ? KEEP_INPUTS : KEEP_ALL;
	struct plan plan = { m, m->type, m->config.vocab, r->micro_tokens, keep, reference_bytes(l),
	    r->stochastic };
	const char *directory = l->job->reference ? l->job->reference : r->model;

	run_plan(&l->run, &plan);
	engine_open(&l->self, m, r, keep);
	if (!needs_reference(l))
		return;
	reference = model_load(directory, m->be, m->type);
	if (reference->config.vocab != m->config.vocab)
		die("'%s' has %d ids, '%s' %d: the reference must have the same", directory, reference->config.vocab,
		    r->model, m->config.vocab);
	engine_open(&l->reference, reference, r, KEEP_NONE);
}

static void
clean(struct learner *l)
{
	engine_close(&l->self);
	engine_close(&l->reference);
	if (l->reference.m)
		model_free(l->reference.m);
	stream_close(l->groups.in);
	groups_close(&l->groups);
	run_close(&l->run);
	json_decref(l->job->options);
}

void
reinforce_run(struct reinforce *job, struct model *m)
{
	struct learner l = { .job = job };

	l.run = (struct run){ .recipe = job->recipe, .quiet = job->common->quiet, .model = m,
	    .schedule = job->recipe->schedule };
	l.run.schedule.steps = job->recipe->steps;
	run_alone(&l.run);
	run_enter(&l.run, job->options);
	open_groups(&l);
	open_models(&l);
	if (run_resume(&l.run))
		steps(&l);
	clean(&l);
}
