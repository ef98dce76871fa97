/* SPDX-License-Identifier: MIT */
/* session - replies do not depend on what else is being generated, and are those of the model */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/model/session.h"
#include "lib/train/head.h"
#include "tests/unit/tap.h"

enum { REQUESTS = 9, SAMPLES = 3, TOKENS = 40, VOCAB = 97 };

static int tokens = TOKENS;	/* of a reply */

static const char *const qwen2 =
    "{\"model_type\": \"qwen2\", \"vocab_size\": 97, \"hidden_size\": 32, \"num_hidden_layers\": 2,"
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"intermediate_size\": 48,"
    "\"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0,"
    "\"hidden_act\": \"silu\", \"tie_word_embeddings\": true, \"initializer_range\": 0.4}";
static const char *const gpt2 =
    "{\"model_type\": \"gpt2\", \"vocab_size\": 97, \"n_embd\": 32, \"n_layer\": 2, \"n_head\": 4,"
    "\"n_positions\": 64, \"layer_norm_epsilon\": 1e-5, \"activation_function\": \"gelu_new\","
    "\"initializer_range\": 0.4}";

static const struct sampling greedy = { .greedy = 1 };
static const struct sampling filtered = { .temperature = 0.9f, .top_k = 40, .top_p = 0.95f, .min_p = 0.01f };

static struct model *
make(const char *text, const char *backend, enum dtype type)
{
	struct config c;
	char why[REASON_MAX];
	json_t *json = json_loads(text, 0, NULL);
	struct model *m;

	if (config_parse(&c, json, why))
		die("%s", why);
	json_decref(json);
	m = model_new(&c, backend_pick(backend), type);
	model_randomise(m, 1);
	return m;
}

/* Prompts of 1 to 70 ids: within a page, a whole page, several. */
struct scene {
	int32_t prompts[REQUESTS][70];
	struct request requests[REQUESTS];
	struct reply replies[REQUESTS][SAMPLES];
};

static const int lengths[REQUESTS] = { 1, 5, 31, 32, 33, 64, 70, 12, 5 };

static void
scene_init(struct scene *s, int samples, int max_tokens, const int *eos, int neos)
{
	static const uint32_t key[2] = { 7, 0 };
	int i, j;

	memset(s, 0, sizeof *s);
	for (i = 0; i < REQUESTS; i++) {
		for (j = 0; j < lengths[i]; j++) {
			uint32_t out[4], counter[4] = { (uint32_t)i, (uint32_t)j, 0, 0 };

			philox(out, counter, key);
			s->prompts[i][j] = (int32_t)(out[0] % VOCAB);
		}
		for (j = 0; j < samples; j++)
			s->replies[i][j] = (struct reply){ .seed = 10, .sample = (uint32_t)j };
		s->requests[i] = (struct request){ .prompt = s->prompts[i], .n = lengths[i], .key = 1000 + (uint64_t)i,
		    .max_tokens = max_tokens, .eos = eos, .neos = neos, .replies = s->replies[i], .nreplies = samples };
	}
}

static void
scene_free(struct scene *s)
{
	int i, j;

	for (i = 0; i < REQUESTS; i++)
		for (j = 0; j < SAMPLES; j++)
			reply_free(&s->replies[i][j]);
}

static void
scene_run(struct scene *s, struct model *m, const struct sampling *sampling, int slots, int prefill, int backwards)
{
	struct session *session = session_new(m, slots, prefill, sampling);
	int i;

	for (i = 0; i < REQUESTS; i++)
		session_add(session, &s->requests[backwards ? REQUESTS - 1 - i : i]);
	while (session_step(session))
		;
	session_free(session);
}

static int
same_reply(const struct reply *a, const struct reply *b)
{
	return a->n == b->n && a->stopped == b->stopped && a->n > 0 &&
	    !memcmp(a->ids, b->ids, (size_t)a->n * sizeof *a->ids) &&
	    !memcmp(a->logp, b->logp, (size_t)a->n * sizeof *a->logp) &&
	    !memcmp(a->model_logp, b->model_logp, (size_t)a->n * sizeof *a->model_logp);
}

static int
same(const struct scene *a, const struct scene *b, int samples)
{
	int i, j;

	for (i = 0; i < REQUESTS; i++)
		for (j = 0; j < samples; j++)
			if (a->requests[i].unfinished || !same_reply(&a->replies[i][j], &b->replies[i][j]))
				return 0;
	return 1;
}

