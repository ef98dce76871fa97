/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/replies/groups.h"

/* What a log-probability may exceed 0 by, for its rounding. */
static const float ROUNDING = 1e-4f;

static void
read_rewards(struct groups *g, const json_t *header)
{
	const json_t *list = json_object_get(header, "rewards"), *reward;
	size_t i;

	g->nrewards = (int)json_array_size(list);
	if (!g->nrewards)
		die("%s names no rewards", stream_name(g->in));
	g->names = mem_zero((size_t)g->nrewards, sizeof *g->names);
	g->weights = mem_zero((size_t)g->nrewards, sizeof *g->weights);
	json_array_foreach(list, i, reward) {
		g->names[i] = json_string_value(json_object_get(reward, "name"));
		if (!g->names[i] || !json_is_number(json_object_get(reward, "weight")))
			die("%s has a reward without a name or a weight", stream_name(g->in));
		g->weights[i] = json_number_value(json_object_get(reward, "weight"));
	}
}

static void
read_sampling(struct groups *g, const json_t *header)
{
	const json_t *sampling = json_object_get(header, "sampling"), *batch = json_object_get(header, "batch");
	const json_t *top_p = json_object_get(sampling, "top_p");

	g->temperature = json_number_value(json_object_get(sampling, "temperature"));
	g->max_tokens = (int)json_integer_value(json_object_get(sampling, "max_tokens"));
	if (json_is_true(json_object_get(sampling, "greedy")))
		die("%s was drawn greedily: all replies to a prompt are one", stream_name(g->in));
	if (!(g->temperature > 0))
		die("%s does not say at which temperature it was drawn", stream_name(g->in));
	g->filtered = json_integer_value(json_object_get(sampling, "top_k")) > 0 ||
	    json_number_value(json_object_get(sampling, "min_p")) > 0 ||
	    (json_is_number(top_p) && json_number_value(top_p) < 1) || json_object_get(header, "mix");
	if (!json_is_integer(batch))
		return;
	g->followed = 1;
	g->batch = (uint64_t)json_integer_value(batch);
	if (json_integer_value(batch) < 1)
		die("%s has steps of no records", stream_name(g->in));
}

void
groups_open(struct groups *g, struct stream_in *in, int vocab, int batch)
{
	const json_t *header = stream_header(in);

	*g = (struct groups){ .in = in, .vocab = vocab, .batch = (uint64_t)batch };
	data_open(&g->data, in, 0, 0, 1);
	read_rewards(g, header);
	read_sampling(g, header);
	g->has_ref = header_has(header, "ref_logp");
	g->index = json_object();
}

static void
forget(struct groups *g)
{
	int i;

	for (i = 0; i < g->n; i++) {
		struct rollout *r = &g->rollouts[i];

		free(r->id);
		free(r->ids);
		free(r->sampled);
		free(r->model_logp);
		free(r->old);
		free(r->ref);
		free(r->rewards);
	}
	json_object_clear(g->index);
	g->n = g->ngroups = 0;
	g->version = -1;
	g->generated = g->judged = 0;
}

void
groups_close(struct groups *g)
{
	forget(g);
	json_decref(g->index);
	data_close(&g->data);
	free(g->rollouts);
	free(g->samples);
	free(g->names);
	free(g->weights);
}

/* A copy of a log-probability for each token of the reply, checked. */
static float *
logprobs(const struct groups *g, const struct record *r, const char *name, int n)
{
	const struct tensor *t = record_need(r, name, DT_F32);
	const float *x = t->data;
	int i;

	if (t->rank != 1 || t->shape[0] != (uint64_t)n)
		die("%s: record '%s' has not one %s for each of the %d tokens of its reply", stream_name(g->in),
		    record_id(r), name, n);
	for (i = 0; i < n; i++)
		if (!(x[i] <= ROUNDING && isfinite(x[i])))
			die("%s: record '%s' has a token whose %s is %g", stream_name(g->in), record_id(r), name,
			    (double)x[i]);
	return mem_copy(x, (size_t)n * sizeof *x);
}

static double *
rewards(const struct groups *g, const struct record *r)
{
	const json_t *all = json_object_get(r->text, "rewards"), *reward;
	double *values = mem_alloc((size_t)g->nrewards * sizeof *values);
	int i;

	for (i = 0; i < g->nrewards; i++) {
		reward = json_object_get(all, g->names[i]);
		if (!json_is_number(reward) && !json_is_null(reward))
			die("%s: record '%s' has no reward %s, neither a number nor null", stream_name(g->in), record_id(r),
			    g->names[i]);
		values[i] = json_is_null(reward) ? NAN : json_number_value(reward);
	}
	return values;
}

