/* SPDX-License-Identifier: MIT */
/*
 * session - generation of many sequences at once
 *
 * Keys and values live in pages of KV_PAGE positions. A prompt is computed once,
 * and its replies share its pages until one writes to the last, unfinished one,
 * which is copied then. A fixed number of slots decode together; the slot of a
 * finished reply is taken by the next one before the next step.
 *
 * The uniform of a draw is Philox at the counter {place in the reply, sample, key}
 * under the seed, and no row of a kernel depends on the other rows. So a reply is
 * a function of (seed, key, sample, prompt) alone: not of slots, order or threads.
 */
#ifndef MODEL_SESSION_H
#define MODEL_SESSION_H

#include "lib/model/model.h"

struct reply {
	uint64_t seed;
	uint32_t sample;
	int32_t *ids;		/* [n]; an EOS id that ended it included */
	float *logp;		/* [n], under the distribution drawn from */
	float *model_logp;	/* [n], under the model: temperature 1, no filter */
	float *teacher_logp;	/* [n], the same of the model that is mixed in, if any */
	int n;
	int stopped;		/* by an EOS id; else by max_tokens or the model's positions */
};

/* A prompt and the replies it gets. What is before `unfinished` is the caller's, and stays until that is 0. */
struct request {
	const int32_t *prompt;
	int n;			/* at least 1 */
	uint64_t key;		/* of the record, in the draws */
	int max_tokens;		/* of a reply */
	const int *eos;
	int neos;
	struct reply *replies;	/* [nreplies], with seed and sample set, the rest zero */
	int nreplies;
	int unfinished;		/* replies that are not complete */
	int started;		/* replies that have or had a slot */
	int *pages;		/* of the prompt, until all replies have started */
	struct request *next;
};

struct session;

/* `prefill`: rows of prompts computed at once, more only where one prompt is longer. */
struct session *session_new(struct model *m, int slots, int prefill, const struct sampling *sampling);
void session_free(struct session *s);
/*
 * Draw from (1 - share) q + share p, where both models' distributions are filtered by themselves and cut to the
 * heads' first `columns`. Before the first request; the teacher is of the same backend.
 */
void session_mix(struct session *s, struct model *teacher, float share, int columns);

/* Queue a request. Where the prompt leaves no place for a token, its replies are complete at once, and empty. */
void session_add(struct session *s, struct request *r);
/* Whether a slot would stay empty in the next step. */
int session_wants(const struct session *s);
/* One token for every slot. The number of tokens drawn: 0 when nothing is left to do. */
int session_step(struct session *s);

void reply_free(struct reply *r);	/* its arrays */

#endif
