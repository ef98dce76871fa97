/* SPDX-License-Identifier: MIT */
/*
 * jsonl - any bytes as a line of a corpus, as a template, as a chat_template
 *
 * What the reader takes, Jansson takes too, and it comes back the same from
 * what json_append() writes.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/json.h"
#include "lib/text/chat.h"
#include "lib/text/reader.h"
#include "lib/text/template.h"
#include "lib/text/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
there_and_back(const json_t *json)
{
	char why[REASON_MAX];
	struct text out = { NULL, 0, 0 };
	json_t *back, *theirs;

	json_append(&out, json, 0);
	back = reader_parse(out.s, out.n, why);
	theirs = json_loadb(out.s, out.n, JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
	if (!json_equal(json, back) || !json_equal(json, theirs))
		abort();
	json_decref(back);
	json_decref(theirs);
	free(out.s);
}

static void
as_template(const uint8_t *data, size_t size, const json_t *record)
{
	char why[REASON_MAX];
	struct template *t = template_parse((const char *)data, size, why);
	struct text prompt = { NULL, 0, 0 }, target = { NULL, 0, 0 };

	if (t)
		template_render(t, record, &prompt, &target, why);
	template_close(t);
	free(prompt.s);
	free(target.s);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char why[REASON_MAX];
	json_t *json = reader_parse(data, size, why), *record = json_pack("{s:s, s:s}", "a", "x", "b", "");
	unsigned char *nfc;
	size_t n;
	int unstable;

	if (json)
		there_and_back(json);
	as_template(data, size, record);
	chat_close(chat_parse((const char *)data, size, why));
	if (unicode_check(data, size, &unstable) == size) {
		nfc = unicode_nfc(data, size, &n);
		if (unicode_check(nfc, n, &unstable) != n)
			abort();
		free(nfc);
	}
	json_decref(record);
	json_decref(json);
	return 0;
}
