/* SPDX-License-Identifier: MIT */
/* cuda_none - the CUDA row of a build without CUDA: it has a name, and cannot be used */
#include "kernels/op.h"

static int
never(void)
{
	return 0;
}

static const char *
left_out(void)
{
	return "it was built without CUDA";
}

const struct backend backend_cuda = { .name = "cuda", .usable = never, .why = left_out };
