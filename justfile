# Everything builds with the release profile into one target folder, so that Burn is
# compiled once. `ndarray` is on everywhere for the same reason: the tests need it.

features := "--features saliency-cli/ndarray"
python := ".venv/bin/python"

# Mesa complains on machines without a desktop session when it is not set.
export XDG_RUNTIME_DIR := env("XDG_RUNTIME_DIR", "/tmp")

# cargo-fuzz asks for nightly; without a sanitizer, stable does.
fuzz := "RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir fuzz"
seeds := "crates/saliency-models/tests-data"

# List the recipes
default:
    @just --list

# Saliency maps of the embedded demo model: pictures and a page in target/demo
demo *args:
    cargo run --release --bin saliency {{features}} -- demo --out target/demo {{args}}

# Every method on generated tables and series whose truth is known: target/demo-finance
demo-finance *args:
    cargo run --release --bin saliency {{features}} -- demo-finance --out target/demo-finance {{args}}

# All tests: unit, documentation, golden values, backend parity, command line
test *args:
    cargo test --release --workspace {{features}} {{args}}

# Formatting, clippy, and that the library crates build with no backend at all
lint:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets {{features}} -- -D warnings
    cargo clippy --release -p saliency-core -p saliency-models -p saliency-viz -- -D warnings

# That the command builds with other mixes of backends (each compiles parts of Burn)
features:
    cargo check -p saliency-cli --no-default-features --features flex
    cargo check -p saliency-cli --no-default-features --features ndarray
    cargo check -p saliency-cli --no-default-features --features wgpu

# Licences and advisories of all dependencies (needs cargo-deny)
deny:
    cargo deny check licenses bans sources

# Documentation with every link checked
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps {{features}}

# The core crate with Burn's `fusion`, which Burn's default features bring (compiles parts of Burn)
test-fusion *args:
    cargo test --release -p saliency-core --features flex,ndarray,wgpu,fusion --lib {{args}}

# The CPU's kernels on 64-bit ARM under QEMU (Debian: gcc-aarch64-linux-gnu and qemu-user-static)
test-arm:
    rustup target add aarch64-unknown-linux-gnu
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L /usr/aarch64-linux-gnu" \
    cargo test --release -p saliency-core --features flex --target aarch64-unknown-linux-gnu --lib plan::

# The CPU's kernels under Miri, the portable ones and those of AVX2 (nightly toolchain with miri; minutes)
miri cases="2":
    cd tests/miri && PROPTEST_CASES={{cases}} MIRIFLAGS=-Zmiri-disable-isolation \
    cargo +nightly miri test -- --skip products_are_those_of_f32
    cd tests/miri && PROPTEST_CASES={{cases}} MIRIFLAGS=-Zmiri-disable-isolation \
    RUSTFLAGS="-C target-feature=+avx2,+fma" cargo +nightly miri test -- plan::kernel::tests

# Time, memory and evaluations beside PyTorch + Captum: target/bench and tables
bench *args: venv
    cargo build --release --workspace --bin saliency --example bench --example frozen {{features}}
    {{python}} tests/bench/bench.py {{args}}

# The input gradient by module, graph, folded graph and plan: a Markdown table (minutes)
speed networks="resnet18,resnet50,squeezenet1_1" *rows="1":
    cargo run --release --workspace --example speed {{features}} -- --markdown {{networks}} {{rows}}

# The same on a GPU, or a software one
speed-wgpu networks="resnet18,resnet50,squeezenet1_1" *rows="1":
    cargo run --release --workspace --example speed {{features}} -- --markdown --wgpu {{networks}} {{rows}}

# Peak memory of the command within a budget: ResNet50, IG with 200 steps, SmoothGrad with 200 samples
memory *args: venv
    cargo build --release --workspace --bin saliency {{features}}
    {{python}} tests/bench/memory.py --saliency target/release/saliency {{args}}

# Pictures and measured scores of all methods for the guide (24 scenes; minutes)
pictures:
    cargo run --release --bin saliency {{features}} -- demo --scenes 24 --out target/pictures --device cpu
    cp target/pictures/family-*.png docs/pictures/
    printf '# Methods on scenes whose object is known\n\nWritten by `just pictures`: 24 unseen scenes of the demo model, sampled methods with fewer\nsamples than by default, on the CPU. See [the methods](README.md).\n\n' > docs/methods/localisation.md
    cat target/pictures/scores.md >> docs/methods/localisation.md

# Differences between backends for the guide
parity:
    SALIENCY_PARITY_OUT=$PWD/target/parity cargo test --release --workspace {{features}} --test whole agrees_with_flex
    printf '# Methods on every backend\n\nWritten by `just parity`: a small residual network (attention: a small vision transformer), flex\nbeing the reference, f32. Backends sum in other orders, which moves values by about 1e-7, and ReLUs close to zero may flip.\n' > docs/methods/parity.md
    for backend in ndarray wgpu; do printf '\n## %s\n\n' $backend; cat target/parity/$backend.md; done >> docs/methods/parity.md

# Errors of other floating-point types for the guide
precision:
    SALIENCY_PARITY_OUT=$PWD/target/parity cargo test --release --workspace {{features}} --test whole precision_of_other_types
    printf '# Other floating-point types\n\nWritten by `just precision`: relative L2 distance of maps of the demo model from those in f64 on the CPU,\ntwo scenes. `--precision` chooses the type; maps are written in f32 whatever it is.\n\n' > docs/methods/precision.md
    cat target/parity/precision.md >> docs/methods/precision.md

