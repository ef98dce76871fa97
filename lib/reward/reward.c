/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/reward/fence.h"
#include "lib/reward/kinds.h"

enum { COUNTS_THOUGHT = 1, RUNS_PROGRAMS = 2 };

struct kind {
	const char *name;
	judge_fn *judge;
	const char *params;	/* their defaults, which say their types too */
	int needs;
};

static const struct kind kinds[] = {
	{ "format", judge_format, "{}", 0 },
	{ "tags", judge_tags, "{}", 0 },
	{ "keywords", judge_keywords, "{\"keywords\": []}", 0 },
	{ "steps", judge_steps, "{}", 0 },
	{ "length", judge_length, "{\"min\": 0, \"max\": 256}", COUNTS_THOUGHT },
	{ "cosine", judge_cosine, "{\"max_len\": 256, \"correct\": [0.8, 1.0], \"wrong\": [-0.5, -0.1]}", 0 },
	{ "repetition", judge_repetition, "{\"n\": 3, \"max_penalty\": 1}", 0 },
	{ "overlong", judge_overlong, "{\"max\": 256, \"cache\": 64}", 0 },
	{ "answer", judge_answer, "{\"tolerance\": 1e-6}", 0 },
	{ "rouge", judge_rouge, "{}", 0 },
	{ "code", judge_code, "{\"language\": \"python\", \"time_limit\": 2, \"memory\": 512, \"checker\": \"\"}",
	    RUNS_PROGRAMS },
	{ NULL, NULL, NULL, 0 }
};

struct judge *
judge_new(void)
{
	struct judge *judge = mem_zero(1, sizeof *judge);

	judge->rouge = rouge_new(ROUGE_GOOGLE);
	return judge;
}

void
judge_free(struct judge *judge)
{
	rouge_free(judge->rouge);
	sandbox_result_free(&judge->compiled);
	sandbox_result_free(&judge->ran);
	sandbox_result_free(&judge->checked);
	free(judge);
}

static const struct kind *
find_kind(const char *name, char *why)
{
	const struct kind *kind;

	for (kind = kinds; kind->name; kind++)
		if (!strcmp(kind->name, name))
			return kind;
	reason(why, "there is no reward '%s'", name);
	return NULL;
}

/* The parameter of that name, or the only one that begins so; NULL and the reason. */
static const char *
find_param(const struct reward *r, const char *name, char *why)
{
	const char *param, *found = NULL;
	json_t *value;
	int several = 0;

	json_object_foreach(r->params, param, value) {
		if (!strcmp(param, name))
			return param;
		if (!strncmp(param, name, strlen(name))) {
			several = found != NULL;
			found = param;
		}
	}
	if (!found || several || !*name) {
		reason(why, "%s has no parameter '%s'", r->kind->name, name);
		return NULL;
	}
	return found;
}

static int
same_type(const json_t *a, const json_t *b)
{
	const json_t *element, *first = json_array_get(b, 0);
	size_t i;

	if (json_is_number(b))
		return json_is_number(a);
	if (!json_is_array(b))
		return json_typeof(a) == json_typeof(b);
	if (!json_is_array(a) || (first && json_array_size(a) != json_array_size(b)))
		return 0;
	json_array_foreach(a, i, element)
		if (first ? !json_is_number(element) : !json_string_length(element))
			return 0;
	return 1;
}

static int
set_params(struct reward *r, const json_t *params, char *why)
{
	const char *name, *param;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)params, name, value) {
		if (!(param = find_param(r, name, why)))
			return -1;
		if (!same_type(value, json_object_get(r->params, param)))
			return reason(why, "%s: '%s' cannot be that", r->kind->name, param);
		json_object_set(r->params, param, value);
	}
	return 0;
}

static int
has(const struct reward *r, const char *param)
{
	return json_object_get(r->params, param) != NULL;
}

static int
check(const struct reward *r, int holds, const char *what, char *why)
{
	return holds ? 0 : reason(why, "%s: %s", r->kind->name, what);
}

static int
check_params(const struct reward *r, char *why)
{
	const char *language;

	if (check(r, !has(r, "min") || reward_number(r, "min") < reward_number(r, "max"), "min is not below max", why) ||
	    check(r, !has(r, "max_len") || reward_number(r, "max_len") > 0, "max_len is not positive", why) ||
	    check(r, !has(r, "n") || (reward_number(r, "n") >= 1 && reward_number(r, "n") <= 1000 &&
	    floor(reward_number(r, "n")) >= reward_number(r, "n")), "n is no number of words", why) ||
	    check(r, !has(r, "cache") || (reward_number(r, "cache") >= 0 &&
	    reward_number(r, "cache") <= reward_number(r, "max")), "cache is not between 0 and max", why) ||
	    check(r, !has(r, "tolerance") || reward_number(r, "tolerance") >= 0, "tolerance is negative", why) ||
	    check(r, !has(r, "time_limit") || (reward_number(r, "time_limit") > 0 &&
	    reward_number(r, "time_limit") <= 3600), "time_limit is not in (0, 3600]", why) ||
	    check(r, !has(r, "memory") || (reward_number(r, "memory") >= 16 &&
	    reward_number(r, "memory") <= 1 << 20), "memory is not between 16 and 1048576 MiB", why))
		return -1;
	language = has(r, "language") ? reward_text(r, "language") : "python";
	if (language_named(language, strlen(language)) == LANGUAGE_NONE)
		return reason(why, "%s: there is no language '%s', only python and cpp", r->kind->name, language);
	return 0;
}

