# pipestill - compress language models with small tools and pipes
#
#   make               build every tool into bin/
#   make demo          train, distill and score on samples/, print the table, draw the curves
#   make test          build and run every test; make test T=tests/rouge.bats runs one file
#   make english DATA=dolly.jsonl TEACHER=dir STUDENT=dir    an experiment: see pipelines/*.mk
#   make quantise      a model in 8, 4 and 3 bits beside itself: pipelines/quantise.mk
#   make conformance   hold the tools to a kit of reference values; KIT=dir names another kit
#   make test-cuda     on a GPU: every operation against ref, the kit, the demo
#   make cot           a student that thinks is reinforced by what its programs do (pipelines/cot.mk)
#   make minillm, make seqkd    the student learns from its own replies, or from its teacher's
#   make test-emulated the CUDA kernels on the CPU, slowly: every operation against ref, and the tools
#   make bench         speed against the machine's ceilings (tests/bench/README.md)
#   make bench-cuda    the same on a GPU
#   make soak          judge COUNT=10000 programs in a row: nothing may be left, nothing may grow
#   make kill          kill a tool of each loop KILLS=100 times: the same bytes in the end
#   make fuzz          fuzz every parser of foreign bytes, TIME=600 seconds each
#   make lint          mandoc, shellcheck, cppcheck, and a clang build without warnings
#   make install       PREFIX=/usr/local DESTDIR=
#   make deps          install the missing Debian packages (demo and test do it themselves);
#                      deps-dev also those of lint and fuzz
#
# V=1 shows the commands; SANITIZE=address,undefined builds with sanitizers; NVCC= builds without
# CUDA, MPICC= without MPI; BUILD=dir moves the objects. Local settings go to config.mk.

-include config.mk

PREFIX ?= /usr/local
BUILD ?= build
BIN ?= bin
ifeq ($(origin CC),default)
CC = gcc
endif
CFLAGS ?= -O2 -g
# CUDA is built in where nvcc is, and the header of cuBLASLt beside it
NVCC ?= $(shell n=$$(realpath "$$(command -v nvcc)" 2>/dev/null) && [ -e "$${n%/bin/nvcc}/include/cublasLt.h" ] && echo "$$n")
CUDA = $(NVCC:%/bin/nvcc=%)
CUARCH ?= 80 90
MPICC ?= $(shell command -v mpicc)
KIT ?= ../shared/conformance

WARN = -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
ALL_CFLAGS = -std=c11 -D_GNU_SOURCE -I. -fPIC -fno-semantic-interposition -fopenmp -pthread -fno-asynchronous-unwind-tables $(WARN) $(CFLAGS) \
	$(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer)
ALL_LDFLAGS = -pthread -Wl,-rpath,'$$ORIGIN:$$ORIGIN/../lib/pipestill' -Wl,--as-needed $(LDFLAGS) $(if $(SANITIZE),-fsanitize=$(SANITIZE),-Wl,--gc-sections)
# Tests and benchmarks find the kernels beside the tools.
$(BUILD)/%: private ALL_LDFLAGS += -Wl,-rpath,$(abspath $(BIN))
LIBS = -fopenmp -lzstd -larchive -lpcre2-8 -lutf8proc -ljansson -lpopt -lxxhash -lm -lopenblas \
	$(if $(NVCC),$(CUDA_LIBS))
CUDA_LIBS = -L$(CUDA)/lib64 -Wl,-rpath,$(CUDA)/lib64 -lcudart_static -ldl -lrt
NVFLAGS = -O3 -std=c++17 -I. -Werror all-warnings -Xcompiler -fPIC,-Wall,-Wextra,-Wshadow,-Wno-missing-field-initializers,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics \
	$(foreach a,$(CUARCH),-gencode arch=compute_$a,code=sm_$a) \
	-gencode arch=compute_$(lastword $(CUARCH)),code=compute_$(lastword $(CUARCH))

# A kernel's file suffix says its machine; *_simd.c holds plain loops, compiled once per machine.
# Of the rest, definitions are for reading; what serves every machine is for speed, too.
PLAIN = $(patsubst %,kernels/%.c,bias dtype embed memory weight)
FLAGS_avx2 = -O3 -mavx2 -mfma -mf16c
FLAGS_avx512 = -O3 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c -mprefer-vector-width=512
FLAGS_avx512bf16 = $(FLAGS_avx512) -mavx512bf16
FLAGS_avx512vnni = $(FLAGS_avx512)
MACHINES = avx2 avx512

