/* SPDX-License-Identifier: MIT */
/*
 * fence - the program in a completion
 *
 * A fence opens with spaces, three or more backticks and an info string without
 * backticks; it closes with a line of at least as many backticks and nothing
 * else but spaces. Each line of the block loses as many leading spaces as the
 * opening line had. The first word of the info string is the language.
 */
#ifndef REWARD_FENCE_H
#define REWARD_FENCE_H

#include "lib/base/text.h"

enum language { LANGUAGE_NONE = -1, LANGUAGE_PYTHON, LANGUAGE_CPP };

enum language language_named(const char *name, size_t n);

/*
 * The last closed block in a language that is known; one without a name is in
 * `unnamed`. The block replaces what `source` holds.
 */
enum language fence_last(const char *text, size_t n, enum language unnamed, struct text *source);

#endif
