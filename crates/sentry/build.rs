//! Links `skerry-agent`, `skerry-tender` and `skerry-gateway` statically: the agent is the init of guests whose files are not the
//! host's, and the start of every guest of the engines `namespace` and `rules`; the tender of every unikernel; the gateway runs where
//! there are no files. The compiler's own switch (`-C target-feature=+crt-static`) is one for a whole build, and
//! asks for a target of its own; so the linker is told where the libraries that it is asked for are: in their archives.
//!
//! A host that has no archive of the C library gets a program as others are, and hears of it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What rustc asks the linker for (the standard library's and ours), and what stands for it.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("gcc_s", &["gcc_eh", "gcc", "c"]),
    ("c", &["c"]),
    ("m", &["m"]),
    ("rt", &["rt"]),
    ("pthread", &["pthread"]),
    ("util", &["util"]),
    ("dl", &["dl"]),
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let output = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("archives");
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() != Ok("gnu") {
        return; // musl's programs are static anyway
    }
    if let Err(missing) = stand_in(&output) {
        println!("cargo:warning=skerry-agent is linked dynamically, and cannot be the init of a virtual machine: there is no {missing}");
        return;
    }
    for program in ["skerry-agent", "skerry-tender", "skerry-gateway"] {
        println!("cargo:rustc-link-arg-bin={program}=-static-pie");
        println!("cargo:rustc-link-arg-bin={program}=-L{}", output.display());
    }
}

/// A directory of linker scripts, named as shared libraries are, that lead to the archives; the name of one that is missing.
fn stand_in(directory: &Path) -> Result<(), String> {
    std::fs::create_dir_all(directory).map_err(|error| error.to_string())?;
    for (name, archives) in LIBRARIES {
        let found: Result<Vec<String>, String> = archives.iter().map(|archive| path_of(&format!("lib{archive}.a"))).collect();
        let script = format!("GROUP({})\n", found?.join(" "));
        std::fs::write(directory.join(format!("lib{name}.so")), script).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn path_of(archive: &str) -> Result<String, String> {
    let asked = Command::new("cc").arg(format!("-print-file-name={archive}")).output().map_err(|error| error.to_string())?;
    let path = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
    // A name that comes back as it went is of no file.
    if Path::new(&path).is_absolute() {
        Ok(path)
    } else {
        Err(archive.to_owned())
    }
}