static void
invariance(struct model *m, const char *name)
{
	static const int eos[] = { 3, 50 };
	static const struct { int slots, prefill, backwards, threads; const char *what; } ways[] = {
		{ 1, 1, 0, 1, "with one slot" }, { 2, 100, 0, 1, "with fewer slots than samples" },
		{ 7, 64, 1, 1, "with seven slots, backwards" }, { 64, 4096, 0, 1, "with a slot for each" },
		{ 64, 1, 1, 1, "one prompt at a time, backwards" }, { 5, 128, 0, 2, "with two threads" },
	};
	struct scene first, s;
	size_t i;
	int stopped = 0, j, k;

	scene_init(&first, SAMPLES, tokens, eos, 2);
	scene_run(&first, m, &filtered, 4, 100, 0);
	for (i = 0; i < sizeof ways / sizeof *ways; i++) {
		scene_init(&s, SAMPLES, tokens, eos, 2);
		omp_set_num_threads(ways[i].threads);
		scene_run(&s, m, &filtered, ways[i].slots, ways[i].prefill, ways[i].backwards);
		ok(same(&first, &s, SAMPLES), "%s: replies are the same bytes %s", name, ways[i].what);
		scene_free(&s);
	}
	for (j = 0; j < REQUESTS; j++)
		for (k = 0; k < SAMPLES; k++)
			stopped += first.replies[j][k].stopped;
	ok(stopped > 0 && stopped < REQUESTS * SAMPLES, "%s: some replies end by an EOS id, some by length", name);
	ok(!same_reply(&first.replies[6][0], &first.replies[6][1]), "%s: two samples differ", name);
	scene_free(&first);
	omp_set_num_threads(1);
}

static void
samples_apart(struct model *m, const char *name)
{
	struct scene together, apart;
	int i, holds = 1;
	uint32_t sample;

	scene_init(&together, SAMPLES, tokens, NULL, 0);
	scene_run(&together, m, &filtered, 4, 100, 0);
	for (sample = 0; sample < SAMPLES; sample++) {
		scene_init(&apart, 1, tokens, NULL, 0);
		for (i = 0; i < REQUESTS; i++)
			apart.replies[i][0].sample = sample;
		scene_run(&apart, m, &filtered, 3, 100, 0);
		for (i = 0; i < REQUESTS; i++)
			holds &= same_reply(&together.replies[i][sample], &apart.replies[i][0]);
		scene_free(&apart);
	}
	ok(holds, "%s: samples that share their prompt's pages equal separate runs", name);
	scene_free(&together);
}

/* log q of each id of the reply at a temperature, by one forward over prompt and reply. */
static void
score(struct model *m, const struct request *r, const struct reply *reply, float temperature, float *logp)
{
	int32_t ids[128], span[2] = { r->n, r->n + reply->n };
	struct forward *f = forward_new(m, 128, KEEP_NONE);
	struct head *h = head_new(m, m->config.vocab, 16);
	struct batch b;

	memcpy(ids, r->prompt, (size_t)r->n * sizeof *ids);
	memcpy(ids + r->n, reply->ids, (size_t)reply->n * sizeof *ids);
	batch_init(&b, m->be);
	batch_add(&b, ids, r->n + reply->n, span, 1, 1);
	batch_upload(&b);
	model_rope(m, b.m);
	head_logprob(h, &b, forward_run(f, &b, NULL, FOR_SCORES, 0, 0), temperature, logp, NULL);
	m->be->sync();
	batch_free(&b);
	head_free(h);
	forward_free(f);
}

static double
worst_error(const float *a, const float *b, int n)
{
	double worst = 0;
	int i;

	for (i = 0; i < n; i++)
		worst = fmax(worst, fabs(a[i] - b[i]));
	return worst;
}

static void
without_cache(struct model *m, const char *name, double tolerance)
{
	const struct sampling warm = { .temperature = 0.7f };
	float logp[TOKENS];
	double model_error = 0, error = 0;
	struct scene s;
	int i, n;

	scene_init(&s, 1, tokens, NULL, 0);
	scene_run(&s, m, &warm, 4, 100, 0);
	for (i = 0; i < REQUESTS; i++) {
		const struct reply *reply = &s.replies[i][0];

		n = reply->n;
		score(m, &s.requests[i], reply, 1, logp);
		model_error = fmax(model_error, worst_error(logp, reply->model_logp, n));
		score(m, &s.requests[i], reply, 0.7f, logp);
		error = fmax(error, worst_error(logp, reply->logp, n));
	}
	ok(model_error < tolerance && error < tolerance,
	    "%s: log-probabilities are those of one forward without cache (%.1e, %.1e)", name, model_error, error);
	scene_free(&s);
}

