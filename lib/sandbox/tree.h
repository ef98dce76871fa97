/* SPDX-License-Identifier: MIT */
/*
 * tree - what the processes of a sandbox take, all of them together
 *
 * Seen from outside through the sandbox's own /proc, which lists its processes
 * and no others, whoever their parents are.
 */
#ifndef SANDBOX_TREE_H
#define SANDBOX_TREE_H

#include <stddef.h>

struct tree {
	double cpu;		/* seconds, of ended processes too */
	double waited;		/* seconds that the program was ready and had no core */
	size_t resident;	/* bytes; pages that are shared count for each */
	size_t files;		/* in the sandbox's writable directory */
};

/* `root` is a descriptor of the sandbox's root; what has just ended counts as nothing. */
void tree_measure(int root, struct tree *t);

#endif
