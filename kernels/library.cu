/* SPDX-License-Identifier: MIT */
/*
 * library - large products by cuBLASLt
 *
 * The library is opened by name when the first product is asked for: linked to, its half gigabyte would
 * cost every tool a tenth of a second at its start, and would have to be there on machines that have no
 * GPU. One algorithm is chosen for a shape, as for TYPICAL rows, and kept: a row's sums are then cut the
 * same way in every batch.
 */
#include <cublasLt.h>
#include <dlfcn.h>

#include "kernels/library.cuh"

extern "C" {
#include "lib/base/mem.h"
}

enum { TYPICAL = 2048 };
static const size_t workspace_bytes = 64 << 20;

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define LIBRARY "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)

#define FUNCTIONS(DO) \
	DO(cublasLtCreate) DO(cublasLtMatmul) DO(cublasLtMatmulAlgoGetHeuristic) \
	DO(cublasLtMatmulDescCreate) DO(cublasLtMatmulDescDestroy) DO(cublasLtMatmulDescSetAttribute) \
	DO(cublasLtMatrixLayoutCreate) DO(cublasLtMatrixLayoutDestroy) \
	DO(cublasLtMatmulPreferenceCreate) DO(cublasLtMatmulPreferenceDestroy) \
	DO(cublasLtMatmulPreferenceSetAttribute)

static struct {
	#define DECLARE(f) decltype(&::f) f;
	FUNCTIONS(DECLARE)
	cublasLtHandle_t handle;
} lt;

/* What an algorithm was chosen for; four bytes each, so that bytes can be compared. */
struct shape {
	enum dtype type, ctype;
	int rows, columns, inner;
	int pitch, apitch, bpitch, ta, tb;
	int bias, accumulate;
	unsigned alignment;		/* of C */
};

struct plan {
	struct shape shape;
	cublasLtMatmulAlgo_t algo;
	int found;
};

static struct plan *plans;
static int nplans, cap_plans;

/* The library's descriptions of one product. */
struct call {
	cublasLtMatmulDesc_t desc;
	cublasLtMatrixLayout_t a, b, c;
};

#define LT(call) do { \
	cublasStatus_t rc_ = (call); \
	if (rc_ != CUBLAS_STATUS_SUCCESS) \
		die("cuda: cuBLASLt fails with %d, in %s", (int)rc_, __func__); \
} while (0)

