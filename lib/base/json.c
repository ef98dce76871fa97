/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"

json_t *
json_parse(const char *text, size_t size, char *why)
{
	json_error_t error;
	json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);

	if (!json)
		reason(why, "no JSON: line %d: %s", error.line, error.text);
	return json;
}

json_t *
json_read(const char *path, char *why)
{
	char inner[REASON_MAX], *text;
	size_t size;
	json_t *json;

	if (!(text = file_read(path, &size))) {
		reason(why, "cannot read '%s': %s", path, strerror(errno));
		return NULL;
	}
	if (!(json = json_parse(text, size, inner)))
		reason(why, "'%s' is %s", path, inner);
	free(text);
	return json;
}

/* 1e-06 needs 15 digits to stay 1e-06; few numbers need all 17 to stay what they are. */
static char *
print(const json_t *json)
{
	size_t style = JSON_INDENT(2);
	char *text = json_dumps(json, style | JSON_REAL_PRECISION(15));
	json_t *back = text ? json_loads(text, 0, NULL) : NULL;

	if (!json_equal(json, back)) {
		free(text);
		text = json_dumps(json, style);
	}
	json_decref(back);
	if (!text)
		die("no memory to print JSON");
	return text;
}

void
json_write(const char *path, const json_t *json)
{
	struct file *file = file_create(path);
	char *text = print(json);

	file_write(file, text, strlen(text));
	file_write(file, "\n", 1);
	file_commit(file);
	free(text);
}
