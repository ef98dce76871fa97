/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/train/loop.h"
#include "lib/train/plan.h"
#include "lib/train/rundir.h"
#include "lib/train/trainer.h"

enum { SAVE_SECONDS = 600, SAY_SECONDS = 60 };

struct loop {
	const struct job *job;
	const struct recipe *recipe;
	struct model *model;
	struct teacher *teacher;
	struct trainer trainer;
	struct optimizer optimizer;
	struct data data;
	struct rundir run;
	struct position at;
	struct schedule schedule;
	long dev_every;			/* steps; 0: at the end alone */
	double started, saved, said;	/* times */
	long first;			/* step that this process began with */
	char *oldest;			/* name of the first record of the step */
};

static volatile sig_atomic_t stopped;

static void
on_signal(int signal)
{
	stopped = signal;
}

static size_t
peak_bytes(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (size_t)u.ru_maxrss << 10;
}

/* How many steps there will be; 0 where only the end of a pipe will tell. */
static long
count_steps(const struct loop *l)
{
	const struct recipe *r = l->recipe;
	uint64_t batch = (uint64_t)r->batch;

	if (!l->data.seekable && r->epochs > 1)
		die("%s is a pipe, which is read once: --epochs %d needs a file", stream_name(l->job->in), r->epochs);
	if (r->steps)
		return r->steps;
	if (l->data.seekable)
		return (long)((l->data.end + batch - 1) / batch);
	if (r->schedule.kind != SCHEDULE_CONSTANT)
		die("%s is a pipe, whose end nobody knows: give --steps, or --schedule constant",
		    stream_name(l->job->in));
	return 0;
}

static void
open_data(struct loop *l)
{
	const struct recipe *r = l->recipe;
	uint64_t batch = (uint64_t)r->batch;

	data_open(&l->data, l->job->in, !r->no_shuffle, (uint64_t)r->seed, r->steps ? 0 : (uint64_t)r->epochs);
	l->schedule = r->schedule;
	l->schedule.steps = count_steps(l);
	l->dev_every = r->dev_every ? r->dev_every : (long)((l->data.count + batch - 1) / batch);
}

static void
announce(const struct loop *l, size_t bytes)
{
	char *steps = l->schedule.steps ? mem_format("%ld steps", l->schedule.steps) : mem_string("steps");

	warn("%s of %d records, %s on %s, at most %.2f GiB of memory", steps, l->recipe->batch,
	    dtype_name(l->model->type), l->model->be->name, (double)bytes / (1 << 30));
	free(steps);
}

/* Model, teacher and plan, before anything large is taken. */
static void
prepare(struct loop *l)
{
	const struct job *job = l->job;
	const struct recipe *r = l->recipe;
	enum keep keep = r->recompute ? KEEP_INPUTS : KEEP_ALL;
	int columns = job->source ? job->source->vocab : l->model->config.vocab;
	struct plan plan = { l->model, l->model->type, columns, r->micro_tokens, keep, 0 };

	if (columns > l->model->config.vocab)
		die("'%s' has %d ids, the tokenizer of %s %d", r->model, l->model->config.vocab,
		    stream_name(job->in), columns);
	if (job->source) {
		l->teacher = teacher_new(job->source, l->model->be, r->micro_tokens,
		    trainer_chunk(columns, r->micro_tokens));
		plan.teacher = teacher_bytes(l->teacher);
	}
	if (!job->common->quiet)
		announce(l, plan_bytes(&plan));
	plan_check(&plan, r->memory_limit ? r->memory_limit : plan_machine());
	optimizer_init(&l->optimizer, l->model, &r->adamw);
	trainer_init(&l->trainer, l->model, columns, r->micro_tokens, keep, l->teacher, &job->divergence);
}

/* Fill a micro-batch from what is left of the step; 0 when nothing is. */
static int
fill(struct loop *l, uint64_t end)
{
	const char *stream = stream_name(l->job->in);
	const struct record *r;
	struct example e;

	trainer_begin(&l->trainer);
	while (l->at.records < end && (r = data_peek(&l->data))) {
		example_read(&e, r, l->job->in, l->trainer.head->columns);
		if (e.targets && !trainer_add(&l->trainer, stream, r, &e))
			break;
		if (!l->oldest)
			l->oldest = mem_string(e.id);
		l->at.dropped += !e.targets;
		l->at.records++;
		data_take(&l->data);
	}
	return l->trainer.batch.m > 0;
}

