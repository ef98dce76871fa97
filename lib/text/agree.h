/* SPDX-License-Identifier: MIT */
/* agree - the ids of a stream are those of a model's tokenizer, or the program stops */
#ifndef TEXT_AGREE_H
#define TEXT_AGREE_H

#include "lib/stream/stream.h"
#include "lib/text/tokenizer.h"

/*
 * The tokenizer of a model directory; NULL when it has none, which agrees with
 * every stream, as a stream that names no tokenizer does. Dies when there is one that
 * cannot be read, or the digests differ.
 */
struct tokenizer *agree_tokenizer(const struct stream_in *in, const char *directory);

#endif
