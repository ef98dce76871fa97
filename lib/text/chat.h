/* SPDX-License-Identifier: MIT */
/*
 * chat - a conversation as the text that a chat model was trained on
 *
 * ChatML as Qwen2 and Qwen2.5 have it, with tools where their template has
 * them. There is no Jinja here: the model's chat_template is recognised by its
 * text, apart from the default system message that stands in it; one that is
 * not known is refused.
 */
#ifndef TEXT_CHAT_H
#define TEXT_CHAT_H

#include <jansson.h>

#include "lib/base/text.h"

struct chat;

/* The text of a directory's template, known here or not; NULL and the reason. To be freed. */
char *chat_template(const char *directory, size_t *n, char *why);
/* From tokenizer_config.json or chat_template.jinja of a model's directory. NULL and the reason. */
struct chat *chat_open(const char *directory, char *why);
struct chat *chat_parse(const char *chat_template, size_t n, char *why);
void chat_close(struct chat *c);

/*
 * Append `messages` (a list of {role, content}); `tools` may be NULL; `open`
 * adds the header of the assistant's next message. -1 and the reason.
 */
int chat_render(const struct chat *c, const json_t *messages, const json_t *tools, int open,
    struct text *out, char *why);

#endif
