/* SPDX-License-Identifier: MIT */
/*
 * reward - rollouts on stdin, rewards on stdout
 *
 * Say what each completion earns by one or more rewards. Threads take records
 * in turn and judge many at once; they leave in the order of the input.
 */
#include <errno.h>
#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/clock.h"
#include "lib/base/die.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/base/options.h"
#include "lib/reward/parts.h"
#include "lib/reward/reward.h"
#include "lib/sandbox/sandbox.h"
#include "lib/stream/stream.h"
#include "lib/text/tokenizer.h"
#include "lib/text/unicode.h"

enum { REWARDS = 32, PLACES = 64 };	/* records under way, a thread: what comes behind a slow one */

struct item {
	struct record record;		/* a copy */
	int last;			/* of those that were handed over together */
	int judged;
	struct score *scores;		/* one a reward */
	double seconds;			/* that judging took */
};

struct judging {
	struct stream_in *in;
	struct stream_out *out;		/* NULL: explain */
	struct reward *rewards[REWARDS];
	int nrewards, counts_thought, runs_programs;
	struct tokenizer *tokenizer;
	const json_t *list;		/* the header's rewards: those that the records had before, and ours */
	pthread_mutex_t reading, writing;
	pthread_cond_t room;
	struct item *items;		/* a ring */
	size_t nitems, taken, put;
	int ended;
};

static void
parse_rewards(struct judging *j, const struct common *common, const char **path)
{
	char why[REASON_MAX];
	int i, k;

	for (i = 0; i < common->noperands; i++) {
		if (i && i == common->noperands - 1 && !strchr(common->operands[i], '=')) {
			*path = options_operand(common, i);
			break;
		}
		if (j->nrewards == REWARDS)
			die_usage("more than %d rewards", REWARDS);
		if (!(j->rewards[j->nrewards] = reward_parse(common->operands[i], why)))
			die_usage("%s", why);
		for (k = 0; k < j->nrewards; k++)
			if (!strcmp(reward_name(j->rewards[k]), reward_name(j->rewards[j->nrewards])))
				die_usage("%s is there twice", reward_name(j->rewards[k]));
		j->counts_thought |= reward_counts_thought(j->rewards[j->nrewards]);
		j->runs_programs |= reward_runs_programs(j->rewards[j->nrewards]);
		j->nrewards++;
	}
	if (!j->nrewards)
		die_usage("no reward is named");
}

static void
open_tokenizer(struct judging *j, const char *model)
{
	const char *stated = json_string_value(json_object_get(stream_header(j->in), "tokenizer"));
	char why[REASON_MAX];

	if (!j->counts_thought)
		return;
	if (!model)
		die_usage("length counts tokens of thought, for which --model must name a tokenizer");
	if (!(j->tokenizer = tokenizer_open(model, why)))
		die("%s", why);
	if (stated && strcmp(stated, tokenizer_digest(j->tokenizer)))
		die("%s was made with another tokenizer than that of '%s'", stream_name(j->in), model);
}

/* The rewards of the input, and ours behind them. */
static json_t *
make_header(const struct judging *j, const struct common *common)
{
	json_t *header = header_new("rewards", j->in, common), *list = json_array(), *old;
	size_t i;
	int k;

	json_array_foreach(json_object_get(stream_header(j->in), "rewards"), i, old) {
		json_array_append(list, old);
		for (k = 0; k < j->nrewards; k++)
			if (!strcmp(json_string_value(json_object_get(old, "name")), reward_name(j->rewards[k])))
				die("%s has the reward %s already", stream_name(j->in), reward_name(j->rewards[k]));
	}
	for (k = 0; k < j->nrewards; k++)
		json_array_append_new(list, json_pack("{ss sf sO}", "name", reward_name(j->rewards[k]), "weight",
		    j->rewards[k]->weight, "params", j->rewards[k]->params));
	json_object_set_new(header, "rewards", list);
	return header;
}

static void
item_fill(struct item *item, const struct record *r)
{
	size_t size, k;
	int i;

	item->record = *r;
	item->record.text = json_copy(r->text);
	for (i = 0; i < r->ntensors; i++) {
		struct tensor *t = &item->record.tensors[i];

		size = dtype_size(t->type);
		for (k = 0; k < (size_t)t->rank; k++)
			size = mem_mul(size, t->shape[k]);
		t->data = mem_copy(t->data, size);
	}
}

static void
item_empty(struct item *item)
{
	int i;

	json_decref(item->record.text);
	for (i = 0; i < item->record.ntensors; i++)
		free((void *)(uintptr_t)item->record.tensors[i].data);
	item->judged = 0;
}

