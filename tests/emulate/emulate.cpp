/* SPDX-License-Identifier: MIT */
/* emulate - fibers, and the functions of kernels/memory.cu and kernels/library.cu without a GPU */
#include <map>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <vector>

#include "kernels/library.cuh"

extern "C" {
#include "kernels/cpu.h"
#include "lib/base/mem.h"
}

enum { MOST = 1024, STACK = 128 << 10 };

struct fetch {
	void *to;
	const void *from;
	bool there;
	int group;
};

struct fiber {
	void *sp;
	char *stack;
	bool alive;
	int turn;			/* which of the warp's two sets of words is next */
	int group;
	std::vector<struct fetch> fetches;
};

struct warp {
	struct lanes words[2];
	int arrived, alive;
	unsigned generation;
};

dim3 gridDim, blockIdx, blockDim, threadIdx;
char *launched_shared;
cudaStream_t cuda_stream;
unsigned long cuda_frees;

struct graph {
	std::vector<std::function<void()>> work;
};

static struct graph *capturing;

static struct fiber fibers[MOST];
static struct warp warps[MOST / 32];
static int nfibers, current, waiting, alive, votes, result;
static unsigned generation;
static void *scheduler;
static const std::function<void()> *body;

static void begin(void), end(void);

extern "C" void fiber_switch(void **from, void *to);
asm(".text\nfiber_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

/* To the next thread that lives. */
static void
yield(void)
{
	int from = current;

	do
		current = (current + 1) % nfibers;
	while (!fibers[current].alive);
	if (current == from)
		return;
	threadIdx.x = (unsigned)current;
	fiber_switch(&fibers[from].sp, fibers[current].sp);
	threadIdx.x = (unsigned)from;
}

static void
warp_pass(struct warp *w)
{
	w->arrived = 0;
	w->generation++;
}

static void
block_pass(void)
{
	result = votes;
	votes = waiting = 0;
	generation++;
}

const struct lanes *
warp_exchange(uint64_t mine)
{
	struct warp *w = &warps[current / 32];
	struct lanes *words = &w->words[fibers[current].turn ^= 1];
	unsigned seen = w->generation;

	words->word[current % 32] = mine;
	if (++w->arrived == w->alive)
		warp_pass(w);
	while (w->generation == seen)
		yield();
	return words;
}

int
block_or(int mine)
{
	unsigned seen = generation;

	votes |= mine;
	if (++waiting == alive)
		block_pass();
	while (generation == seen)
		yield();
	return result;
}

void
block_wait(void)
{
	block_or(0);
}

void
fetch_16(void *to, const void *from, bool there)
{
	if (((uintptr_t)to | (there ? (uintptr_t)from : 0)) % 16)
		die("emulate: a fetch that is not aligned");
	fibers[current].fetches.push_back({ to, from, there, fibers[current].group });
}

void
fetch_commit(void)
{
	fibers[current].group++;
}

void
fetch_arrive(int pending)
{
	struct fiber *f = &fibers[current];
	size_t i;

	for (i = 0; i < f->fetches.size() && f->fetches[i].group < f->group - pending; i++)
		if (f->fetches[i].there)
			memcpy(f->fetches[i].to, f->fetches[i].from, 16);
		else
			memset(f->fetches[i].to, 0, 16);
	f->fetches.erase(f->fetches.begin(), f->fetches.begin() + (long)i);
}

static void
run_thread(void)
{
	struct warp *w = &warps[current / 32];

	(*body)();
	fibers[current].alive = false;
	alive--;
	w->alive--;
	if (alive && waiting == alive)
		block_pass();
	if (w->alive && w->arrived == w->alive)
		warp_pass(w);
	if (alive)
		yield();
	fiber_switch(&fibers[current].sp, scheduler);
}

static void
run_block(unsigned threads)
{
	nfibers = alive = (int)threads;
	for (int i = 0; i < nfibers; i++) {
		struct fiber *f = &fibers[i];
		void **top;

		if (!f->stack)
			f->stack = (char *)mem_alloc(STACK);
		top = (void **)(f->stack + STACK) - 3;
		*--top = (void *)run_thread;
		for (int r = 0; r < 6; r++)
			*--top = NULL;
		f->sp = top;
		f->alive = true;
		f->turn = f->group = 0;
		f->fetches.clear();
	}
	for (int i = 0; i < nfibers; i += 32)
		warps[i / 32] = { {}, 0, nfibers - i < 32 ? nfibers - i : 32, 0 };
	current = waiting = votes = 0;
	threadIdx = dim3(0, 0, 0);
	fiber_switch(&scheduler, fibers[0].sp);
}

void
launch(dim3 grid, unsigned threads, size_t shared, const std::function<void()> &kernel)
{
	static char *memory;

	if (capturing) {
		capturing->work.push_back([=]() { launch(grid, threads, shared, kernel); });
		return;
	}
	if (!memory)
		memory = (char *)alloc_cpu(SHARED);
	if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535 || threads > MOST || shared > SHARED)
		die("emulate: a launch of %u x %u x %u blocks of %u threads with %zu bytes", grid.x, grid.y, grid.z, threads,
		    shared);
	launched_shared = memory;
	begin();
	body = &kernel;
	gridDim = grid;
	blockDim = dim3(threads);
	for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
		for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
			for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) {
				memset(memory, 0xff, shared);		/* what nobody wrote is NaN */
				run_block(threads);
			}
	end();
}

/*
 * The row's memory can be reached only while a function of the row runs, so that code which takes it for the
 * host's is found by the signal it gets. A freed block serves again for its power of two.
 */

static const size_t arena_bytes = (size_t)64 << 30;
static size_t most = arena_bytes;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *arena;
static size_t used;
static int reached;
static std::map<void *, size_t> sizes;
static std::multimap<size_t, void *> unused;

