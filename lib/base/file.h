/* SPDX-License-Identifier: MIT */
/*
 * file - outputs that are complete when they have their name
 *
 * A file is written as NAME.part beside NAME, flushed to the disk and renamed
 * on commit. Whatever is still open when the process exits is removed. What has
 * the name already and is no file, as a pipe or /dev/null, is written to as it
 * is. All functions die on failure and name the file.
 */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stddef.h>
#include <stdio.h>

struct file {
	FILE *f;
	char *path;		/* final name */
	char *part;		/* name while it grows */
	int in_place;		/* it is a pipe or a device */
};

struct file *file_create(const char *path);
void file_write(struct file *file, const void *data, size_t size);
void file_commit(struct file *file);		/* fsync, rename, fsync of the directory; frees file */
void file_discard(struct file *file);		/* removes what was written; frees file */

/*
 * The same for a directory: made as PATH.part, filled by the caller, then put in place of PATH. What lay there is
 * lost, so that a tool checks first: PATH is absent, empty, or has a model or a tokenizer in it.
 */
void file_check_directory(const char *path);
char *file_directory(const char *path);		/* the name to fill; freed by file_directory_commit() */
void file_directory_commit(char *part, const char *path);

void file_make_directories(const char *path);	/* mkdir -p */
void file_remove(const char *path);		/* with all that is in it; links are not followed */
char *file_join(const char *directory, const char *name);
int file_exists(const char *path);

/* A whole file in memory, NUL-terminated beyond its size; NULL and errno if it cannot be read. */
char *file_read(const char *path, size_t *size);

/*
 * A file mapped read-only; dies if it cannot be mapped. An empty file maps to a non-NULL pointer.
 * A file that is cut short meanwhile ends the process, with a message, where what it lost is read.
 */
struct map { const unsigned char *data; size_t size; };
struct map file_map(const char *path);
void file_unmap(struct map map);

/*
 * A data file of the project (templates/dolly.txt): beside the binary's directory, or in
 * ../share/pipestill of it when installed. NULL if there is none. To be freed.
 */
char *file_data(const char *name);

#endif
