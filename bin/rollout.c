/* SPDX-License-Identifier: MIT */
/*
 * rollout - tokens on stdin, rollouts on stdout
 *
 * Let a model answer prompts. Many sequences decode at once; replies leave in
 * the order of the records, seeds and samples, whatever order they end in.
 *
 * With --follow the model is one in training, and the prompts come in batches:
 * batch n goes to version max(0, n - lag).
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/clock.h"
#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/base/progress.h"
#include "lib/model/feed.h"
#include "lib/model/session.h"
#include "lib/text/agree.h"
#include "lib/text/unicode.h"
#include "lib/train/pack.h"
#include "lib/train/policy.h"

enum { EOS_MAX = 64 };

/* A record on its way. */
struct job {
	json_t *text;
	int32_t *ids;			/* of the prompt */
	struct request request;
	struct job *next;
};

struct rollout {
	struct feed feed;
	struct session *session;
	struct stream_out *out;
	struct progress progress;
	struct job *first, **tail;	/* in the order of the input */
	int ended;			/* the input */
	int seekable;			/* so is it a file, which nobody else waits for */
	int unflushed, flush_at;	/* records written since the last flush */
	uint64_t full;			/* prompts that leave no place for a reply */
	uint64_t *seeds;
	int nseeds, samples, max_tokens;
	int eos[EOS_MAX], neos;
	/* --follow */
	const char *run;		/* NULL: no version, the input in its own order */
	struct follower policy;
	struct data data;
	long step, version;
	double begun;			/* time of the batch */
	int prompts, lag, patience;	/* of a batch; versions; seconds */
	/* --mix-teacher */
	const char *teacher_directory;
	struct model *teacher;
	double share;
};

static void
parse_seeds(struct rollout *r, const char *list)
{
	const char *p = list;
	uint64_t seed;
	int cap = 0;
	char *end;

	for (;; p = end + 1) {
		errno = 0;
		seed = strtoull(p, &end, 10);
		if (errno || end == p || *p == '-' || (*end && *end != ','))
			die_usage("--seed takes numbers with commas between them, not '%s'", list);
		MEM_PUSH(r->seeds, r->nseeds, cap, seed);
		if (!*end)
			return;
	}
}

/* What ends a reply: the model's own list, and the id that ends the stream's examples. */
static void
find_eos(struct rollout *r)
{
	const json_t *stated = json_object_get(stream_header(r->feed.in), "eos");
	int eos = (int)json_integer_value(stated), i;
	char why[REASON_MAX];

	r->neos = config_eos(r->feed.directory, r->eos, EOS_MAX - 1, why);
	if (r->neos < 0)
		die("%s", why);
	if (!json_is_integer(stated))
		return;
	for (i = 0; i < r->neos && r->eos[i] != eos; i++)
		;
	if (i == r->neos)
		r->eos[r->neos++] = eos;
}

/* What the header says of --follow and --mix-teacher. */
static void
add_loop(const struct rollout *r, json_t *header)
{
	char *digest;

	if (r->run) {
		json_object_set_new(header, "batch", json_integer((json_int_t)r->prompts * r->nseeds * r->samples));
		json_object_set_new(header, "lag", json_integer(r->lag));
	}
	if (r->teacher) {
		digest = model_digest(r->teacher_directory);
		header_field(header, "teacher_logp", DT_F32, 0, NULL);
		json_object_set_new(header, "mix", json_pack("{sf ss}", "share", r->share, "teacher", digest));
		free(digest);
	}
}

static json_t *
make_header(const struct rollout *r, const struct sampling *s, const struct common *common)
{
	json_t *header = header_new("rollouts", r->feed.in, common), *seeds = json_array(), *eos = json_array();
	char *digest = model_digest(r->feed.directory);
	int i;

	for (i = 0; i < r->nseeds; i++)
		json_array_append_new(seeds, json_integer((json_int_t)r->seeds[i]));
	for (i = 0; i < r->neos; i++)
		json_array_append_new(eos, json_integer(r->eos[i]));
	header_field(header, "logp", DT_F32, 0, NULL);
	header_field(header, "model_logp", DT_F32, 0, NULL);
	json_object_set_new(header, "model", json_string(digest));
	json_object_set_new(header, "seed", seeds);
	json_object_set_new(header, "sampling", json_pack("{sb sf si sf sf si si so}", "greedy", s->greedy,
	    "temperature", (double)s->temperature, "top_k", s->top_k, "top_p", (double)s->top_p, "min_p",
	    (double)s->min_p, "samples", r->samples, "max_tokens", r->max_tokens, "eos", eos));
	free(digest);
	add_loop(r, header);
	return header;
}

