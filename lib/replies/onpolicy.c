/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/clock.h"
#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/replies/onpolicy.h"

/* Records that stay as long as a step needs them. */
struct pile {
	struct record *records;
	struct example *examples;	/* of them */
	int *offsets;			/* [n + 1] targets before each */
	int n, cap;
};

struct online {
	struct onpolicy *o;
	const struct job *job;
	struct run *run;
	struct teacher *teacher;
	struct trainer trainer;
	struct pile replies;		/* of the step */
	long version;			/* that they are from */
	double waited;			/* for them, seconds */
	/* by token of the replies */
	float *old, *teacher_logp;
	struct token_value *values;
	int cap;
	double pg;			/* sum of the policy's loss, over inner epochs */
	uint64_t clipped;		/* tokens that the clip left without gradient, as well */
	/* plain text */
	struct stream_in *lm;
	struct data text;
	struct pile lines;		/* of an update */
	struct teacher *lm_teacher;
	struct sums lm_sums;
};

static void
pile_clear(struct pile *p)
{
	while (p->n)
		record_free(&p->records[--p->n]);
}

static void
pile_free(struct pile *p)
{
	pile_clear(p);
	free(p->records);
	free(p->examples);
	free(p->offsets);
}

static struct record *
pile_add(struct pile *p, const struct record *r, const struct stream_in *in, int columns)
{
	if (p->n == p->cap) {
		p->cap = p->cap ? 2 * p->cap : 16;
		p->records = mem_grow(p->records, (size_t)p->cap, sizeof *p->records);
		p->examples = mem_grow(p->examples, (size_t)p->cap, sizeof *p->examples);
		p->offsets = mem_grow(p->offsets, (size_t)p->cap + 1, sizeof *p->offsets);
	}
	p->offsets[0] = 0;
	record_copy(&p->records[p->n], r);
	example_read(&p->examples[p->n], &p->records[p->n], in, columns);
	p->offsets[p->n + 1] = p->offsets[p->n] + p->examples[p->n].targets;
	return &p->records[p->n++];
}

static int
targets(const struct pile *p)
{
	return p->n ? p->offsets[p->n] : 0;
}

/* A micro-batch of what comes from *next on; 0 when nothing does. */
static int
fill(struct trainer *t, const struct pile *p, const char *stream, int *next)
{
	trainer_begin(t);
	for (; *next < p->n; (*next)++)
		if (p->examples[*next].targets &&
		    !trainer_add(t, stream, &p->records[*next], &p->examples[*next]))
			break;
	return t->batch.m > 0;
}

/* The batch of a step */

static json_int_t
need_integer(const struct online *l, const struct record *r, const char *name)
{
	const json_t *value = json_object_get(r->text, name);

	if (!json_is_integer(value))
		die("%s: record '%s' has no '%s': such are written by rollout --follow", stream_name(l->job->in),
		    record_id(r), name);
	return json_integer_value(value);
}

static void
read_batch(struct online *l)
{
	const struct run *run = l->run;
	double begin = clock_now();
	struct record r;
	json_int_t step;

	pile_clear(&l->replies);
	while (l->replies.n < run->recipe->batch) {
		if (!stream_get(l->job->in, &r))
			die("%s ends after %ld of %ld steps", stream_name(l->job->in), run->at.step,
			    run->schedule.steps);
		if ((step = need_integer(l, &r, "step")) != run->at.step)
			die("%s: record '%s' is of step %lld, '%s' is at step %ld", stream_name(l->job->in), record_id(&r),
			    (long long)step, run->recipe->output, run->at.step);
		l->version = (long)need_integer(l, &r, "version");
		pile_add(&l->replies, &r, l->job->in, l->trainer.head->columns);
	}
	l->waited = clock_now() - begin;
}

/* What the tokens are worth */

/* The replies' tensor `name`, one number for each token. */
static void
collect(const struct online *l, float *to, const char *name)
{
	const struct pile *p = &l->replies;
	int i;

	for (i = 0; i < p->n; i++) {
		const struct tensor *t = record_need(&p->records[i], name, DT_F32);

		if (t->rank != 1 || t->shape[0] != (uint64_t)p->examples[i].targets)
			die("%s: record '%s' has %d targets, but not that many of '%s'", stream_name(l->job->in),
			    p->examples[i].id, p->examples[i].targets, name);
		memcpy(to + p->offsets[i], t->data, (size_t)t->shape[0] * sizeof *to);
	}
}

