# demo   stylise a photograph: pictures in demo/
# paper  the experiments of Johnson et al. 2016: docs/paper.md and docs/levels.md (EXPERIMENTS="sr-x4 report" for some)
# test   build and run the test suite            lint   every linter and formatter, changing nothing
# bench  time and memory against every rival, on CPU or CUDA: ONLY="loss metrics" for some, FULL=1 for all sizes (hours),
#     BUSY=2 beside two processes that take the CPU      wheels  both wheels and the sdist in dist/
# out-of-memory  the largest batch and image that fit 1, 2 and 4 GB, ours and rivals' (FULL=1, ONLY="dists batch")
# report  tables and plots of README.md and docs/, from the CSVs of bench/results
# bench-training  train on photographs with our loss and with the plain one: curves, time, memory
# bench-sharded  losses of one image on 1, 2 and 4 processes: errors, bytes, memory, and how soon a death is known
# bench-plain  memory and time of the losses in plain PyTorch, PERCEPTUAL_OPS_NATIVE=0, against eager
# bench-photograph  the style gradient of a photograph of 8000 x 8000 pixels in capped memory (an hour)
# bench-commits  time the losses against those of COMMIT, and compare their bits
# guard  what fixed small calls do, counted and compared with bench/results/guard.csv; ACCEPT=1 makes that table
# kernel-resources  registers and memory of every kernel, written to bench/results/kernel_resources.csv
# kernel-model  instructions of every main kernel, and a model of its speed: bench/results/kernel_{counts,model}.csv
# bank-conflicts  of every pattern of accesses to shared memory, written to bench/results/kernel_bank_conflicts.csv
# launches  what a call of a loss launches on a GPU, counted here, written to bench/results/launches.csv
# traffic  bytes and products of every launcher over those needed, written to bench/results/kernel_traffic.csv
# accuracy  errors of every operator and kernel beside a naive run's, written to bench/results/accuracy.csv, and of LPIPS
#     and Johnson's loss in fp32, fp16 and bf16 over photographs, written to bench/results/precision.csv
# docs   the site of docs/ in build/docs, warnings are errors      links  whether its links to other sites answer
# parity  how far losses are from the packages they stand in for, written to bench/results/parity.csv
# sanitize  the CUDA kernels executed on the CPU under ASan + UBSan and TSan
# check-wheel  what an index would say of both wheels, and a loss by each in an environment without compiler
# check-older-glibc  the compiled library on Debian 11's glibc, unpacked beside this one
# check-install  what is in dist/, installed into empty environments of PYTHONS="python3.10 python3.14", as a table
# release  the artefacts of a release in dist/, checked and installed; TAG=v1.2.3 is the real one, which a workflow makes
# check-compilers  a user's build by every compiler that is at hand, and by the CUDA toolkit on PyPI, as a table
# gpu    on a machine whose python3 has a CUDA torch: PARTS="build test bench", in 9 minutes; PARTS=quick, in 4
# clean  remove all that make made, but for .venv and the measurements of gpu
# All but gpu make .venv with pinned packages, of python3 or of PYTHON=python3.13 (3.10 to 3.14); gpu uses python3 as it
# is and needs no network.

PYTHON ?= python3
PARTS ?= build test bench
COMMIT ?= HEAD~1
TORCH ?= 2.4.1
EXPERIMENTS ?= style objective speed sr-x4-0 sr-x4-1 sr-x4-2 sr-x4 sr-x8 inversion \
    levels-1 levels-2 levels-3 levels-4 levels checks report
# A developer's warnings and spills are errors; `make build PERCEPTUAL_OPS_STRICT=0` with a compiler that has others.
export PERCEPTUAL_OPS_STRICT ?= 1
# What is tested is what is released, with the machine code for every GPU; a newcomer's picture needs that of the GPU at
# hand alone.
export PERCEPTUAL_OPS_MANYLINUX ?= 1
export PERCEPTUAL_OPS_CUDA_ARCHS ?= $(CUDA_ARCHS)
CUDA_ARCHS := all
demo: CUDA_ARCHS := native
VENV := .venv
RUN := $(VENV)/bin/python
# A Python that is asked for by name is that of .venv; else whichever .venv has will do.
ANOTHER_PYTHON := $(if $(filter file,$(origin PYTHON)),,$(shell \
    [ "$$($(PYTHON) -V)" = "$$($(RUN) -V 2>/dev/null)" ] || echo another-python))
