/* SPDX-License-Identifier: MIT */
/* attention - where the rows of packed sequences, and their keys and values, stand */
#ifndef KERNELS_ATTENTION_CUH
#define KERNELS_ATTENTION_CUH

#include "kernels/device.cuh"
#include "kernels/keep.h"
#include "kernels/page.h"

/* Numbers of one call, as kernels take them. */
struct call {
	int heads, kv_heads, d, nseq;
	float scale;
	uint64_t threshold;	/* of dropout; 0: none */
	float keep;		/* its factor of what stays */
	uint64_t seed;
	uint32_t stream;
};

static inline struct call
call_of(const struct heads *h, int nseq, const struct dropout *drop)
{
	struct call c = { h->heads, h->kv_heads, h->d, nseq, h->scale, 0, 1, 0, 0 };

	if (!keep_all(drop)) {
		c.threshold = keep_threshold(drop);
		c.keep = 1 / (1 - drop->p);
		c.seed = drop->seed;
		c.stream = drop->stream;
	}
	return c;
}

/* Two factors of dropout, of the elements `at` (even) and at + 1. */
static __device__ inline void
keep_two(float factor[2], const struct call *c, uint64_t at)
{
	const uint32_t counter[4] = { (uint32_t)(at / 4), (uint32_t)(at / 4 >> 32), c->stream, 0 };
	const uint32_t key[2] = { (uint32_t)c->seed, (uint32_t)(c->seed >> 32) };
	uint32_t words[4];

	philox(words, counter, key);
	factor[0] = (at % 4 ? words[2] : words[0]) >= c->threshold ? c->keep : 0;
	factor[1] = (at % 4 ? words[3] : words[1]) >= c->threshold ? c->keep : 0;
}

static __device__ inline float
keep_one(const struct call *c, uint64_t at)
{
	float two[2];

	keep_two(two, c, at / 2 * 2);
	return two[at % 2];
}

/* A tile of a sequence: positions from .. of the rows first .. first+n-1. */
struct tile {
	int first, n, from;
};

/*
 * Of blocks that count tiles of `size` positions: sequence s has those from offsets[s] / size + s on, which
 * are enough, and one too many at times. from >= n: nothing to do.
 */
static __device__ inline struct tile
tile_of(int block, const int *offsets, int nseq, int size)
{
	int low = 0, high = nseq - 1;

	while (low < high) {
		int middle = (low + high + 1) / 2;

		if (offsets[middle] / size + middle <= block)
			low = middle;
		else
			high = middle - 1;
	}
	return (struct tile){ offsets[low], offsets[low + 1] - offsets[low],
		(block - (offsets[low] / size + low)) * size };
}

static inline unsigned
tiles_of(const struct ragged *seq, int size)
{
	return (unsigned)(seq->m / size + seq->nseq);
}

/* Keys of a sequence among its rows of qkv. */
template<typename T>
struct packed {
	const T *k, *v;		/* of its first row, of one head */
	size_t pitch;

	__device__ const T *key(int j) const { return k + j * pitch; }
	__device__ const T *value(int j) const { return v + j * pitch; }
};

template<typename T>
static __device__ inline struct packed<T>
packed_of(const T *qkv, const struct call *c, int first, int kv_head)
{
	size_t pitch = (size_t)(c->heads + 2 * c->kv_heads) * c->d;
	const T *k = qkv + first * pitch + (size_t)(c->heads + kv_head) * c->d;

	return (struct packed<T>){ k, k + (size_t)c->kv_heads * c->d, pitch };
}

/* Keys in pages. */
template<typename T>
struct paged {
	const T *data;
	const int *pages;
	size_t page, values;	/* from a page to the next, from its keys to its values */
	int d;

	__device__ const T *
	key(int j) const
	{
		return data + pages[j / KV_PAGE] * page + (size_t)(j % KV_PAGE) * d;
	}

	__device__ const T *value(int j) const { return key(j) + values; }
};

template<typename T>
static __device__ inline struct paged<T>
paged_of(const struct kv *kv, int layer, const int *pages, int kv_head)
{
	const T *data = (const T *)kv->data + page_at(kv, layer, 0, 0, kv_head);
	size_t values = (size_t)kv->kv_heads * KV_PAGE * kv->d;

	return (struct paged<T>){ data, pages, 2 * values, values, kv->d };
}

/* More shared memory than a kernel has without asking. */
template<typename F>
static void
allow_shared(F *kernel, size_t bytes)
{
	if (bytes > 48 << 10)
		CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}

/* delta[row, head] = dout . out, by a warp each. */
template<typename T>
static __global__ void
attention_delta(float *delta, const T *dout, const T *out, size_t n, int d)
{
	size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP;
	float sum = 0;

	if (i >= n)
		return;
	for (int c = (int)threadIdx.x % WARP; c < d; c += WARP)
		sum = fmaf(up(dout[i * d + c]), up(out[i * d + c]), sum);
	sum = warp_reduce(sum, plus());
	if (threadIdx.x % WARP == 0)
		delta[i] = sum;
}

/* What any size of head takes: kernels/attention_plain.cu. */
void attention_plain(void *out, float *lse, const void *qkv, enum dtype type, const struct ragged *seq,
    const struct call *c);
void attention_plain_backward(void *dqkv, const void *dout, const float *lse, const float *delta, const void *qkv,
    enum dtype type, const struct ragged *seq, const struct call *c);
void attention_plain_paged(void *out, const void *qkv, enum dtype type, const struct kv *kv, int layer,
    const int *tables, int ntables, const int *length, int m, const struct call *c);

#endif