/* log p of every token, where the rollouts do not say it. */
static void
judge(struct online *l)
{
	int next = 0, first = 0;

	while (fill(&l->trainer, &l->replies, stream_name(l->job->in), &next)) {
		trainer_judge(&l->trainer, l->teacher_logp + first);
		first += l->trainer.batch.p;
	}
	l->run->model->be->sync();
}

static void
value_tokens(struct online *l)
{
	int n = targets(&l->replies);

	if (n > l->cap) {
		l->cap = 2 * n;
		l->old = mem_grow(l->old, (size_t)l->cap, sizeof *l->old);
		l->teacher_logp = mem_grow(l->teacher_logp, (size_t)l->cap, sizeof *l->teacher_logp);
		l->values = mem_grow(l->values, (size_t)l->cap, sizeof *l->values);
	}
	if (!n)
		return;
	collect(l, l->old, "model_logp");
	if (header_has(stream_header(l->job->in), "teacher_logp"))
		collect(l, l->teacher_logp, "teacher_logp");
	else
		judge(l);
	minillm_values(l->values, &l->o->minillm, l->teacher_logp, l->old, l->replies.offsets, l->replies.n);
}

/* struct policy_loss's weights: sums over tokens, which the update divides. */
static void
weights(float *weight, const float *logp, int first, int count, void *user)
{
	struct online *l = user;
	double factor;
	int i, at;

	for (i = 0; i < count; i++) {
		at = first + i;
		l->pg += minillm_loss(&factor, &l->o->minillm, &l->values[at], l->old[at], logp[i]);
		l->clipped += !(fabs(factor) > 0) && fabsf(l->values[at].advantage) > 0;
		weight[i] = (float)factor;
	}
}

/* Learning */

static void
run_batch(struct online *l)
{
	struct run *r = l->run;

	trainer_run(&l->trainer, &r->optimizer.gradients, run_seed(r), r->at.micro++);
}

static void
take_losses(struct online *l, struct sums *sums)
{
	const char *bad = trainer_collect(&l->trainer, sums);

	if (bad)
		run_not_finite(l->run, bad);
}

static void
learn_replies(struct online *l, struct sums *sums)
{
	struct policy_loss loss = {
		.weights = weights, .user = l, .kl_weight = (float)l->o->kl_weight, .temperature = 1
	};
	int next = 0;

	l->trainer.policy = l->o->policy_gradient ? &loss : NULL;
	for (; fill(&l->trainer, &l->replies, stream_name(l->job->in), &next); loss.first += l->trainer.batch.p)
		run_batch(l);
	take_losses(l, sums);
	l->trainer.policy = NULL;
}

/* The plain text of the update numbered `n` of the run; the same whenever it is asked for. */
static void
read_lines(struct online *l, uint64_t n)
{
	int i;

	pile_clear(&l->lines);
	data_seek(&l->text, n * (uint64_t)l->o->lm_batch);
	for (i = 0; i < l->o->lm_batch; i++) {
		pile_add(&l->lines, data_peek(&l->text), l->lm, l->trainer.head->columns);
		data_take(&l->text);
	}
}

/* Its gradient, so that it counts lm_coef where the replies' tokens, `n` in all, count 1. */
static void
learn_lines(struct online *l, int n)
{
	struct trainer *t = &l->trainer;
	struct teacher *teacher = t->teacher;
	struct divergence divergence = t->divergence;
	int next = 0;

	t->teacher = l->lm_teacher;
	t->divergence = (struct divergence){ l->lm_teacher ? LOSS_KD : LOSS_CE, (float)l->o->lm_kd_ratio, 1, 0, 0 };
	t->scale = (float)(l->o->lm_coef * n / targets(&l->lines));
	while (fill(t, &l->lines, stream_name(l->lm), &next))
		run_batch(l);
	take_losses(l, &l->lm_sums);
	t->scale = 1;
	t->divergence = divergence;
	t->teacher = teacher;
}

