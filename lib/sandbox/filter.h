/* SPDX-License-Identifier: MIT */
/*
 * filter - the system calls that a program in the sandbox may not make
 *
 * A list of what is refused, by seccomp: what makes namespaces or mounts, looks
 * into other processes, keeps memory where no limit sees it, or speaks to parts
 * of the kernel that no exercise needs. Sockets are those between processes of
 * the sandbox only. Calls fail with EPERM, as if the kernel were without them.
 */
#ifndef SANDBOX_FILTER_H
#define SANDBOX_FILTER_H

#include <linux/filter.h>
#include <stddef.h>

enum { FILTER_MAX = 160 };

/* Returns how many instructions it wrote. */
size_t filter_make(struct sock_filter program[FILTER_MAX]);

#endif