# Peak memory of `saliency importance` from 10,000 to 1,000,000 generated rows (minutes)
importance-memory:
    cargo test --release --workspace {{features}} --test whole -- --ignored --nocapture importance_memory

# Which methods apply to tables and series
ranks:
    cargo test --release --workspace {{features}} --test whole -- --nocapture methods_apply

# How well each method finds the truth of generated tables and series, for the guide
truth:
    cargo run --release --bin saliency {{features}} -- demo-finance --out target/demo-finance --device cpu
    printf '# Methods on tables and series whose truth is known\n\nWritten by `just truth`; sampled methods with fewer samples than by default, on the CPU. See\n[tables and series](finance.md) for what is measured.\n\n' > docs/finance-methods.md
    cat target/demo-finance/scores.md >> docs/finance-methods.md

# Attention of a transformer trained on the series of `just truth`, for the guide
attention:
    cargo build --release --bin saliency {{features}}
    target/release/saliency train --data target/demo-finance/series.csv --target signal --model transformer --sequence 12 --features return,volume,rate --out target/attention/model --device cpu
    for method in attention-map attention-rollout gradient-attention-rollout; do target/release/saliency explain --data target/demo-finance/series.csv --model target/attention/model --window 2020-10-15..2020-10-26 --method $method --out target/attention --device cpu && cp target/attention/series-2020-10-15--2020-10-26-$method-series.png docs/pictures/$method.png; done

# The outputs and charts of docs/finance.md, from the data and models of `just demo-finance`
finance-examples: (demo-finance "--device" "cpu")
    cd target/demo-finance && ../release/saliency explain --data credit.csv --model credit --row 17 --out examples --device cpu
    cd target/demo-finance && ../release/saliency importance --data credit.csv --model credit --group-by home --out examples --device cpu
    cd target/demo-finance && ../release/saliency explain --data series.csv --model series --window 2020-10-15..2020-10-26 --out examples --device cpu
    cp target/demo-finance/examples/credit-row-17-integrated-gradients.png docs/pictures/chart-row.png
    cp target/demo-finance/examples/credit-importance-integrated-gradients.png docs/pictures/chart-importance.png
    cp target/demo-finance/examples/credit-importance-integrated-gradients-beeswarm.png docs/pictures/chart-beeswarm.png
    cp target/demo-finance/examples/series-2020-10-15--2020-10-26-integrated-gradients-series.png docs/pictures/chart-series.png
    cp target/demo-finance/examples/series-2020-10-15--2020-10-26-integrated-gradients-heat.png docs/pictures/chart-heat.png

# One of each chart for tables and series, from made-up numbers: target/charts
charts:
    cargo run --release -p saliency-viz --example charts target/charts

# Regenerate the committed reference values with PyTorch, Captum and matplotlib
reference: venv
    {{python}} tests/reference/golden.py
    {{python}} tests/reference/cams.py
    {{python}} tests/reference/paths.py
    {{python}} tests/reference/masks.py
    {{python}} tests/reference/deeplift.py
    {{python}} tests/reference/lrp.py
    {{python}} tests/reference/definitions.py
    {{python}} tests/reference/layers.py
    {{python}} tests/reference/colormaps.py
    {{python}} tests/reference/preprocess.py
    {{python}} tests/reference/weights.py
    {{python}} tests/reference/labels.py
    {{python}} tests/reference/ablation.py
    {{python}} tests/reference/finance.py

# scikit-learn's figures on real credit files and price series (not part of the project; give their folder)
finance-reference folder: venv
    {{python}} tests/reference/credit.py {{folder}}
    {{python}} tests/reference/prices.py {{folder}}

# `saliency train` beside those figures and the ranks of explanations, for the guide (needs $SALIENCY_DATA)
finance-real:
    SALIENCY_FINANCE_OUT=$PWD/target/finance-real cargo test --release --workspace {{features}} --test whole -- real_data finance_real
    printf '# Real credit files and price series\n\nWritten by `just finance-real` from public files that are not part of the project, beside\nscikit-learn on the same rows and windows (`just finance-reference`). See [training](training.md)\nand [tables and series](finance.md).\n' > docs/finance-real.md
    cat target/finance-real/*.md >> docs/finance-real.md

# ResNet50 against torchvision in f64 and f32 (generates about 300 MB in target/reference)
resnet50: venv
    {{python}} tests/reference/resnet50.py target/reference/resnet50
    cargo test --release --workspace {{features}} --test whole -- --ignored --nocapture resnet50

# Preprocessing against torchvision on a folder of photographs
photographs folder: venv
    {{python}} tests/reference/preprocess.py --photographs {{folder}} target/reference/preprocess
    cargo test --release --workspace {{features}} --lib -- --nocapture photographs

# Train the demo model again (about 25 minutes on two cores)
train-demo *args:
    cargo run --release --bin saliency {{features}} -- train-demo --out models/demo.safetensors {{args}}

# Fuzz image decoding and weight loading for a bounded time (needs cargo-fuzz)
fuzz seconds="60":
    mkdir -p fuzz/corpus/photo fuzz/corpus/weights
    {{fuzz}} photo --sanitizer none fuzz/corpus/photo {{seeds}}/preprocess -- -max_total_time={{seconds}} -rss_limit_mb=2048 -timeout=20
    {{fuzz}} weights --sanitizer none fuzz/corpus/weights {{seeds}} fuzz/seeds -- -max_total_time={{seconds}} -rss_limit_mb=2048 -timeout=20

[private]
venv:
    test -x {{python}} || python3 -m venv .venv
    {{python}} -m pip install --quiet --requirement tests/reference/requirements.txt