# MPI stays outside of the tools, which load it when mpirun starts them: lib/train/ranks.h
MPI := $(if $(MPICC),$(BIN)/pipestill-mpi.so)
TOOLS := $(patsubst bin/%.c,%,$(wildcard bin/*.c))
LIB_C := $(filter-out lib/train/mpi.c,$(wildcard lib/*/*.c)) kernels/dtype.c
SIMD_C := $(wildcard kernels/*_simd.c)
KERNEL_C := $(filter-out $(SIMD_C) kernels/dtype.c kernels/cuda_$(if $(NVCC),none,row).c,$(wildcard kernels/*.c))
KERNEL_CU := $(if $(NVCC),$(wildcard kernels/*.cu))
KERNEL_OBJ := $(KERNEL_C:%.c=$(BUILD)/%.o) $(KERNEL_CU:%=$(BUILD)/%.o) \
	$(foreach m,$(MACHINES),$(SIMD_C:%.c=$(BUILD)/%.$m.o))
LIB_OBJ := $(LIB_C:%.c=$(BUILD)/%.o) $(BUILD)/schemas.o
LIB = $(BUILD)/libpipestill.a
# Programs that compute share what is most of their code; it finds lib/base in the one that loads it.
KERNELS = $(BIN)/pipestill-kernels.so
TEST_C := $(wildcard tests/unit/*.c)
TEST_BIN := $(TEST_C:tests/unit/%.c=$(BUILD)/tests/%)

comma = ,
Q = $(if $(V),,@)
link = $(call say,LD,$@)$(1) -o $@ $(ALL_LDFLAGS) $(filter %.o,$^) -Wl,--start-group $(filter %.a %.so,$^) \
	-Wl,--end-group $(LIBS)
say = $(if $(V),,@printf '  %-6s %s\n' $(1) '$(2)';)

.DELETE_ON_ERROR:
.SUFFIXES:
.SECONDARY:
.PHONY: all test test-cuda test-emulated programs check conformance bench bench-cuda soak fuzz lint deps deps-dev install clean FORCE

all: $(TOOLS:%=$(BIN)/%) $(MPI)
	@[ -e $(BIN)/../templates ] || ln -sfn $(CURDIR)/templates $(BIN)/../templates
	@echo "built $(words $(TOOLS)) tools$(if $(NVCC),$(comma) with CUDA)"

# Stamps change only when their text does: a new flag or a lost object rebuilds what it touches.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D); echo '$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) $(LIBS)' | cmp -s - $@ || \
	echo '$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) $(LIBS)' >$@
$(BUILD)/nvflags: FORCE
	@mkdir -p $(@D); echo '$(NVCC) $(NVFLAGS)' | cmp -s - $@ || echo '$(NVCC) $(NVFLAGS)' >$@
$(BUILD)/objects: FORCE
	@mkdir -p $(@D); echo '$(LIB_OBJ) $(KERNEL_OBJ)' | cmp -s - $@ || \
	echo '$(LIB_OBJ) $(KERNEL_OBJ)' >$@

$(BIN)/%: $(BUILD)/bin/%.o $(LIB) $(KERNELS)
	@mkdir -p $(@D)
	$(call link,$(CC))
$(KERNELS): $(KERNEL_OBJ) $(BUILD)/objects
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) -shared -Wl,-soname,$(@F) -Wl,-Bsymbolic-functions -o $@ $(ALL_LDFLAGS) $(KERNEL_OBJ) $(LIBS)
$(BIN)/pipestill-mpi.so: lib/train/mpi.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,MPICC,$<)$(MPICC) -O2 -g $(WARN) -fPIC -shared -o $@ $<
$(LIB): $(LIB_OBJ) $(BUILD)/objects
	$(call say,AR,$@)rm -f $@; ar rcs $@ $(LIB_OBJ)

define compile
@mkdir -p $(@D)
$(call say,CC,$<)$(CC) $(ALL_CFLAGS) $(1) -ffunction-sections -fdata-sections -MMD -MP -c -o $@ $<
endef
$(BUILD)/%.o: %.c $(BUILD)/flags
	$(call compile,$(if $(filter $(PLAIN),$<),-O3))
$(BUILD)/%.cu.o: %.cu $(BUILD)/nvflags
	@mkdir -p $(@D)
	$(call say,NVCC,$<)$(NVCC) $(NVFLAGS) -MMD -MP -c -o $@ $<
define machine_rules
$(BUILD)/%_$(1).o: %_$(1).c $(BUILD)/flags
	$$(call compile,$(FLAGS_$(1)))
$(BUILD)/%_simd.$(1).o: %_simd.c $(BUILD)/flags
	$$(call compile,$(FLAGS_$(1)) -DROW=$(1))
endef
$(foreach m,$(MACHINES) avx512bf16 avx512vnni,$(eval $(call machine_rules,$m)))

# schemas/*.json are compiled in, as one table of names and texts
$(BUILD)/schemas.c: $(wildcard schemas/*.json)
	@mkdir -p $(@D)
	$(Q){ echo '#include "lib/stream/schema.h"'; echo 'const struct schema schemas[] = {'; \
	for f in $(sort $^); do printf '\t{ "%s",\n' "$$(basename $$f .json)"; \
	sed 's/\\/\\\\/g; s/"/\\"/g; s/^/\t"/; s/$$/\\n"/' $$f; echo '	},'; done; \
	echo '	{ NULL, NULL }'; echo '};'; } >$@
$(BUILD)/schemas.o: $(BUILD)/schemas.c $(BUILD)/flags
	$(call compile)

$(BUILD)/tests/%: $(BUILD)/tests/unit/%.o $(LIB) $(KERNELS)
	@mkdir -p $(@D)
	$(call link,$(CC))
$(BUILD)/conformance: $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/conformance/*.c)) $(LIB) $(KERNELS)
	@mkdir -p $(@D)
	$(call link,$(CC))
$(BUILD)/bench/%: $(BUILD)/tests/bench/%.o $(LIB) $(KERNELS)
	@mkdir -p $(@D)
	$(call link,$(CC))

# What is missing of the file `packages`, and what for; nothing is asked when nothing is missing.
deps: LISTS = packages
deps-dev: LISTS = packages packages-dev
deps deps-dev:
	@missing=$$(cut -d' ' -f1 $(LISTS) | while read p; do \
		dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	[ -n "$$missing" ] || exit 0; \
	echo 'installing what is missing, with apt-get:'; grep -hwF "$$missing" $(LISTS); \
	if [ "$$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi; \
	$$sudo apt-get -q update >/dev/null; \
	DEBIAN_FRONTEND=noninteractive $$sudo apt-get -qq install -y --no-install-recommends $$missing >/dev/null

# The recursion sees the headers and programs that deps has just installed.
test: deps
	@$(MAKE) --no-print-directory -j"$$(nproc)" programs
	@$(MAKE) --no-print-directory check
programs: all $(TEST_BIN) $(BUILD)/conformance
check: programs
	@PATH="$(abspath $(BIN)):$$PATH" BUILD=$(abspath $(BUILD)) KIT=$(abspath $(KIT)) tests/run $(if $(T),$(T),$(TEST_BIN) tests/*.bats $(BUILD)/conformance)
conformance: all $(BUILD)/conformance
	@PATH="$(abspath $(BIN)):$$PATH" $(BUILD)/conformance $(KIT)

# The same kernels on the CPU, thread by thread; memory of the row that the host touches is a fault.
EMULATED_O = $(patsubst %.cu,$(BUILD)/emulate/%.o,$(filter-out %/memory.cu %/library.cu,$(wildcard kernels/*.cu))) \
	$(BUILD)/emulate/emulate.o $(BUILD)/emulate/cuda_row.o
$(BUILD)/emulate/kernels/%.o: kernels/%.cu $(BUILD)/flags
	$(call emulate,-x c++)
$(BUILD)/emulate/emulate.o: tests/emulate/emulate.cpp $(BUILD)/flags
	$(call emulate)
$(BUILD)/emulate/cuda_row.o: kernels/cuda_row.c $(BUILD)/flags
	$(call compile)
define emulate
@mkdir -p $(@D)
$(call say,CXX,$<)g++ -std=c++17 -O2 -g -D_GNU_SOURCE -Wall -Wextra -Wno-missing-field-initializers -Wno-unknown-pragmas \
	-Itests/emulate -I. -MMD -MP -c -o $@ $(1) $<
endef
$(BUILD)/emulated/%: $(BUILD)/tests/unit/%.o $(EMULATED_O) $(LIB) $(KERNELS)
	@mkdir -p $(@D)
	$(call link,g++)
$(BUILD)/emulated/bin/%: $(BUILD)/bin/%.o $(EMULATED_O) $(LIB) $(KERNELS)
	@mkdir -p $(@D)
	$(call link,g++)
EMULATED = $(addprefix $(BUILD)/emulated/,kernels products gptq session)
EMULATED_BIN = $(addprefix $(BUILD)/emulated/bin/,sft distill teacher-logits rollout grpo-step gptq perplexity)
test-emulated: all $(EMULATED) $(EMULATED_BIN)
	@for t in $(EMULATED); do $$t cuda 6 >$$t.tap || { grep -v '^ok' $$t.tap; exit 1; }; tail -n 1 $$t.tap; done
	@PATH="$(abspath $(BIN)):$$PATH" EMULATED=$(abspath $(BUILD)/emulated/bin) tests/run tests/emulate/tools.bats

# Without a GPU the row is skipped by name.
test-cuda: programs
	@PATH="$(abspath $(BIN)):$$PATH" BUILD=$(abspath $(BUILD)) KIT=$(abspath $(KIT)) tests/run \
		$(addprefix $(BUILD)/tests/,kernels products gptq session gradients) $(BUILD)/conformance
	@if nvidia-smi -L >/dev/null 2>&1; then $(MAKE) demo; else echo 'skip demo: no GPU is visible'; fi

bench: all $(patsubst tests/bench/%.c,$(BUILD)/bench/%,$(wildcard tests/bench/*.c))
	@PATH="$(abspath $(BIN)):$$PATH" BUILD=$(abspath $(BUILD)) tests/bench/run

# On a GPU: kernels, training and decode beside ceilings measured in the same run; and by PyTorch where it is.
bench-cuda: $(BUILD)/bench/cuda
	@$(BUILD)/bench/cuda
	@if python3 -c 'import torch, transformers' 2>/dev/null; then python3 tests/bench/torch_steps.py; \
	else echo 'skip PyTorch: torch and transformers are not installed'; fi

COUNT ?= 10000
soak: all
	@PATH="$(abspath $(BIN)):$$PATH" tests/soak $(COUNT)

KILLS ?= 100
kill: all
	@PATH="$(abspath $(BIN)):$$PATH" KILLS=$(KILLS) bats tests/loop.bats -f 'killed and started|with a lag'

# Every parser of foreign bytes under libFuzzer with the sanitizers, TIME seconds each.
TIME ?= 600
fuzz: deps-dev
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/fuzz BIN=$(BUILD)/fuzz/bin NVCC= CC=clang \
		SANITIZE=address,undefined,fuzzer-no-link $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/*.c))
	@tests/fuzz/run $(TIME) $(BUILD)/fuzz
$(BUILD)/%: $(BUILD)/tests/fuzz/%.o $(LIB) $(KERNELS)
	$(call link,$(CC) -fsanitize=fuzzer)

# cppcheck stumbles over some C11, takes logs of 0 for errors, and loses sight of arrays that loops fill.
lint: deps-dev
	mandoc -T lint -W warning man/*.[0-9]
	shellcheck tests/run tests/soak tests/hostile/stream tests/bench/run tests/fuzz/run tests/*.bash \
		$(filter-out %.mk %.svg,$(wildcard pipelines/*)) .ci/run
	cppcheck -q --std=c11 --error-exitcode=1 --library=tests/cppcheck.cfg --enable=warning \
		$(addprefix --suppress=,internalAstError invalidFunctionArg uninitvar) -I. lib bin kernels samples tests
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/clang BIN=$(BUILD)/clang/bin NVCC= CC=clang CFLAGS='-O1 -Werror' all

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/pipestill/templates \
		$(addprefix $(DESTDIR)$(PREFIX)/share/man/man,1 5 7)
	install -s $(TOOLS:%=$(BIN)/%) $(DESTDIR)$(PREFIX)/bin
	install -Ds -t $(DESTDIR)$(PREFIX)/lib/pipestill $(KERNELS) $(MPI)
	install -m 644 templates/* $(DESTDIR)$(PREFIX)/share/pipestill/templates
	for s in 1 5 7; do install -m 644 man/*.$$s $(DESTDIR)$(PREFIX)/share/man/man$$s; done

clean:
	rm -rf $(BUILD) $(TOOLS:%=$(BIN)/%) $(BIN)/pipestill-*.so

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

# experiments first, then the stages that they share
include $(filter-out %/stages.mk,$(wildcard pipelines/*.mk)) pipelines/stages.mk
