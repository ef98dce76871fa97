/* SPDX-License-Identifier: MIT */
/* gguf - blocks by hand, and weights that f16 does not hold */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/dtype.h"
#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/model/model.h"
#include "lib/quant/export.h"
#include "tests/unit/tap.h"

static const char config[] = "{\"model_type\":\"llama\",\"vocab_size\":40,\"hidden_size\":8,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"intermediate_size\":8,\"torch_dtype\":\"bfloat16\"}";

static void
check_q8_0(void)
{
	float x[GGUF_BLOCK] = { 127, -127, 0.5f, -0.5f, 1.4f, 2.5f };
	signed char codes[GGUF_BLOCK];
	unsigned char block[34];
	uint16_t d;

	gguf_convert(block, GGUF_Q8_0, x, GGUF_BLOCK);
	memcpy(&d, block, 2);
	memcpy(codes, block + 2, sizeof codes);
	ok(d == 0x3c00 && codes[0] == 127 && codes[1] == -127 && codes[2] == 1 && codes[3] == -1 && codes[4] == 1 &&
	    codes[5] == 3 && codes[6] == 0, "Q8_0: the largest is 127 steps, halves are rounded away from zero");
	memset(x, 0, sizeof x);
	gguf_convert(block, GGUF_Q8_0, x, GGUF_BLOCK);
	for (d = 0; d < 34 && !block[d]; d++)
		;
	ok(d == 34, "Q8_0: a block of zeros is zeros");
}

static void
check_q4_0(void)
{
	static const uint16_t scale[] = { 0xb800 };	/* -0.5 */
	uint8_t codes[GGUF_BLOCK] = { 0 };
	unsigned char block[18];

	codes[0] = 15;
	codes[16] = 1;
	codes[31] = 9;
	gguf_q4_0(block, codes, scale, GGUF_BLOCK);
	ok(block[0] == 0 && block[1] == 0xb8 && block[2] == 0x1f && block[3] == 0 && block[17] == 0x90,
	    "Q4_0: the scale with its sign, code i low and code i + 16 high in byte i");
}

static void
check_range(const char *root)
{
	char *directory = file_join(root, "model"), *file = file_join(root, "out"), *part = file_join(root, "out.part");
	char why[REASON_MAX];
	json_t *json = json_loads(config, 0, NULL);
	float row[8] = { 0, 0, 1e6f };
	struct config c;
	struct model *m;

	if (config_parse(&c, json, why))
		die("%s", why);
	m = model_new(&c, &backend_ref, DT_BF16);
	m->be->weight_put(&m->blocks[0].o.w, 3, 1, row, DT_F32, 0);
	model_save(m, directory, NULL, DT_BF16);
	ok(export_gguf(directory, file, EXPORT_BF16, why) == 1 && file_exists(file), "bf16 holds a million");
	ok(export_gguf(directory, file, EXPORT_F16, why) == -1 && strstr(why, "o_proj.weight") && !file_exists(part),
	    "f16 does not: %s", why);
	model_free(m);
	json_decref(json);
	free(directory);
	free(file);
	free(part);
}

int
main(void)
{
	char root[] = "/tmp/gguf.XXXXXX";

	if (!mkdtemp(root))
		die("cannot make '%s':", root);
	check_q8_0();
	check_q4_0();
	check_range(root);
	file_remove(root);
	return done();
}
