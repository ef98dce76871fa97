#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0

setup() {
	cd "$BATS_TEST_TMPDIR" || exit
	echo '{"model_type":"gpt2","n_embd":64,"n_layer":4,"n_head":4,"n_positions":32,"vocab_size":300,
		"torch_dtype":"float32"}' >gpt2.json
	echo '{"model_type":"qwen2","hidden_size":32,"num_hidden_layers":5,"num_attention_heads":4,
		"num_key_value_heads":2,"intermediate_size":80,"vocab_size":301,"tie_word_embeddings":true,
		"rms_norm_eps":1e-06,"dtype":"bfloat16"}' >qwen2.json
}

header() {
	tail -c +9 "$1/model.safetensors" | head -c "$(od -An -tu8 -N8 "$1/model.safetensors")"
}

# the bytes of one tensor
tensor() {
	local start
	start=$((8 + $(od -An -tu8 -N8 "$1/model.safetensors")))
	header "$1" | jq -r --arg n "$2" '.[$n].data_offsets | @tsv' | {
		read -r from to
		tail -c +$((1 + start + from)) "$1/model.safetensors" | head -c $((to - from))
	}
}

# mean and deviation of one f32 tensor
moments() {
	tensor "$1" "$2" | od -An -v -w4 -tf4 | awk '{ s += $1; q += $1 * $1 } END { print s / NR, sqrt(q / NR) }'
}

@test "a config and a seed make the same bytes, whatever the threads and the backend" {
	init-model -s 1 -j 1 -o a gpt2.json
	init-model -s 1 -j 2 -o b gpt2.json
	init-model -s 1 -b ref -o c gpt2.json
	init-model -s 2 -o d gpt2.json
	cmp a/model.safetensors b/model.safetensors
	cmp a/model.safetensors c/model.safetensors
	run ! cmp -s a/model.safetensors d/model.safetensors
}

