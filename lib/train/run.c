/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/train/run.h"

enum { SAVE_SECONDS = 600, SAY_SECONDS = 60 };

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

void
run_ranks(struct run *r)
{
	ranks_open(&r->ranks);
	r->quiet = r->quiet || r->ranks.rank;
}

void
run_alone(struct run *r)
{
	run_ranks(r);
	if (r->ranks.count == 1)
		return;
	if (!r->ranks.rank)
		warn("rollouts are learned from by one process, not by %d", r->ranks.count);
	ranks_close(&r->ranks);
	exit(1);
}

void
run_plan(struct run *r, const struct plan *plan)
{
	char *steps = r->schedule.steps ? mem_format("%ld steps", r->schedule.steps) : mem_string("steps");

	if (!r->quiet)
		warn("%s of %d records, %s on %s, at most %.2f GiB of memory", steps, r->recipe->batch,
		    dtype_name(r->model->type), r->model->be->name, (double)plan_bytes(plan) / (1 << 30));
	free(steps);
	plan_check(plan, r->model->be->room());
	optimizer_init(&r->optimizer, r->model, &r->recipe->adamw);
}

void
run_enter(struct run *r, const json_t *options)
{
	double one = 1;

	/* the first rank makes it and writes it, the others then read it */
	if (!r->ranks.rank)
		rundir_open(&r->dir, r->recipe->output, options);
	ranks_add(&r->ranks, &one, 1);
	if (r->ranks.rank)
		rundir_watch(&r->dir, r->recipe->output);
}

int
run_resume(struct run *r)
{
	if (!rundir_resume(&r->dir, &r->optimizer, &r->at))
		return 1;
	if (r->at.finished && !r->ranks.rank)
		warn("'%s' is finished", r->recipe->output);
	else if (!r->at.finished && !r->quiet)
		warn("'%s' goes on after step %ld", r->recipe->output, r->at.step);
	return !r->at.finished;
}

void
run_start(struct run *r)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	r->started = r->saved = r->said = clock_now();
	r->first = r->at.step;
}

void
run_close(struct run *r)
{
	optimizer_free(&r->optimizer);
	rundir_close(&r->dir);
	model_free(r->model);
	if (r->policy.path)
		policy_close(&r->policy);
	ranks_close(&r->ranks);
}

uint64_t
run_seed(const struct run *r)
{
	return (uint64_t)r->recipe->seed | (uint64_t)r->ranks.rank << 32;
}

_Noreturn void
run_not_finite(const struct run *r, const char *record)
{
	die("the loss is not finite at step %ld, record '%s'; '%s' is as it was last saved", r->at.step + 1, record,
	    r->recipe->output);
}

void
run_share(struct run *r, struct sums *sums)
{
	double all[] = { sums->ce, sums->div, (double)sums->targets, (double)sums->tokens, (double)sums->micro,
		(double)sums->dropped, stopped != 0 };
	int i;

	ranks_add(&r->ranks, all, sizeof all / sizeof *all);
	*sums = (struct sums){ all[0], all[1], (uint64_t)all[2], (uint64_t)all[3], (uint64_t)all[4],
		(uint64_t)all[5] };
	r->at.micro += (uint32_t)sums->micro;
	r->at.dropped += sums->dropped;
	r->stop = all[6] > 0;
	for (i = 0; i < r->model->nstorage && sums->targets; i++)
		ranks_add_gradient(&r->ranks, r->model->be, r->optimizer.gradients.of[i], r->model->storage[i].n);
}

double
run_update(struct run *r, double lr, double targets, const char *record)
{
	double norm = optimizer_norm(&r->optimizer, targets);

	if (!isfinite(norm))
		die("the gradient is not finite at step %ld, whose records begin with '%s'; '%s' is as it was last "
		    "saved", r->at.step + 1, record, r->recipe->output);
	optimizer_step(&r->optimizer, lr, targets, norm);
	return norm;
}

