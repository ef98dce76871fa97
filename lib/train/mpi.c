/* SPDX-License-Identifier: MIT */
/* pipestill-mpi.so: what lib/train/ranks.c needs of MPI, built where mpicc is */
#include <mpi.h>

void mpi_open(int *rank, int *count);
void mpi_add(void *x, int n, int wide);
void mpi_close(void);

void
mpi_open(int *rank, int *count)
{
	MPI_Init(NULL, NULL);
	MPI_Comm_rank(MPI_COMM_WORLD, rank);
	MPI_Comm_size(MPI_COMM_WORLD, count);
}

/* Added at one rank and sent to all: each has the same bytes. */
void
mpi_add(void *x, int n, int wide)
{
	MPI_Datatype type = wide ? MPI_DOUBLE : MPI_FLOAT;
	int rank;

	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Reduce(rank ? x : MPI_IN_PLACE, x, n, type, MPI_SUM, 0, MPI_COMM_WORLD);
	MPI_Bcast(x, n, type, 0, MPI_COMM_WORLD);
}

void
mpi_close(void)
{
	MPI_Finalize();
}
