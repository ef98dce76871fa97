#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What is in a file is held to llama.cpp's converter by the conformance kind gguf; here is what the tool says and refuses.

bats_require_minimum_version 1.5.0
load fixture

setup_file() {
	fixture "$BATS_FILE_TMPDIR/fixture"
	cd "$BATS_FILE_TMPDIR/fixture" || return
	jq '.torch_dtype = "bfloat16" | del(.dtype, .head_dim) | .hidden_size = 32 | .intermediate_size = 96' config >wide
	jq 'del(.head_dim) | .hidden_size = 8 | .intermediate_size = 8' config >narrow
	init-model -q --tokenizer model -o narrow.model narrow
	init-model -q --tokenizer model -o wide.model wide
	init-model -q -o bare wide
}

setup() {
	cp -r "$BATS_FILE_TMPDIR/fixture/." "$BATS_TEST_TMPDIR"
	cd "$BATS_TEST_TMPDIR" || return
}

size() {
	stat -c %s "$1"
}

@test "a model becomes one file, with its tokenizer" {
	run --separate-stderr export-gguf -m wide.model -o out
	[ "$status" -eq 0 ]
	[ -z "$output$stderr" ]
	[ "$(head -c 8 out | od -An -tx1 | tr -d ' ')" = 4747554603000000 ]
	for key in general.architecture qwen2.block_count tokenizer.ggml.pre tokenizer.ggml.merges blk.11.ffn_down.weight; do
		grep -aq "$key" out
	done
}

@test "types are what they say: bf16 as f16, 8 bits and a scale, and what is stored by default" {
	for type in f16 bf16 q8_0 stored; do
		export-gguf -m wide.model -t "$type" -o "out.$type"
	done
	cmp out.bf16 out.stored
	[ "$(size out.f16)" -eq "$(size out.bf16)" ]
	# per layer: q and o 32 x 32, k and v 16 x 32, gate, up and down 96 x 32; and the embedding
	matrices=$((12 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 96 * 32) + 258 * 32))
	# tensors begin at multiples of 32: 28 bytes follow those of the embedding in q8_0
	[ $(($(size out.f16) - $(size out.q8_0))) -eq $((matrices * 2 - matrices * 34 / 32 - 28)) ]
}

@test "rows that are no multiple of a block stay f16" {
	export-gguf -m narrow.model -t f16 -o out.f16
	export-gguf -m narrow.model -t q8_0 -o out.q8_0
	[ "$(size out.f16)" -eq "$(size out.q8_0)" ]
}

@test "a model without a tokenizer is written, and that is said" {
	run --separate-stderr export-gguf -m bare -o out
	[ "$status" -eq 0 ]
	[ "$stderr" = "export-gguf: 'bare' has no tokenizer: neither has 'out'" ]
	grep -aq no_vocab out
}

@test "q4_0 of a model that is not quantised is refused, and nothing is left" {
	run --separate-stderr export-gguf -m wide.model -t q4_0 -o out
	[ "$status" -eq 1 ]
	[[ $stderr == "export-gguf: 'wide.model' is not quantised"* ]]
	[ ! -e out ]
}

@test "a tokenizer that cuts text in a way without a name is refused" {
	cp -r wide.model odd
	jq '.pre_tokenizer = {type: "Sequence", pretokenizers: [{type: "Split", pattern: {Regex: "\\s+|\\S+"},
		behavior: "Isolated", invert: false}, {type: "ByteLevel", add_prefix_space: false, use_regex: false}]}' \
		wide.model/tokenizer.json >odd/tokenizer.json
	run --separate-stderr export-gguf -m odd -o out
	[ "$status" -eq 1 ]
	[[ $stderr == "export-gguf: llama.cpp has no name for the pattern"*"'odd'"* ]]
	[ ! -e out ]
	[ ! -e out.part ]
}

@test "options: a model, a file and a type that is known" {
	for arguments in '-m wide.model' '-o out' '-m wide.model -o out -t q5_1'; do
		# shellcheck disable=SC2086
		run --separate-stderr export-gguf $arguments
		[ "$status" -eq 2 ]
	done
	run --separate-stderr export-gguf -m absent -o out
	[ "$status" -eq 1 ]
	[[ $stderr == *"'absent/config.json'"* ]]
}
