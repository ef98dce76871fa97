/* SPDX-License-Identifier: MIT */
/* sha256 - the digest (FIPS 180-4) that the kit names data by */
#ifndef TESTS_CONFORMANCE_SHA256_H
#define TESTS_CONFORMANCE_SHA256_H

#include <stddef.h>

void sha256_hex(char hex[65], const void *data, size_t n);

#endif
