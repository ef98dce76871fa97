#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What all tools promise: streams, messages, exit codes, files. A tool without a row here fails.

bats_require_minimum_version 1.5.0
load fixture

# the tool, what it reads (types of a stream; lines; a config; a model), what it writes, how it is called
rows=(
	'to-json         any                      text'
	'from-json       records                  stream     -t tokens'
	'tokenize        lines                    stream     -q -m model --text text'
	'tokenize        any                      text       -m model --decode'
	'train-bpe       lines                    directory  -q -o out -n 258 --text text'
	'init-model      config                   directory  -o out'
	'sft             tokens,rollouts          directory  -q -m model -o out --batch 1 --schedule constant'
	'distill         logits,tokens,rollouts   directory  -q -m model -o out --teacher model --batch 1 --schedule constant'
	'teacher-logits  tokens,rollouts          stream     -q -m model'
	'rollout         tokens                   stream     -q -m model --max-tokens 3'
	'gptq            tokens,rollouts          directory  -q -m model -o out -g 64 --held-out 0'
	'reward          rollouts,rewards         stream     format=1'
	'grpo-step       rewards                  directory  -q -m model -o out'
	'perplexity      tokens,rollouts,logits   text       -q -m model'
	'rouge           rollouts                 text'
	'export-gguf     model                    file       -m model -o out'
)
is_stream='any|*tokens*|*rollouts*|*logits*|rewards'

setup_file() {
	fixture "$BATS_FILE_TMPDIR/fixture"
}

setup() {
	shopt -s extglob
	cp -r "$BATS_FILE_TMPDIR/fixture/." "$BATS_TEST_TMPDIR"
	cd "$BATS_TEST_TMPDIR" || exit
	done=0
	set +T	# the trap of Bats before each command costs more than what is tested
}

# each CHECK [READS [WRITES]]: for every row that matches, with $tool, $call, $input and its file set
each() {
	local row arguments types
	for row in "${rows[@]}"; do
		read -r tool reads writes arguments <<<"$row"
		# shellcheck disable=SC2053
		[[ $reads == @(${2:-*}) && $writes == @(${3:-*}) ]] || continue
		echo "# $row"
		read -ra call <<<"$tool $arguments"
		types=${reads/any/tokens}
		input=${types%%,*}
		rm -rf out
		"$1"
	done
	[ $done -gt 0 ]
	echo "# $done checked"
}

# The row's call with what is given behind it; init-model takes a name, all others take stdin, too.
try() {
	local operand=()
	[ "$tool" != init-model ] || operand=(/dev/stdin)
	status=0
	"${call[@]}" "$@" "${operand[@]}" >stdout 2>stderr || status=$?
	done=$((done + 1))
}

