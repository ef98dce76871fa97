/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/json.h"
#include "lib/reward/fence.h"
#include "lib/reward/output.h"
#include "lib/reward/parts.h"
#include "lib/reward/reward.h"
#include "tests/unit/tap.h"

#define NOT_JUDGED NAN

static struct judge *judge;

static const struct sample {
	const char *spec, *text;
	int tokens;
	const char *reference;		/* JSON, or NULL */
	double expected;
} samples[] = {
	{ "format=1", "<think>a</think><answer>b</answer>", 0, NULL, 1 },
	{ "format=1", "<think></think> \t\r\n<answer></answer>", 0, NULL, 1 },
	{ "format=1", "<think>a\n\nb</think>\n<answer>c\nd</answer>", 0, NULL, 1 },
	{ "format=1", "<think>a</think><answer>b</answer>\n", 0, NULL, 0 },
	{ "format=1", " <think>a</think><answer>b</answer>", 0, NULL, 0 },
	{ "format=1", "<think>a<think>b</think><answer>c</answer>", 0, NULL, 0 },
	{ "format=1", "<think>a</think><answer>b</answer><answer>c</answer>", 0, NULL, 0 },
	{ "format=1", "<think>a</think>x<answer>b</answer>", 0, NULL, 0 },
	{ "format=1", "<think>a</think>\f<answer>b</answer>", 0, NULL, 0 },
	{ "format=1", "<Think>a</Think><answer>b</answer>", 0, NULL, 0 },
	{ "format=1", "", 0, NULL, 0 },
	{ "tags=1", "x<think>a</think>y<answer>b</answer>z", 0, NULL, 1 },
	{ "tags=1", "<think><think></think><answer></answer>", 0, NULL, 0.75 },
	{ "tags=1", "<answer>a</answer><think>b</think>", 0, NULL, 0.5 },
	{ "keywords=1:key=so,key=nor", "<think>So it is. North</think>nor", 0, NULL, 0.5 },
	{ "keywords=1:key=so", "<think>so", 0, NULL, 0 },
	{ "keywords=1:key=\u00d1u", "<think>(\u00f1u)</think>", 0, NULL, 1 },
	{ "keywords=1:key=so", "<think>so\u0301</think>", 0, NULL, 0 },
	{ "keywords=1", "<think>so</think>", 0, NULL, NOT_JUDGED },
	{ "steps=1", "Step 1: a\n2. b\n- c\nFinally, d", 0, NULL, 1 },
	{ "steps=1", "Step 1 a 2. b - c\nFinally d\n first,", 0, NULL, 0 },
	{ "steps=1", "1. a\n2. b", 0, NULL, 2. / 3 },
	{ "steps=1", "1. a\r\n * b", 0, NULL, 1. / 3 },
	{ "length=1:min=10,max=20", "<think>a</think>", 15, NULL, 0.5 },
	{ "length=1:min=10,max=20", "<think>a</think>", 90, NULL, 1 },
	{ "length=1:min=10,max=20", "<think>a", 15, NULL, 0 },
	{ "cosine=1:max_len=100", "<answer>4</answer>", 0, "\"4\"", 1 },
	{ "cosine=1:max_len=100", "<answer>4</answer>", 50, "\"4\"", 0.9 },
	{ "cosine=1:max_len=100", "<answer>4</answer>", 300, "\"4\"", 0.8 },
	{ "cosine=1:max_len=100", "<answer>5</answer>", 0, "\"4\"", -0.5 },
	{ "cosine=1:max_len=100", "<answer>5</answer>", 300, "\"4\"", -0.1 },
	{ "cosine=1", "<answer>5</answer>", 3, NULL, NOT_JUDGED },
	{ "repetition=1", "a b", 0, NULL, 0 },
	{ "repetition=1", "a b c A B\u00a0C", 0, NULL, -0.25 },
	{ "repetition=1:n=1,max=0.5", "a a a a", 0, NULL, -0.375 },
	{ "overlong=1:max=100,cache=40", "", 60, NULL, 0 },
	{ "overlong=1:max=100,cache=40", "", 70, NULL, -0.25 },
	{ "overlong=1:max=100,cache=40", "", 101, NULL, -1 },
	{ "overlong=1:max=100,cache=0", "", 100, NULL, 0 },
	{ "answer=1", "<answer>1</answer><answer> 4\n</answer>", 0, "\"4\"", 1 },
	{ "answer=1", "4", 0, "\"4\"", 0 },
	{ "answer=1", "<answer>x = \u00c1  B</answer>", 0, "[\"y\", \"X = \u00e1 b\"]", 1 },
	{ "answer=1", "<answer>$\\boxed{\\boxed{1,234.50}}$</answer>", 0, "\"1234.5\"", 1 },
	{ "answer=1", "<answer>\\boxed{a} b}</answer>", 0, "\"a} b\"", 0 },
	{ "answer=1", "<answer>\\( \u2212\u20ac3e2 \\)</answer>", 0, "\"-300\"", 1 },
	{ "answer=1", "<answer>1/4</answer>", 0, "\".25\"", 1 },
	{ "answer=1", "<answer>1/0</answer>", 0, "\"2/0\"", 0 },
	{ "answer=1", "<answer>12,34</answer>", 0, "\"1234\"", 0 },
	{ "answer=1", "<answer>50%</answer>", 0, "\"50\"", 0 },
	{ "answer=1", "<answer>1000000.5</answer>", 0, "\"1000000\"", 1 },
	{ "answer=1:tolerance=0", "<answer>1000000.5</answer>", 0, "\"1000000\"", 0 },
	{ "answer=1", "<answer></answer>", 0, "\"\"", 1 },
	{ "answer=1", "<answer>4</answer>", 0, "[]", NOT_JUDGED },
	{ "answer=1", "<answer>4</answer>", 0, "null", NOT_JUDGED },
	{ "rouge=1", "<think>x</think><answer>the cat</answer>", 0, "\"the cat sat\"", 0.8 },
	{ "rouge=1", "the cat", 0, "[\"no\", \"the cat\"]", 1 },
	{ "code=1", "```\nprint()\n```", 0, NULL, NOT_JUDGED }
};

