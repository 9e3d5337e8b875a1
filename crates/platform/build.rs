//! Builds the stub (crates/stub) for x86_64-unknown-none, and refuses one that touches vector or thread-local registers.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    // Asked for when it runs: one baked in would name another checkout where a target folder was copied.
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let stub = manifest.join("../stub/src");
    let script = manifest.join("../stub/stub.ld");
    println!("cargo:rerun-if-changed={}", stub.display());
    println!("cargo:rerun-if-changed={}", script.display());
    println!("cargo:rerun-if-changed=build.rs");
    let output = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("skerry-stub");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() != Ok("x86_64") {
        panic!("Skerry's stub is written for x86-64 only");
    }
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let build = || {
        Command::new(&rustc)
            .args([
                "--edition",
                "2021",
                "--target",
                "x86_64-unknown-none",
                "--crate-type",
                "bin",
                "--crate-name",
                "skerry_stub",
            ])
            .args(["-C", "panic=abort", "-C", "opt-level=3", "-C", "relocation-model=pic", "-C", "code-model=small"])
            .args(["-C", "link-arg=-no-pie", "-C", "relro-level=off", "-C", "strip=debuginfo"])
            .arg("-C")
            .arg(format!("link-arg=-T{}", script.display()))
            .arg(stub.join("main.rs"))
            .arg("-o")
            .arg(&output)
            .output()
            .unwrap_or_else(|error| panic!("cannot run rustc to build the stub: {error}"))
    };
    let mut result = build();
    if !result.status.success() && String::from_utf8_lossy(&result.stderr).contains("target may not be installed") {
        // One try to fetch it, where rustup is in charge of the toolchain.
        let _ = Command::new("rustup").args(["target", "add", "x86_64-unknown-none"]).status();
        result = build();
    }
    if !result.status.success() {
        panic!(
            "the stub could not be built. If the target is missing: rustup target add x86_64-unknown-none\n{}",
            String::from_utf8_lossy(&result.stderr)
        );
    }
    refuse_forbidden_registers(&output);
}

/// The guest's vector registers and fs must survive a call: no instruction of the stub may name them. The compiler's
/// target has none; this guards against hand-written assembly and future targets.
fn refuse_forbidden_registers(image: &Path) {
    let Ok(listing) = Command::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(image).output() else {
        println!("cargo:warning=objdump is not installed: the stub was not checked for vector registers");
        return;
    };
    let listing = String::from_utf8_lossy(&listing.stdout);
    if let Some(line) =
        listing.lines().find(|line| ["%xmm", "%ymm", "%zmm", "%mm", "%fs:"].iter().any(|name| line.contains(name)))
    {
        panic!("the stub uses a register that belongs to the guest: {line}");
    }
}