/* The next record in a place of its own, or NULL at the end of the input. */
static struct item *
take(struct judging *j)
{
	struct item *item = NULL;
	struct record r;

	pthread_mutex_lock(&j->reading);
	pthread_mutex_lock(&j->writing);
	while (j->taken - j->put == j->nitems)
		pthread_cond_wait(&j->room, &j->writing);
	pthread_mutex_unlock(&j->writing);
	if (!j->ended && stream_get(j->in, &r)) {
		item = &j->items[j->taken % j->nitems];
		item_fill(item, &r);
		item->last = !stream_more(j->in);
		pthread_mutex_lock(&j->writing);
		j->taken++;
		pthread_mutex_unlock(&j->writing);
	} else {
		j->ended = 1;
	}
	pthread_mutex_unlock(&j->reading);
	return item;
}

static struct candidate
candidate_of(const struct judging *j, const struct item *item)
{
	const struct record *r = &item->record;
	const int32_t *span = record_need(r, "supervised", DT_I32)->data;
	const json_t *text = json_object_get(r->text, "completion"), *references = json_object_get(r->text, "references");

	if (!json_is_string(text))
		die("%s: record '%s' has no completion", stream_name(j->in), record_id(r));
	if (record_need(r, "supervised", DT_I32)->shape[0] != 1 || span[1] < span[0])
		die("%s: record '%s' has not one completion", stream_name(j->in), record_id(r));
	if (json_is_null(references) || (json_is_array(references) && !json_array_size(references)))
		references = NULL;
	return (struct candidate){ json_string_value(text), json_string_length(text), span[1] - span[0], 0,
	    references ? references : json_object_get(r->text, "target"), json_object_get(r->text, "keywords"),
	    json_object_get(r->text, "tests") };
}

static int
think_tokens(const struct judging *j, const struct candidate *c)
{
	struct part think = part_think(c->text, c->size);
	struct ids ids = { .n = 0 };
	char why[REASON_MAX];

	if (think.s && tokenizer_encode(j->tokenizer, think.s, think.n, 0, &ids, why))
		die("%s", why);
	free(ids.id);
	return (int)ids.n;
}

static void
judge_item(const struct judging *j, struct item *item, struct judge *judge)
{
	struct candidate c = candidate_of(j, item);
	double begun = clock_now();
	int i;

	if (j->tokenizer)
		c.think_tokens = think_tokens(j, &c);
	for (i = 0; i < j->nrewards; i++)
		reward_judge(j->rewards[i], &c, judge, &item->scores[i]);
	item->seconds = clock_now() - begun;
}

/* The weighted sum of what was judged; null where nothing was. */
static json_t *
total(const struct judging *j, const json_t *values)
{
	const json_t *reward, *value;
	double sum = 0;
	int judged = 0;
	size_t i;

	json_array_foreach(j->list, i, reward) {
		value = json_object_get(values, json_string_value(json_object_get(reward, "name")));
		if (!json_is_number(value))
			continue;
		sum += json_number_value(json_object_get(reward, "weight")) * json_number_value(value);
		judged = 1;
	}
	return judged ? json_real(sum) : json_null();
}

static void
set_rewards(const struct judging *j, struct item *item)
{
	const json_t *old = json_object_get(item->record.text, "rewards");
	json_t *values = json_is_object(old) ? json_copy((json_t *)(uintptr_t)old) : json_object();
	int i;

	for (i = 0; i < j->nrewards; i++)
		json_object_set_new(values, reward_name(j->rewards[i]),
		    item->scores[i].judged ? json_real(item->scores[i].value) : json_null());
	json_object_set_new(item->record.text, "rewards", values);
	json_object_set_new(item->record.text, "reward", total(j, values));
}

/* In a loop, whose records say what they took to be generated, how long judging took. */
static void
set_seconds(struct item *item)
{
	const json_t *old = json_object_get(item->record.text, "seconds");
	json_t *seconds;

	if (!json_is_object(old))
		return;
	seconds = json_copy((json_t *)(uintptr_t)old);
	json_object_set_new(seconds, "judge",
	    json_real(item->seconds + json_number_value(json_object_get(old, "judge"))));
	json_object_set_new(item->record.text, "seconds", seconds);
}