/* The checker's text in the place of its path. */
static int
read_checker(struct reward *r, char *why)
{
	const char *path = has(r, "checker") ? reward_text(r, "checker") : "";
	size_t size;
	char *text;

	if (!*path)
		return 0;
	if (!(text = file_read(path, &size)))
		return reason(why, "cannot read '%s': %s", path, strerror(errno));
	free(r->checker);
	r->checker = text;
	r->checker_size = size;
	return 0;
}

struct reward *
reward_new(const char *name, double weight, const json_t *params, char *why)
{
	const struct kind *kind = find_kind(name, why);
	struct reward *r;

	if (!kind)
		return NULL;
	r = mem_zero(1, sizeof *r);
	r->kind = kind;
	r->weight = weight;
	r->params = json_parse(kind->params, strlen(kind->params), why);
	if (!isfinite(weight))
		reason(why, "%s has no finite weight", name);
	else if (!set_params(r, params, why) && !check_params(r, why) && !read_checker(r, why))
		return r;
	reward_free(r);
	return NULL;
}

/* A word of the command line as a value of the type that `like` has; NULL if it is none. */
static json_t *
value_like(const json_t *like, const char *word)
{
	char *end;
	double number;

	if (json_is_string(like))
		return json_string(word);
	number = strtod(word, &end);
	return *word && !*end && isfinite(number) ? json_real(number) : NULL;
}

static int
parse_param(struct reward *defaults, json_t *params, char *word, char *why)
{
	char *value = strchr(word, '=');
	const char *param;
	const json_t *like;
	json_t *parsed, *list, *text = NULL;

	if (!value)
		return reason(why, "'%s' is not PARAM=VALUE", word);
	*value++ = '\0';
	if (!(param = find_param(defaults, word, why)))
		return -1;
	like = json_object_get(defaults->params, param);
	if (json_is_array(like) && !json_array_size(like))
		like = text = json_string("");
	parsed = value_like(json_is_array(like) ? json_array_get(like, 0) : like, value);
	json_decref(text);
	if (!parsed)
		return reason(why, "%s: '%s' cannot be '%s'", defaults->kind->name, param, value);
	if (!json_is_array(json_object_get(defaults->params, param)))
		return json_object_set_new(params, param, parsed);
	list = json_object_get(params, param);
	if (!list)
		json_object_set_new(params, param, list = json_array());
	return json_array_append_new(list, parsed);
}

static int
parse_params(const char *name, char *list, json_t *params, char *why)
{
	struct reward *defaults = reward_new(name, 0, NULL, why);
	char *word, *rest = list;
	int rc = defaults ? 0 : -1;

	while (!rc && (word = strsep(&rest, ",")))
		rc = parse_param(defaults, params, word, why);
	reward_free(defaults);
	return rc;
}

struct reward *
reward_parse(const char *spec, char *why)
{
	char *copy = mem_string(spec), *weight = strchr(copy, '='), *list, *end;
	json_t *params = json_object();
	struct reward *r = NULL;
	double value;

	if (weight)
		*weight++ = '\0';
	list = weight ? strchr(weight, ':') : NULL;
	if (list)
		*list++ = '\0';
	value = weight ? strtod(weight, &end) : 0;
	if (!weight || !*weight || *end)
		reason(why, "'%s' is not NAME=WEIGHT", spec);
	else if (!list || !parse_params(copy, list, params, why))
		r = reward_new(copy, value, params, why);
	json_decref(params);
	free(copy);
	return r;
}

void
reward_free(struct reward *r)
{
	if (!r)
		return;
	json_decref(r->params);
	free(r->checker);
	free(r);
}

const char *
reward_name(const struct reward *r)
{
	return r->kind->name;
}

int
reward_counts_thought(const struct reward *r)
{
	return r->kind->needs == COUNTS_THOUGHT;
}

int
reward_runs_programs(const struct reward *r)
{
	return r->kind->needs == RUNS_PROGRAMS;
}

double
reward_number(const struct reward *r, const char *param)
{
	return json_number_value(json_object_get(r->params, param));
}

double
reward_pair(const struct reward *r, const char *param, int i)
{
	return json_number_value(json_array_get(json_object_get(r->params, param), (size_t)i));
}

const char *
reward_text(const struct reward *r, const char *param)
{
	return json_string_value(json_object_get(r->params, param));
}

void
score_is(struct score *score, double value, const char *why, ...)
{
	char text[REASON_MAX];
	va_list ap;

	va_start(ap, why);
	vsnprintf(text, sizeof text, why, ap);
	va_end(ap);
	reason(score->why, "%s", text);
	score->judged = 1;
	score->value = value;
}

void
score_none(struct score *score, const char *why)
{
	reason(score->why, "%s", why);
	score->judged = 0;
	score->value = 0;
}

void
reward_judge(const struct reward *r, const struct candidate *c, struct judge *judge, struct score *score)
{
	r->kind->judge(r, c, judge, score);
}
