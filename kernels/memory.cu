/* SPDX-License-Identifier: MIT */
/*
 * memory - the memory columns of the CUDA row
 *
 * Memory comes from the stream's own pool, so that neither alloc nor free waits. Uploads are copied
 * behind one another to a ring of pinned slots and go on from there while the caller does; the host
 * waits only where a slot comes round again that is still on its way.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.cuh"

extern "C" {
#include "lib/base/mem.h"
}

enum { SLOTS = 4 };
static const size_t slot_bytes = VISIT_MOST;

cudaStream_t cuda_stream;
unsigned long cuda_frees;

static cudaMemPool_t pool;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static size_t most;		/* bytes that the pool may have; 0: any */
static struct {
	char *data;
	cudaEvent_t free;
} ring[SLOTS];
static int slot;		/* that is being filled, */
static size_t used;		/* so far */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;	/* of the ring: weights are put by many threads */

/* sm_80 is the oldest that the kernels are compiled for; smaller GPUs of its kind have less shared memory. */
static const char *
problem(void)
{
	int count = 0, major = 0, shared = 0, pools = 0;
	cudaError_t rc = cudaGetDeviceCount(&count);

	if (rc != cudaSuccess || !count) {
		cudaGetLastError();
		return rc == cudaSuccess || rc == cudaErrorNoDevice ? "no GPU is visible" :
		    rc == cudaErrorInsufficientDriver ? "there is no GPU's driver, or one too old for this build" :
		    cudaGetErrorString(rc);
	}
	cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
	cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
	cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, 0);
	if (major < 8)
		return "the GPU is older than Ampere";
	if (shared < 163 << 10)
		return "the GPU has less shared memory than an A100";
	return pools ? NULL : "the driver has no memory pools";
}

const char *
why_cuda(void)
{
	static int asked;
	static const char *why;

	if (!asked)
		why = problem();
	asked = 1;
	return why;
}

int
usable_cuda(void)
{
	return !why_cuda();
}

static void
open_device(void)
{
	cudaMemPoolProps props = {};

	CUDA(cudaSetDevice(0));
	CUDA(cudaStreamCreateWithFlags(&cuda_stream, cudaStreamNonBlocking));
	props.allocType = cudaMemAllocationTypePinned;
	props.location.type = cudaMemLocationTypeDevice;
	props.maxSize = most;
	CUDA(cudaMemPoolCreate(&pool, &props));
	for (int i = 0; i < SLOTS; i++) {
		CUDA(cudaMallocHost((void **)&ring[i].data, slot_bytes));
		CUDA(cudaEventCreateWithFlags(&ring[i].free, cudaEventDisableTiming));
	}
}

void
limit_cuda(size_t bytes)
{
	most = bytes;
}

/* What is free may be taken by others before it is asked for. */
size_t
room_cuda(void)
{
	size_t unused, all;
	uint64_t given;

	if (most)
		return most;
	pthread_once(&once, open_device);
	CUDA(cudaMemGetInfo(&unused, &all));
	CUDA(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &given));
	return unused + (size_t)given;
}

void *
alloc_cuda(size_t bytes)
{
	cudaError_t rc;
	void *p;

	pthread_once(&once, open_device);
	bytes = bytes ? bytes : 1;
	rc = cudaMallocFromPoolAsync(&p, bytes, pool, cuda_stream);
	if (rc == cudaErrorMemoryAllocation || rc == cudaErrorInvalidValue) {
		cudaGetLastError();
		return NULL;
	}
	CUDA(rc);
	zero_cuda(p, bytes);
	return p;
}

void
free_cuda(void *p)
{
	if (!p)
		return;
	__atomic_fetch_add(&cuda_frees, 1, __ATOMIC_RELAXED);
	CUDA(cudaFreeAsync(p, cuda_stream));
}

/* Room in the ring for n bytes, or as many as the slot has left, `least` at least; it begins at 16 bytes. */
static char *
pinned(size_t *n, size_t least)
{
	char *data;

	if (slot_bytes - used < least) {
		CUDA(cudaEventRecord(ring[slot].free, cuda_stream));
		slot = (slot + 1) % SLOTS;
		CUDA(cudaEventSynchronize(ring[slot].free));
		used = 0;
	}
	data = ring[slot].data + used;
	*n = *n < slot_bytes - used ? *n : slot_bytes - used;
	used += (*n + 15) / 16 * 16;
	return data;
}

void
upload_cuda(void *dst, const void *src, size_t bytes)
{
	size_t done, n;

	pthread_mutex_lock(&lock);
	for (done = 0; done < bytes; done += n) {
		char *data;

		n = bytes - done;
		data = pinned(&n, 1);
		memcpy(data, (const char *)src + done, n);
		CUDA(cudaMemcpyAsync((char *)dst + done, data, n, cudaMemcpyHostToDevice, cuda_stream));
	}
	pthread_mutex_unlock(&lock);
}

void
download_cuda(void *dst, const void *src, size_t bytes)
{
	if (bytes)
		CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, cuda_stream));
	sync_cuda();
}

void
copy_cuda(void *dst, const void *src, size_t bytes)
{
	if (bytes)
		CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, cuda_stream));
}

void
zero_cuda(void *p, size_t bytes)
{
	if (bytes)
		CUDA(cudaMemsetAsync(p, 0, bytes, cuda_stream));
}

void
sync_cuda(void)
{
	CUDA(cudaStreamSynchronize(cuda_stream));
}

struct visit {
	void (*f)(void *host, size_t bytes, void *user);
	void *host;
	size_t bytes;
	void *user;
};

static void CUDART_CB
receive(void *p)
{
	struct visit *v = (struct visit *)p;

	v->f(v->host, v->bytes, v->user);
	free(v);
}

/* The slot's event comes behind the way back, so that the slot is free for others only then. */
void
visit_cuda(void *p, size_t bytes, void (*f)(void *host, size_t bytes, void *user), void *user)
{
	struct visit visit = { f, NULL, bytes, user };

	if (bytes > slot_bytes)
		die("cuda: a visit of %zu bytes", bytes);
	pthread_mutex_lock(&lock);
	visit.host = pinned(&bytes, bytes);
	if (bytes)
		CUDA(cudaMemcpyAsync(visit.host, p, bytes, cudaMemcpyDeviceToHost, cuda_stream));
	CUDA(cudaLaunchHostFunc(cuda_stream, receive, mem_copy(&visit, sizeof visit)));
	if (bytes)
		CUDA(cudaMemcpyAsync(p, visit.host, bytes, cudaMemcpyHostToDevice, cuda_stream));
	pthread_mutex_unlock(&lock);
}

void *
scratch(enum scratch purpose, size_t bytes)
{
	static struct {
		void *data;
		size_t bytes;
	} of[SCRATCH_KINDS];

	if (bytes <= of[purpose].bytes)
		return of[purpose].data;
	free_cuda(of[purpose].data);
	of[purpose].data = alloc_cuda(bytes);
	of[purpose].bytes = bytes;
	if (!of[purpose].data)
		die("cuda: no memory for %zu bytes of scratch", bytes);
	return of[purpose].data;
}
