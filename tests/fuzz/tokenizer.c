/* SPDX-License-Identifier: MIT */
/* tokenizer - any bytes as a tokenizer.json; what is accepted encodes text to ids that decode to it */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char text[] = "the<|x|>aaa \xc3\xb1 12\n\n  (a)'s";
	char why[REASON_MAX], *back;
	struct tokenizer *t = tokenizer_parse(data, size, why);
	struct ids ids = { NULL, 0, 0 };
	size_t i, n;

	if (!t)
		return 0;
	if (tokenizer_encode(t, text, sizeof text - 1, 0, &ids, why))
		abort();
	for (i = 0; i < ids.n; i++)
		if (ids.id[i] < 0 || ids.id[i] >= tokenizer_vocab(t))
			abort();
	back = tokenizer_decode(t, ids.id, ids.n, 0, &n);
	free(back);
	tokenizer_encode(t, text, sizeof text - 1, 1, &ids, why);
	free(ids.id);
	tokenizer_close(t);
	return 0;
}
