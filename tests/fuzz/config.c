/* SPDX-License-Identifier: MIT */
/* config - any bytes as a config.json; what is accepted has shapes that can be multiplied */
#include <stdlib.h>

#include "lib/base/die.h"
#include "lib/base/json.h"
#include "lib/model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char why[REASON_MAX];
	json_t *json = json_parse((const char *)data, size, why);
	struct config c;

	if (json && !config_parse(&c, json, why)) {
		if (c.hidden < 1 || c.layers < 1 || c.kv_heads < 1 || c.heads % c.kv_heads || c.d < 1 ||
		    c.ffn < 1 || c.vocab < 1 || c.positions < 1 ||
		    (c.heads + 2LL * c.kv_heads) * c.d > 1LL << 24)
			abort();
		config_free(&c);
	}
	json_decref(json);
	return 0;
}