/* All micro-batches of a step; 0 when the data is at its end. */
static int
accumulate(struct loop *l, struct sums *sums)
{
	uint64_t begin = l->at.records, end = begin + (uint64_t)l->recipe->batch;
	const char *bad;

	free(l->oldest);
	l->oldest = NULL;
	while (fill(l, end)) {
		bad = trainer_run(&l->trainer, &l->optimizer.gradients, (uint64_t)l->recipe->seed, l->at.micro++, sums);
		if (bad)
			die("the loss is not finite at step %ld, record '%s'; '%s' is as it was last saved", l->at.step + 1,
			    bad, l->recipe->output);
	}
	return l->at.records > begin;
}

/* Returns the norm of the gradient, before the clip. */
static double
update(struct loop *l, const struct sums *sums, double lr)
{
	double targets = (double)sums->targets, norm = optimizer_norm(&l->optimizer, targets);

	if (!isfinite(norm))
		die("the gradient is not finite at step %ld, whose records begin with '%s'; '%s' is as it was last saved",
		    l->at.step + 1, l->oldest, l->recipe->output);
	optimizer_step(&l->optimizer, lr, targets, norm);
	return norm;
}

static void
say(struct loop *l, double loss, double lr, double rate)
{
	int terminal = isatty(STDERR_FILENO);
	double time = clock_now();
	long done = l->at.step - l->first, left = l->schedule.steps - l->at.step;
	long eta = (long)((time - l->started) / (double)done * (double)left);

	if (l->job->common->quiet || time - l->said < (terminal ? 0.2 : SAY_SECONDS))
		return;
	l->said = time;
	fprintf(stderr, "%s%s: step %ld", terminal ? "\r" : "", progname, l->at.step);
	if (l->schedule.steps)
		fprintf(stderr, " of %ld, %ld:%02ld:%02ld left", l->schedule.steps, eta / 3600, eta / 60 % 60, eta % 60);
	fprintf(stderr, ", loss %.4f, lr %.3g, %.0f tokens/s%s", loss, lr, rate, terminal ? "\033[K" : "\n");
}

static void
report(struct loop *l, const struct sums *sums, double lr, double norm, double seconds)
{
	const struct divergence *d = &l->job->divergence;
	double n = (double)sums->targets, ce = sums->ce / n, div = sums->div / n, k = l->teacher ? d->kd_ratio : 0;
	double loss = (1 - k) * ce + k * div, rate = (double)sums->tokens / seconds;
	json_t *line = json_pack("{sI sf sf}", "step", (json_int_t)l->at.step, "loss", loss, "ce", ce);

	if (l->teacher)
		json_object_set_new(line, "div", json_real(div));
	json_object_set_new(line, "lr", json_real(lr));
	json_object_set_new(line, "grad_norm", json_real(norm));
	json_object_set_new(line, "records", json_integer((json_int_t)l->at.records));
	json_object_set_new(line, "tokens", json_integer((json_int_t)l->at.tokens));
	json_object_set_new(line, "targets", json_integer((json_int_t)l->at.targets));
	json_object_set_new(line, "seconds", json_real(l->at.seconds));
	json_object_set_new(line, "tokens_per_second", json_real(rate));
	json_object_set_new(line, "peak_bytes", json_integer((json_int_t)peak_bytes()));
	rundir_metric(&l->run, line);
	json_decref(line);
	say(l, loss, lr, rate);
}

/* One optimizer step; 0 when the data is at its end. */
static int
step(struct loop *l)
{
	struct sums sums = { 0 };
	double lr = schedule_lr(&l->schedule, l->at.step), begin = clock_now(), seconds, norm = 0;

	if (!accumulate(l, &sums))
		return 0;
	if (sums.targets)
		norm = update(l, &sums, lr);
	seconds = clock_now() - begin;
	l->at.step++;
	l->at.tokens += sums.tokens;
	l->at.targets += sums.targets;
	l->at.seconds += seconds;
	if (sums.targets)
		report(l, &sums, lr, norm, seconds);
	return 1;
}

