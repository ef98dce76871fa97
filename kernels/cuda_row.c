/* SPDX-License-Identifier: MIT */
/* cuda_row - the CUDA row of a build with CUDA: every cell is a function of kernels/NAME.cu */
#include "kernels/cuda.h"

const struct backend backend_cuda = {
	.name = "cuda",
	.usable = usable_cuda,
	.why = why_cuda,
	.upload = upload_cuda,
	.download = download_cuda,
	MEMORY_COLUMNS(CELL, cuda)
	COLUMNS(CELL, cuda)
	.matmul_train = matmul_cuda,
};
