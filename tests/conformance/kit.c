/* SPDX-License-Identifier: MIT */
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "tests/conformance/kit.h"

void
fail(struct verdict *v, const char *fmt, ...)
{
	va_list ap;

	if (v->failure[0])
		return;
	va_start(ap, fmt);
	vsnprintf(v->failure, sizeof v->failure, fmt, ap);
	va_end(ap);
}

void
expect(struct verdict *v, int holds, const char *fmt, ...)
{
	va_list ap;

	v->compared++;
	if (holds || v->failure[0])
		return;
	va_start(ap, fmt);
	vsnprintf(v->failure, sizeof v->failure, fmt, ap);
	va_end(ap);
}

void
expect_near(struct verdict *v, const char *what, const double *got, const double *want, size_t n,
    double allowed)
{
	double worst = 0;
	size_t i, at = 0;

	for (i = 0; i < n; i++) {
		double error = got[i] == want[i] ? 0 : fabs(got[i] - want[i]);

		if (!(error <= worst)) {
			worst = error;
			at = i;
		}
		if (isnan(error))
			break;
	}
	v->compared++;
	if (!(worst <= allowed))
		fail(v, "%s[%zu] is %.9g, not %.9g: error %.3g of %.3g allowed", what, at, got[at], want[at], worst,
		    allowed);
	if (v->allowed == 0 || worst * v->allowed > v->error * allowed) {
		v->error = worst;
		v->allowed = allowed;
	}
}

void
expect_value(struct verdict *v, const char *what, double got, const json_t *expected, double scale)
{
	double want = get_number(expected, "value", NAN);

	expect_near(v, what, &got, &want, 1, get_number(expected, "tol", 0) * (scale > 0 ? scale : fabs(want)));
}

char *
kit_path(const struct kit *k, const char *relative)
{
	return file_join(k->directory, relative);
}

char *
kit_text(const struct kit *k, const char *relative)
{
	char *path = kit_path(k, relative);
	size_t size;
	char *text = file_read(path, &size);

	if (!text)
		die("cannot read '%s':", path);
	free(path);
	return text;
}

json_t *
kit_json(const struct kit *k, const char *relative)
{
	char *text = kit_text(k, relative);
	json_error_t error;
	json_t *json = json_loads(text, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &error);

	if (!json)
		die("'%s' line %d: %s", relative, error.line, error.text);
	free(text);
	return json;
}

json_t *
kit_sample(const char **at)
{
	const char *end;
	json_error_t error;
	json_t *json;

	while (**at == '\n')
		(*at)++;
	if (!**at)
		return NULL;
	end = strchr(*at, '\n');
	if (!end)
		end = *at + strlen(*at);
	json = json_loadb(*at, (size_t)(end - *at), JSON_ALLOW_NUL, &error);
	if (!json)
		die("a sample is no JSON: %s", error.text);
	*at = end;
	return json;
}

const char *
get_string(const json_t *c, const char *key)
{
	const char *s = json_string_value(json_object_get(c, key));

	return s ? s : "";
}

double
get_number(const json_t *c, const char *key, double otherwise)
{
	const json_t *value = json_object_get(c, key);

	return json_is_number(value) ? json_number_value(value) : otherwise;
}

struct sampling
get_sampling(const json_t *options)
{
	float top_p = (float)get_number(options, "top_p", 1);

	return (struct sampling){ .temperature = (float)get_number(options, "temperature", 1),
	    .top_k = (int)get_number(options, "top_k", 0), .top_p = top_p > 0 ? top_p : FLT_MIN,
	    .min_p = (float)get_number(options, "min_p", 0) };
}

int32_t *
get_ids(const json_t *list, int *n)
{
	int32_t *ids = mem_zero(json_array_size(list) + 1, sizeof *ids);
	size_t i;
	json_t *id;

	json_array_foreach(list, i, id)
		ids[i] = (int32_t)json_integer_value(id);
	*n = (int)json_array_size(list);
	return ids;
}

/* As kit_model(), or NULL and the reason. */
static struct model *
kept_model(const struct kit *k, const char *relative, char *why)
{
	enum { KEPT = 4 };
	static struct { struct model *m; char *path; } kept[KEPT];
	static int next;
	char *path = kit_path(k, relative);
	struct model *m;
	int i;

	for (i = 0; i < KEPT; i++)
		if (kept[i].m && kept[i].m->be == k->be && !strcmp(kept[i].path, path)) {
			free(path);
			return kept[i].m;
		}
	if (!(m = model_open(path, k->be, DT_F32, why))) {
		free(path);
		return NULL;
	}
	i = next++ % KEPT;
	if (kept[i].m) {
		model_free(kept[i].m);
		free(kept[i].path);
	}
	kept[i].m = m;
	kept[i].path = path;
	return m;
}

struct model *
kit_model(const struct kit *k, const char *relative)
{
	char why[REASON_MAX];
	struct model *m = kept_model(k, relative, why);

	if (!m)
		die("%s", why);
	return m;
}

/* Skips the case where there is no such model, fails it where there is one that cannot be read. */
static void
try_model(struct verdict *v, const struct kit *k, const char *relative)
{
	char why[REASON_MAX], *path = kit_path(k, relative), *config = file_join(path, "config.json");

	if (!file_exists(config))
		snprintf(v->skipped, sizeof v->skipped, "no model at %.150s", path);
	else if (!kept_model(k, relative, why))
		fail(v, "%.390s", why);
	free(path);
	free(config);
}

void
kit_models(struct verdict *v, const json_t *c, const struct kit *k)
{
	static const char *const keys[] = { "model", "reference_model", "teacher" };
	const json_t *value;
	size_t i;

	for (i = 0; i < sizeof keys / sizeof *keys; i++) {
		value = json_object_get(c, keys[i]);
		if (json_is_string(value))
			try_model(v, k, json_string_value(value));
		else if (!strcmp(get_string(value, "form"), "computed"))
			kit_models(v, value, k);
		else if (*get_string(value, "head"))
			try_model(v, k, get_string(value, "head"));
	}
}

struct safetensors *
kit_tensors(struct verdict *v, const struct kit *k, const char *relative)
{
	char why[REASON_MAX], *path = kit_path(k, relative);
	struct safetensors *st = safetensors_open(path, why);

	if (!st)
		fail(v, "cannot read '%s': %s", path, why);
	free(path);
	return st;
}

double *
kit_tensor(struct verdict *v, const struct safetensors *st, const char *name, size_t *n)
{
	const struct safetensor *t = st ? safetensors_find(st, name) : NULL;
	double *out;
	float f;
	size_t i;

	if (!t) {
		fail(v, "the kit has no tensor '%s'", name);
		*n = 0;
		return NULL;
	}
	*n = t->bytes / dtype_size(t->type);
	out = mem_zero(*n + 1, sizeof *out);
	for (i = 0; i < *n; i++) {
		const char *p = (const char *)t->data + i * dtype_size(t->type);
		int32_t id;

		switch (t->type) {
		case DT_F64:
			memcpy(&out[i], p, sizeof out[i]);
			break;
		case DT_I32:
			memcpy(&id, p, sizeof id);
			out[i] = id;
			break;
		case DT_U8:
			out[i] = *(const uint8_t *)p;
			break;
		default:
			dtype_convert(&f, DT_F32, p, t->type, 1);
			out[i] = f;
		}
	}
	return out;
}
