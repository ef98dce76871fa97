#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0

setup() {
	cd "$BATS_TEST_TMPDIR" || return
	for i in 1 2 3 4 5; do
		echo "{\"id\":\"r$i\",\"prompt\":\"é $i\",\"ids\":[$i,7],\"supervised\":[[1,2]]}"
	done >lines
	from-json -t tokens lines >stream
}

@test "a stream prints as its header and the lines it was made of" {
	[ "$(to-json stream | sed 1d)" = "$(cat lines)" ]
	[ "$(to-json stream | head -1 | jq -r .header.type)" = tokens ]
}

@test "--records leaves the header out, --text the tensors too" {
	[ "$(to-json --records <stream)" = "$(cat lines)" ]
	[ "$(to-json --text -n 1 <stream)" = '{"id":"r1","prompt":"é 1"}' ]
}

@test "--header and --history print nothing else" {
	[ "$(to-json --history stream)" = "from-json -t tokens lines" ]
	[ "$(to-json --header stream | jq -c '[.fields[].name]')" = '["ids","supervised"]' ]
	[ "$(to-json --header stream | wc -l)" = 1 ]
}

@test "-n limits, --shard divides" {
	[ "$(to-json --records -n 2 stream)" = "$(head -2 lines)" ]
	[ "$(to-json --records --shard 2/3 stream | jq -r .id | xargs)" = "r2 r5" ]
	[ "$(for i in 1 2 3; do to-json --records --shard $i/3 stream; done | sort)" = "$(cat lines)" ]
	run -2 to-json --shard 4/3 stream
}

@test "cat of two streams prints as both" {
	[ "$(cat stream stream | to-json --records)" = "$(cat lines lines)" ]
}

@test "zstd tests a stream" {
	zstd -qt <stream
}

@test "the reader in pipestill-stream(5) compiles and prints the ids" {
	awk '/^\.Bd -literal/ { p = 1; next } /^\.Ed/ { p = 0 } p' \
	    "$BATS_TEST_DIRNAME/../man/pipestill-stream.5" | sed 's/\\e/\\/g' >reader.c
	cc -std=c11 -Wall -Wextra -Werror -o reader reader.c -lzstd
	cat stream stream | ./reader >ids
	[ "$(cat ids)" = "$(for i in 1 2 3 4 5 1 2 3 4 5; do echo "$i 7"; done)" ]
	echo '{"ids":[1],"supervised":[[0,1]],"hidden":[[1,2]],"logp":[1]}' >first
	seq 3000 | sed 's/.*/{"ids":[&,1],"supervised":[],"hidden":[[3,4]],"logp":[]}/' |
	    cat first - | from-json -t logits >logits
	./reader <logits | sed 1d | cmp - <(seq 3000 | sed 's/$/ 1/')
	head -c 200 stream >cut
	run -1 ./reader <cut
}

@test "a reader that leaves early ends it" {
	seq 100000 | sed 's/.*/{"ids":[&],"supervised":[]}/' | from-json -t tokens >long
	to-json long | head -1 >/dev/null
	[ "$(to-json --records long | tail -1 | jq '.ids[0]')" = 100000 ]
}

@test "what is no stream is said to be none" {
	run -1 to-json lines
	[ "$output" = "to-json: 'lines' is not a pipestill stream" ]
	run -1 to-json absent
	[ "$output" = "to-json: cannot open 'absent': No such file or directory" ]
	run -1 to-json </dev/null
	[ "$output" = "to-json: <stdin> is empty" ]
}

@test "a full disk is noticed" {
	run -1 bash -c 'to-json stream >/dev/full'
	[ "$output" = "to-json: cannot write <stdout>: No space left on device" ]
}