static int
terminated(const struct groups *g, const struct record *r)
{
	const char *finish = json_string_value(json_object_get(r->text, "finish"));

	if (!finish || (strcmp(finish, "stop") && strcmp(finish, "length")))
		die("%s: record '%s' does not say how it ended, by stop or by length", stream_name(g->in), record_id(r));
	return !strcmp(finish, "stop");
}

/* Of the next rollout, whose place is g->n. */
static int
group_of(struct groups *g, const struct rollout *r)
{
	const json_t *known = json_object_get(g->index, r->id);
	const struct rollout *first;

	if (!known) {
		json_object_set_new_nocheck(g->index, r->id, json_integer(g->n));
		return g->ngroups++;
	}
	first = &g->rollouts[json_integer_value(known)];
	if (first->span[0] != r->span[0] || memcmp(first->ids, r->ids, (size_t)r->span[0] * sizeof *r->ids))
		die("%s: two records '%s' of one step have different prompts", stream_name(g->in), r->id);
	return g->samples[json_integer_value(known)].group;
}

static void
add(struct groups *g, const struct record *r)
{
	struct example e;
	struct rollout *o;
	struct sample *s;
	int n;

	if (g->n == g->cap) {
		g->cap = g->cap ? 2 * g->cap : 64;
		g->rollouts = mem_grow(g->rollouts, (size_t)g->cap, sizeof *g->rollouts);
		g->samples = mem_grow(g->samples, (size_t)g->cap, sizeof *g->samples);
	}
	example_read(&e, r, g->in, g->vocab);
	if (e.nspans != 1 || e.spans[0] < 1 || e.spans[1] != e.n)
		die("%s: record '%s' is not a prompt and one reply to its end", stream_name(g->in), e.id);
	n = e.spans[1] - e.spans[0];
	o = &g->rollouts[g->n];
	s = &g->samples[g->n];
	*o = (struct rollout){
		.id = mem_string(e.id), .ids = mem_copy(e.ids, (size_t)e.n * sizeof *e.ids), .n = e.n,
		.span = { e.spans[0], e.spans[1] }, .sampled = logprobs(g, r, "logp", n),
		.model_logp = logprobs(g, r, "model_logp", n), .rewards = rewards(g, r),
		.ref = g->has_ref ? logprobs(g, r, "ref_logp", n) : NULL,
	};
	*s = (struct sample){
		.n = n, .group = group_of(g, o), .terminated = terminated(g, r), .rewards = o->rewards,
	};
	g->n++;
}

/* A number that each record of a followed stream has. */
static long
number(const struct groups *g, const struct record *r, const char *name)
{
	const json_t *value = json_object_get(r->text, name);

	if (!json_is_integer(value) || json_integer_value(value) < 0)
		die("%s: record '%s' has no %s", stream_name(g->in), record_id(r), name);
	return (long)json_integer_value(value);
}

/* What followed rollouts say of their time, and rewards of theirs. */
static void
add_seconds(struct groups *g, const struct record *r)
{
	const json_t *seconds = json_object_get(r->text, "seconds");

	g->generated = fmax(g->generated, json_number_value(json_object_get(seconds, "generate")));
	g->judged += json_number_value(json_object_get(seconds, "judge"));
}

static int
next_followed(struct groups *g, long step)
{
	const struct record *r;
	long of, version;

	while ((uint64_t)g->n < g->batch && (r = data_peek(&g->data))) {
		of = number(g, r, "step");
		if (of > step)
			die("%s: record '%s' is of step %ld, where %ld is to be done", stream_name(g->in), record_id(r),
			    of, step);
		if (of == step) {
			version = number(g, r, "version");
			g->version = g->version < 0 || version < g->version ? version : g->version;
			add_seconds(g, r);
			add(g, r);
		}
		data_take(&g->data);
	}
	if (g->n && (uint64_t)g->n < g->batch)
		die("%s ends inside of step %ld, after %d of %llu records", stream_name(g->in), step, g->n,
		    (unsigned long long)g->batch);
	return g->n > 0;
}

int
groups_next(struct groups *g, long step)
{
	const struct record *r;

	forget(g);
	if (g->followed)
		return next_followed(g, step);
	while ((r = data_peek(&g->data))) {
		if ((uint64_t)g->n >= g->batch && !json_object_get(g->index, record_id(r)))
			break;
		add(g, r);
		data_take(&g->data);
	}
	return g->n > 0;
}