/* One update on the replies. Returns the norm of its gradient. */
static double
update(struct online *l, int epoch, double lr, struct sums *sums)
{
	struct run *r = l->run;
	int n = targets(&l->replies);

	learn_replies(l, sums);
	if (l->lm) {
		read_lines(l, (uint64_t)r->at.step * (uint64_t)l->o->inner_epochs + (uint64_t)epoch);
		if (targets(&l->lines))
			learn_lines(l, n);
	}
	return run_update(r, lr, n, l->replies.examples[0].id);
}

/* What is said of a step */

static double
mean_reward(const struct online *l)
{
	double sum = 0;
	int i, n = targets(&l->replies);

	for (i = 0; i < n; i++)
		sum += (double)l->teacher_logp[i] - l->old[i];
	return sum / n;
}

static double
share_stopped(const struct pile *p)
{
	const char *finish;
	int i, stopped = 0;

	for (i = 0; i < p->n; i++) {
		finish = json_string_value(json_object_get(p->records[i].text, "finish"));
		stopped += finish && !strcmp(finish, "stop");
	}
	return (double)stopped / p->n;
}

static double
lm_loss(const struct online *l)
{
	double k = l->lm_teacher ? l->o->lm_kd_ratio : 0, n = (double)l->lm_sums.targets;

	return n > 0 ? ((1 - k) * l->lm_sums.ce + k * l->lm_sums.div) / n : 0;
}

/* The loss; its parts go into the line. */
static double
add_losses(const struct online *l, const struct sums *sums, json_t *line)
{
	const struct divergence *d = &l->job->divergence;
	double n = (double)sums->targets, k = d->kd_ratio, loss;

	if (l->o->policy_gradient) {
		loss = l->pg / n + l->o->kl_weight * sums->div / n;
		json_object_set_new(line, "reward", json_real(mean_reward(l)));
		json_object_set_new(line, "policy", json_real(l->pg / n));
		json_object_set_new(line, "clipped", json_real((double)l->clipped / n));
	} else {
		loss = (1 - k) * sums->ce / n + k * sums->div / n;
		json_object_set_new(line, "ce", json_real(sums->ce / n));
	}
	if (!l->o->policy_gradient || l->o->kl_weight > 0)
		json_object_set_new(line, l->o->policy_gradient ? "kl" : "div", json_real(sums->div / n));
	if (!l->lm)
		return loss;
	json_object_set_new(line, "lm", json_real(lm_loss(l)));
	return loss + l->o->lm_coef * lm_loss(l);
}

static void
report(struct online *l, const struct sums *sums, double lr, double norm)
{
	json_t *line = json_pack("{sI}", "step", (json_int_t)l->run->at.step);
	double loss = add_losses(l, sums, line);

	json_object_set_new(line, "loss", json_real(loss));
	json_object_set_new(line, "length", json_real((double)targets(&l->replies) / l->replies.n));
	json_object_set_new(line, "stopped", json_real(share_stopped(&l->replies)));
	json_object_set_new(line, "version", json_integer(l->version));
	json_object_set_new(line, "seconds_waited", json_real(l->waited));
	run_report(l->run, line, loss, lr, norm);
}

static void
step(struct online *l)
{
	struct run *r = l->run;
	struct sums sums = { 0 };
	double lr = schedule_lr(&r->schedule, r->at.step), norm = 0, begin;
	int epoch, n;

	read_batch(l);
	begin = clock_now();
	l->pg = 0;
	l->clipped = 0;
	l->lm_sums = (struct sums){ 0 };
	n = targets(&l->replies);
	if (l->o->policy_gradient)
		value_tokens(l);
	for (epoch = 0; n && epoch < l->o->inner_epochs; epoch++)
		norm = update(l, epoch, lr, &sums);
	r->at.records += (uint64_t)l->replies.n;
	run_count(r, sums.tokens, (uint64_t)n, clock_now() - begin);
	if (n)
		report(l, &sums, lr, norm);
}

/* Beginning and end */

