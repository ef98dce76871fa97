#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0
load train

# A model that has learnt the language, of shapes that can be packed.
setup_file() {
	cd "$BATS_FILE_TMPDIR" || exit
	export OMP_NUM_THREADS=1
	echo '{"model_type":"qwen2","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":2,
		"num_key_value_heads":1,"head_dim":64,"intermediate_size":128,"vocab_size":61,"tie_word_embeddings":true,
		"initializer_range":0.1,"dtype":"float32"}' >config.json
	init-model -q -s 1 -o base config.json
	language 0 24 | from-json >train.tokens.zst
	language 0 160 | from-json >calibration.tokens.zst
	sft -q -m base -o run --lr 3e-3 --epochs 30 train.tokens.zst
	mv run/model student
	jq '.tie_word_embeddings = false | .vocab_size = 64' config.json >untied.json
	init-model -q -s 1 -o untied untied.json
}

setup() {
	cd "$BATS_FILE_TMPDIR" || exit
	export OMP_NUM_THREADS=1
	out=$BATS_TEST_TMPDIR/out
}

quantise() {
	gptq -q -m student -o "$out" -g 32 "$@" calibration.tokens.zst
}

kl() {
	jq -s '.[-1].kl'
}

# header FILE: what a safetensors file says of its tensors
header() {
	local size
	size=$(od -An -tu8 -N8 "$1")
	tail -c +9 "$1" | head -c "$size"
}

# zero FILE TENSOR: its bytes become 0
zero() {
	local size begin end
	size=$(od -An -tu8 -N8 "$1")
	read -r begin end < <(header "$1" | jq -r --arg name "$2" '.[$name].data_offsets | @tsv')
	head -c $((end - begin)) /dev/zero | dd of="$1" bs=1 seek=$((8 + size + begin)) conv=notrunc status=none
}

@test "each improvement is one, and all together are far better than the plain algorithm" {
	local plain signs target all
	plain=$(quantise --bits 3 --like gptq | kl)
	signs=$(quantise --bits 3 --like gptq --order static --mse 2.4 | kl)
	target=$(quantise --bits 3 --target 0.5 --positive --mse 0 | kl)
	all=$(quantise --bits 3 | kl)
	below "$signs" "$plain"
	below "$target" "$plain"
	below "$all" "$plain * 0.55"
}

@test "more bits lose less, and 8 bits next to nothing" {
	local last=1000 now bits
	for bits in 2 3 4 8; do
		now=$(quantise --bits $bits | kl)
		below "$now" "$last / 2"
		last=$now
	done
	below "$last" 1e-4
}

@test "the files are those of a GPTQ checkpoint" {
	quantise >/dev/null
	header "$out/model.safetensors" >header
	jq -e '.["model.layers.0.mlp.down_proj.qweight"] == (.["model.layers.0.mlp.down_proj.qweight"] |
		.dtype = "I32" | .shape = [16, 64]) and
		.["model.layers.0.mlp.down_proj.qzeros"].shape == [4, 8] and
		.["model.layers.0.mlp.down_proj.scales"].dtype == "F16" and
		.["model.layers.0.mlp.down_proj.scales"].shape == [4, 64] and
		.["model.layers.0.mlp.down_proj.g_idx"].shape == [128] and
		.["model.layers.0.self_attn.q_proj.bias"].dtype == "F16" and
		.["model.embed_tokens.weight"].dtype == "F32" and
		([keys[] | select(endswith("proj.weight"))] == [])' header
	jq -e '.quantization_config | .quant_method == "gptq" and .bits == 4 and .group_size == 32 and .sym and
		(.desc_act | not) and .checkpoint_format == "gptq" and .format == "gptq" and .pack_dtype == "int32"' \
		"$out/config.json"
	jq -e '.bits == 4' "$out/quantize_config.json"
	[ ! -e "$out.state" ]
	run -0 cmp <(header "$out/model.safetensors" | jq '.["model.norm.weight"].shape') <(echo '[ 64 ]' | jq .)
}

@test "a reader of the model measures what was said of it" {
	local said measured option
	for option in '' '--order full' '--asymmetric' '--bits 3' '--skip *.o_proj'; do
		# shellcheck disable=SC2086
		said=$(quantise --micro-tokens 100 $option | jq -s '.[-1].perplexity')
		measured=$(perplexity -q -m "$out" --shard 8/8 calibration.tokens.zst | jq .perplexity)
		below "($said / $measured - 1) | fabs" 2e-5
		rm -r "$out"
	done
}

@test "threads change no byte" {
	local type
	for type in f32 bf16; do
		quantise -j 1 --dtype $type >/dev/null
		mv "$out" "$out.one"
		quantise -j 2 --dtype $type >/dev/null
		cmp "$out/model.safetensors" "$out.one/model.safetensors"
		rm -r "$out" "$out.one"
	done
}

@test "killed at any moment, it goes on, and ends with the same bytes" {
	local layers
	quantise >whole
	mv "$out" "$out.whole"
	for layers in 1 8 14; do
		# the reader leaves behind so many layers, and the pipe ends the tool
		run ! bash -o pipefail -c "gptq -q -m student -o '$out' -g 32 calibration.tokens.zst | head -n $layers >part"
		[ ! -e "$out" ]
		quantise >rest 2>said
		[ "$layers" -lt 8 ] || grep -q "goes on at block [12]$" said
		cmp "$out/model.safetensors" "$out.whole/model.safetensors"
		cmp <(tail -n 1 rest) <(tail -n 1 whole)
		rm -r "$out"
	done
	# another run does not take over what this one left
	run ! bash -o pipefail -c "gptq -q -m student -o '$out' -g 32 calibration.tokens.zst | head -n 8 >part"
	quantise --bits 8 >/dev/null 2>said
	grep -q "is of another run: starting anew$" said
	[ "$(jq .bits "$out/quantize_config.json")" = 8 ]
}