/* A line of JSON about a record: its scores, and why they are so. */
static void
explain(const struct judging *j, const struct item *item)
{
	const json_t *text = item->record.text, *values = json_object_get(text, "rewards");
	json_t *reasons = json_object(), *line;
	struct text out = { .n = 0 };
	size_t n;
	char *why;
	int i;

	for (i = 0; i < j->nrewards; i++) {
		why = unicode_repair(item->scores[i].why, strlen(item->scores[i].why), &n);
		json_object_set_new(reasons, reward_name(j->rewards[i]), json_string(why));
		free(why);
	}
	line = json_pack("{sO* sO* sO sO so}", "id", json_object_get(text, "id"), "sample",
	    json_object_get(text, "sample"), "reward", json_object_get(text, "reward"), "rewards", values, "why", reasons);
	json_append(&out, line, 0);
	text_add(&out, "\n", 1);
	if (fwrite(out.s, 1, out.n, stdout) != out.n || (item->last && fflush(stdout)))
		die("cannot write <stdout>:");
	free(out.s);
	json_decref(line);
}

static void
put(struct judging *j, struct item *item)
{
	set_rewards(j, item);
	set_seconds(item);
	if (!j->out) {
		explain(j, item);
		return;
	}
	stream_put(j->out, &item->record);
	if (item->last)
		stream_flush(j->out);
}

/* Write what is judged, up to the first record that is not. */
static void
hand_back(struct judging *j, struct item *item)
{
	pthread_mutex_lock(&j->writing);
	item->judged = 1;
	for (; (item = &j->items[j->put % j->nitems])->judged; j->put++) {
		put(j, item);
		item_empty(item);
	}
	pthread_cond_broadcast(&j->room);
	pthread_mutex_unlock(&j->writing);
}

static void *
work(void *arg)
{
	struct judging *j = arg;
	struct judge *judge = judge_new();
	struct item *item;

	while ((item = take(j))) {
		judge_item(j, item, judge);
		hand_back(j, item);
	}
	judge_free(judge);
	return NULL;
}

static void
judge_all(struct judging *j, int nthreads)
{
	pthread_t *threads = mem_alloc((size_t)nthreads * sizeof *threads);
	size_t k;
	int i;

	pthread_mutex_init(&j->reading, NULL);
	pthread_mutex_init(&j->writing, NULL);
	pthread_cond_init(&j->room, NULL);
	j->nitems = PLACES * (size_t)nthreads;
	j->items = mem_zero(j->nitems, sizeof *j->items);
	for (k = 0; k < j->nitems; k++)
		j->items[k].scores = mem_alloc((size_t)j->nrewards * sizeof *j->items[k].scores);
	for (i = 0; i < nthreads; i++)
		if ((errno = pthread_create(&threads[i], NULL, work, j)))
			die("cannot start a thread:");
	for (i = 0; i < nthreads; i++)
		pthread_join(threads[i], NULL);
	for (k = 0; k < j->nitems; k++)
		free(j->items[k].scores);
	free(j->items);
	free(threads);
}

int
main(int argc, const char **argv)
{
	struct judging j = { .nrewards = 0 };
	static char *model, *output;	/* popt's, up to the end */
	char why[REASON_MAX];
	const char *path = NULL;
	int explains = 0, i;
	struct common common;
	const struct poptOption options[] = {
		{ "explain", 0, POPT_ARG_NONE, &explains, 0,
		    "print JSON lines with the scores of each record and why, not the stream", NULL },
		{ "model", 'm', POPT_ARG_STRING, &model, 0, "directory with the tokenizer that length counts by", "DIR" },
		{ "output", 'o', POPT_ARG_STRING, &output, 0, "write to FILE (default: stdout)", "FILE" },
		OPTIONS_THREADS
	};
	json_t *header;

	/* arguments */
	options_parse(argc, argv, options, "NAME=WEIGHT[:PARAM=VALUE,...]... [FILE]",
	    "Judge rollouts by format, tags, keywords, steps, length, cosine, repetition,\n"
	    "overlong, answer, rouge or code.", -1, &common);
	parse_rewards(&j, &common, &path);
	if (explains && output)
		die_usage("--explain prints to stdout, not to --output");

	/* prepare */
	if (j.runs_programs && sandbox_usable(why))
		die("code runs programs, but %s", why);
	j.in = stream_open(path, "rollouts|rewards");
	open_tokenizer(&j, model);
	header = make_header(&j, &common);
	j.list = json_object_get(header, "rewards");
	if (!explains)
		j.out = stream_create(output, header);

	/* records */
	judge_all(&j, common.threads ? common.threads : omp_get_num_procs());

	/* finish */
	if (j.out)
		stream_finish(j.out);
	else if (fflush(stdout) || ferror(stdout))
		die("cannot write <stdout>:");
	stream_close(j.in);
	json_decref(header);
	if (j.tokenizer)
		tokenizer_close(j.tokenizer);
	for (i = 0; i < j.nrewards; i++)
		reward_free(j.rewards[i]);
	return 0;
}
