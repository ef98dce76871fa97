/* SPDX-License-Identifier: MIT */
/* reward */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/reward/parts.h"
#include "lib/reward/reward.h"
#include "lib/sandbox/sandbox.h"
#include "lib/text/tokenizer.h"
#include "tests/conformance/kit.h"

/* Where the case names a tokenizer, the tokens of thought are counted, and must be those that it says. */
static int
count_thought(struct verdict *v, const struct tokenizer *t, const json_t *sample, const struct candidate *c)
{
	struct part think = part_think(c->text, c->size);
	struct ids ids = { .n = 0 };
	char why[REASON_MAX];
	int n;

	if (think.s && tokenizer_encode(t, think.s, think.n, 0, &ids, why))
		fail(v, "%s", why);
	n = (int)ids.n;
	free(ids.id);
	if (think.s)
		expect(v, n == (int)get_number(sample, "tokens", -1), "'%.60s' has %d tokens of thought", c->text, n);
	return n;
}

/* One sample; many are judged at once, so what is wrong is said later. */
struct judged {
	json_t *sample;
	struct reward *reward;
	struct candidate candidate;
	struct score score;
	char why[REASON_MAX];
};

static void
prepare(struct judged *j, json_t *sample, struct verdict *v, const struct tokenizer *t)
{
	const json_t *text = json_object_get(sample, "completion");
	int tokens = (int)get_number(sample, "tokens", 0);

	j->sample = sample;
	j->candidate = (struct candidate){ json_string_value(text), json_string_length(text), tokens, tokens,
	    json_object_get(sample, "reference"), NULL, json_object_get(sample, "tests") };
	if (t)
		j->candidate.think_tokens = count_thought(v, t, sample, &j->candidate);
	j->reward = reward_new(get_string(sample, "reward"), 1, json_object_get(sample, "params"), j->why);
}

static void
check(struct verdict *v, struct judged *j, double tol)
{
	const json_t *expected = json_object_get(j->sample, "expected");
	const char *note = get_string(j->sample, "note");
	double want = json_number_value(expected);

	if (!j->reward)
		fail(v, "%s: %s", note, j->why);
	expect(v, j->score.judged == !json_is_null(expected), "%s: judged is %d", note, j->score.judged);
	if (j->score.judged)
		expect_near(v, note, &j->score.value, &want, 1, tol);
	reward_free(j->reward);
	json_decref(j->sample);
}

static void
judge_all(struct judged *judged, size_t n)
{
	size_t i;

	#pragma omp parallel
	{
		struct judge *judge = judge_new();

		#pragma omp for schedule(dynamic)
		for (i = 0; i < n; i++)
			if (judged[i].reward)
				reward_judge(judged[i].reward, &judged[i].candidate, judge, &judged[i].score);
		judge_free(judge);
	}
}

static void
check_all(struct verdict *v, const json_t *c, const struct kit *k, const struct tokenizer *t)
{
	char *text = kit_text(k, get_string(c, "samples"));
	const char *at = text;
	struct judged *judged = NULL, next = { .sample = NULL };
	size_t n = 0, cap = 0, i;
	json_t *sample;

	while ((sample = kit_sample(&at))) {
		prepare(&next, sample, v, t);
		MEM_PUSH(judged, n, cap, next);
	}
	judge_all(judged, n);
	for (i = 0; i < n; i++)
		check(v, &judged[i], get_number(c, "tol", 0));
	free(judged);
	free(text);
}

void
kind_reward(struct verdict *v, const json_t *c, const struct kit *k)
{
	char why[REASON_MAX], *path = kit_path(k, get_string(c, "tokenizer"));
	struct tokenizer *t = NULL;

	if (!strcmp(get_string(c, "reward"), "code") && sandbox_usable(why))
		snprintf(v->skipped, sizeof v->skipped, "%.190s", why);
	else if (*get_string(c, "tokenizer") && !(t = tokenizer_open(path, why)))
		fail(v, "%s", why);
	else
		check_all(v, c, k, t);
	if (t)
		tokenizer_close(t);
	free(path);
}
