/* SPDX-License-Identifier: MIT */
/* safetensors - any bytes as a file of tensors; every byte of every tensor that is accepted is read */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char why[REASON_MAX];
	struct safetensors *st = safetensors_parse(data, size, why);
	unsigned sum = 0;
	size_t i;
	int t;

	if (!st)
		return 0;
	for (t = 0; t < st->count; t++) {
		for (i = 0; i < st->tensors[t].bytes; i++)
			sum += ((const uint8_t *)st->tensors[t].data)[i];
		if (safetensors_find(st, st->tensors[t].name) != &st->tensors[t])
			abort();
		safetensors_find_weight(st, st->tensors[t].name);
	}
	safetensors_close(st);
	return sum & 0;
}