static struct job *
job_new(const struct rollout *r, const struct record *record)
{
	struct job *job = mem_zero(1, sizeof *job);
	struct request *q = &job->request;
	struct example e;
	int i;

	example_read(&e, record, r->feed.in, r->feed.m->config.vocab);
	q->n = e.nspans ? e.spans[0] : e.n;
	if (!q->n)
		die("%s: record '%s' has no prompt", stream_name(r->feed.in), e.id);
	job->text = json_incref(record->text);
	job->ids = mem_copy(e.ids, (size_t)q->n * sizeof *e.ids);
	q->prompt = job->ids;
	/* a prompt that comes again is answered anew */
	q->key = example_key(&e, q->n) + (r->run ? r->data.next * 0x9e3779b97f4a7c15 : 0);
	q->max_tokens = r->max_tokens;
	q->eos = r->eos;
	q->neos = r->neos;
	q->nreplies = r->nseeds * r->samples;
	q->replies = mem_zero((size_t)q->nreplies, sizeof *q->replies);
	for (i = 0; i < q->nreplies; i++) {
		q->replies[i].seed = r->seeds[i / r->samples];
		q->replies[i].sample = (uint32_t)(i % r->samples);
	}
	return job;
}

static void
job_free(struct job *job)
{
	int i;

	for (i = 0; i < job->request.nreplies; i++)
		reply_free(&job->request.replies[i]);
	free(job->request.replies);
	free(job->ids);
	json_decref(job->text);
	free(job);
}

static json_t *
completion(const struct rollout *r, const struct reply *reply)
{
	size_t size, n;
	char *bytes = tokenizer_decode(r->feed.tokenizer, reply->ids, (size_t)(reply->n - reply->stopped), 1, &size);
	char *text = unicode_repair(bytes, size, &n);
	json_t *json = json_stringn_nocheck(text, n);

	free(bytes);
	free(text);
	return json;
}

static void
put(struct rollout *r, const struct job *job, const struct reply *reply)
{
	int n = job->request.n;
	uint64_t shape[2] = { (uint64_t)(n + reply->n), 0 };
	int32_t span[2] = { n, n + reply->n }, *ids = mem_alloc(shape[0] * sizeof *ids);
	struct record record = { .text = json_copy(job->text) };

	memcpy(ids, job->ids, (size_t)n * sizeof *ids);
	if (reply->n)
		memcpy(ids + n, reply->ids, (size_t)reply->n * sizeof *ids);
	json_object_set_new(record.text, "completion", completion(r, reply));
	json_object_set_new(record.text, "seed", json_integer((json_int_t)reply->seed));
	json_object_set_new(record.text, "sample", json_integer(reply->sample));
	json_object_set_new(record.text, "finish", json_string(reply->stopped ? "stop" : "length"));
	record_add(&record, "ids", DT_I32, 1, shape, ids);
	record_add(&record, "supervised", DT_I32, 2, (uint64_t[]){ 1, 2 }, span);
	shape[0] = (uint64_t)reply->n;
	record_add(&record, "logp", DT_F32, 1, shape, reply->logp);
	record_add(&record, "model_logp", DT_F32, 1, shape, reply->model_logp);
	if (r->teacher)
		record_add(&record, "teacher_logp", DT_F32, 1, shape, reply->teacher_logp);
	if (r->run) {
		json_object_set_new(record.text, "step", json_integer(r->step));
		json_object_set_new(record.text, "version", json_integer(r->version));
		json_object_set_new(record.text, "seconds", json_pack("{sf}", "generate", clock_now() - r->begun));
	}
	stream_put(r->out, &record);
	json_decref(record.text);
	free(ids);
	if (++r->unflushed < r->flush_at)
		return;
	stream_flush(r->out);
	r->unflushed = 0;
}

/* Write the records that are complete, up to the first that is not. */
static void
put_complete(struct rollout *r)
{
	struct job *job;
	int i;

	while ((job = r->first) && !job->request.unfinished) {
		for (i = 0; i < job->request.nreplies; i++)
			put(r, job, &job->request.replies[i]);
		r->full += job->request.n >= r->feed.m->config.positions;
		progress_add(&r->progress, 1, 0);
		r->first = job->next;
		if (!r->first)
			r->tail = &r->first;
		job_free(job);
	}
}

