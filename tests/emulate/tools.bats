#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# tools - with the CUDA row in emulation, whose memory the host cannot touch, beside the CPU's; EMULATED: where they are

bats_require_minimum_version 1.5.0
load ../train

setup_file() {
	cd "$BATS_FILE_TMPDIR" || return
	export OMP_NUM_THREADS=1
	seq 60 | jq -c '{id: "r\(.)", text: "Add \(.) and \(. * 7).", response: "It is \(. * 8).", references: ["It is \(. * 8)."]}' >all.jsonl
	train-bpe -q -n 300 --text text,response -o tokenizer all.jsonl
	echo '{"model_type":"qwen2","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,
		"head_dim":64,"intermediate_size":64,"max_position_embeddings":128,"tie_word_embeddings":true,
		"initializer_range":0.15,"dtype":"float32"}' >config.json
	echo '{"model_type":"gpt2","n_embd":32,"n_layer":2,"n_head":2,"n_positions":24,"vocab_size":61,
		"initializer_range":0.1,"torch_dtype":"float32"}' >gpt2.json
	init-model -q -s 1 --tokenizer tokenizer -o model config.json
	init-model -q -s 2 --tokenizer tokenizer -o teacher <(jq '.num_hidden_layers = 1' config.json)
	init-model -q -s 1 -o gpt2 gpt2.json
	language 0 12 | from-json >train.tokens.zst
	tokenize -q -m model --text text all.jsonl | to-json | head -n 9 |
		jq -c 'if .header then . else .supervised = [[1, (.ids | length)]] end' | from-json >texts.zst
	to-json texts.zst | jq -c 'if .header then . else .supervised = [[(.ids | length), (.ids | length)]] end' |
		from-json >prompts.zst
	rollout -q -m model -n 4 --max-tokens 8 prompts.zst | reward length=1:max=6 -m model >rewards.zst
}

setup() {
	cd "$BATS_TEST_TMPDIR" || return
	ln -s "$BATS_FILE_TMPDIR"/* .
	export OMP_NUM_THREADS=1
}

# each TOOL OPTION...: by the CPU, then in emulation, to cpu.out and gpu.out; ROW in an option is cpu, then gpu
each() {
	local tool=$1
	shift
	"$tool" -q "${@//ROW/cpu}" >cpu.out
	"$EMULATED/$tool" -q -b cuda "${@//ROW/gpu}" >gpu.out
}

# near TOLERANCE FILTER FILE: the numbers that FILTER finds in both files ROW are the same, relative to the largest
near() {
	jq -s "[.[] | $2]" "${3//ROW/cpu}" >cpu.numbers
	jq -s "[.[] | $2]" "${3//ROW/gpu}" >gpu.numbers
	jq -es --argjson allowed "$1" '. as [$a, $b] | ($a | length > 0) and ($a | length) == ($b | length) and
		(transpose | map(.[0] - .[1] | fabs) | max) <= $allowed * ($a | map(fabs) | max)' \
		cpu.numbers gpu.numbers || { paste cpu.numbers gpu.numbers | head -n 20; return 1; }
}

# records FILE: of a stream that is said to be so
records() {
	to-json --records "$1" >"$1.jsonl"
}

@test "sft" {
	each sft -m model -o ROW --lr 3e-3 --steps 2 --batch 4 --dev texts.zst texts.zst
	near 1e-4 '.loss // empty, .dev_loss // empty, .grad_norm // empty' ROW/metrics.jsonl
	each sft -m model -o ROW.bf16 --dtype bf16 --recompute --lr 3e-3 --steps 2 --batch 4 texts.zst
	near 2e-2 '.loss' ROW.bf16/metrics.jsonl
	each sft -m model -o ROW.random --dtype bf16 --stochastic --lr 3e-3 --steps 2 --batch 4 texts.zst
	near 2e-2 '.loss' ROW.random/metrics.jsonl
	# dropout is the same, and the state goes to disk
	each sft -m gpt2 -o ROW.gpt2 --lr 3e-3 --steps 2 --batch 4 --save-every 1 train.tokens.zst
	near 1e-4 '.loss' ROW.gpt2/metrics.jsonl
}

@test "teacher-logits and distill" {
	for form in hidden topk sample full; do
		each teacher-logits -m teacher --form $form texts.zst
		mv gpu.out "$form.zst"
		each distill -m model -o "ROW.$form" --teacher teacher --divergence kd --steps 1 --batch 4 "$form.zst"
		near 1e-4 '.div' "ROW.$form/metrics.jsonl"
	done
	each distill -m model -o ROW.computed --teacher teacher --divergence jsd --steps 1 --batch 4 texts.zst
	near 1e-4 '.div' ROW.computed/metrics.jsonl
}

@test "rollout" {
	each rollout -m model -n 3 --slots 7 --max-tokens 40 prompts.zst
	records cpu.out
	records gpu.out
	cmp <(jq -c '[.id, .sample, .ids]' cpu.out.jsonl) <(jq -c '[.id, .sample, .ids]' gpu.out.jsonl)
	near 1e-4 '.logp[]' ROW.out.jsonl
	each rollout -m model -n 2 --max-tokens 8 --mix 0.3 --mix-teacher teacher prompts.zst
	records cpu.out
	records gpu.out
	near 1e-4 '.teacher_logp[]' ROW.out.jsonl
}

@test "grpo-step" {
	each grpo-step -m model -o ROW --tolerance 1 --inner 2 --beta 0.1 --steps 1 rewards.zst
	near 1e-3 '.kl, .grad_norm' ROW/metrics.jsonl
}

@test "gptq and perplexity" {
	each perplexity -m model texts.zst
	near 1e-5 '.perplexity' ROW.out
	each perplexity -m model --head int8 --dtype bf16 texts.zst
	near 1e-2 '.perplexity' ROW.out
	for options in '' '--order full --asymmetric --at-once' '--dtype bf16'; do
		# shellcheck disable=SC2086
		each gptq -m model -o ROW -g 32 $options texts.zst
		# a code that differs changes those behind it
		near 0.2 '.error // empty' ROW.out
		near 0.1 '.perplexity // empty' ROW.out
		"$EMULATED/perplexity" -q -b cuda -m gpu --shard 8/8 texts.zst >read
		jq -es '(.[0] / .[1] - 1 | fabs) < 1e-2' <(jq '.perplexity // empty' gpu.out) <(jq .perplexity read)
		rm -r cpu gpu
	done
}
