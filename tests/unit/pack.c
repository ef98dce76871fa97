/* SPDX-License-Identifier: MIT */
/* pack - codes and words by hand, and there and back for every width */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/quant/checkpoint.h"
#include "lib/quant/pack.h"
#include "tests/unit/tap.h"

static const int widths[] = { 2, 3, 4, 8 };

/* One column of codes 0, 1, 2, ... (mod 8) of 3 bits, and its words as a string of bits has them. */
static void
check_three_bits(void)
{
	uint8_t q[32], back[32];
	uint32_t words[3], want[3] = { 0 };
	int i, bit;

	for (i = 0; i < 32; i++)
		q[i] = (uint8_t)(i * 5 % 8);
	for (bit = 0; bit < 96; bit++)
		want[bit / 32] |= (uint32_t)(q[bit / 3] >> bit % 3 & 1) << bit % 32;
	pack_codes(words, q, 32, 1, 3);
	unpack_codes(back, words, 32, 1, 3);
	ok(!memcmp(words, want, sizeof words) && !memcmp(back, q, sizeof q), "3 bits straddle words");
}

static void
check_codes(void)
{
	enum { K = 64, N = 96 };
	uint8_t q[K * N], back[K * N];
	uint32_t words[K * N / 4];
	int b, i;

	for (b = 0; b < 4; b++) {
		int max = (1 << widths[b]) - 1;

		for (i = 0; i < K * N; i++)
			q[i] = (uint8_t)(i * 7 % 251 & max);
		memset(words, 0xa5, sizeof words);
		pack_codes(words, q, K, N, widths[b]);
		unpack_codes(back, words, K, N, widths[b]);
		ok(!memcmp(q, back, sizeof q) && (words[0] & (uint32_t)max) == q[0],
		    "%d bits: codes come back, the first one in the low bits", widths[b]);
	}
	memset(q, 0, sizeof q);
	q[0] = 200;
	pack_codes(words, q, 32, 1, 4);
	ok(words[0] == 15, "a code that does not fit saturates");
}

static void
check_symmetric(void)
{
	static const uint32_t one[] = { 0x55555555, 0, 0x77777777, 0x7f7f7f7f };
	static const uint32_t two[] = { 0xaaaaaaaa, 0, 0x88888888, 0x80808080 };
	uint8_t z[32], back[32];
	uint32_t words[8];
	int b, label, good;

	for (b = 0; b < 4; b++) {
		memset(z, 1 << (widths[b] - 1), sizeof z);
		pack_zeros(words, z, 1, 32, widths[b], 2);
		good = !two[b] || words[0] == two[b];
		for (label = 1; label <= 2; label++) {
			unpack_zeros(back, words, 1, 32, widths[b], 1, label);
			good &= !memcmp(z, back, sizeof z);
		}
		pack_zeros(words, z, 1, 32, widths[b], 1);
		good &= !one[b] || words[0] == one[b];
		for (label = 1; label <= 2; label++) {
			unpack_zeros(back, words, 1, 32, widths[b], 1, label);
			good &= !memcmp(z, back, sizeof z);
		}
		ok(good, "%d bits: symmetric zeros are told by content, whatever the label", widths[b]);
	}
}

static void
check_zeros(void)
{
	uint8_t z[64], back[64];
	uint32_t words[16];
	int b, i;

	for (b = 0; b < 4; b++) {
		for (i = 0; i < 64; i++)
			z[i] = (uint8_t)(1 + i % ((1 << widths[b]) - 1));
		pack_zeros(words, z, 2, 32, widths[b], 1);
		unpack_zeros(back, words, 2, 32, widths[b], 0, 1);
		ok(!memcmp(z, back, sizeof z), "%d bits: zeros come back from version 1", widths[b]);
		z[5] = 0;
		ok(pack_zeros(words, z, 2, 32, widths[b], 1) == -1 &&
		    !pack_zeros(words, z, 2, 32, widths[b], 2), "%d bits: a zero of 0 needs version 2", widths[b]);
		unpack_zeros(back, words, 2, 32, widths[b], 0, 2);
		ok(!memcmp(z, back, sizeof z), "%d bits: and has it", widths[b]);
	}
	words[0] = 0x22222222 - 0x11111111 - 2;	/* the first zero is 0 and borrowed from the second */
	unpack_zeros(back, words, 1, 32, 4, 0, 1);
	ok(back[0] == 0 && back[1] == 2 && back[2] == 2, "what a zero of 0 borrowed is given back");
}

static int
parses(const char *text, struct quant_config *c)
{
	char why[REASON_MAX];
	json_t *json = json_loads(text, 0, NULL);
	int rc = quant_config_parse(c, json, why);

	json_decref(json);
	return !rc;
}

static void
check_config(void)
{
	struct quant_config c, again;
	json_t *json;
	char why[REASON_MAX];

	ok(parses("{\"bits\": 4, \"group_size\": 128, \"desc_act\": false, \"sym\": true}", &c) && c.version == 1 &&
	    c.bits == 4 && c.group == 128 && c.sym && !c.scattered, "an old description is version 1");
	ok(parses("{\"bits\": 3, \"group_size\": -1, \"sym\": false, \"format\": \"gptq_v2\", \"lm_head\": true}", &c) &&
	    c.version == 2 && c.group == -1 && !c.sym && c.lm_head, "newer names are read");
	json = quant_config_json(&c);
	ok(!quant_config_parse(&again, json, why) && !memcmp(&c, &again, sizeof c), "what is written is read again");
	json_decref(json);
	ok(!parses("{\"bits\": 5}", &c) && !parses("{\"bits\": 4, \"quant_method\": \"awq\"}", &c) &&
	    !parses("{\"bits\": 4, \"group_size\": 0}", &c) && !parses("[]", &c) &&
	    !parses("{\"bits\": 4, \"dynamic\": {\"+:.*up\": {\"bits\": 8}}}", &c),
	    "what is not computed here is refused");
	ok(parses("{\"bits\": 4, \"dynamic\": {\"-:.*up\": {}}}", &c), "layers may be left out");
}

int
main(void)
{
	check_three_bits();
	check_codes();
	check_symmetric();
	check_zeros();
	check_config();
	return done();
}
