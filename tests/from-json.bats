#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0

setup() {
	cd "$BATS_TEST_TMPDIR" || return
}

# one record with a tensor x of dtype $1 and values $2
with_x() {
	echo "{\"header\":{\"type\":\"x\",\"fields\":[{\"name\":\"x\",\"dtype\":\"$1\",\"shape\":[]$3}]}}"
	echo "{\"x\":[$2]}"
}

@test "every f16 and bf16 survives to-json and back, byte for byte" {
	while read -r type count bits bias; do
		with_x $type "$(awk -v n=$count -v b=$bits -v k=$bias 'BEGIN { for (i = 0; i < n; i++) {
			e = int(i / b); m = i % b
			printf "%s%.17g", i ? "," : "", e ? (b + m) * 2 ^ (e - 1 - k) : m * 2 ^ -k } }')" |
		    from-json >once
		to-json once | from-json | cmp - once
		[ "$(to-json --records once | jq '.x | unique | length')" = $count ]
	done <<-END
		f16 31744 1024 24
		bf16 32640 128 133
	END
}

@test "floats survive to-json and back, byte for byte" {
	values='0.1,-0.0,1e-45,3.4028234663852886e38,1e-320,0.3333333333333333,6.1e-5,5.96e-8,65504,123456.789'
	for type in f32 f64 f16 bf16; do
		for shuffle in '' ',"shuffle":true'; do
			with_x $type "$values" "$shuffle" | from-json >once
			to-json once | from-json | cmp - once
		done
	done
}

@test "NaN and infinities are strings" {
	with_x f32 '"nan","inf","-inf",1e39' | from-json | to-json --records >lines
	[ "$(cat lines)" = '{"x":["nan","inf","-inf","inf"]}' ]
}

@test "integers survive, at their limits" {
	while read -r type low high; do
		with_x $type "$low,$high" | from-json >once
		[ "$(to-json --records once)" = "{\"x\":[$low,$high]}" ]
		run -1 --separate-stderr from-json < <(with_x $type "$((low - 1))")
		[[ $stderr == *"is out of range" ]]
	done <<-END
		i8 -128 127
		u8 0 255
		i16 -32768 32767
		u16 0 65535
		i32 -2147483648 2147483647
		u32 0 4294967295
	END
}

@test "the schema says which keys are tensors, the first record how long their rows are" {
	echo '{"id":"a","ids":[1,2],"supervised":[[1,2]],"topk_ids":[[3,4,5]],"k":{"b":[1]}}' |
	    from-json -t logits | to-json >lines
	[ "$(head -1 lines | jq -c '[.header.fields[] | [.name, .dtype, .shape]]')" = \
	    '[["ids","i32",[]],["supervised","i32",[2]],["topk_ids","i32",[3]]]' ]
	[ "$(tail -1 lines | jq -c .k)" = '{"b":[1]}' ]
}

@test "a header line may leave the fields to the schema" {
	printf '%s\n' '{"header":{"type":"tokens","tokenizer":"abc"}}' '{"ids":[1],"supervised":[]}' |
	    from-json | to-json --header >header
	[ "$(jq -r .tokenizer header)" = abc ]
	[ "$(jq '.fields | length' header)" = 2 ]
}

@test "no lines are a stream of no records" {
	from-json -t tokens </dev/null | to-json --records >lines
	[ ! -s lines ]
	run -1 from-json </dev/null
	[ "$output" = "from-json: <stdin> is empty" ]
}

@test "-o names the file when it is complete" {
	echo '{"ids":[1],"supervised":[]}' | from-json -t tokens -o out
	[ "$(to-json --records out)" = '{"ids":[1],"supervised":[]}' ]
	run -1 from-json -t tokens -o broken <<<'{"ids":1'
	[ ! -e broken ] && [ ! -e broken.part ]
}

@test "a bad line is named with its file" {
	local good='{"ids":[1],"supervised":[]}' n=0
	while read -r line says; do
		printf '%s\n' "$good" "$line" >lines
		run -1 --separate-stderr from-json -t tokens lines
		echo "$line: $stderr"
		[[ $stderr == "from-json: lines, line 2: "*"$says"* ]]
		n=$((n + 1))
	done <<-'END'
		{"ids":	not JSON
		[1] not a JSON object
		{"ids":[1]} there is no 'supervised'
		{"ids":["x"],"supervised":[]} no integer
		{"ids":[1.5],"supervised":[]} no integer
		{"ids":[3000000000],"supervised":[]} out of range
		{"ids":[1],"supervised":[[1]]} a row of 1, not 2
		{"ids":[[1]],"supervised":[]} no integer
		{"ids":{},"supervised":[]} no array
	END
	[ $n = 9 ]
}

@test "misuse exits 2" {
	run -2 from-json <<<'{"ids":[1]}'
	run -1 from-json -t nothing <<<'{"ids":[1]}'
	[ "$output" = "from-json: there is no type 'nothing'" ]
}