void
onpolicy_announce(struct onpolicy *o, const struct job *job)
{
	struct run *r = &o->run;

	*r = (struct run){ .recipe = job->recipe, .quiet = job->common->quiet, .model = job->model,
	    .schedule = job->recipe->schedule };
	run_alone(r);
	r->schedule.steps = job->recipe->steps;
	run_enter(r, job->options);
	run_announce(r, o->publish);
}

int
onpolicy_judged(const struct onpolicy *o, const struct stream_in *in)
{
	return o->policy_gradient && !(o->kl_weight > 0) && header_has(stream_header(in), "teacher_logp");
}

/* A policy gradient is of the distribution that was drawn from. */
static void
check_sampling(const struct stream_in *in)
{
	const json_t *s = json_object_get(stream_header(in), "sampling");

	if (json_is_true(json_object_get(s, "greedy")) || json_integer_value(json_object_get(s, "top_k")) > 0 ||
	    fabs(json_number_value(json_object_get(s, "temperature")) - 1) > 0 ||
	    fabs(json_number_value(json_object_get(s, "top_p")) - 1) > 0 ||
	    json_number_value(json_object_get(s, "min_p")) > 0)
		die("%s was not drawn at temperature 1 and without filters, as a policy gradient must be", stream_name(in));
}

static void
open_rollouts(struct online *l)
{
	const json_t *header = stream_header(l->job->in);
	json_int_t batch = json_integer_value(json_object_get(header, "batch"));

	if (batch < 1 || batch > INT32_MAX)
		die("%s does not say how many records a step has: such streams begin with rollout --follow",
		    stream_name(l->job->in));
	l->job->recipe->batch = (int)batch;
	l->o->minillm.alpha = json_number_value(json_object_get(json_object_get(header, "mix"), "share"));
	if (l->o->policy_gradient)
		check_sampling(l->job->in);
}

static void
open_text(struct online *l)
{
	const struct recipe *r = l->job->recipe;
	struct teacher_source source;

	l->lm = stream_open(l->o->lm, "tokens|logits");
	if (!stream_seekable(l->lm))
		die("%s is a pipe: plain text is read over and over, from a file", stream_name(l->lm));
	data_open(&l->text, l->lm, 1, (uint64_t)r->seed, 0);
	if (!l->text.count)
		die("%s has no records", stream_name(l->lm));
	if (!(l->o->lm_kd_ratio > 0))
		return;
	source = teacher_source(l->lm, l->job->source->directory, l->trainer.head->columns);
	source.type = l->job->source->type;
	l->lm_teacher = teacher_new(&source, l->run->model->be, r->micro_tokens,
	    trainer_chunk(source.vocab, r->micro_tokens));
}

/* So that those who write it end well, too. */
static void
read_end(struct online *l)
{
	struct record extra;

	if (stream_get(l->job->in, &extra))
		die("%s goes on after step %ld", stream_name(l->job->in), l->run->at.step);
}

static void
steps(struct online *l)
{
	struct run *r = l->run;

	/* a version that a restart finds no more, as on a /dev/shm that was emptied */
	run_publish(r, 0);
	run_start(r);
	while (r->at.step < r->schedule.steps) {
		step(l);
		run_publish(r, l->version);
		run_save_due(r);
	}
	read_end(l);
	run_finish(r, stream_name(l->job->in));
}

static void
clean(struct online *l)
{
	pile_free(&l->replies);
	pile_free(&l->lines);
	free(l->old);
	free(l->teacher_logp);
	free(l->values);
	if (l->lm_teacher)
		teacher_free(l->lm_teacher);
	if (l->lm) {
		data_close(&l->text);
		stream_close(l->lm);
	}
	trainer_free(&l->trainer);
	if (l->teacher)
		teacher_free(l->teacher);
	run_close(l->run);
	json_decref(l->job->options);
}

void
onpolicy_run(struct onpolicy *o, struct job *job)
{
	struct online l = { .o = o, .job = job, .run = &o->run };

	open_rollouts(&l);
	l.teacher = job_prepare(job, l.run, &l.trainer);
	if (o->lm)
		open_text(&l);
	if (run_resume(l.run))
		steps(&l);
	else
		read_end(&l);
	clean(&l);
}
