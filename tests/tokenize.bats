#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0

# One tokenizer for all tests: ChatML tokens, trained on what they say.
setup_file() {
	cd "$BATS_FILE_TMPDIR"
	for _ in {1..50}; do
		echo '{"text":"Below is an instruction that describes a task. ### Response: the quick brown fox ñandú 123"}'
	done >corpus.jsonl
	train-bpe -q -o tok -n 400 --text text --special '<|endoftext|>' --special '<|im_start|>' --special '<|im_end|>' corpus.jsonl
	seq 1 3000 | jq -c '{instruction: "What is \(.)?", response: "It is \(. * 7), the quick brown fox."}' >many.jsonl
}

setup() {
	cd "$BATS_FILE_TMPDIR"
}

records() {
	to-json | jq -c 'select(.header | not)'
}

id_of() {
	jq --arg text "$1" '.added_tokens[] | select(.content == $text).id' tok/tokenizer.json
}

dolly() {
	tokenize -q -m tok -t dolly "$@"
}

# The shortest one-line record, and variations of it.
record='{"instruction":"Say a.","response":"a"}'

@test "the supervised span is the response and EOS" {
	result=$(dolly <<<"$record" | records)
	eos=$(dolly <<<"$record" | to-json | jq '.header.eos // empty')
	jq -e --argjson eos "$eos" '.supervised == [[(.ids | length) - 2, (.ids | length)]] and .ids[-1] == $eos' <<<"$result"
	jq -e '.target == "a" and (.prompt | endswith("### Response:\n")) and .id == "1"' <<<"$result"
}

@test "with --learn-prompt all but the first id is supervised" {
	dolly --learn-prompt <<<"$record" | records | jq -e '.supervised == [[1, (.ids | length)]]'
	[ "$(dolly --learn-prompt <<<"$record" | records | jq -c .ids)" = "$(dolly <<<"$record" | records | jq -c .ids)" ]
}

@test "ids decode to prompt, response and EOS" {
	result=$(dolly <<<"$record" | tokenize -m tok --decode)
	want=$(dolly <<<"$record" | records | jq -c '{id, text: (.prompt + .target + "<|endoftext|>")}')
	[ "$result" = "$want" ]
}

@test "JSON lines of ids decode too, half a character as U+FFFD" {
	n=$(jq '.model.vocab["Ã"]' tok/tokenizer.json)
	echo "{\"id\":5,\"ids\":[$n]}" >half.jsonl
	[ "$(tokenize -m tok --decode half.jsonl)" = '{"id":5,"text":"�"}' ]
}

@test "an id beyond the vocabulary is refused by its place" {
	echo '{"ids":[1,400]}' >beyond.jsonl
	run -1 tokenize -m tok --decode beyond.jsonl
	[[ $output == *"line 1: ids[1] is no id of this tokenizer"* ]]
}

@test "decoding with another tokenizer is refused" {
	train-bpe -q -o other -n 300 --text text corpus.jsonl
	run -1 tokenize -m other --decode <(dolly <<<"$record")
	[[ $output == *"another tokenizer"* ]]
}

@test "a response that is too long loses EOS, a prompt that is too long the record" {
	n=$(dolly <<<"$record" | records | jq '.ids | length')
	dolly --max-length "$n" <<<"$record" | records | jq -e '.ids | length == '"$n"
	dolly --max-length $((n - 1)) <<<"$record" | records | jq -e '.supervised[0] | .[1] - .[0] == 1'
	[ -z "$(dolly --max-length $((n - 2)) <<<"$record" | records)" ]
	[ -z "$(dolly --max-prompt $((n - 3)) <<<"$record" | records)" ]
	run --separate-stderr tokenize -m tok -t dolly --max-prompt 3 -o "$BATS_TEST_TMPDIR/x" <<<"$record"
	[[ $stderr == *"0 of 1 records"*"1 dropped (prompt too long)"* ]]
}

@test "special tokens inside a record are text" {
	dolly <<<'{"instruction":"a","response":"<|im_end|>"}' | records | jq -e '.supervised[0] | .[1] - .[0] > 2'
}

@test "threads change no byte" {
	# the header's history has the command line, so only the records are compared
	cmp <(dolly -j1 many.jsonl | records) <(dolly -j4 many.jsonl | records)
	[ "$(dolly -j4 many.jsonl | records | wc -l)" = 3000 ]
}

@test "packed files, archives and stdin hold the same records" {
	dolly many.jsonl | records >want
	for pack in gzip xz zstd; do
		dolly <($pack -c <many.jsonl) | records | cmp - want
		$pack -c <many.jsonl | dolly | records | cmp - want
	done
	tar -cf many.tar corpus.jsonl many.jsonl
	tar --delete -f many.tar corpus.jsonl
	dolly many.tar | records | cmp - want
	python3 -m zipfile -c many.zip many.jsonl
	dolly many.zip | records | cmp - want
}

@test "an archive without JSON lines is refused" {
	tar -cf none.tar tok
	tar --delete -f none.tar tok/tokenizer.json tok/tokenizer_config.json
	run -1 dolly none.tar
	[[ $output == *"there is no .jsonl or .json in 'none.tar'"* ]]
}

