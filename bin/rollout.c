/* SPDX-License-Identifier: MIT */
/*
 * rollout - tokens on stdin, rollouts on stdout
 *
 * Let a model answer prompts. Many sequences decode at once; replies leave in
 * the order of the records, seeds and samples, whatever order they end in.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/base/progress.h"
#include "lib/model/feed.h"
#include "lib/model/session.h"
#include "lib/text/unicode.h"
#include "lib/train/pack.h"

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
	q->key = example_key(&e, q->n);
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

/*
 * Read prompts until every slot has one. While replies are under way, only what does not make us wait for the
 * writer of a pipe, and never without handing over what we have.
 */
static void
read_prompts(struct rollout *r)
{
	struct record record;
	struct job *job;

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
		job = job_new(r, &record);
		*r->tail = job;
		r->tail = &job->next;
		session_add(r->session, &job->request);
		put_complete(r);
	}
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
	struct rollout r = { .samples = 1, .max_tokens = 256, .tail = &r.first };
	struct sampling sampling = { .temperature = 1, .top_p = 1 };
	static char *seeds, *output;
	int slots = 16;
	struct common common;
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
		OPTIONS_FEED,
		OPTIONS_COMMON
	};
	json_t *header;
	int drawn;

	/* arguments */
	options_parse(argc, argv, options, "-m DIR [FILE]", "Let a model answer the prompts of a stream of tokens.", 1,
	    &common);
	parse_seeds(&r, seeds ? seeds : "0");
	check(r.samples > 0 && slots > 0, "--samples and --slots must be positive");
	check(r.max_tokens >= 0 && sampling.top_k >= 0, "--max-tokens and --top-k must not be negative");
	check(sampling.temperature >= 0, "--temperature must not be negative");
	check(sampling.top_p > 0 && sampling.top_p <= 1, "--top-p must be in (0, 1]");
	check(sampling.min_p >= 0 && sampling.min_p <= 1, "--min-p must be in [0, 1]");
	sampling.greedy |= !(sampling.temperature > 0);

	/* model and streams */
	feed_open(&r.feed, "tokens", &common);
	if (!r.feed.tokenizer)
		die("'%s' has no tokenizer, which the text of a reply needs", r.feed.directory);
	find_eos(&r);
	r.seekable = stream_seekable(r.feed.in);
	r.flush_at = slots;
	r.session = session_new(r.feed.m, slots, r.feed.rows, &sampling);
	header = make_header(&r, &sampling, &common);
	r.out = stream_create(output, header);
	json_decref(header);

	/* replies */
	progress_start(&r.progress, "prompts", common.quiet);
	do {
		read_prompts(&r);
		drawn = session_step(r.session);
		progress_add(&r.progress, 0, (uint64_t)drawn);
		put_complete(&r);
	} while (drawn || !r.ended);
	progress_end(&r.progress);
	if (r.full)
		warn("%llu prompts fill the model's %d positions: their replies are empty", (unsigned long long)r.full,
		    r.feed.m->config.positions);
	stream_finish(r.out);
	session_free(r.session);
	feed_close(&r.feed);
	free(r.seeds);
	return 0;
}
