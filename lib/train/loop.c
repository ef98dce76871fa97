/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>

#include "lib/base/clock.h"
#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/train/loop.h"
#include "lib/train/run.h"
#include "lib/train/trainer.h"

struct loop {
	const struct job *job;
	struct teacher *teacher;
	struct trainer trainer;
	struct data data;
	struct run run;
	long dev_every;			/* steps; 0: at the end alone */
	char *oldest;			/* name of the first record of the step */
};

/* How many steps there will be; 0 where only the end of a pipe will tell. */
static long
count_steps(const struct loop *l)
{
	const struct recipe *r = l->run.recipe;
	uint64_t batch = (uint64_t)r->batch;

	if (!l->data.seekable && l->run.ranks.count > 1)
		die("%s is a pipe: %d ranks need a file, of which each reads its records", stream_name(l->job->in),
		    l->run.ranks.count);
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
	const struct recipe *r = l->run.recipe;
	uint64_t batch = (uint64_t)r->batch;

	data_open(&l->data, l->job->in, !r->no_shuffle, (uint64_t)r->seed, r->steps ? 0 : (uint64_t)r->epochs);
	l->run.schedule = r->schedule;
	l->run.schedule.steps = count_steps(l);
	l->dev_every = r->dev_every ? r->dev_every : (long)((l->data.count + batch - 1) / batch);
}

/* The next record of the step that is this rank's; what others take is passed over unread. */
static const struct record *
next(struct loop *l, uint64_t end)
{
	const struct ranks *ranks = &l->run.ranks;
	uint64_t *at = &l->run.at.records;

	for (; *at < end && l->data.next < l->data.end; (*at)++, data_take(&l->data))
		if (ranks->count < 2 || *at % (uint64_t)ranks->count == (uint64_t)ranks->rank)
			return data_peek(&l->data);
	return NULL;
}

/* Fill a micro-batch from what is left of the step; 0 when nothing is. */
static int
fill(struct loop *l, uint64_t end, struct sums *sums)
{
	const char *stream = stream_name(l->job->in);
	const struct record *r;
	struct example e;

	trainer_begin(&l->trainer);
	while ((r = next(l, end))) {
		example_read(&e, r, l->job->in, l->trainer.head->columns);
		if (e.targets && !trainer_add(&l->trainer, stream, r, &e))
			break;
		if (!l->oldest)
			l->oldest = mem_string(e.id);
		sums->dropped += !e.targets;
		l->run.at.records++;
		data_take(&l->data);
	}
	return l->trainer.batch.m > 0;
}

/* All micro-batches of a step, of all ranks; 0 when the data is at its end. */
static int
accumulate(struct loop *l, struct sums *sums)
{
	uint64_t begin = l->run.at.records, end = begin + (uint64_t)l->run.recipe->batch;
	struct run *r = &l->run;
	const char *bad;

	free(l->oldest);
	l->oldest = NULL;
	while (fill(l, end, sums))
		trainer_run(&l->trainer, &r->optimizer.gradients, run_seed(r), r->at.micro + (uint32_t)sums->micro++);
	if ((bad = trainer_collect(&l->trainer, sums)))
		run_not_finite(r, bad);
	run_share(r, sums);
	return r->at.records > begin;
}

static void
report(struct loop *l, const struct sums *sums, double lr, double norm)
{
	const struct divergence *d = &l->job->divergence;
	double n = (double)sums->targets, ce = sums->ce / n, div = sums->div / n, k = l->teacher ? d->kd_ratio : 0;
	double loss = (1 - k) * ce + k * div;
	json_t *line = json_pack("{sI sf sf}", "step", (json_int_t)l->run.at.step, "loss", loss, "ce", ce);

	if (l->teacher)
		json_object_set_new(line, "div", json_real(div));
	run_report(&l->run, line, loss, lr, norm);
}

/* One optimizer step; 0 when the data is at its end. */
static int
step(struct loop *l)
{
	struct run *r = &l->run;
	struct sums sums = { 0 };
	double lr = schedule_lr(&r->schedule, r->at.step), begin = clock_now(), norm = 0;

	if (!accumulate(l, &sums))
		return 0;
	if (sums.targets)
		norm = run_update(r, lr, (double)sums.targets, l->oldest);
	run_count(r, sums.tokens, sums.targets, clock_now() - begin);
	if (sums.targets)
		report(l, &sums, lr, norm);
	return 1;
}

/* Mean cross-entropy over the development set. */
static double
dev_loss(struct loop *l)
{
	struct stream_in *in = stream_open(l->run.recipe->dev, "tokens|logits|rollouts");
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
		die("the development loss is not finite after step %ld; '%s' is as it was last saved", l->run.at.step,
		    l->run.recipe->output);
	line = json_pack("{sI sf}", "step", (json_int_t)l->run.at.step, "dev_loss", loss);
	rundir_metric(&l->run.dir, line);
	json_decref(line);
	if (l->run.at.best_step && loss >= l->run.at.best)
		return;
	l->run.at.best = loss;
	l->run.at.best_step = l->run.at.step;
	rundir_save_model(&l->run.dir, l->run.model, "best", l->run.recipe->save_type);
}

static int
dev_due(const struct loop *l)
{
	return l->run.recipe->dev && l->dev_every && l->run.at.step % l->dev_every == 0;
}

static void
steps(struct loop *l)
{
	long end = l->run.schedule.steps;

	run_start(&l->run);
	while ((!end || l->run.at.step < end) && step(l)) {
		if (dev_due(l))
			develop(l);
		run_save_due(&l->run);
	}
	if (!l->run.at.targets)
		die("%s has nothing to learn", stream_name(l->job->in));
	if (l->run.recipe->dev && !dev_due(l))
		develop(l);
	run_finish(&l->run, stream_name(l->job->in));
}

static void
clean(struct loop *l)
{
	trainer_free(&l->trainer);
	if (l->teacher)
		teacher_free(l->teacher);
	data_close(&l->data);
	run_close(&l->run);
	json_decref(l->job->options);
	free(l->oldest);
}

struct teacher *
job_prepare(const struct job *job, struct run *run, struct trainer *trainer)
{
	const struct recipe *r = job->recipe;
	enum keep keep = r->recompute ? KEEP_INPUTS : KEEP_ALL;
	int columns = job->source ? job->source->vocab : job->vocab ? job->vocab : run->model->config.vocab;
	struct plan plan = { run->model, run->model->type, columns, r->micro_tokens, keep, 0, r->stochastic };
	struct teacher *teacher = NULL;

	if (columns > run->model->config.vocab)
		die("'%s' has %d ids, the tokenizer of %s %d", r->model, run->model->config.vocab,
		    stream_name(job->in), columns);
	if (job->source) {
		teacher = teacher_new(job->source, run->model->be, r->micro_tokens,
		    trainer_chunk(columns, r->micro_tokens));
		plan.teacher = teacher_bytes(teacher);
	}
	run_plan(run, &plan);
	trainer_init(trainer, run->model, columns, r->micro_tokens, keep, teacher, &job->divergence);
	return teacher;
}

void
loop_run(struct job *job)
{
	struct loop l = { .job = job };

	l.run = (struct run){ .recipe = job->recipe, .quiet = job->common->quiet, .model = job->model };
	run_ranks(&l.run);
	open_data(&l);
	l.teacher = job_prepare(job, &l.run, &l.trainer);
	run_enter(&l.run, job->options);
	if (run_resume(&l.run)) {
		data_seek(&l.data, l.run.at.records);
		steps(&l);
	}
	clean(&l);
}
