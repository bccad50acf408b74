# One command for each job, the same here and in continuous integration. `make` lists them.

CARGO ?= cargo
TARGET ?= $(or $(CARGO_TARGET_DIR),target)
# One set of features for every call, so that nothing is built twice.
FLAGS = --locked --workspace --features vmkpi/command

FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600

.PHONY: help demo build release static deb test soak screenshot lab fmt lint fuzz bench bench-peers bench-migration clean

help: ## What there is to make
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile | expand -t 24

demo: ## Install what is missing, build, run the whole chain on this machine
	@tools/setup.sh demo
	$(CARGO) build $(FLAGS)
	@exec $(TARGET)/debug/vmkpi demo

build: ## Build the three programs for development
	$(CARGO) build $(FLAGS)

release: ## Build the three programs as they are shipped
	$(CARGO) build --release --locked -p vmkpi --features command
	$(CARGO) build --release --locked -p vmkpi-guest
	$(CARGO) build --release --locked -p vmkpi-host
	@tools/check-release.sh $(TARGET)/release/vmkpi-guest

# The C in it (SQLite, ring) is compiled by musl-tools' compiler.
static: MUSL = $(shell uname -m)-unknown-linux-musl
static: ## The guest as one static binary, for images of any distribution
	@tools/setup.sh static
	rustup target add $(MUSL)
	CC_$(subst -,_,$(MUSL))=musl-gcc $(CARGO) build --release --locked -p vmkpi-guest --target $(MUSL)
	@tools/check-release.sh $(TARGET)/$(MUSL)/release/vmkpi-guest

deb: release ## The Debian packages vmkpi, vmkpi-guest and vmkpi-host, into target/deb
	@tools/setup.sh deb
	$(CARGO) build $(FLAGS) --bin vmkpi-pages
	PAGES=$(abspath $(TARGET))/debug/vmkpi-pages tools/deb.sh $(TARGET)/release $(TARGET)/deb

test: ## Everything that must be green: format, lints, every test, over real parts too
	@CARGO="$(CARGO)" TARGET="$(TARGET)" FLAGS="$(FLAGS)" tools/test.sh

fmt: ## Format the code
	$(CARGO) fmt --all

lint: ## Clippy, warnings denied
	$(CARGO) clippy $(FLAGS) --all-targets -- -D warnings

fuzz: ## Fuzz everything that reads what others wrote, FUZZ_SECONDS for each target
	@CARGO="$(CARGO)" TARGET="$(TARGET)" tools/fuzz.sh $(FUZZ_SECONDS)

bench: ## What stores, scrapes, the outbox, bytes on the wire and a fleet of VMs cost; stores beside the floors of the same run
	@tools/setup.sh demo
	$(CARGO) build --release --locked -p vmkpi-guest
	$(CARGO) build --release --locked -p vmkpi-benches
	$(TARGET)/release/vmkpi-bench store --guest $(TARGET)/release/vmkpi-guest
	$(TARGET)/release/vmkpi-bench scrape
	$(TARGET)/release/vmkpi-bench seal
	$(TARGET)/release/vmkpi-bench outbox
	$(CARGO) build --release --locked -p vmkpi-host
	$(TARGET)/release/vmkpi-bench fleet --host $(TARGET)/release/vmkpi-host --guest $(TARGET)/release/vmkpi-guest
	$(TARGET)/release/vmkpi-bench wire --host $(TARGET)/release/vmkpi-host --guest $(TARGET)/release/vmkpi-guest

bench-peers: ## vmkpi beside what one would otherwise use (exporters, textfile, collectd, mosquitto_pub), as root
	@tools/setup.sh peers
	$(CARGO) build --release --locked -p vmkpi --features command
	$(CARGO) build --release --locked -p vmkpi-guest
	$(CARGO) build --release --locked -p vmkpi-host
	$(CARGO) build --release --locked -p vmkpi-benches
	VMKPI_BIN_DIR=$(abspath $(TARGET)/release) $(TARGET)/release/vmkpi-bench ways
	VMKPI_BIN_DIR=$(abspath $(TARGET)/release) $(TARGET)/release/vmkpi-bench peers

bench-migration: release ## What recontextualization adds to a live migration between two libvirt hosts, as root; docs/migration.svg
	@tools/setup.sh test
	$(CARGO) build --release --locked -p vmkpi-benches
	VMKPI_BIN_DIR=$(abspath $(TARGET))/release $(TARGET)/release/vmkpi-bench migration --chart docs/migration.svg

soak: release ## Whatever may go wrong in the chain, for SOAK_SECONDS; a million stores in a guest: ledger and memory
	VMKPI_BIN_DIR=$(abspath $(TARGET))/release SOAK_SECONDS=$(SOAK_SECONDS) \
	    $(CARGO) test --locked -p vmkpi-tests --test e2e -- --ignored --nocapture soak::
	VMKPI_BIN_DIR=$(abspath $(TARGET))/release \
	    $(CARGO) test --locked -p vmkpi-tests --test e2e -- --ignored --nocapture collected:: chained:: --test-threads=1
	VMKPI_BIN_DIR=$(abspath $(TARGET))/release \
	    $(CARGO) test --locked -p vmkpi-tests --test migration --test contexts -- --ignored --nocapture --test-threads=1
	$(CARGO) test --release --locked -p vmkpi-guest --test soak -- --ignored --nocapture --test-threads=1

screenshot: ## docs/images/page.png: the page of vmkpi collect over data that shows everything
	@tools/setup.sh test
	$(CARGO) build $(FLAGS)
	$(CARGO) test $(FLAGS) -p vmkpi-tests --test shipped -- --ignored page::picture

lab: ## Two hosts with a guest that migrates between them, and a shell to try things in, as root
	@tools/setup.sh test
	$(CARGO) build $(FLAGS)
	@TARGET="$(TARGET)" tools/lab.sh

clean: ## Remove what was built
	$(CARGO) clean
