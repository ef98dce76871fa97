/* SPDX-License-Identifier: MIT */
/*
 * output - whether a program printed what it should
 *
 * Line by line, without white space (space, \t, \r, \f, \v) at the end of each
 * line and without empty lines at the end; as many lines on both sides.
 */
#ifndef REWARD_OUTPUT_H
#define REWARD_OUTPUT_H

#include <stddef.h>

/* The first line that differs, from 1; 0 if none does. */
size_t output_differs(const char *got, size_t n, const char *want, size_t m);

#endif
