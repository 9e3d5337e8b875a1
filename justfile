# Lists the recipes.
default:
    @just --list

# Everything that a change must pass.
check: lint test

# Formatting, types, lints.
lint:
    ruff format --check src tests benches
    ruff check src tests benches packaging
    mypy
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings

# All tests.
test: test-python test-rust

# The Python side, against a fake sentry.
test-python:
    python -m pytest

# The Rust side.
test-rust:
    cargo test --workspace

# Native and Skerry side by side; `just bench --peer name='prefix'` adds a column.
bench *options:
    python -m benches {{options}}

# A wheel in dist/.
wheel:
    maturin build --release --out dist