static void
add(struct rollout *r, const struct record *record)
{
	struct job *job = job_new(r, record);

	*r->tail = job;
	r->tail = &job->next;
	session_add(r->session, &job->request);
}

/*
 * Read prompts until every slot has one. While replies are under way, only what does not make us wait for the
 * writer of a pipe, and never without handing over what we have.
 */
static void
read_prompts(struct rollout *r)
{
	struct record record;

	while (!r->ended && session_wants(r->session)) {
		if (!stream_more(r->feed.in)) {
			if (r->first && !r->seekable)
				break;
			stream_flush(r->out);
			r->unflushed = 0;
		}
		if (!stream_get(r->feed.in, &record)) {
			r->ended = 1;
			break;
		}
		add(r, &record);
		put_complete(r);
	}
}

static int
draw(struct rollout *r)
{
	int drawn = session_step(r->session);

	progress_add(&r->progress, 0, (uint64_t)drawn);
	put_complete(r);
	return drawn;
}

/* Replies to all of the input. */
static void
answer(struct rollout *r)
{
	do
		read_prompts(r);
	while (draw(r) || !r->ended);
}

/* Replies to the batch of a step. */
static void
answer_batch(struct rollout *r)
{
	int i;

	r->begun = clock_now();
	for (i = 0; i < r->prompts; i++) {
		add(r, data_peek(&r->data));
		data_take(&r->data);
	}
	while (draw(r))
		;
	put_complete(r);
	stream_flush(r->out);
	r->unflushed = 0;
}

/* All batches that the training wants, each from its version. */
static void
follow(struct rollout *r)
{
	long loaded = 0;
	char *directory;

	data_open(&r->data, r->feed.in, 1, r->seeds[0], 0);
	if (!r->data.count)
		die("%s has no prompts", stream_name(r->feed.in));
	data_seek(&r->data, (uint64_t)r->policy.step * (uint64_t)r->prompts);
	for (r->step = r->policy.step; r->step < r->policy.steps; r->step++) {
		r->version = r->step > r->lag ? r->step - r->lag : 0;
		directory = policy_wait(&r->policy, r->version);
		if (r->version != loaded)
			model_reload(r->feed.m, directory);
		loaded = r->version;
		free(directory);
		answer_batch(r);
	}
	data_close(&r->data);
}

/* The model of --follow is the one that the training began with, until its first batch has a version. */
static void
follow_open(struct rollout *r)
{
	char *start;

	signal(SIGPIPE, SIG_IGN);	/* whoever is left when a loop breaks says so */
	policy_follow(&r->policy, r->run, r->patience);
	start = file_join(r->policy.path, "0");
	feed_model(start, r->policy.type);
}

/* The teacher of --mix-teacher, cut to the same ids. */
static void
mix_open(struct rollout *r)
{
	int columns = tokenizer_vocab(r->feed.tokenizer);

	tokenizer_close(agree_tokenizer(r->feed.in, r->teacher_directory));
	r->teacher = model_load(r->teacher_directory, r->feed.m->be, r->feed.m->type);
	if (columns > r->teacher->config.vocab || columns > r->feed.m->config.vocab)
		die("the tokenizer has %d ids, the heads %d and %d columns", columns, r->feed.m->config.vocab,
		    r->teacher->config.vocab);
	session_mix(r->session, r->teacher, (float)r->share, columns);
}

static void
check(int holds, const char *what)
{
	if (!holds)
		die_usage("%s", what);
}