/* Mean cross-entropy over the development set. */
static double
dev_loss(struct loop *l)
{
	struct stream_in *in = stream_open(l->recipe->dev, "tokens|logits|rollouts");
	struct teacher *teacher = l->trainer.teacher;
	struct sums sums = { 0 };
	struct record r;
	struct example e;

	l->trainer.teacher = NULL;
	trainer_begin(&l->trainer);
	while (stream_get(in, &r)) {
		example_read(&e, &r, in, l->trainer.head->columns);
		if (!e.targets || trainer_add(&l->trainer, stream_name(in), &r, &e))
			continue;
		trainer_score(&l->trainer, &sums);
		trainer_begin(&l->trainer);
		trainer_add(&l->trainer, stream_name(in), &r, &e);
	}
	if (l->trainer.batch.m)
		trainer_score(&l->trainer, &sums);
	l->trainer.teacher = teacher;
	if (!sums.targets)
		die("%s has nothing to predict", stream_name(in));
	stream_close(in);
	return sums.ce / (double)sums.targets;
}

static void
develop(struct loop *l)
{
	double loss = dev_loss(l);
	json_t *line;

	if (!isfinite(loss))
		die("the development loss is not finite after step %ld; '%s' is as it was last saved", l->at.step,
		    l->recipe->output);
	line = json_pack("{sI sf}", "step", (json_int_t)l->at.step, "dev_loss", loss);
	rundir_metric(&l->run, line);
	json_decref(line);
	if (l->at.best_step && loss >= l->at.best)
		return;
	l->at.best = loss;
	l->at.best_step = l->at.step;
	rundir_save_model(&l->run, l->model, "best", l->recipe->save_type);
}

static void
save(struct loop *l)
{
	rundir_save_model(&l->run, l->model, "model", l->recipe->save_type);
	rundir_save_state(&l->run, &l->optimizer, &l->at);
	l->saved = clock_now();
}

static int
due(const struct loop *l)
{
	int every = l->recipe->save_every;

	return every ? l->at.step % every == 0 : clock_now() - l->saved > SAVE_SECONDS;
}

static int
dev_due(const struct loop *l)
{
	return l->recipe->dev && l->dev_every && l->at.step % l->dev_every == 0;
}

static void
steps(struct loop *l)
{
	long end = l->schedule.steps;

	l->started = l->saved = l->said = clock_now();
	l->first = l->at.step;
	while ((!end || l->at.step < end) && step(l)) {
		if (dev_due(l))
			develop(l);
		if (stopped) {
			save(l);
			die("stopped after step %ld; the same command goes on from there", l->at.step);
		}
		if (due(l))
			save(l);
	}
}

static void
finish(struct loop *l)
{
	long planned = l->schedule.steps;

	if (!l->at.targets)
		die("%s has nothing to learn", stream_name(l->job->in));
	if (l->at.step < planned)
		warn("%s ended after %ld of %ld steps", stream_name(l->job->in), l->at.step, planned);
	if (l->recipe->dev && !dev_due(l))
		develop(l);
	l->at.finished = 1;
	save(l);
	if (l->job->common->quiet)
		return;
	if (isatty(STDERR_FILENO))
		fputc('\n', stderr);
	if (l->at.dropped)
		warn("%llu of %llu records had nothing to learn", (unsigned long long)l->at.dropped,
		    (unsigned long long)l->at.records);
	warn("%ld steps, %llu tokens in %.1f s (%.0f a second), %.2f GiB at the peak", l->at.step,
	    (unsigned long long)l->at.tokens, l->at.seconds, (double)l->at.tokens / l->at.seconds,
	    (double)peak_bytes() / (1 << 30));
}

static void
catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

static void
clean(struct loop *l)
{
	trainer_free(&l->trainer);
	optimizer_free(&l->optimizer);
	if (l->teacher)
		teacher_free(l->teacher);
	data_close(&l->data);
	rundir_close(&l->run);
	json_decref(l->job->options);
	model_free(l->model);
	free(l->oldest);
}

void
loop_run(struct job *job)
{
	struct loop l = { .job = job, .recipe = job->recipe, .model = job->model };

	open_data(&l);
	prepare(&l);
	rundir_open(&l.run, job->recipe->output, job->options);
	if (rundir_resume(&l.run, &l.optimizer, &l.at) && !l.at.finished && !job->common->quiet)
		warn("'%s' goes on after step %ld", job->recipe->output, l.at.step);
	if (l.at.finished) {
		warn("'%s' is finished", job->recipe->output);
	} else {
		data_seek(&l.data, l.at.records);
		catch_signals();
		steps(&l);
		finish(&l);
	}
	clean(&l);
}