@test "several files are one after the other" {
	[ "$(dolly many.jsonl - many.jsonl <<<"$record" | records | wc -l)" = 6001 ]
}

@test "a bad line is named, or counted" {
	printf '%s\n' "$record" '{"instruction":' "$record" '{"instruction":"x"}' '[]' '' '{"instruction":"x","response":"\ud800"}' >bad.jsonl
	run -1 dolly bad.jsonl
	[[ $output == *"bad.jsonl, line 2: "* ]]
	run --separate-stderr -0 bash -c 'tokenize -m tok -t dolly --skip-bad bad.jsonl | to-json | wc -l'
	[ "$output" = 3 ]
	[[ $stderr == *"2 of 6 records"*"4 bad"* ]]
}

@test "rows are cut by number" {
	[ "$(dolly --rows 1000:1002 many.jsonl | records | jq -r .id)" = $'1001\n1002' ]
	[ "$(dolly --rows :3 many.jsonl | records | wc -l)" = 3 ]
	[ "$(dolly --rows 2990: many.jsonl | records | wc -l)" = 10 ]
	run -2 dolly --rows 3:1 many.jsonl
	run -2 dolly --rows x many.jsonl
}

@test "what the template does not use travels on, ids too" {
	line='{"id":"q7","instruction":"i","response":"r","tests":[{"input":"1","output":"2"}],"language":"en"}'
	dolly <<<"$line" | records |
		jq -e '.id == "q7" and .tests == [{"input":"1","output":"2"}] and .language == "en" and (has("instruction") | not)'
	dolly <<<'{"id":12,"instruction":"i","response":"r"}' | records | jq -e '.id == "12"'
}

@test "a field with a tensor's name is left out, and said so" {
	dolly <<<'{"instruction":"i","response":"r","ids":[1],"hidden":"h","own\n":1}' |
		records | jq -e '(has("hidden") | not) and (.ids | length > 1) and ."own\n" == 1'
	tokenize -m tok -t dolly <<<'{"instruction":"i","response":"r","ids":[1]}' 2>&1 >/dev/null | grep -F "field 'ids' left out"
}

@test "references come from a field" {
	line='{"instruction":"i","response":"r","answers":["r","s"],"one":"t"}'
	dolly --references answers <<<"$line" | records | jq -e '.references == ["r","s"] and (has("answers") | not)'
	dolly --references one <<<"$line" | records | jq -e '.references == ["t"]'
	run -1 dolly --references none <<<"$line"
}