int
main(int argc, const char **argv)
{
	static struct rollout r = { .samples = 1, .max_tokens = 256, .tail = &r.first, .prompts = 8, .patience = 600,
	    .share = 0.2 };
	struct sampling sampling = { .temperature = 1, .top_p = 1 };
	static char *seeds, *output;
	int slots = 16;
	struct common common;
	static struct poptOption loop_options[] = {
		{ "follow", 0, POPT_ARG_STRING, &r.run, 0,
		    "answer with the versions of the model that RUN trains, in the place of --model", "RUN" },
		{ "batch", 0, POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &r.prompts, 0,
		    "prompts of a batch, shuffled over and over", "N" },
		{ "lag", 0, POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &r.lag, 0,
		    "versions that a batch may be behind", "N" },
		{ "patience", 0, POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &r.patience, 0,
		    "seconds to wait for the training to begin", "N" },
		{ "mix-teacher", 0, POPT_ARG_STRING, &r.teacher_directory, 0,
		    "draw from a mixture with this model", "DIR" },
		{ "mix", 0, POPT_ARG_DOUBLE | POPT_ARGFLAG_SHOW_DEFAULT, &r.share, 0, "its share", "X" },
		POPT_TABLEEND
	};
	const struct poptOption options[] = {
		{ "seed", 's', POPT_ARG_STRING, &seeds, 0,
		    "of the draws (default: 0); a list with commas gives replies for each", "SEED" },
		{ "samples", 'n', POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &r.samples, 0,
		    "replies to each prompt and seed", "N" },
		{ "max-tokens", 0, POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &r.max_tokens, 0, "of a reply", "N" },
		{ "temperature", 0, POPT_ARG_FLOAT | POPT_ARGFLAG_SHOW_DEFAULT, &sampling.temperature, 0,
		    "divides the logits; 0 is --greedy", "T" },
		{ "top-k", 'k', POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &sampling.top_k, 0,
		    "draw from the K likeliest ids; 0 from all", "K" },
		{ "top-p", 0, POPT_ARG_FLOAT | POPT_ARGFLAG_SHOW_DEFAULT, &sampling.top_p, 0,
		    "draw from the likeliest ids that have P together", "P" },
		{ "min-p", 0, POPT_ARG_FLOAT | POPT_ARGFLAG_SHOW_DEFAULT, &sampling.min_p, 0,
		    "draw from ids with P times the probability of the likeliest", "P" },
		{ "greedy", 0, POPT_ARG_NONE, &sampling.greedy, 0, "take the likeliest id", NULL },
		{ "slots", 0, POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &slots, 0,
		    "sequences that decode at once; results do not depend on it", "N" },
		{ "output", 'o', POPT_ARG_STRING, &output, 0, "write to FILE (default: stdout)", "FILE" },
		{ NULL, 0, POPT_ARG_INCLUDE_TABLE, loop_options, 0, "A model in training:", NULL },
		OPTIONS_FEED,
		OPTIONS_COMMON
	};
	json_t *header;

	/* arguments */
	options_parse(argc, argv, options, "-m DIR | --follow RUN [FILE]", "Let a model answer the prompts of a stream of tokens.", 1,
	    &common);
	parse_seeds(&r, seeds ? seeds : "0");
	check(r.samples > 0 && slots > 0, "--samples and --slots must be positive");
	check(r.max_tokens >= 0 && sampling.top_k >= 0, "--max-tokens and --top-k must not be negative");
	check(sampling.temperature >= 0, "--temperature must not be negative");
	check(sampling.top_p > 0 && sampling.top_p <= 1, "--top-p must be in (0, 1]");
	check(sampling.min_p >= 0 && sampling.min_p <= 1, "--min-p must be in [0, 1]");
	check(r.prompts > 0 && r.lag >= 0 && r.patience >= 0, "--batch must be positive, --lag and --patience not negative");
	check(!r.run || !feed_named(), "--follow names the model, so that there is no --model");
	check(r.share >= 0 && r.share <= 1, "--mix must be in [0, 1]");
	sampling.greedy |= !(sampling.temperature > 0);

	/* model and streams */
	if (r.run)
		follow_open(&r);
	feed_open(&r.feed, "tokens", 0, &common);
	if (!r.feed.tokenizer)
		die("'%s' has no tokenizer, which the text of a reply needs", r.feed.directory);
	find_eos(&r);
	r.seekable = stream_seekable(r.feed.in);
	r.flush_at = slots;
	if (r.run && !r.seekable)
		die("%s is a pipe: --follow reads its prompts over and over, from a file", stream_name(r.feed.in));
	r.session = session_new(r.feed.m, slots, r.feed.rows, &sampling);
	if (r.teacher_directory)
		mix_open(&r);
	header = make_header(&r, &sampling, &common);
	r.out = stream_create(output, header);
	json_decref(header);

	/* replies */
	progress_start(&r.progress, "prompts", common.quiet);
	if (r.run)
		follow(&r);
	else
		answer(&r);
	progress_end(&r.progress);
	if (r.full)
		warn("%llu prompts fill the model's %d positions: their replies are empty", (unsigned long long)r.full,
		    r.feed.m->config.positions);
	stream_finish(r.out);
	session_free(r.session);
	if (r.teacher)
		model_free(r.teacher);
	if (r.run)
		policy_unfollow(&r.policy);
	feed_close(&r.feed);
	free(r.seeds);
	return 0;
}