static void
test_samples(void)
{
	const struct sample *s;
	struct reward *r;
	struct score score;
	json_t *reference;
	char why[REASON_MAX];
	size_t i;

	for (i = 0; i < sizeof samples / sizeof *samples; i++) {
		s = &samples[i];
		reference = s->reference ? json_loads(s->reference, JSON_DECODE_ANY, NULL) : NULL;
		r = reward_parse(s->spec, why);
		if (!r) {
			ok(0, "%s: %s", s->spec, why);
			continue;
		}
		reward_judge(r, &(struct candidate){ s->text, strlen(s->text), s->tokens, s->tokens, reference, NULL, NULL },
		    judge, &score);
		if (isnan(s->expected))
			ok(!score.judged && *score.why, "%s cannot be judged, sample %zu", s->spec, i);
		else
			ok(score.judged && fabs(score.value - s->expected) < 1e-12, "%s gives %g (%g), sample %zu", s->spec,
			    s->expected, score.value, i);
		reward_free(r);
		json_decref(reference);
	}
}

static void
test_parts(void)
{
	const char *text = "<answer>a</answer><think>b</think><think>c</think><answer>d<answer>e</answer>";
	struct part think = part_think(text, strlen(text)), answer = part_answer(text, strlen(text));

	ok(think.n == 1 && *think.s == 'b', "the think part is the first");
	ok(answer.n == 1 && *answer.s == 'e', "the answer part is the last");
	ok(!part_think("</think><think>", 15).s && !part_answer("</answer><answer>", 17).s, "closed before it opens is none");
}

static int
fenced(const char *text, enum language language, const char *expected)
{
	struct text source = { .n = 0 };
	enum language found = fence_last(text, strlen(text), LANGUAGE_PYTHON, &source);
	int same = found == language && (found == LANGUAGE_NONE || (source.n == strlen(expected) &&
	    !memcmp(source.s ? source.s : "", expected, source.n)));

	free(source.s);
	return same;
}

static void
test_fences(void)
{
	ok(fenced("a\n```py\nx\n```\n```python3 good\ny\n```", LANGUAGE_PYTHON, "y\n"), "the last block counts");
	ok(fenced("```C++\nx\n```\n```sh\ny\n```\n", LANGUAGE_CPP, "x\n"), "blocks of other languages are passed over");
	ok(fenced("```\nx\n```", LANGUAGE_PYTHON, "x\n"), "a block without a name is in the language that is asked for");
	ok(fenced("```py\nx\n```\n```py\ny\n", LANGUAGE_PYTHON, "x\n"), "a fence that is never closed is no block");
	ok(fenced("````py\nx\n```\ny\n`````  \n", LANGUAGE_PYTHON, "x\n```\ny\n"), "it closes with as many backticks at least");
	ok(fenced("   ```py\n   if x:\n      y\n z\n   ```", LANGUAGE_PYTHON, "if x:\n   y\nz\n"), "its indent is taken off");
	ok(fenced("```py\r\nx\r\n```\r\n", LANGUAGE_PYTHON, "x\r\n"), "lines may end in CR LF");
	ok(fenced("```py```\nx\n``` py\n", LANGUAGE_NONE, ""), "info strings have no backticks, closing lines no words");
	ok(fenced("", LANGUAGE_NONE, ""), "there is none in nothing");
}

static int
same(const char *got, const char *want)
{
	return !output_differs(got, strlen(got), want, strlen(want));
}

static void
test_output(void)
{
	ok(same("a \t\r\nb\n\n \n", "a\nb"), "white space at ends of lines, and empty lines at the end");
	ok(!same(" a", "a") && !same("a  b", "a b"), "no other white space");
	ok(!same("a", "a\nb") && !same("a\nb", "a") && !same("\na", "a"), "as many lines on both sides");
	ok(same("", "\n\n") && !same("", "a"), "nothing is nothing");
	ok(output_differs("a\nb\nc", 5, "a\nx\nc", 5) == 2, "the first line that differs is named");
}

int
main(void)
{
	judge = judge_new();
	test_samples();
	test_parts();
	test_fences();
	test_output();
	judge_free(judge);
	return done();
}