# Two files of tests at a time; threads that wait leave their core to the other process. Skips are listed with reasons.
PYTEST := OMP_WAIT_POLICY=passive "$(CURDIR)/$(RUN)" -m pytest -rfEs -n 2 --dist loadfile --no-loadscope-reorder
# Type checkers of editors: the programs of tests/typing_cases.py, and whether every public name has a type.
PYRIGHT := PYTHONPATH="$(CURDIR)" PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) -m pyright
# Not the script in $(VENV)/bin, whose first line names where the checkout was when it was made.
CLANG_FORMAT := $(RUN) -c "from clang_format import clang_format; clang_format()"
CPP := $(shell find csrc tests/host -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo paper test test-plain test-older-torch test-cpu lint bench out-of-memory report bench-training bench-photograph bench-sharded bench-plain bench-commits guard kernel-resources kernel-model bank-conflicts launches traffic accuracy parity wheels check-wheel check-older-glibc check-install release check-compilers docs links sanitize gpu build compiled clean another-python

demo: compiled
	$(RUN) examples/demo.py

# Each goes on where it was stopped. Without apt it learns from fewer photographs.
paper: build
	examples/paper/fetch_photographs.sh || echo "what was not fetched is replaced by pictures of scikit-image"
	for experiment in $(EXPERIMENTS); do $(RUN) -m examples.paper $$experiment || exit 1; done

test: build
	$(PYTEST)

# The suite in plain PyTorch: all but the tests of the compiled file and its kernels; of the code around the library; of
# commands, trainings and what is built on losses; of files and weights; of names and modes, which are read before an
# operator runs; of drop-ins' classes beside those whose numbers are compared; and what takes minutes.
OF_THE_COMPILED_FILE := build* cuda_choice* gram_plan* host_* kernel_* launches* library_file* manylinux* native_library* sass* setup*
OF_THE_HOUSE := bench* check_* import* makefile* metadata* parity* typing* workflows*
OF_COMMANDS := cli* command_outputs* compare* examples* inversion* programs* progress* recipe_networks* train_cli* training*
OF_FILES := broken_* captured_weights* crops* damaged_models* files* heat_map* image_lists* images* malformed* metric_weights* model_files* \
    picture* state_dicts* stlpips* weights*
OF_NAMES := adaptive* architectures* compiled_calls* complaints* engine_options* network_names* settings* tf32_*
OF_DROP_INS := compat_basicsr_* compat_compiled_settings* compat_dists_* compat_door* compat_images* compat_kept* compat_lpips_* compat_missing* \
    compat_more_lpips* compat_piq_* compat_programs* compat_tiles* \
    $(addprefix compat_torchmetrics_,company* missing* states* variation*)
OF_MINUTES := large_memory* large_stylize* published_networks* sharded_*
NOT_IN_PLAIN := $(OF_THE_COMPILED_FILE) $(OF_THE_HOUSE) $(OF_COMMANDS) $(OF_FILES) $(OF_NAMES) $(OF_DROP_INS) $(OF_MINUTES)
test-plain: build
	PERCEPTUAL_OPS_NATIVE=0 $(PYTEST) $(patsubst %,--ignore-glob="tests/test_%",$(NOT_IN_PLAIN))

# The oldest torch that is served; there are wheels of it for Python 3.12 and older.
test-older-torch:
	test -x build/torch-$(TORCH)/bin/pytest || { $(PYTHON) -m venv build/torch-$(TORCH) && \
	    build/torch-$(TORCH)/bin/pip install -q torch==$(TORCH) numpy pillow pytest safetensors; }
	OMP_WAIT_POLICY=passive PYTHONPATH=. build/torch-$(TORCH)/bin/python -m pytest $(patsubst %,tests/test_%.py,plain operators activation \
	    activation_pooling l2_pool loss_scale channel_statistics lean_engine compiled_calls import clips masks image_lists \
	    metric_engine perceptual_loss tiled_losses)

# The operators of a library without its CUDA part, built beside the usual one.
test-cpu: $(VENV)/.installed
	rm -rf build/cpu && mkdir -p build/cpu
	cp -r CMakeLists.txt cmake csrc perceptual_ops pyproject.toml setup.py README.md LICENSE tests build/cpu
	cd build/cpu && rm -f perceptual_ops/_C.so && \
	    PERCEPTUAL_OPS_CUDA_ARCHS=none "$(CURDIR)/$(RUN)" setup.py -q build_ext --inplace > build.log 2>&1 || \
	    { cat build.log; exit 1; }
	cd build/cpu && $(PYTEST) tests/test_operators.py tests/test_native_library.py \
	    tests/test_perceptual_loss.py tests/test_perceptual_settings.py tests/test_activation*.py tests/test_lean_guest.py

lint: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(PYRIGHT)
	mkdir -p build && $(PYRIGHT) --ignoreexternal --verifytypes perceptual_ops > build/types.txt || \
	    { grep -A 2 "error:" build/types.txt; exit 1; }
	$(CLANG_FORMAT) --dry-run -Werror $(CPP)
	$(VENV)/bin/zizmor --offline -q .github
	$(RUN) tests/check_workflows.py

bench: build
	$(RUN) -m bench $(if $(ONLY),--only $(ONLY)) $(if $(FULL),--full) $(if $(BUSY),--busy $(BUSY))

out-of-memory: build
	$(RUN) -m bench.out_of_memory $(if $(ONLY),--only $(ONLY)) $(if $(FULL),--full)

report: build
	$(RUN) -m bench.pages

bench-training: build
	$(RUN) -m bench.training

# glibc before 2.38 leaves holes in its heap, which over a hundred tiles come to a gigabyte: large blocks are mapped alone.
bench-photograph: build
	MALLOC_MMAP_THRESHOLD_=4194304 $(RUN) -m bench.large_photograph

bench-sharded: build
	$(RUN) -m bench.sharded

bench-plain: build
	PERCEPTUAL_OPS_NATIVE=0 $(RUN) -m bench --full --only "loss 4x256" "loss 16x256" "lpips-vgg 4x256" "lpips-alex 4x256" \
	    "metrics dists 4x256" \
	    --variants "eager fp32" "lpips fp32" "DISTS_pytorch fp32" "ours fp32" "ours, chunk 4 fp32"

bench-commits: build
	$(RUN) -m bench.commits $(COMMIT)

guard: build
	$(RUN) -m bench.guard $(if $(ACCEPT),--accept)

kernel-resources: build
	$(RUN) -m bench.kernel_resources

kernel-model: build
	$(RUN) tests/kernel_model_report.py

bank-conflicts: build
	$(RUN) tests/host/bank_report.py

launches: build
	$(RUN) -m bench.launches

traffic: build
	$(RUN) tests/host/traffic_report.py

accuracy: build
	$(RUN) tests/accuracy_report.py
	$(RUN) -m bench.precision

# One for any system, in plain PyTorch, and one with the compiled library.
PACK := $(RUN) -m pip wheel -q --no-build-isolation --no-deps -w dist .
wheels: $(VENV)/.installed
	rm -rf dist
	$(RUN) setup.py -q sdist
	PERCEPTUAL_OPS_NATIVE=0 $(PACK)
	PERCEPTUAL_OPS_NATIVE=1 $(PACK)

check-wheel: wheels
	$(RUN) tests/check_wheel.py $(if $(TAG),--release)

check-older-glibc: build
	$(RUN) tests/check_older_glibc.py

check-install: $(VENV)/.installed
	$(RUN) tests/check_install.py $(if $(PYTHONS),--python $(PYTHONS))

# Publishes nothing.
release: $(VENV)/.installed
	$(RUN) tests/check_release.py --tag "$(TAG)" --address "$(ADDRESS)"
	$(MAKE) check-wheel
	$(RUN) -m twine check --strict dist/*
	$(RUN) tests/check_install.py

check-compilers: $(VENV)/.installed
	$(RUN) tests/check_compilers.py

links: $(VENV)/.docs
	PERCEPTUAL_OPS_NATIVE=0 $(RUN) -m sphinx -q -b linkcheck -d build/doctrees docs build/links

# From nothing: a page that is kept from the last build would not repeat its warnings.
docs: $(VENV)/.docs
	rm -rf build/docs build/doctrees
	PERCEPTUAL_OPS_NATIVE=0 $(RUN) -m sphinx -q -W -d build/doctrees docs build/docs

parity: build
	PYTHONPATH=. $(RUN) tests/parity_report.py

sanitize: build
	$(RUN) tests/host/sanitize.py

gpu: export PERCEPTUAL_OPS_STRICT = 0
gpu: export PERCEPTUAL_OPS_MANYLINUX = 0
gpu:
	$(PYTHON) -m bench.gpu $(PARTS)

# Ninja compiles what changed, and says so, which pip would not; the rest is a few seconds of pip.
build: $(VENV)/.installed compiled

compiled: $(VENV)/.demo
	$(RUN) setup.py -q build_ext --inplace
	$(RUN) -m pip install -q --no-build-isolation --no-deps -e .
	@$(RUN) -c "from perceptual_ops._native import native; print(native.cuda_reason or 'built for CPU and CUDA')"

# From nothing where the last attempt did not end, or with another Python; else only what changed is installed.
$(VENV)/.demo: requirements-demo.txt requirements-data.txt $(ANOTHER_PYTHON)
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and \
	    'expected Python >= 3.10, got ' + sys.version.split()[0] + ': name another one, as make PYTHON=python3.12')"
	$(PYTHON) -m venv $(if $(ANOTHER_PYTHON)$(if $(wildcard $(VENV)/.demo $(VENV)/.installed),,none),--clear) $(VENV)
	$(RUN) -m pip install -q -r requirements-demo.txt
	grep ^stlpips requirements-data.txt | $(RUN) -m pip install -q --no-deps -r /dev/stdin
	touch $@

# What developers need besides.
$(VENV)/.installed: $(VENV)/.demo requirements-dev.txt requirements-data.txt
	$(RUN) -m pip install -q -r requirements-dev.txt
	$(RUN) -m pip install -q --no-deps -r requirements-data.txt
	touch $@

# What the site of docs/ is built with.
$(VENV)/.docs: $(VENV)/.demo requirements-docs.txt
	$(RUN) -m pip install -q -r requirements-docs.txt
	touch $@

clean:
	rm -rf build dist demo *.egg-info perceptual_ops/_C.so .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