@test "the weights have Transformers' names, shapes and types, a tied head none" {
	init-model -o gpt2 gpt2.json
	init-model -o qwen2 qwen2.json
	header gpt2 | jq -e '(keys | length) == 1 + 2 + 4 * 12 + 2 and
		.["transformer.h.3.attn.c_attn.weight"].shape == [64, 192] and
		.["transformer.h.0.mlp.c_proj.weight"].shape == [256, 64] and
		.["transformer.wpe.weight"] .shape == [32, 64] and .__metadata__ == {format: "pt"} and
		([.[] | .dtype // "F32"] | unique) == ["F32"]'
	header qwen2 | jq -e '(keys | length) == 1 + 1 + 5 * 12 + 1 and
		.["model.layers.4.self_attn.k_proj.weight"].shape == [16, 32] and
		.["model.layers.4.self_attn.k_proj.bias"].shape == [16] and (has("lm_head.weight") | not) and
		([.[] | .dtype // "BF16"] | unique) == ["BF16"]'
	jq -e '.dtype == "bfloat16" and .hidden_size == 32 and (has("torch_dtype") | not)' qwen2/config.json
	grep -q '"rms_norm_eps": 1e-6,' qwen2/config.json
}

@test "matrices are normal, GPT-2's residual projections smaller, norms 1 and biases 0" {
	init-model -s 3 -o m gpt2.json
	# 16384 numbers: the error of their deviation is 0.6 %, that of their mean 0.8 % of it
	moments m transformer.h.2.mlp.c_fc.weight |
		awk '{ exit !($1 ^ 2 < 0.0008 ^ 2 && ($2 / 0.02 - 1) ^ 2 < 0.03 ^ 2) }'
	moments m transformer.h.2.mlp.c_proj.weight | awk '{ exit !(($2 / 0.02 * sqrt(8) - 1) ^ 2 < 0.03 ^ 2) }'
	[ "$(moments m transformer.ln_f.weight)" = "1 1" ]
	[ "$(moments m transformer.h.0.attn.c_attn.bias)" = "0 0" ]
}

@test "a shallower copy keeps what it keeps byte for byte, and the tokenizer's files" {
	init-model -s 5 -o teacher qwen2.json
	echo '{}' >teacher/tokenizer_config.json
	init-model --from teacher --layers 0,3 -o student
	jq -e '.num_hidden_layers == 2' student/config.json
	header student | jq -e '(keys | length) == 1 + 1 + 2 * 12 + 1'
	cmp <(tensor teacher model.layers.3.mlp.down_proj.weight) \
		<(tensor student model.layers.1.mlp.down_proj.weight)
	cmp <(tensor teacher model.layers.0.input_layernorm.weight) \
		<(tensor student model.layers.0.input_layernorm.weight)
	cmp <(tensor teacher model.embed_tokens.weight) <(tensor student model.embed_tokens.weight)
	cmp teacher/tokenizer_config.json student/tokenizer_config.json
}

@test "every n-th layer is layers 0, n, 2n" {
	init-model -s 5 -o teacher qwen2.json
	init-model --from teacher --keep-every 2 -o a
	init-model --from teacher --layers 0,2,4 -o b
	cmp a/model.safetensors b/model.safetensors
}

@test "--dtype rounds, and says so in config.json" {
	init-model -s 5 -o wide gpt2.json
	init-model --from wide --keep-every 1 --dtype bf16 -o narrow
	header narrow | jq -e '[.[] | .dtype // "BF16"] | unique == ["BF16"]'
	jq -e '.torch_dtype == "bfloat16"' narrow/config.json
	init-model --from narrow --keep-every 1 -o again
	cmp narrow/model.safetensors again/model.safetensors
}

@test "the tokenizer gives the vocabulary and the end of sequence where the config has none" {
	mkdir tokenizer
	jq -n '{pre_tokenizer: {type: "ByteLevel", add_prefix_space: false}, decoder: {type: "ByteLevel"},
		model: {type: "BPE", merges: [],
			vocab: ([range(33; 127), range(161; 173), range(174; 324)] | to_entries |
				map({([.value] | implode): .key}) | add)},
		added_tokens: [{id: 256, content: "<|endoftext|>", special: true}]}' >tokenizer/tokenizer.json
	jq 'del(.vocab_size)' gpt2.json >open.json
	init-model --tokenizer tokenizer -o m open.json
	jq -e '.vocab_size == 257 and .eos_token_id == 256' m/config.json
	cmp tokenizer/tokenizer.json m/tokenizer.json
	init-model --tokenizer tokenizer --pad 128 -o padded gpt2.json
	jq -e '.vocab_size == 384' padded/config.json
	init-model --tokenizer tokenizer -o larger gpt2.json
	jq -e '.vocab_size == 300' larger/config.json
	jq '.vocab_size = 256' gpt2.json >small.json
	run -1 --separate-stderr init-model --tokenizer tokenizer -o small small.json
	[[ $stderr == *"vocab_size 256 is smaller"* ]]
	[ ! -e small ]
}

@test "--pad alone rounds the config's vocabulary up" {
	init-model --pad 128 -o m gpt2.json
	jq -e '.vocab_size == 384' m/config.json
}

@test "a model of that name is replaced as a whole" {
	mkdir m
	echo '{}' >m/config.json
	echo old >m/old
	init-model -o m gpt2.json
	[ -e m/model.safetensors ]
	[ ! -e m/old ]
	[ ! -e m.part ]
}

@test "what cannot be read is one line on stderr, and nothing is left behind" {
	jq '.activation_function = "relu"' gpt2.json >relu.json
	for bad in "relu.json" "missing.json" "--from missing --keep-every 2"; do
		# shellcheck disable=SC2086
		run -1 --separate-stderr init-model -o m $bad
		[ -z "$output" ]
		[ "${#stderr_lines[@]}" -eq 1 ]
		[ ! -e m ]
		[ ! -e m.part ]
	done
	init-model -o m gpt2.json
	run -1 --separate-stderr init-model --from m --layers 0,4 -o n
	[[ $stderr == *"no layer 4"* ]]
	truncate -s -1 m/model.safetensors
	run -1 --separate-stderr init-model --from m --layers 0 -o n
	[[ $stderr == *"model.safetensors"* ]]
	[ ! -e n ]
	[ ! -e n.part ]
}

@test "a file that cannot grow is an error, and nothing is left behind" {
	run -1 --separate-stderr bash -c 'trap "" XFSZ; ulimit -f 64; init-model -o m gpt2.json'
	[[ $stderr == *"File too large" ]]
	[ ! -e m ]
	[ ! -e m.part ]
}

@test "misuse is told apart" {
	for bad in "gpt2.json" "-o m" "-o m gpt2.json --from x --layers 0" "-o m --from x" "-o m gpt2.json --layers 0" \
		"-o m --from x --layers 0 --keep-every 2" "-o m --from x --layers 0 --pad 8" "-o m gpt2.json --pad -8" \
		"-o m gpt2.json --dtype i8" "-o m gpt2.json -b none" "-o m a b"; do
		# shellcheck disable=SC2086
		run -2 --separate-stderr init-model $bad
		[ -z "$output" ]
		[[ $stderr == *"try 'init-model --help'"* ]]
	done
	init-model -o x gpt2.json
	for list in "" 0,a 2,1 1,1 "0," 0,,1; do
		run -2 init-model --from x --layers "$list" -o m
	done
}
