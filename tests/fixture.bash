# SPDX-License-Identifier: MIT
# fixture - what cli.bats and man.bats share: the tiny inputs of every kind, made by the tools themselves

export OMP_NUM_THREADS=1

# fixture DIRECTORY: lines, records, config, tokens, logits, rollouts, rewards; model and other, with different tokenizers;
# small.tokens and small.rollouts, of one record
fixture() {
	mkdir "$1"
	cd "$1" || return
	for i in 1 2 3 4; do
		echo "{\"id\":\"r$i\",\"text\":\"a b c $i\",\"target\":\"b c\"}"
	done >lines
	for i in 1 2; do
		echo "{\"id\":\"r$i\",\"ids\":[6$i,7],\"supervised\":[[1,2]]}"
	done >records
	echo '{"model_type":"qwen2","hidden_size":64,"num_hidden_layers":12,"num_attention_heads":2,
		"num_key_value_heads":1,"head_dim":64,"intermediate_size":64,"max_position_embeddings":32,
		"vocab_size":258,"tie_word_embeddings":true,"dtype":"float32"}' >config
	train-bpe -q -n 258 --text text -o tokenizer lines
	train-bpe -q -n 259 --text text -o tokenizer.other lines
	init-model -q --tokenizer tokenizer -o model config
	jq '.vocab_size = 259' config >config.other
	init-model -q --tokenizer tokenizer.other -o other config.other
	tokenize -q -m model --text text lines | to-json |
		jq -c 'if .header then . else .supervised = [[1, (.ids | length)]] | .target = "b c" end' | from-json >tokens
	teacher-logits -q -m model tokens >logits
	rollout -q -m model --max-tokens 3 tokens >rollouts
	reward format=1 <rollouts >rewards
	head -n 1 records | from-json -t tokens >small.tokens
	head -n 1 records | jq -c '. + {target: "a", completion: "a", logp: [-1], model_logp: [-1]}' |
		from-json -t rollouts >small.rollouts
	rm -r tokenizer tokenizer.other config.other
}