/* The id that a forward over all of the sequence likes best. */
static int
best_next(struct model *m, const int32_t *ids, int n)
{
	struct forward *f = forward_new(m, n, KEEP_NONE);
	size_t width = (size_t)m->config.hidden * dtype_size(m->type), bytes = VOCAB * sizeof(float);
	float *logits = m->be->alloc(bytes), host[VOCAB];
	const char *hidden;
	struct batch b;
	int i, best = 0;

	batch_init(&b, m->be);
	batch_add(&b, ids, n, NULL, 0, 0);
	batch_upload(&b);
	hidden = forward_run(f, &b, NULL, FOR_SCORES, 0, 0);
	m->be->matmul(logits, DT_F32, hidden + (size_t)(n - 1) * width, m->type, &m->head, NULL, 1, VOCAB, 0);
	m->be->download(host, logits, bytes);
	for (i = 1; i < VOCAB; i++)
		best = host[i] > host[best] ? i : best;
	m->be->free(logits);
	batch_free(&b);
	forward_free(f);
	return best;
}

static void
greedy_is_argmax(struct model *m, const char *name)
{
	struct scene s;
	int i, j, holds = 1;

	scene_init(&s, 1, 6, NULL, 0);
	scene_run(&s, m, &greedy, 4, 100, 0);
	for (i = 0; i < REQUESTS; i++) {
		int32_t ids[128];

		memcpy(ids, s.prompts[i], sizeof s.prompts[i]);
		for (j = 0; j < 6; j++) {
			ids[lengths[i] + j] = s.replies[i][0].ids[j];
			holds &= best_next(m, ids, lengths[i] + j) == ids[lengths[i] + j];
		}
	}
	ok(holds, "%s: a greedy reply is the best id of each step without cache, over the ends of pages", name);
	scene_free(&s);
}

static void
eos_ends(struct model *m, const char *name)
{
	struct scene all, cut;
	int eos[2] = { VOCAB - 1, 0 }, i, n, holds = 1;

	scene_init(&all, 1, tokens, NULL, 0);
	scene_run(&all, m, &filtered, 4, 100, 0);
	eos[1] = all.replies[1][0].ids[tokens / 2];
	scene_init(&cut, 1, tokens, eos, 2);
	cut.prompts[1][2] = all.prompts[1][2];
	scene_run(&cut, m, &filtered, 4, 100, 0);
	for (i = 0; i < REQUESTS; i++) {
		const struct reply *a = &all.replies[i][0], *b = &cut.replies[i][0];

		for (n = 0; n < a->n && a->ids[n] != eos[0] && a->ids[n] != eos[1]; n++)
			;
		holds &= b->stopped == (n < a->n) && b->n == (n < a->n ? n + 1 : n) &&
		    !memcmp(a->ids, b->ids, (size_t)b->n * sizeof *a->ids);
	}
	ok(holds && cut.replies[1][0].stopped,
	    "%s: a reply ends with the first of the EOS ids, which stays in it, and is the same before", name);
	scene_free(&all);
	scene_free(&cut);
}

static void
positions_end(struct model *m)
{
	struct scene s;
	int i, holds = 1, room;

	scene_init(&s, 1, tokens, NULL, 0);
	scene_run(&s, m, &filtered, 4, 100, 0);
	for (i = 0; i < REQUESTS; i++) {
		room = m->config.positions - lengths[i];
		room = room < 0 ? 0 : room > tokens ? tokens : room;
		holds &= !s.requests[i].unfinished && s.replies[i][0].n == room && !s.replies[i][0].stopped;
	}
	ok(holds, "gpt2: the model's positions end a reply, and leave none to a prompt that fills them");
	scene_free(&s);
}

static void
session_fills(struct model *m)
{
	struct session *session = session_new(m, 4, 100, &greedy);
	struct scene s;
	int first, second;

	scene_init(&s, SAMPLES, 2, NULL, 0);
	first = session_wants(session);
	session_add(session, &s.requests[0]);
	second = session_wants(session);
	session_add(session, &s.requests[1]);
	ok(first && second && !session_wants(session), "a session wants requests until every slot has a reply");
	ok(session_step(session) == 4 && session_step(session) == 4 && session_step(session) == 2 &&
	    session_step(session) == 2 && session_step(session) == 0,
	    "a finished reply's slot is taken in the next step");
	session_free(session);
	scene_free(&s);
}

