//! Landlock: which host files the sentry can still reach.

use landlock::{
    path_beneath_rules, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope, ABI,
};
use skerry_confine::layers::Layers;
use skerry_control::{Boot, Layer, MountKind};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Allows reading the sources of the mounts, writing those that are written to, and nothing else; no TCP; no signals and
/// abstract sockets outside. To be called with one thread, before the zygote starts.
pub fn restrict(boot: &Boot, layers: &mut Layers) {
    match try_restrict(boot) {
        Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => layers.add(Layer::Landlock),
        Ok(RulesetStatus::NotEnforced) => {
            layers.miss(Layer::Landlock, "the host's kernel does not have it, or has it switched off")
        }
        Err(error) => layers.miss(Layer::Landlock, format!("it could not be set up: {error}")),
    }
}

fn try_restrict(boot: &Boot) -> Result<RulesetStatus, landlock::RulesetError> {
    let abi = ABI::V6;
    let path = |bytes: &skerry_control::Bytes| Path::new(OsStr::from_bytes(&bytes.0)).to_owned();
    let mut read = Vec::new();
    let mut write = Vec::new();
    for mount in &boot.mounts {
        match &mount.kind {
            MountKind::HostReadOnly { source } => read.push(path(source)),
            MountKind::HostReadWrite { source } => write.push(path(source)),
            MountKind::Overlay { source, upper } => {
                read.push(path(source));
                write.extend(upper.iter().map(path));
            }
            _ => {}
        }
    }
    // Guests are looked at, and their memory written, through /proc; standard streams may be terminals.
    let used = ["/proc", "/dev/pts", "/dev/tty", "/dev/null"].map(|name| Path::new(name).to_owned());
    let all = AccessFs::from_all(abi);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(&read, AccessFs::from_read(abi)))?
        .add_rules(path_beneath_rules(&write, all))?
        .add_rules(path_beneath_rules(&used, AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile))?
        .restrict_self()?;
    Ok(status.ruleset)
}