/* Of all functions that run at this time. */
static void
reach(int more)
{
	int before = reached;

	reached += more;
	if (arena && !before != !reached && mprotect(arena, used, reached ? PROT_READ | PROT_WRITE : PROT_NONE))
		die("emulate: cannot protect memory:");
}

static void
begin(void)
{
	pthread_mutex_lock(&lock);
	reach(1);
	pthread_mutex_unlock(&lock);
}

static void
end(void)
{
	pthread_mutex_lock(&lock);
	reach(-1);
	pthread_mutex_unlock(&lock);
}

/* What is not allowed while a stream is captured. */
static void
not_captured(const char *what)
{
	if (capturing)
		die("emulate: %s while a graph is captured", what);
}

static void *
take(size_t size)
{
	auto found = unused.find(size);
	char *p;

	if (found != unused.end()) {
		p = (char *)found->second;
		unused.erase(found);
		return p;
	}
	if (used + size > most)
		return NULL;
	if (!arena)
		arena = (char *)mmap(NULL, arena_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	p = arena + used;
	used += size;
	mprotect(p, size, reached ? PROT_READ | PROT_WRITE : PROT_NONE);
	return p;
}

void *
alloc_cuda(size_t bytes)
{
	size_t size = 4096;
	void *p;

	not_captured("alloc");
	while (size < bytes)
		size *= 2;
	pthread_mutex_lock(&lock);
	if (!(p = take(size))) {
		pthread_mutex_unlock(&lock);
		return NULL;
	}
	sizes[p] = size;
	reach(1);
	memset(p, 0, bytes);
	reach(-1);
	pthread_mutex_unlock(&lock);
	return p;
}

void
free_cuda(void *p)
{
	pthread_mutex_lock(&lock);
	not_captured("free");
	cuda_frees += p != NULL;
	if (p)
		unused.insert({ sizes[p], p });
	pthread_mutex_unlock(&lock);
}

void
copy_cuda(void *dst, const void *src, size_t bytes)
{
	if (capturing) {
		capturing->work.push_back([=]() { copy_cuda(dst, src, bytes); });
		return;
	}
	begin();
	memmove(dst, src, bytes);
	end();
}

void
zero_cuda(void *p, size_t bytes)
{
	if (capturing) {
		capturing->work.push_back([=]() { zero_cuda(p, bytes); });
		return;
	}
	begin();
	memset(p, 0, bytes);
	end();
}

int usable_cuda(void) { return 1; }
void limit_cuda(size_t bytes) { most = bytes ? bytes : arena_bytes; }
size_t room_cuda(void) { return most; }
const char *why_cuda(void) { return NULL; }
void sync_cuda(void) { not_captured("sync"); }

void
upload_cuda(void *dst, const void *src, size_t bytes)
{
	not_captured("upload");
	copy_cuda(dst, src, bytes);
}

void
download_cuda(void *dst, const void *src, size_t bytes)
{
	not_captured("download");
	copy_cuda(dst, src, bytes);
}

void
visit_cuda(void *p, size_t bytes, void (*f)(void *host, size_t bytes, void *user), void *user)
{
	void *host = mem_alloc(bytes);

	download_cuda(host, p, bytes);
	f(host, bytes, user);
	upload_cuda(p, host, bytes);
	free(host);
}

cudaError_t
cudaStreamBeginCapture(cudaStream_t, int)
{
	capturing = new struct graph;
	return cudaSuccess;
}

cudaError_t
cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph)
{
	*graph = capturing;
	capturing = NULL;
	return cudaSuccess;
}

cudaError_t
cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, int)
{
	*out = graph;
	return cudaSuccess;
}

cudaError_t
cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t)
{
	for (const std::function<void()> &f : graph->work)
		f();
	return cudaSuccess;
}

cudaError_t
cudaGraphExecDestroy(cudaGraphExec_t graph)
{
	delete graph;
	return cudaSuccess;
}

void *
scratch(enum scratch purpose, size_t bytes)
{
	static void *of[SCRATCH_KINDS];
	static size_t sizes[SCRATCH_KINDS];

	if (of[purpose] && bytes <= sizes[purpose])
		return of[purpose];
	free_cuda(of[purpose]);
	sizes[purpose] = bytes;
	return of[purpose] = alloc_cuda(bytes);
}

/* The column-major product of kernels/library.cuh, by its definition. */
int
library_multiply(void *c, enum dtype type, int pitch, const struct operand *a, const struct operand *b, int rows,
    int columns, int inner, int, const float *bias, int accumulate)
{
	not_captured("a product by the library");
	begin();
	for (int j = 0; j < columns; j++)
		for (int i = 0; i < rows; i++) {
			size_t at = (size_t)j * (size_t)pitch + (size_t)i;
			double sum = bias ? bias[i] : 0;

			for (int l = 0; l < inner; l++) {
				size_t left = a->transposed ? (size_t)i * (size_t)a->pitch + (size_t)l :
				    (size_t)l * (size_t)a->pitch + (size_t)i;
				size_t right = b->transposed ? (size_t)l * (size_t)b->pitch + (size_t)j :
				    (size_t)j * (size_t)b->pitch + (size_t)l;

				sum += a->type == DT_BF16 ? (double)up(((const bf16 *)a->data)[left]) *
				    (double)up(((const bf16 *)b->data)[right]) : (double)((const float *)a->data)[left] *
				    (double)((const float *)b->data)[right];
			}
			if (type == DT_BF16)
				((bf16 *)c)[at] = down<bf16>((float)(sum + (accumulate ? up(((bf16 *)c)[at]) : 0)));
			else
				((float *)c)[at] = (float)(sum + (accumulate ? ((float *)c)[at] : 0));
		}
	end();
	return 1;
}