static void
mixed_run(struct scene *s, struct model *m, struct model *teacher, const struct sampling *sampling, float share,
    int slots, int prefill)
{
	struct session *session = session_new(m, slots, prefill, sampling);
	int i;

	scene_init(s, SAMPLES, tokens, NULL, 0);
	session_mix(session, teacher, share, VOCAB);
	for (i = 0; i < REQUESTS; i++)
		session_add(session, &s->requests[i]);
	while (session_step(session))
		;
	session_free(session);
}

/* Whether all ids are equal, and their log-probabilities nearly, where the first scene has a reply. */
static int
drawn_alike(const struct scene *a, const struct scene *b, int teachers)
{
	int i, j, ids = 0;

	for (i = 0; i < REQUESTS; i++)
		for (j = 0; j < SAMPLES; j++) {
			const struct reply *x = &a->replies[i][j], *y = &b->replies[i][j];

			if (x->n > y->n || (x->n && memcmp(x->ids, y->ids, (size_t)x->n * sizeof *x->ids)) ||
			    (x->n && worst_error(teachers ? x->teacher_logp : x->model_logp, y->model_logp, x->n) > 1e-5))
				return 0;
			ids += x->n;
		}
	return ids > 100;
}

/* At temperature 1 without filters: the mixture's probability is that of both models' own. */
static double
mixture_error(const struct scene *s, double share)
{
	double worst = 0;
	int i, j, k;

	for (i = 0; i < REQUESTS; i++)
		for (j = 0; j < SAMPLES; j++)
			for (k = 0; k < s->replies[i][j].n; k++) {
				const struct reply *r = &s->replies[i][j];
				double both = (1 - share) * exp(r->model_logp[k]) + share * exp(r->teacher_logp[k]);

				worst = fmax(worst, fabs(log(both) - r->logp[k]));
			}
	return worst;
}

static void
mixes(struct model *m, struct model *teacher, const char *name)
{
	static const struct sampling plain = { .temperature = 1, .top_p = 1 };
	struct scene alone, all, none, some, again;

	scene_init(&alone, SAMPLES, tokens, NULL, 0);
	scene_run(&alone, teacher, &filtered, 5, 100, 0);
	mixed_run(&all, m, teacher, &filtered, 1, 5, 100);
	ok(drawn_alike(&all, &alone, 1), "%s: a share of 1 draws what the teacher alone draws", name);
	scene_free(&alone);
	scene_init(&alone, SAMPLES, tokens, NULL, 0);
	scene_run(&alone, m, &filtered, 5, 100, 0);
	mixed_run(&none, m, teacher, &filtered, 0, 5, 100);
	ok(drawn_alike(&none, &alone, 0), "%s: a share of 0 draws what the policy alone draws", name);
	mixed_run(&some, m, teacher, &plain, 0.3f, 4, 100);
	ok(mixture_error(&some, 0.3f) < 1e-5, "%s: what is drawn has its probability in the mixture", name);
	mixed_run(&again, m, teacher, &plain, 0.3f, 64, 1);
	ok(drawn_alike(&some, &again, 0) && drawn_alike(&again, &some, 0), "%s: whatever the slots", name);
	scene_free(&alone);
	scene_free(&all);
	scene_free(&none);
	scene_free(&some);
	scene_free(&again);
}

static void
test_row(const char *row)
{
	struct model *f32 = make(qwen2, row, DT_F32), *bf16 = make(qwen2, row, DT_BF16), *old = make(gpt2, row, DT_F32);
	char *name = mem_format("%s qwen2 f32", f32->be->name), *half = mem_format("%s qwen2 bf16", f32->be->name);

	invariance(f32, name);
	invariance(bf16, half);
	samples_apart(f32, name);
	samples_apart(bf16, half);
	without_cache(f32, name, 1e-4);
	without_cache(bf16, half, 0.3);
	greedy_is_argmax(f32, name);
	eos_ends(f32, name);
	mixes(f32, old, name);
	positions_end(old);
	session_fills(f32);
	free(name);
	free(half);
	model_free(f32);
	model_free(bf16);
	model_free(old);
}

/* session [ROW [TOKENS]]: one row; fewer tokens, where that is slow. */
int
main(int argc, char **argv)
{
	omp_set_num_threads(1);
	if (argc > 2 && atoi(argv[2]) > 0 && atoi(argv[2]) < TOKENS)
		tokens = atoi(argv[2]);
	if (argc > 1) {
		test_row(argv[1]);
		return done();
	}
	test_row("ref");
	test_row(NULL);
	return done();
}