static void
open_library(void)
{
	void *so = dlopen(LIBRARY, RTLD_NOW);

	if (!so)
		die("cuda: cannot load %s", dlerror());
	#define FIND(f) \
		if (!(*(void **)&lt.f = dlsym(so, #f))) \
			die("cuda: no %s in %s", #f, LIBRARY);
	FUNCTIONS(FIND)
	LT(lt.cublasLtCreate(&lt.handle));
}

static cudaDataType_t
library_type(enum dtype type)
{
	return type == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static void
describe(struct call *call, const struct shape *s, const float *bias)
{
	const cublasOperation_t ta = s->ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb = s->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
	const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
	const cudaDataType_t f32 = CUDA_R_32F;
	uint64_t rows = (uint64_t)s->rows, columns = (uint64_t)s->columns, inner = (uint64_t)s->inner;

	LT(lt.cublasLtMatmulDescCreate(&call->desc, CUBLAS_COMPUTE_32F, f32));
	LT(lt.cublasLtMatmulDescSetAttribute(call->desc, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta));
	LT(lt.cublasLtMatmulDescSetAttribute(call->desc, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb));
	if (bias) {
		LT(lt.cublasLtMatmulDescSetAttribute(call->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
		    sizeof epilogue));
		LT(lt.cublasLtMatmulDescSetAttribute(call->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &f32, sizeof f32));
		LT(lt.cublasLtMatmulDescSetAttribute(call->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
	}
	LT(lt.cublasLtMatrixLayoutCreate(&call->a, library_type(s->type), s->ta ? inner : rows,
	    s->ta ? rows : inner, s->apitch));
	LT(lt.cublasLtMatrixLayoutCreate(&call->b, library_type(s->type), s->tb ? columns : inner,
	    s->tb ? inner : columns, s->bpitch));
	LT(lt.cublasLtMatrixLayoutCreate(&call->c, library_type(s->ctype), rows, columns, s->pitch));
}

static void
forget(struct call *call)
{
	lt.cublasLtMatmulDescDestroy(call->desc);
	lt.cublasLtMatrixLayoutDestroy(call->a);
	lt.cublasLtMatrixLayoutDestroy(call->b);
	lt.cublasLtMatrixLayoutDestroy(call->c);
}

static struct plan
choose(const struct shape *s, const float *bias)
{
	static const cublasLtMatmulPreferenceAttributes_t of[] = {
		CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
	};
	/* parts of a sum are joined in f32, not in C */
	const uint32_t wished[] = { CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 16, 16, s->alignment, s->alignment };
	cublasLtMatmulHeuristicResult_t result;
	cublasLtMatmulPreference_t wish;
	struct plan plan = {};
	struct call call;
	int n = 0;

	plan.shape = *s;
	describe(&call, s, bias);
	LT(lt.cublasLtMatmulPreferenceCreate(&wish));
	LT(lt.cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
	    sizeof workspace_bytes));
	for (int i = 0; i < 5; i++)
		LT(lt.cublasLtMatmulPreferenceSetAttribute(wish, of[i], &wished[i], sizeof wished[i]));
	if (lt.cublasLtMatmulAlgoGetHeuristic(lt.handle, call.desc, call.a, call.b, call.c, call.c, wish, 1, &result,
	    &n) == CUBLAS_STATUS_SUCCESS && n) {
		plan.algo = result.algo;
		plan.found = 1;
	}
	lt.cublasLtMatmulPreferenceDestroy(wish);
	forget(&call);
	return plan;
}

static const struct plan *
plan_of(const struct shape *s, const float *bias)
{
	int i;

	for (i = 0; i < nplans; i++)
		if (!memcmp(&plans[i].shape, s, sizeof *s))
			return &plans[i];
	if (nplans == cap_plans) {
		cap_plans = cap_plans ? 2 * cap_plans : 32;
		plans = (struct plan *)mem_grow(plans, (size_t)cap_plans, sizeof *plans);
	}
	plans[nplans] = choose(s, bias);
	return &plans[nplans++];
}

static int
run(const struct plan *plan, const struct shape *s, void *c, const void *a, const void *b, const float *bias)
{
	const float one = 1, beta = s->accumulate ? 1 : 0;
	void *workspace = scratch(SCRATCH_LIBRARY, workspace_bytes);
	struct call call;
	cublasStatus_t rc;

	describe(&call, s, bias);
	rc = lt.cublasLtMatmul(lt.handle, call.desc, &one, a, call.a, b, call.b, &beta, c, call.c, c, call.c,
	    &plan->algo, workspace, workspace_bytes, cuda_stream);
	forget(&call);
	if (rc != CUBLAS_STATUS_SUCCESS && rc != CUBLAS_STATUS_NOT_SUPPORTED && rc != CUBLAS_STATUS_INVALID_VALUE)
		die("cuda: cuBLASLt fails with %d in a product [%d, %d] of %d", (int)rc, s->rows, s->columns, s->inner);
	return rc == CUBLAS_STATUS_SUCCESS;
}

int
library_multiply(void *c, enum dtype type, int pitch, const struct operand *a, const struct operand *b, int rows,
    int columns, int inner, int summed, const float *bias, int accumulate)
{
	const struct shape actual = { a->type, type, rows, columns, inner, pitch, a->pitch, b->pitch, a->transposed,
		b->transposed, bias != NULL, accumulate, aligned(c) ? 16 : (unsigned)dtype_size(type) };
	struct shape typical = actual;
	const struct plan *plan;

	if (!lt.handle)
		open_library();
	*(summed ? &typical.inner : &typical.columns) = TYPICAL;
	plan = plan_of(&typical, bias);
	if (!plan->found)
		return 0;
	if (run(plan, &actual, c, a->data, b->data, bias))
		return 1;
	plan = plan_of(&actual, bias);
	return plan->found && run(plan, &actual, c, a->data, b->data, bias);
}
