/* SPDX-License-Identifier: MIT */
#include <dlfcn.h>
#include <stdlib.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/train/ranks.h"

enum { PIECE = 1 << 20 };		/* floats between backend and network at a time */

static int
started_by_mpi(void)
{
	return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK") || getenv("PMI_RANK");
}

static void *
symbol(void *library, const char *name)
{
	void *p = dlsym(library, name);

	if (!p)
		die("%s", dlerror());
	return p;
}

void
ranks_open(struct ranks *r)
{
	void (*open)(int *rank, int *count);

	*r = (struct ranks){ .count = 1 };
	if (!started_by_mpi())
		return;
	r->mpi = dlopen("pipestill-mpi.so", RTLD_NOW | RTLD_GLOBAL);
	if (!r->mpi)
		die("mpirun started this process, which cannot share its work: %s", dlerror());
	*(void **)&open = symbol(r->mpi, "mpi_open");
	*(void **)&r->add = symbol(r->mpi, "mpi_add");
	*(void **)&r->close = symbol(r->mpi, "mpi_close");
	open(&r->rank, &r->count);
}

void
ranks_close(struct ranks *r)
{
	if (r->mpi)
		r->close();
}

void
ranks_add(const struct ranks *r, double *x, int n)
{
	if (r->count > 1)
		r->add(x, n, 1);
}

void
ranks_add_gradient(const struct ranks *r, const struct backend *be, float *x, size_t n)
{
	float *piece;
	size_t done, m;

	if (r->count == 1)
		return;
	piece = mem_alloc(PIECE * sizeof *piece);
	for (done = 0; done < n; done += m) {
		m = n - done < PIECE ? n - done : PIECE;
		be->download(piece, x + done, m * sizeof *piece);
		r->add(piece, (int)m, 0);
		be->upload(x + done, piece, m * sizeof *piece);
	}
	free(piece);
}