@test "a single record, and a singular Hessian" {
	run -0 --separate-stderr quantise -n 1 --damp 0
	[[ ${stderr_lines[0]} == 'gptq: no record is held out: nothing will be measured' ]]
	[[ $stderr == *"'model.layers.0.mlp.down_proj' needed a damping of 0.01: its Hessian is singular"* ]]
	jq -es 'length == 14 and all(.error < 1)' <<<"$output"
}

@test "inputs that are always 0" {
	cp -r student "$BATS_TEST_TMPDIR/dead"
	zero "$BATS_TEST_TMPDIR/dead/model.safetensors" model.layers.1.post_attention_layernorm.weight
	run -0 --separate-stderr gptq -q -m "$BATS_TEST_TMPDIR/dead" -o "$out" -g 32 calibration.tokens.zst
	[[ $stderr == *"'model.layers.1.mlp.up_proj' never had an input other than 0: all its weights are 0"* ]]
	jq -es 'length == 15 and (map(select(.dead == 64)) | length) == 2' <<<"$output"
}

@test "layers are left out by name, the head is taken by option" {
	quantise --skip '*.down_proj' >/dev/null
	header "$out/model.safetensors" | jq -e 'has("model.layers.1.mlp.down_proj.weight") and
		has("model.layers.1.mlp.up_proj.qweight")'
	jq -e '.quantization_config.dynamic | keys == ["-:model.layers.0.mlp.down_proj$", "-:model.layers.1.mlp.down_proj$"]' \
		"$out/config.json"
	rm -r "$out"
	gptq -q -m untied -o "$out" -g 32 --lm-head calibration.tokens.zst | jq -es '.[-2].layer == "lm_head"'
	header "$out/model.safetensors" | jq -e '.["lm_head.qweight"].shape == [8, 64]'
	jq -e .quantization_config.lm_head "$out/config.json"
}

@test "what cannot be is refused before the work" {
	init-model -q -o "$BATS_TEST_TMPDIR/odd" <(jq '.intermediate_size = 96' config.json)
	run -1 gptq -m "$BATS_TEST_TMPDIR/odd" -o "$out" -g 32 calibration.tokens.zst
	[[ $output == "gptq: 'model.layers.0.mlp.gate_proj' has 96 outputs, no multiple of 64, which vLLM's kernels refuse;"* ]]
	run -1 quantise -g 128
	[[ $output == *"has 64 inputs, no multiple of the group of 128"* ]]
	gptq -q -m "$BATS_TEST_TMPDIR/odd" -o "$out" -g 64 --force calibration.tokens.zst >/dev/null
	rm -r "$out"
	init-model -q -o "$BATS_TEST_TMPDIR/odder" <(jq '.intermediate_size = 100' config.json)
	run -1 gptq -m "$BATS_TEST_TMPDIR/odder" -o "$out" -g 32 --force calibration.tokens.zst
	[[ $output == *"has 100 outputs and 64 inputs: codes are packed by 32 of both; --skip leaves it out" ]]
	run -2 quantise --lm-head
	[[ $output == *"the head of 'student' is its embedding"* ]]
	run -2 quantise --skip nothing
	for option in '--bits 5' '--group 0' '--damp 1' '--target 2' '--order up' '--like rtn' '--held-out 1'; do
		# shellcheck disable=SC2086
		run -2 quantise $option
	done
	[ ! -e "$out" ] && [ ! -e "$out.state" ]
	quantise >/dev/null
	run -1 gptq -m "$out" -o "$out.again" -g 32 calibration.tokens.zst
	[[ $output == "gptq: '$out' is quantised already" ]]
}

@test "a quantised model is not trained: it teaches, and its tools say so" {
	local tool
	quantise >/dev/null
	for tool in sft grpo-step 'distill --teacher student'; do
		# shellcheck disable=SC2086
		run -1 $tool -q -m "$out" -o "$out.run" train.tokens.zst
		[[ $output == *": '$out' is quantised: a model is trained before that" ]]
		[ ! -e "$out.run" ]
	done
	distill -q -m student --teacher "$out" -o "$out.run" --epochs 1 train.tokens.zst
	[ -e "$out.run/model/model.safetensors" ]
}

@test "the peak of memory is as it was said" {
	local said peak
	[ -z "${SANITIZE:-}" ] || skip 'a sanitizer has memory of its own'
	init-model -q -s 1 -o "$BATS_TEST_TMPDIR/wide" <(jq '.intermediate_size = 1024 | .hidden_size = 256' config.json)
	jq -nc '{header: {type: "tokens"}}, (range(64) | . as $i |
		{id: "\($i)", ids: [range(250) | . * ($i + 7) % 61], supervised: [[1, 250]]})' | from-json >long.tokens.zst
	/usr/bin/time -o peak -f %M gptq -m "$BATS_TEST_TMPDIR/wide" -o "$out" -g 32 long.tokens.zst >/dev/null 2>said
	said=$(sed -n 's/.*at most \(.*\) GiB/\1/p' said)
	below "$said * 1048576 * 0.7" "$(tail -n 1 peak)"
	below "$(tail -n 1 peak)" "$said * 1048576 + 30000"
}
