/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/text/agree.h"

static int
has_tokenizer(const char *directory)
{
	char *json = file_join(directory, "tokenizer.json"), *vocab = file_join(directory, "vocab.json");
	int has = file_exists(json) || file_exists(vocab);

	free(json);
	free(vocab);
	return has;
}

struct tokenizer *
agree_tokenizer(const struct stream_in *in, const char *directory)
{
	const char *digest = json_string_value(json_object_get(stream_header(in), "tokenizer"));
	struct tokenizer *t;
	char why[REASON_MAX];

	if (!has_tokenizer(directory))
		return NULL;
	t = tokenizer_open(directory, why);
	if (!t)
		die("%s", why);
	if (digest && strcmp(digest, tokenizer_digest(t)))
		die("%s was made with another tokenizer than that of '%s'", stream_name(in), directory);
	return t;
}