# said STATUS GLOB: that exit status, and one line on stderr that matches behind the tool's name
said() {
	local lines
	mapfile -t lines <stderr
	# shellcheck disable=SC2053
	[[ $status == "$1" && ${#lines[@]} == 1 && ${lines[0]} == $tool:\ $2 ]] ||
		{ echo "exit $status:"; cat stderr; false; }
}

misuse() {
	local lines
	mapfile -t lines <stderr
	[[ $status == 2 && ! -s stdout && ${#lines[@]} == 2 && ${lines[1]} == "try '$tool --help'" ]] ||
		{ echo "exit $status:"; cat stderr; false; }
}

# Nothing that looks complete is left.
nothing_left() {
	[ -z "$(find . -name '*.part')" ]
	[ ! -e out/model ]
	[ ! -e out/config.json ]
	[ ! -e out/tokenizer.json ]
	[ ! -f out ]
	[ "$writes" != stream ] || ! to-json stdout >/dev/null 2>&1
}

# same A B: what two runs of a row made, but for the seconds that they took and their command lines
same() {
	if [ "$writes" = directory ]; then
		diff -r -x metrics.jsonl -x state "$1" "$2"
	elif [ "$writes" = stream ]; then
		diff <(to-json "$1" | jq -c 'del(.header.history?)') <(to-json "$2" | jq -c 'del(.header.history?)')
	else
		cmp "$1" "$2"
	fi
	[ -e "$1" ]
}

# made NAME: keep what the last run made
made() {
	[ "$status" -eq 0 ] || { cat stderr; false; }
	[ "$writes" = directory ] || mv stdout out
	rm -rf "$1"
	mv out "$1"
}

# positions SIZE [TOOL]: the reader is the same in all tools, so that TOOL is tested at every byte, the others
# at every seventh, which are not the same for each; EVERY=1 tests all at all.
positions() {
	local size=$1 first=0 step=1
	[ -n "$EVERY" ] || [ "$tool" = "${2:-to-json}" ] || { step=7 first=$((${#tool} % 7)); }
	seq $first $step $((size - 1))
}

# Its bytes as printf takes them: \x28\xb5...
escaped() {
	od -An -v -tx1 "$1" | tr -d '\n' | sed 's/ /\\x/g'
}

# --- the command line

@test "every tool has a row" {
	for source in "$BATS_TEST_DIRNAME"/../bin/*.c; do
		name=$(basename "$source" .c)
		[[ " ${rows[*]%% *} " == *" $name "* ]] || { echo "$name has none"; false; }
		done=$((done + 1))
	done
	[ $done -gt 10 ]
}

@test "--help and --version: stdout alone, exit 0" {
	check() {
		for option in --help -h --version -V; do
			"$tool" $option >stdout 2>stderr </dev/null
			[ -s stdout ]
			[ ! -s stderr ]
			done=$((done + 1))
		done
		[[ $("$tool" -V) == "$tool (pipestill) "[0-9]* ]]
		"$tool" -h | head -1 | grep -q "^Usage: $tool \[OPTION\.\.\.\]"
		[ -z "$("$tool" -h | grep -E '.{81}')" ]
	}
	each check
}

@test "help and version notice a full disk" {
	check() {
		for option in --help --version; do
			status=0
			"$tool" $option >/dev/full 2>stderr || status=$?
			said 1 '*<stdout>*: No space left on device'
			done=$((done + 1))
		done
	}
	each check
}

@test "misuse: unknown options, missing arguments, one operand too many" {
	check() {
		try --no-such-option <"$input"
		misuse
		try -@ <"$input"
		misuse
		[[ $("$tool" --help | head -1) == *...']' ]] && return
		try "$input" "$input" <"$input"
		misuse
	}
	each check
}

@test "misuse: each option that the synopsis demands" {
	check() {
		local synopsis option i
		synopsis=$("$tool" --help | sed '1!d; s/^Usage: [^ ]* \[OPTION\.\.\.\]//; s/\[[^]]*\]//g')
		for option in $(grep -oP -- '(?<![-\w])-[a-z](?![-\w])' <<<"$synopsis"); do
			call=()
			for i in $(sed "s/.* \(directory\|stream\|text\) *//; s/$option [^ ]*//" <<<"$row"); do
				call+=("$i")
			done
			call=("$tool" "${call[@]}")
			try <"$input"
			misuse
		done
	}
	each check
}

@test "misuse: numbers that are none" {
	check() {
		local option value
		for option in $("$tool" --help | grep -oE -- '--[a-z-]+=[NXKPT]\b' | sed 's/=.*//'); do
			for value in x 1x 99999999999999999999999999; do
				# a large number of kind X is one
				[[ $value != 9* || $("$tool" --help) == *"$option=N"* ]] || continue
				echo "$option $value"
				try "$option" "$value" <"$input"
				misuse
			done
		done
	}
	each check
}

@test "--memory is a size, beyond which nothing is taken" {
	check() {
		local size
		[[ $("$tool" --help) == *--memory=* ]] || return 0
		for size in x 0 -1 G 8Q 8G5; do
			try --memory "$size" <"$input"
			misuse
		done
		try --memory 1K <"$input"
		said 1 '*memory*'
		nothing_left
	}
	each check
}

@test "misuse: options without their argument" {
	check() {
		local option
		for option in $("$tool" --help | grep -oE -- '--[a-z-]+=' | tr -d =); do
			status=0
			"$tool" "$option" >stdout 2>stderr <"$input" || status=$?
			misuse
			done=$((done + 1))
		done
	}
	each check
}

# --- output

@test "a full disk" {
	check() {
		status=0
		"${call[@]}" <"$input" >/dev/full 2>stderr || status=$?
		said 1 'cannot write <stdout>: No space left on device'
		done=$((done + 1))
	}
	each check '*' 'stream|text'
}

@test "a full disk under --output" {
	unshare -rm true 2>/dev/null || skip "no file system can be mounted here"
	mkdir full
	check() {
		local options=("${call[@]:1}")
		options=("${options[@]/#out/full\/out}")
		[ "$writes" = directory ] || options+=(-o full/out)
		[ "$tool" != init-model ] || options+=("$input")
		export input
		status=0
		unshare -rm bash -c 'mount -t tmpfs -o size=4k tmpfs full || exit 99
			head -c 4096 /dev/zero >full/filler
			"$@" <"$input"
			status=$?
			find full -type f ! -name filler -printf "%p is left\n" >&2
			exit $status' - "$tool" "${options[@]}" >stdout 2>stderr || status=$?
		said 1 '*full/out*: No space left on device'
		done=$((done + 1))
	}
	each check '*' 'stream|directory'
}

@test "a reader that left" {
	mkfifo pipe
	check() {
		local reader pipe
		exec {reader}<>pipe {pipe}>pipe {reader}>&-
		status=0
		timeout 20 "${call[@]}" <"$input" >&$pipe 2>stderr || status=$?
		exec {pipe}>&-
		[ "$status" -eq 141 ] || said 1 'cannot write <stdout>: Broken pipe'
		done=$((done + 1))
	}
	each check '*' 'stream|text'
}

@test "a terminal gets no stream" {
	script -qec true /dev/null </dev/null >/dev/null 2>&1 || skip "no pseudo-terminal can be made here"
	check() {
		status=0
		script -qec "${call[*]} <$input" /dev/null </dev/null >terminal || status=$?
		tr -d '\r' <terminal >stderr
		said 1 '*refusing to write a stream to a terminal'
		done=$((done + 1))
	}
	each check '*' stream
}

@test "--output to what is no file stays what it is: a pipe, a device" {
	mkfifo pipe
	check() {
		try <"$input"
		made first
		cat pipe >second &
		try -o pipe <"$input"
		wait $!
		[ -p pipe ]
		same first second
		try -o /dev/full <"$input"
		said 1 "*: No space left on device"
		[ -c /dev/full ]
	}
	each check '*' stream
}

@test "--output to a directory, or to one of other things, is refused before any work" {
	check() {
		mkdir -p full
		echo mine >full/notes
		try -o full <"$input"
		said 1 "*'full'*"
		[ "$(ls full)" = notes ]
	}
	each check '*' stream
	check() {
		[[ $tool == @(train-bpe|init-model|gptq) ]] || return 0
		call=("${call[@]/#out/full}")
		try <"$input"
		said 1 "'full' would be replaced, and holds something else than a model"
		[ "$(ls full)" = notes ]
		call=("${call[@]/#full/full\/notes}")
		try <"$input"
		said 1 "cannot make directory 'full/notes': Not a directory"
		[ "$(cat full/notes)" = mine ]
	}
	each check '*' directory
}

@test "without stdin, stdout or stderr nothing takes their place" {
	check() {
		[[ $tool != init-model ]] || return 0
		status=0
		"${call[@]}" <&- >stdout 2>stderr || status=$?
		said 1 '*<stdin>*'
		try <"$input"
		made first
		[ "$tool" != gptq ] || return 0	# it prints a table
		[ "$writes" = directory ] || call+=(-o out)
		"${call[@]}" <"$input" >&- 2>&-
		rm -rf second
		mv out second
		same first second
	}
	each check '!(model)' 'stream|directory'
}

@test "--output is what stdout would be" {
	check() {
		try <"$input"
		made first
		try -o out <"$input"
		[ ! -s stdout ]
		mv out stdout
		made second
		same first second
		try -o absent/out <"$input"
		said 1 "*'absent/out.part': No such file or directory"
	}
	each check '*' stream
}

# --- input

@test "a file that is absent, a directory" {
	check() {
		for file in absent .; do
			status=0
			"${call[@]}" $file >stdout 2>stderr </dev/null || status=$?
			said 1 "*'$file'*"
			nothing_left
			done=$((done + 1))
		done
	}
	each check '!(model)'
}

@test "no input at all" {
	check() {
		try </dev/null
		said 1 "*<stdin> is empty"
		nothing_left
	}
	each check "$is_stream"
}

@test "a stream cut at every byte, from a pipe" {
	check() {
		local bytes
		bytes=$(escaped "small.${input/logits/tokens}")
		for i in $(positions $((${#bytes} / 4))); do
			[ "$i" -gt 0 ] || continue
			# shellcheck disable=SC2059
			try < <(printf "${bytes:0:4*i}")
			said 1 "<stdin> ends early, at byte $i"
			[ "$writes" != directory ] || [ ! -e out/model ]
		done
		nothing_left
	}
	each check "$is_stream"
}

@test "a stream with any bit flipped, from a pipe" {
	check() {
		local bytes byte
		bytes=$(escaped "small.${input/logits/tokens}")
		for i in $(positions $((${#bytes} / 4))); do
			printf -v byte '\\x%02x' $((16#${bytes:4*i+2:2} ^ 1 << i % 8))
			# shellcheck disable=SC2059
			try < <(printf "${bytes:0:4*i}$byte${bytes:4*i+4}")
			said 1 '<stdin> @(is not a pipestill stream|ends early, at byte +([0-9])|is damaged at byte +([0-9]):*)'
			[ "$writes" != directory ] || [ ! -e out/model ]
		done
		nothing_left
	}
	each check "$is_stream"
}

@test "a file cut at every byte, or with any bit flipped, where it is read at random" {
	check() {
		local bytes byte
		bytes=$(escaped "small.${input/logits/tokens}")
		for i in $(positions $((${#bytes} / 4)) sft); do
			printf -v byte '\\x%02x' $((16#${bytes:4*i+2:2} ^ 1 << i % 8))
			# shellcheck disable=SC2059
			printf "${bytes:0:4*i}" >input
			try <input
			said 1 '<stdin> *'
			# shellcheck disable=SC2059
			printf "${bytes:0:4*i}$byte${bytes:4*i+4}" >input
			try <input
			said 1 '<stdin> @(is not a pipestill stream|ends early, at byte +([0-9])|is damaged at byte +([0-9]):*)'
			[ ! -e out/model ]
		done
		nothing_left
	}
	each check "$is_stream" directory
}

@test "lines and configs cut at every byte" {
	check() {
		local text line
		text=$(head -n 2 "$input")
		for ((i = 1; i < ${#text}; i++)); do
			# a cut between lines leaves whole lines
			[ "${text:i:1}" != $'\n' ] && [ "${text:i-1:1}" != $'\n' ] || continue
			line=1
			[[ ${text:0:i} != *$'\n'* ]] || line=2
			try < <(printf %s "${text:0:i}")
			said 1 "$([ "$input" = config ] && echo "'/dev/stdin'*line [12]: *" || echo "<stdin>, line $line: *")"
			[ ! -e out ]
		done
		nothing_left
	}
	each check 'lines|records|config'
}

@test "another type of stream" {
	for schema in "$BATS_TEST_DIRNAME"/../schemas/*.json; do
		type=$(basename "$schema" .json)
		[ -e "$type" ] || echo "{\"header\":{\"type\":\"$type\"}}" | from-json >"$type"
	done
	check() {
		[ "$reads" != any ] || return 0
		for schema in "$BATS_TEST_DIRNAME"/../schemas/*.json; do
			type=$(basename "$schema" .json)
			[[ ,$reads, != *,$type,* ]] || continue
			try <"$type"
			said 1 "<stdin> carries $type, not ${reads//,/ or }"
			nothing_left
		done
	}
	each check "$is_stream"
}

@test "two streams, one behind the other, are one" {
	for type in tokens logits rollouts rewards; do
		for part in 1,3 1,1p\;4,5; do
			to-json $type | sed -n "${part}p" | from-json >"$type.$part"
		done
		to-json $type | from-json >$type.whole
		cat $type.1,3 $type.1,1p\;4,5 >$type.both
	done
	check() {
		try <$input.whole
		made first
		try <$input.both
		made second
		same first second
		try < <(cat $input.both)
		[ "$status" -eq 0 ]
	}
	each check "$is_stream"
}

@test "the same command gives the same bytes, with 1 thread or 2" {
	check() {
		try <"$input"
		made first
		try <"$input"
		made second
		same first second
		[ "$writes" = directory ] || cmp first second
		[[ $("$tool" --help) == *--threads* ]] || return 0
		for threads in 1 2; do
			try -j $threads <"$input"
			made second
			same first second
		done
	}
	each check
}

# --- models

@test "a model that is absent, empty, or cut" {
	mkdir empty
	cp -r model cut
	truncate -s -1 cut/model.safetensors
	check() {
		[[ "${call[*]}" == *" -m model"* ]] || return 0
		local usual=("${call[@]}")
		for model in absent empty cut; do
			[ $model != cut ] || [ "$tool" != tokenize ] || continue
			call=("${usual[@]/%model/$model}")
			try <"$input"
			said 1 "*'$model*'*"
			nothing_left
		done
	}
	each check
}

@test "a stream of another tokenizer" {
	check() {
		[[ "${call[*]}" == *" -m model"* ]] || return 0
		call=("${call[@]/%model/other}")
		try <"$input"
		said 1 '<stdin> was made with another tokenizer than that *'
		nothing_left
	}
	each check "$is_stream"
}
