/* SPDX-License-Identifier: MIT */
/* uniform - numbers in [-1, 1), the same in each run; SEED, which the program defines, says which */
#ifndef TESTS_UNIT_UNIFORM_H
#define TESTS_UNIT_UNIFORM_H

#include <stdint.h>

static uint64_t uniform_state = SEED;

static float
uniform(void)
{
	uniform_state = uniform_state * 6364136223846793005u + 1442695040888963407u;
	return (float)(uniform_state >> 40) * 0x1p-23f - 1;
}

#endif
