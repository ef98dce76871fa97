/* SPDX-License-Identifier: MIT */
/*
 * backend - the table: a row per machine, a cell per operation
 *
 * A cell names the function that does the work. Where a machine has nothing better than the definition,
 * the definition stands in its cell.
 */
#include <cpuid.h>
#include <string.h>

#include "kernels/cells.h"
#include "kernels/cpu.h"
#include "lib/base/die.h"
#include "lib/base/mem.h"

static int
always(void)
{
	return 1;
}

static int
has_avx2(void)
{
	unsigned a, b, c = 0, d;

	/* clang 14 does not know the name "f16c" */
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
	    __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}

static int
has_avx512(void)
{
	return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

/* Host memory and the panels of kernels/panel.h, the same for every CPU. */
#define CPU_MEMORY \
	.limit = limit_cpu, \
	.room = room_cpu, \
	.alloc = alloc_cpu, \
	.free = free_cpu, \
	.upload = copy_cpu, \
	.download = copy_cpu, \
	.copy = copy_cpu, \
	.copy_rows = copy_rows_cpu, \
	.zero = zero_cpu, \
	.sync = sync_cpu, \
	.visit = visit_cpu, \
	.repeat = repeat_cpu, \
	.forget = forget_cpu, \
	.weight_elements = weight_elements_cpu, \
	.weight_put = weight_put_cpu, \
	.weight_get = weight_get_cpu, \
	.quant_bytes = quant_bytes_cpu, \
	.quant_put = quant_put_cpu, \
	.bias_backward = bias_backward_cpu, \
	.embed = embed_cpu, \
	.embed_backward = embed_backward_cpu

const struct backend backend_ref = {
	.name = "ref",
	.usable = always,
	CPU_MEMORY,
	.matmul = matmul_ref,
	.matmul_dx = matmul_dx_ref,
	.matmul_dw = matmul_dw_ref,
	.norm = norm_ref,
	.norm_backward = norm_backward_ref,
	.rope = rope_ref,
	.attention = attention_ref,
	.attention_backward = attention_backward_ref,
	.kv_store = kv_store_ref,
	.attention_paged = attention_paged_ref,
	.swiglu = swiglu_ref,
	.swiglu_backward = swiglu_backward_ref,
	.gelu = gelu_ref,
	.gelu_backward = gelu_backward_ref,
	.add = add_ref,
	.dropout = dropout_ref,
	.convert = convert_ref,
	.gather = gather_ref,
	.scatter = scatter_ref,
	.loss = loss_ref,
	.policy = policy_ref,
	.logprob = logprob_ref,
	.sample = sample_ref,
	.mix = mix_ref,
	.topk = topk_ref,
	.log_softmax = log_softmax_ref,
	.adamw = adamw_ref,
	.gptq = gptq_ref,
	.sum_squares = sum_squares_ref,
};

const struct backend backend_avx2 = {
	.name = "avx2",
	.usable = has_avx2,
	CPU_MEMORY,
	.matmul = matmul_avx2,
	.matmul_dx = matmul_dx_avx2,
	.matmul_dw = matmul_dw_avx2,
	.norm = norm_avx2,
	.norm_backward = norm_backward_avx2,
	.rope = rope_avx2,
	.attention = attention_avx2,
	.attention_backward = attention_backward_avx2,
	.kv_store = kv_store_avx2,
	.attention_paged = attention_paged_avx2,
	.swiglu = swiglu_avx2,
	.swiglu_backward = swiglu_backward_avx2,
	.gelu = gelu_avx2,
	.gelu_backward = gelu_backward_avx2,
	.add = add_avx2,
	.dropout = dropout_avx2,
	.convert = convert_avx2,
	.gather = gather_avx2,
	.scatter = scatter_avx2,
	.loss = loss_avx2,
	.policy = policy_avx2,
	.logprob = logprob_avx2,
	.sample = sample_avx2,
	.mix = mix_avx2,
	.topk = topk_avx2,
	.log_softmax = log_softmax_avx2,
	.adamw = adamw_avx2,
	.gptq = gptq_avx2,
	.sum_squares = sum_squares_avx2,
};

const struct backend backend_avx512 = {
	.name = "avx512",
	.usable = has_avx512,
	CPU_MEMORY,
	.matmul = matmul_avx512,
	.matmul_dx = matmul_dx_avx512,
	.matmul_dw = matmul_dw_avx512,
	.norm = norm_avx512,
	.norm_backward = norm_backward_avx512,
	.rope = rope_avx512,
	.attention = attention_avx512,
	.attention_backward = attention_backward_avx512,
	.kv_store = kv_store_avx512,
	.attention_paged = attention_paged_avx512,
	.swiglu = swiglu_avx512,
	.swiglu_backward = swiglu_backward_avx512,
	.gelu = gelu_avx512,
	.gelu_backward = gelu_backward_avx512,
	.add = add_avx512,
	.dropout = dropout_avx512,
	.convert = convert_avx512,
	.gather = gather_avx512,
	.scatter = scatter_avx512,
	.loss = loss_avx512,
	.policy = policy_avx512,
	.logprob = logprob_avx512,
	.sample = sample_avx512,
	.mix = mix_avx512,
	.topk = topk_avx512,
	.log_softmax = log_softmax_avx512,
	.adamw = adamw_avx512,
	.gptq = gptq_avx512,
	.sum_squares = sum_squares_avx512,
};

const struct backend *const backends[] = { &backend_cuda, &backend_avx512, &backend_avx2, &backend_ref, NULL };

const struct backend *
backend_pick(const char *name)
{
	const struct backend *const *row;

	for (row = backends; *row; row++)
		if ((!name || !strcmp(name, (*row)->name)) && (*row)->usable())
			return *row;
	return NULL;
}

const char *
backend_why(const char *name)
{
	const struct backend *const *row;

	for (row = backends; *row; row++)
		if (!strcmp(name, (*row)->name))
			return (*row)->why ? (*row)->why() : "this CPU lacks it";
	return "there is no such row of kernels";
}

void *
backend_alloc(const struct backend *be, size_t n, size_t size, const char *what)
{
	size_t bytes = mem_mul(n, size);
	void *p = be->alloc(bytes);

	if (!p)
		die("no memory for %s: %zu bytes more do not fit into %zu", what, bytes, be->room());
	return p;
}