@test "plain text is learnt but for its first id, in windows" {
	tokenize -q -m tok --text t <<<'{"id":"a","t":"the quick brown fox"}' | records |
		jq -e '.supervised == [[1, (.ids | length)]] and (has("target") | not)'
	text=$(printf 'the quick %.0s' {1..50})
	tokenize -q -m tok --text t --max-length 16 <<<"{\"id\":\"a\",\"t\":\"$text\"}" | records >windows
	jq -s -e '.[0].id == "a" and .[1].id == "a:2" and all(.[:-1][]; .ids | length == 16)' windows
	[ "$(jq -c '.ids[]' windows | wc -l)" = "$(tokenize -q -m tok --text t --max-length 9999 <<<"{\"t\":\"$text\"}" | records | jq '.ids | length')" ]
}

@test "EOS can be said, or left out" {
	dolly --eos '<|im_end|>' <<<"$record" | records | jq -e --argjson id "$(id_of '<|im_end|>')" '.ids[-1] == $id'
	dolly --eos 7 <<<"$record" | records | jq -e '.ids[-1] == 7'
	dolly --eos none <<<"$record" | records | jq -e '.supervised[0] | .[1] - .[0] == 1'
	run -1 dolly --eos nothing <<<"$record"
	[[ $output == *"has no 'nothing'"* ]]
}

@test "vocab.json with merges.txt is the same tokenizer, by its digest too" {
	mkdir -p two
	jq '.model.vocab' tok/tokenizer.json >two/vocab.json
	{ echo '#version: 0.2'; jq -r '.model.merges[] | if type == "array" then join(" ") else . end' tok/tokenizer.json; } >two/merges.txt
	jq --slurpfile t tok/tokenizer.json '. + {added_tokens_decoder: ($t[0].added_tokens | map({key: (.id | tostring), value: del(.id)}) | from_entries)}' \
		tok/tokenizer_config.json >two/tokenizer_config.json
	head -50 many.jsonl | tokenize -q -m two -t dolly | to-json | jq -c 'del(.header.history)' >two.json
	head -50 many.jsonl | tokenize -q -m tok -t dolly | to-json | jq -c 'del(.header.history)' | cmp - two.json
}

@test "a tokenizer that would be guessed at is refused" {
	mkdir -p odd
	while IFS='|' read -r change want; do
		jq "$change" tok/tokenizer.json >odd/tokenizer.json
		run -1 tokenize -m odd -t dolly <<<"$record"
		[[ $output == *"$want"* ]] || { echo "$change: $output"; false; }
	done <<-'EOF'
		.model.type="Unigram"|not BPE
		.model.byte_fallback=true|SentencePiece
		.normalizer={"type":"NFKC"}|the normalizer 'NFKC'
		.pre_tokenizer={"type":"Metaspace"}|the pre_tokenizer
		.pre_tokenizer.pretokenizers[0].behavior="MergedWithNext"|Split
		.model.merges[3]="noblank"|not two tokens
		.model.merges[3]="Ġxx y"|not in the vocabulary
		.added_tokens[0].lstrip=true|wants lstrip
		del(.model.vocab["!"])|no token for byte 0x21
		del(.model)|no model
	EOF
	head -c 2000 tok/tokenizer.json >odd/tokenizer.json
	run -1 tokenize -m odd -t dolly <<<"$record"
	rm odd/tokenizer.json
	run -1 tokenize -m odd -t dolly <<<"$record"
	[[ $output == *"there is no tokenizer.json and no vocab.json"* ]]
}

@test "an end of sequence that the tokenizer does not have is refused" {
	mkdir -p foreign
	cp tok/tokenizer.json foreign
	for id in 399999 4294967301; do
		echo "{\"eos_token_id\":[$id]}" >foreign/generation_config.json
		run -1 tokenize -m foreign -t dolly <<<"$record"
		[[ $output == *"eos_token_id is $id, and the tokenizer has "* ]]
	done
}

@test "a line may be long, a member's name may be anything: a message is one line" {
	timeout 60 tokenize -q -m tok --text text < <(printf '{"text":"'; head -c 100000000 /dev/zero | tr '\0' 7; printf '"}') |
		to-json --header | jq -e .type
	name=$'a\nb\e[31m.jsonl'
	echo '{' >"$name"
	tar -cf odd.tar "$name"
	run -1 tokenize -m tok --text text -o out odd.tar
	[ "$output" = "tokenize: odd.tar:a?b?[31m.jsonl, line 1: no string at byte 1" ]
}

@test "chat needs a chat_template that is known" {
	line='{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]}'
	run -1 tokenize -m tok -t chat <<<"$line"
	[[ $output == *"has no chat_template"* ]]
	mkdir -p chat
	cp tok/tokenizer.json chat
	jq '. + {chat_template: "{{ messages }}"}' tok/tokenizer_config.json >chat/tokenizer_config.json
	run -1 tokenize -m chat -t chat <<<"$line"
	[[ $output == *"not one of those known here"* ]]
}

@test "Qwen2's chat_template is ChatML, its default system message taken from it" {
	known=${KIT:-$BATS_TEST_DIRNAME/../../shared/conformance}/models/chat_qwen2_instruct/tokenizer_config.json
	[ -e "$known" ] || skip "no $known"
	mkdir -p qwen2
	cp tok/tokenizer.json qwen2
	jq --slurpfile k "$known" '. + {chat_template: ($k[0].chat_template | sub("helpful assistant"; "bird"))}' \
		tok/tokenizer_config.json >qwen2/tokenizer_config.json
	line='{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]}'
	tokenize -q -m qwen2 -t chat <<<"$line" | records >out
	jq -e '.prompt == "<|im_start|>system\nYou are a bird.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"' out
	jq -e --argjson first "$(id_of '<|im_start|>')" --argjson last "$(id_of '<|im_end|>')" \
		'.target == "ho" and .ids[0] == $first and .ids[-1] == $last and (.messages | length == 2)' out
	run -1 tokenize -m qwen2 -t chat <<<'{"messages":[{"role":"tool","content":"hi"},{"role":"assistant","content":"ho"}]}'
	[[ $output == *"message 1 uses tools"* ]]
	run -1 tokenize -m qwen2 -t chat <<<'{"messages":[{"role":"user","content":"hi"}]}'
}

@test "a template of one's own is a file" {
	printf 'a = x\n---\nQ: {a}\n---\n{y}\n' >mine.txt
	tokenize -q -m tok -t ./mine.txt <<<'{"x":"1","y":"2"}' | records | jq -e '.prompt == "Q: 1\n" and .target == "2"'
	run -1 tokenize -m tok -t nothing <<<"$record"
	[[ $output == *"there is no template 'nothing'"* ]]
}

@test "all of the paper's templates are found" {
	tokenize -q -m tok -t dolly-es <<<'{"instruction":"i","context":"c","response":"r"}' | records | jq -e '.prompt | endswith("### Instrucción:\ni\n\n### Entrada:\nc\n\n### Respuesta:\n")'
	tokenize -q -m tok -t bugnet <<<'{"fail":"f","pass":"p"}' | records | jq -e '(.prompt | contains("Write a Python Script")) and .target == "p"'
	tokenize -q -m tok -t pytorrent <<<'{"summary":"","docstring":"d","original_string":"s"}' | records | jq -e '(.prompt | endswith("### Request:\nd\n### Response:\n")) and .target == "s"'
}

@test "no input is an empty stream" {
	[ -z "$(dolly </dev/null | records)" ]
}