void
run_count(struct run *r, uint64_t tokens, uint64_t targets, double seconds)
{
	r->at.step++;
	r->at.tokens += tokens;
	r->at.targets += targets;
	r->at.seconds += seconds;
	r->rate = (double)tokens / seconds;
}

static void
say(struct run *r, double loss, double lr)
{
	int terminal = isatty(STDERR_FILENO);
	double time = clock_now();
	long done = r->at.step - r->first, left = r->schedule.steps - r->at.step;
	long eta = (long)((time - r->started) / (double)done * (double)left);

	if (r->quiet || time - r->said < (terminal ? 0.2 : SAY_SECONDS))
		return;
	r->said = time;
	fprintf(stderr, "%s%s: step %ld", terminal ? "\r" : "", progname, r->at.step);
	if (r->schedule.steps)
		fprintf(stderr, " of %ld, %ld:%02ld:%02ld left", r->schedule.steps, eta / 3600, eta / 60 % 60,
		    eta % 60);
	fprintf(stderr, ", loss %.4f, lr %.3g, %.0f tokens/s%s", loss, lr, r->rate, terminal ? "\033[K" : "\n");
}

void
run_report(struct run *r, json_t *line, double loss, double lr, double norm)
{
	json_object_set_new(line, "lr", json_real(lr));
	json_object_set_new(line, "grad_norm", json_real(norm));
	json_object_set_new(line, "records", json_integer((json_int_t)r->at.records));
	json_object_set_new(line, "tokens", json_integer((json_int_t)r->at.tokens));
	json_object_set_new(line, "targets", json_integer((json_int_t)r->at.targets));
	json_object_set_new(line, "seconds", json_real(r->at.seconds));
	json_object_set_new(line, "tokens_per_second", json_real(r->rate));
	json_object_set_new(line, "peak_bytes", json_integer((json_int_t)peak_bytes()));
	rundir_metric(&r->dir, line);
	json_decref(line);
	say(r, loss, lr);
}

void
run_announce(struct run *r, const char *place)
{
	policy_open(&r->policy, r->recipe->output, place, r->model, rundir_step(&r->dir), r->schedule.steps);
}

void
run_publish(struct run *r, long used)
{
	if (r->at.step < r->schedule.steps)
		policy_publish(&r->policy, r->model, r->at.step);
	policy_prune(&r->policy, used);
}

static void
save(struct run *r)
{
	rundir_save_model(&r->dir, r->model, "model", r->recipe->save_type);
	rundir_save_state(&r->dir, &r->optimizer, &r->at);
	policy_saved(&r->policy, r->at.step);
	r->saved = clock_now();
}

static int
due(const struct run *r)
{
	int every = r->recipe->save_every;

	return every ? r->at.step % every == 0 : clock_now() - r->saved > SAVE_SECONDS;
}

void
run_save_due(struct run *r)
{
	/* ranks stop together, after the step in which all have heard of it */
	int stop = r->ranks.count > 1 ? r->stop : stopped != 0;

	if (stop || due(r))
		save(r);
	if (!stop)
		return;
	ranks_close(&r->ranks);
	die("stopped after step %ld; the same command goes on from there", r->at.step);
}

void
run_finish(struct run *r, const char *input)
{
	r->at.finished = 1;
	save(r);
	if (r->at.step < r->schedule.steps)
		warn("%s ended after %ld of %ld steps", input, r->at.step, r->schedule.steps);
	if (r->quiet)
		return;
	if (isatty(STDERR_FILENO))
		fputc('\n', stderr);
	if (r->at.dropped)
		warn("%llu of %llu records had nothing to learn", (unsigned long long)r->at.dropped,
		    (unsigned long long)r->at.records);
	warn("%ld steps, %llu tokens in %.1f s (%.0f a second), %.2f GiB at the peak", r->at.step,
	    (unsigned long long)r->at.tokens, r->at.seconds, (double)r->at.tokens / r->at.seconds,
	    (double)peak_bytes() / (1 << 30));
}
