/* SPDX-License-Identifier: MIT */
/*
 * repeat - work whose launches are kept as CUDA graphs
 *
 * The first time that a key comes its work is done as it is, which sizes all scratch; the second time its launches
 * are captured, and from then on they are launched together. What is kept is as old as the last free: afterwards
 * one of its pointers may be another's. Where a graph is refused, the work is done as it is.
 */
#include <limits.h>
#include <stdlib.h>

#include "kernels/device.cuh"

extern "C" {
#include "lib/base/mem.h"
}

enum { MOST = 32 };

struct step {
	uint64_t key;
	unsigned long frees;		/* there had been when its work was done as it is */
	int refused;
	cudaGraphExec_t graph;		/* NULL: not captured */
};

struct kept {
	struct step steps[MOST];
	int n, next;			/* next: the place of the next new one, once all are taken */
};

static void
drop(struct step *s)
{
	if (s->graph)
		CUDA(cudaGraphExecDestroy(s->graph));
	s->graph = NULL;
	s->refused = 0;
}

static struct step *
step_of(struct kept *k, uint64_t key)
{
	struct step *s;

	for (int i = 0; i < k->n; i++)
		if (k->steps[i].key == key)
			return &k->steps[i];
	if (k->n < MOST) {
		s = &k->steps[k->n++];
	} else {
		s = &k->steps[k->next];
		k->next = (k->next + 1) % MOST;
	}
	drop(s);
	s->key = key;
	s->frees = ULONG_MAX;
	return s;
}

static int
capture(cudaGraphExec_t *out, void (*work)(void *), void *user)
{
	cudaGraph_t graph;
	int done = cudaStreamBeginCapture(cuda_stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess;

	if (done) {
		work(user);
		done = cudaStreamEndCapture(cuda_stream, &graph) == cudaSuccess;
	}
	if (done) {
		done = cudaGraphInstantiate(out, graph, 0) == cudaSuccess;
		CUDA(cudaGraphDestroy(graph));
	}
	if (!done) {
		cudaGetLastError();
		*out = NULL;
	}
	return done;
}

void
repeat_cuda(void **kept, uint64_t key, void (*work)(void *), void *user)
{
	struct step *s;

	if (!*kept)
		*kept = mem_zero(1, sizeof(struct kept));
	s = step_of((struct kept *)*kept, key);
	if (s->frees != cuda_frees) {
		drop(s);
		work(user);
		s->frees = cuda_frees;
		return;
	}
	if (!s->graph && !s->refused)
		s->refused = !capture(&s->graph, work, user);
	if (s->graph)
		CUDA(cudaGraphLaunch(s->graph, cuda_stream));
	else
		work(user);
}

void
forget_cuda(void *kept)
{
	struct kept *k = (struct kept *)kept;

	for (int i = 0; k && i < k->n; i++)
		drop(&k->steps[i]);
	free(k);
}
